//! How everything is printed: data to standard output, the rest to standard error, nothing raw that others
//! wrote, and no failure of a write unnoticed.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use comfy_table::{ContentArrangement, Table, presets};
use kin_broker::sys::standard::{die_by_sigpipe, stdout_was_closed};
use kin_broker::{Error, Result};
use kin_policy::unprintable;
use serde::Serialize;

/// Writes to standard output. A pipe that nobody reads any more ends the process by SIGPIPE.
///
/// # Errors
/// `disk_full` and `storage_failed`; a standard output that was closed from the start is one too.
pub(super) fn write(bytes: &[u8]) -> Result<()> {
    let failed = |error: &io::Error| Error::storage("write to standard output", error);
    if stdout_was_closed() {
        return Err(failed(&nix::errno::Errno::EBADF.into()));
    }
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => die_by_sigpipe(),
        written => written.map_err(|error| failed(&error)),
    }
}

/// Writes text to standard output; what others wrote in it has been through [`printable`].
///
/// # Errors
/// As [`write()`].
pub(super) fn print(text: &str) -> Result<()> {
    write(text.as_bytes())
}

/// Writes one line to standard output.
///
/// # Errors
/// As [`write()`].
pub(super) fn line(text: &str) -> Result<()> {
    write(format!("{text}\n").as_bytes())
}

/// Writes one JSON document, on one line.
///
/// # Errors
/// As [`write()`].
pub(super) fn json(document: &impl Serialize) -> Result<()> {
    line(&json_text(document)?)
}

/// Says something on standard error. There is nowhere to say that it failed.
pub(super) fn note(text: &str) {
    let _ = io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

/// Says why it was refused, and answers with the exit code of its class.
pub(super) fn fail(error: &Error, json: bool) -> ExitCode {
    match json_text(error) {
        Ok(text) if json => note(&text),
        _ => note(&error_text(error, colours(&io::stderr()))),
    }
    ExitCode::from(error.exit_code())
}

/// `error: …`, then `hint: …` or the usage, then what belongs to it.
fn error_text(error: &Error, colours: bool) -> String {
    let mut text = format!("{} {}", paint(colours, Tone::Bad, "error:"), printable(&error.message));
    match &error.hint {
        Some(usage) if usage.starts_with("usage: ") => text += &format!("\n{usage}"),
        Some(hint) => text += &format!("\n{} {}", paint(colours, Tone::Strong, "hint:"), printable(hint)),
        None => {}
    }
    for detail in error.detail.iter().flat_map(|detail| detail.lines()) {
        text += "\n";
        text += &printable_line(detail);
    }
    text
}

/// One line of JSON that holds no character which moves or hides text on a terminal: inside a string each
/// may be written as `\u….` (RFC 8259, section 7), and outside of strings JSON has none.
fn json_text(document: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string(document).map_err(|error| Error::internal("write JSON", error))?;
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if unprintable(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(c);
        }
    }
    Ok(escaped)
}

/// Text that others wrote, made fit for a terminal: control characters and characters that reorder or hide
/// text are shown escaped. What is escaped already stays as it is.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(unprintable) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if unprintable(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// As [`printable`], for a line in which tabs are layout.
pub(super) fn printable_line(line: &str) -> String {
    line.split('\t').map(printable).collect::<Vec<_>>().join("\t")
}

/// As [`printable`], for bytes that need not be UTF-8 (paths, arguments).
pub(super) fn printable_bytes(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        shown += &printable(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

/// As [`printable_bytes`], at most 40 characters of it.
pub(super) fn excerpt(argument: &std::ffi::OsStr) -> String {
    let mut short = printable_bytes(argument.as_encoded_bytes());
    if let Some((cut, _)) = short.char_indices().nth(40) {
        short.truncate(cut);
        short.push('…');
    }
    short
}

/// As [`printable`], for a path.
pub(super) fn printable_path(path: &std::path::Path) -> String {
    printable_bytes(path.as_os_str().as_encoded_bytes())
}

/// A terminal that says less knows nothing of its width: a serial line, or one that nobody has set the size of.
const NARROWEST: u16 = 20;

/// A table without borders, as wide as the terminal at most; each cell is made printable.
pub(super) fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    laid_out(Table::new(), head, rows)
}

fn laid_out(mut table: Table, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let arrangement = match table.width() {
        Some(..NARROWEST) => ContentArrangement::Disabled,
        _ => ContentArrangement::Dynamic,
    };
    table.load_preset(presets::NOTHING).set_content_arrangement(arrangement).set_header(head);
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)).collect::<Vec<_>>());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

/// What a colour is to say.
#[derive(Clone, Copy)]
pub(super) enum Tone {
    Strong,
    Good,
    Doubtful,
    Bad,
}

/// Whether colours are wanted there: a terminal, and neither `NO_COLOR` (no-color.org) nor `TERM=dumb`.
pub(super) fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Colours a word (ECMA-48, SGR), where colours are wanted.
pub(super) fn paint(colours: bool, tone: Tone, text: &str) -> Cow<'_, str> {
    if !colours {
        return Cow::Borrowed(text);
    }
    let code = match tone {
        Tone::Strong => "1",
        Tone::Good => "32",
        Tone::Doubtful => "33",
        Tone::Bad => "1;31",
    };
    Cow::Owned(format!("\u{1b}[{code}m{text}\u{1b}[0m"))
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
