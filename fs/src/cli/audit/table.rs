//! `kin audit`: a line for each record.

use std::borrow::Cow;

use kin_broker::Result;
use kin_broker::audit::{self, Filter, Record};
use kin_broker::sys::paths::Directories;

use super::{Newest, between, shown_time};
use crate::cli::output;

pub(super) fn answer(directories: &Directories, filter: &Filter, limit: usize) -> Result<()> {
    let newest = Newest::of(directories, filter, limit)?;
    let mut rows = Vec::with_capacity(newest.lines.len());
    let bad =
        newest.lines.iter().filter(|line| !audit::parsed(line, |record| rows.push(row(record)))).count();
    newest.note();
    if bad > 0 {
        output::note(&format!("kin: {bad} lines are no records: see `kin audit verify`"));
    }
    if rows.is_empty() {
        output::note(&format!("no such records{}", between(filter)));
        return Ok(());
    }
    output::print(&output::table(&["TIME", "EVENT", "WHAT", "GRANT", "WHO", "WHY"], rows))
}

/// One record as a person wants to read it; `--json` has all of it.
fn row(record: &Record<'_>) -> Vec<String> {
    let grant = record.grant().map_or_else(String::new, |grant| grant.chars().take(8).collect());
    vec![shown_time(record.time()), record.event().to_owned(), what(record), grant, who(record), why(record)]
}

/// What it is about: `api/DATABASE_URL (db/url)`.
pub(super) fn what(record: &Record<'_>) -> String {
    let what = match (record.project(), record.file()) {
        (Some(project), Some(file)) => format!("{project}/{file}"),
        (project, _) => text(project.or_else(|| record.reference())),
    };
    let named: Vec<_> = record
        .delivered()
        .into_iter()
        .map(|(name, version)| match version {
            Some(version) => format!("{name}@{version}"),
            None => name.into_owned(),
        })
        .collect();
    match named.join(", ") {
        named if named.is_empty() || what.is_empty() || what == named => what,
        named if record.project().is_none() => named,
        named => format!("{what} ({named})"),
    }
}

/// Who it was: `python3 [4711]`.
pub(super) fn who(record: &Record<'_>) -> String {
    match (record.comm().or_else(|| record.program()), record.pid()) {
        (Some(comm), Some(pid)) => format!("{comm} [{pid}]"),
        (comm, _) => text(comm),
    }
}

/// Why: `no_grant × 12`; of the record itself, `ENOSPC, 3 refused` and `41 bytes cut off`.
pub(super) fn why(record: &Record<'_>) -> String {
    let cut = record.cut_bytes().map(|bytes| format!("{bytes} bytes cut off"));
    let refused = record.refused().map(|records| format!("{records} refused"));
    let why: Vec<_> = record.reason().map(Cow::into_owned).into_iter().chain(refused).chain(cut).collect();
    match (why.join(", "), record.count()) {
        (reason, 0 | 1) => reason,
        (reason, count) => format!("{reason} × {count}"),
    }
}

fn text(part: Option<Cow<'_, str>>) -> String {
    part.map_or_else(String::new, Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_says_of_itself_what_was_cut_off_and_what_was_refused() {
        for (more, expected) in [
            ("\"event\":\"audit.recover\",\"cut_bytes\":41", "41 bytes cut off"),
            ("\"event\":\"audit.fault\",\"error\":\"ENOSPC\",\"refused\":3", "ENOSPC, 3 refused"),
            ("\"event\":\"open.deny\",\"reason\":\"no_grant\",\"count\":12", "no_grant × 12"),
            ("\"event\":\"mount.lost\"", ""),
        ] {
            let line = format!("{{\"seq\":1,\"time\":\"2026-11-23T05:46:48.000000Z\",{more}}}");
            let mut said = None;
            assert!(audit::parsed(&line, |record| said = Some(why(record))));
            assert_eq!(said.as_deref(), Some(expected));
        }
    }
}
