//! `kin audit --html`: a timeline that stands for itself, in one file that loads nothing.

use std::fmt::Write as _;
use std::path::Path;

use kin_broker::Result;
use kin_broker::audit::{self, Filter, Record};
use kin_broker::sys::paths::Directories;

use super::table::{what, who, why};
use super::{Newest, marked, shown_time};
use crate::cli::{export, output};

/// The policy forbids the page to load or run anything, whatever a record says.
const HEAD: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>kin audit</title>
<style>
:root { color-scheme: light dark; --line: #d0d7de; --soft: #59636e; --allow: #1a7f37; --deny: #cf222e; --change: #9a6700; }
@media (prefers-color-scheme: dark) {
  :root { --line: #3d444d; --soft: #9198a1; --allow: #3fb950; --deny: #f85149; --change: #d29922; }
}
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
h2 { font-size: 1rem; margin: 2rem 0 .5rem; border-bottom: 1px solid var(--line); }
p { color: var(--soft); }
ol { list-style: none; margin: 0 0 0 .5rem; padding: 0; border-left: 2px solid var(--line); }
li { display: grid; grid-template-columns: 5rem 9rem 1fr; gap: 0 1rem; padding: .25rem 0 .25rem 1rem; position: relative; }
li::before { content: ""; position: absolute; left: -6px; top: .75rem; width: 10px; height: 10px; border-radius: 50%; background: var(--soft); }
li.allow::before { background: var(--allow); } li.deny::before { background: var(--deny); } li.change::before { background: var(--change); }
.allow b { color: var(--allow); } .deny b { color: var(--deny); } .change b { color: var(--change); }
time, small { color: var(--soft); font-variant-numeric: tabular-nums; }
span { overflow-wrap: anywhere; }
@media (max-width: 40rem) { li { grid-template-columns: 1fr; } }
</style>
</head>
<body>
<h1>kin audit</h1>
"#;

pub(super) fn answer(directories: &Directories, filter: &Filter, path: &Path, limit: usize) -> Result<()> {
    let newest = Newest::of(directories, filter, limit)?;
    let page = page(&newest);
    newest.note();
    if path == Path::new("-") {
        return output::print(&page);
    }
    export::write_new(path, page.as_bytes())?;
    output::line(&format!("wrote {} records to {}", newest.lines.len(), output::printable_path(path)))
}

fn page(newest: &Newest) -> String {
    let mut page = String::from(HEAD);
    let shown = newest.lines.len() as u64;
    let earlier = match newest.queried.matched - shown {
        0 => String::new(),
        earlier => format!(", {earlier} earlier ones left out"),
    };
    let _ = writeln!(page, "<p>{shown} records{earlier}; times are local.</p>");
    let mut day = String::new();
    for line in &newest.lines {
        audit::parsed(line, |record| entry(record, &mut day, &mut page));
    }
    if !day.is_empty() {
        page.push_str("</ol>\n");
    }
    page.push_str("</body>\n</html>\n");
    page
}

fn entry(record: &Record<'_>, day: &mut String, page: &mut String) {
    let time = shown_time(record.time());
    let (date, clock) = time.split_once(' ').unwrap_or((&time, ""));
    if date != day {
        if !day.is_empty() {
            page.push_str("</ol>\n");
        }
        let _ = writeln!(page, "<h2>{date}</h2>\n<ol>");
        date.clone_into(day);
    }
    let grant: String = record.grant().map_or_else(String::new, |grant| grant.chars().take(8).collect());
    let program = record.exe().map_or_else(String::new, |exe| marked(&exe, record.is_exe_proven()));
    let notes: Vec<_> = [why(record), grant, program]
        .into_iter()
        .filter(|note| !note.is_empty())
        .map(|note| escaped(&note))
        .collect();
    let about: Vec<_> =
        [what(record), who(record)].iter().filter(|t| !t.is_empty()).map(|t| escaped(t)).collect();
    let _ = writeln!(
        page,
        "<li class=\"{}\"><time>{clock}</time><b>{}</b><span>{} <small>#{} {}</small></span></li>",
        class(record),
        escaped(record.event()),
        about.join(" · "),
        record.seq(),
        notes.join(" · "),
    );
}

fn class(record: &Record<'_>) -> &'static str {
    match record.event() {
        "open.allow" | "vault.reveal" => "allow",
        "write.allow" => "change",
        event if event.starts_with("vault.") || event.starts_with("policy.") => "change",
        "audit.fault" | "audit.reject" | "audit.lost" | "mount.lost" | "write.fail" | "change.fail" => "deny",
        _ if record.is_denial() => "deny",
        _ => "other",
    }
}

/// What a record says is text, never markup.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in output::printable(text).chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l11_what_a_reader_calls_itself_is_no_markup() {
        let line = "{\"v\":1,\"seq\":7,\"time\":\"2026-11-23T05:46:48.000000Z\",\"event\":\"open.deny\",\
            \"file\":\"\\\"><script>alert(1)</script>\",\"comm\":\"<img src=x onerror='1'>&\",\"exe\":\"\\u202e\\u001b[2J\"}";
        let (mut page, mut day) = (String::new(), String::new());
        assert!(audit::parsed(line, |record| entry(record, &mut day, &mut page)));
        assert!(!page.contains("<script") && !page.contains("<img"), "{page}");
        assert!(page.contains("&lt;img src=x onerror=&#39;1&#39;&gt;&amp;"), "{page}");
        assert!(!page.contains('\u{202e}') && !page.contains('\u{1b}'), "{page}");
        assert!(page.contains("<li class=\"deny\">"), "{page}");
    }

    #[test]
    fn the_page_loads_and_runs_nothing() {
        for word in ["http://", "https://", "<script", "src=", "url(", "@import", "<link"] {
            assert!(!HEAD.contains(word), "{word}");
        }
        assert!(HEAD.contains("default-src 'none'") && HEAD.contains("prefers-color-scheme: dark"));
    }
}
