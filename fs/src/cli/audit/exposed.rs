//! `kin audit --exposed`: who was delivered a value, and so has to be thought of when it leaked.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kin_broker::Result;
use kin_broker::audit::{self, Filter, Record};
use kin_broker::sys::paths::Directories;
use kin_policy::Reference;
use serde::Serialize;

use super::lives::Lives;
use super::{marked, shown_time};
use crate::cli::output;

/// What the record cannot know.
const NOT_KNOWN: &str = "kin: not on this record: who opened a backup or an export, with a recovery key too, and \
                         whom a reader passed it on to";

const UNPROVEN: &str = "kin: of a program with ? nothing but the process says that it ran that";

/// Who it was: one program under one grant, with one version.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Receiver {
    /// When the secret that had this name was removed, where it is not the one of now.
    removed: Option<String>,
    /// `null` where the record has no number: it may have been any.
    version: Option<u64>,
    project: Option<String>,
    grant: Option<String>,
    program: Option<String>,
    /// Whether the kernel loaded that, and the process has not said so itself.
    program_proven: bool,
    name: Option<String>,
}

/// What it was delivered.
#[derive(Serialize)]
struct Received {
    /// Pid and start of each process.
    processes: BTreeSet<(u32, u64)>,
    opens: u64,
    first: String,
    last: String,
    #[serde(skip)]
    times: (Timestamp, Timestamp),
    #[serde(skip)]
    removed: Option<Timestamp>,
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    receiver: &'a Receiver,
    #[serde(flatten)]
    received: &'a Received,
}

/// `filter` without its secret is what was asked besides.
pub(super) fn answer(
    directories: &Directories,
    filter: Filter,
    reference: &Reference,
    asked: Option<u64>,
    json: bool,
) -> Result<()> {
    let lives = Lives::of(&directories.state, reference)?;
    let receivers = receivers(directories, filter, reference, asked, &lives)?;
    let rows: Vec<_> = receivers.iter().map(|(receiver, received)| Row { receiver, received }).collect();
    let known = asked.is_none_or(|version| lives.had(version));
    if json {
        return output::json(&serde_json::json!({
            "reference": reference, "version": asked, "known": known,
            "restored": lives.restored.map(|time| time.to_string()), "exposed": rows,
        }));
    }
    match asked {
        Some(version) if !known => output::note(&format!(
            "the record shows no version {version} of {reference}; the highest that it shows is {}",
            lives.highest()
        )),
        _ if rows.is_empty() => output::note("nobody was delivered it"),
        _ => print(&rows)?,
    }
    if let Some(time) = lives.restored {
        let time = shown_time(time);
        output::note(&format!(
            "kin: a backup took the vault's place at {time}: a number from before it may have been given twice"
        ));
    }
    if rows.iter().any(|row| row.receiver.program.is_some() && !row.receiver.program_proven) {
        output::note(UNPROVEN);
    }
    output::note(NOT_KNOWN);
    Ok(())
}

fn receivers(
    directories: &Directories,
    filter: Filter,
    reference: &Reference,
    asked: Option<u64>,
    lives: &Lives,
) -> Result<BTreeMap<Receiver, Received>> {
    let mut receivers = BTreeMap::new();
    let filter = Filter { reference: Some(reference.clone()), version: None, ..filter };
    audit::query(&directories.state, &filter, |record| {
        let own = |(name, _): &(Cow<'_, str>, _)| name == reference.as_str();
        let delivered = match record.event() {
            // Opened by who emptied it: its value was not delivered.
            "open.allow" => record.op().as_deref() != Some("write"),
            "vault.reveal" | "vault.export" => true,
            _ => false,
        };
        for (_, version) in record.delivered().into_iter().filter(own).filter(|_| delivered) {
            let is_asked = |asked| match version {
                Some(version) => version == asked,
                None => lives.had_at(record.seq(), asked),
            };
            if asked.is_none_or(is_asked) {
                note(&mut receivers, record, version, lives.removed(record.seq()));
            }
        }
    })?;
    Ok(receivers)
}

/// The column of what was removed is there where something was.
fn print(rows: &[Row<'_>]) -> Result<()> {
    let removed = rows.iter().any(|row| row.receiver.removed.is_some());
    let mut head =
        vec!["VERSION", "PROGRAM", "NAME", "PROCESSES", "OPENS", "PROJECT", "GRANT", "FIRST", "LAST"];
    head.extend(removed.then_some("REMOVED"));
    let cells = rows.iter().map(|row| {
        let mut cells = shown(row);
        cells.truncate(head.len());
        cells
    });
    output::print(&output::table(&head, cells))
}

fn note(
    receivers: &mut BTreeMap<Receiver, Received>,
    record: &Record<'_>,
    version: Option<u64>,
    removed: Option<Timestamp>,
) {
    let owned = |text: Option<Cow<'_, str>>| text.map(Cow::into_owned);
    let name = match record.event() {
        "vault.reveal" if record.reason().as_deref() == Some("restore") => Some("kin unlink".to_owned()),
        "vault.reveal" => Some("kin reveal".to_owned()),
        "vault.export" => Some("kin export".to_owned()),
        _ => owned(record.comm()),
    };
    let receiver = Receiver {
        removed: removed.map(|time| time.to_string()),
        version,
        project: owned(record.project()),
        grant: owned(record.grant()),
        program: owned(record.exe()),
        program_proven: record.is_exe_proven(),
        name,
    };
    let time = record.time();
    let received = receivers.entry(receiver).or_insert_with(|| Received {
        processes: BTreeSet::new(),
        opens: 0,
        first: time.to_string(),
        last: String::new(),
        times: (time, time),
        removed,
    });
    received.processes.extend(record.process());
    received.opens += 1;
    (received.last, received.times.1) = (time.to_string(), time);
}

fn shown(row: &Row<'_>) -> Vec<String> {
    let text = |part: &Option<String>| part.clone().unwrap_or_else(|| "-".to_owned());
    let (receiver, received) = (row.receiver, row.received);
    vec![
        receiver.version.map_or_else(|| "any".to_owned(), |version| version.to_string()),
        receiver.program.as_ref().map_or_else(|| "-".to_owned(), |exe| marked(exe, receiver.program_proven)),
        text(&receiver.name),
        received.processes.len().to_string(),
        received.opens.to_string(),
        text(&receiver.project),
        text(&receiver.grant).chars().take(8).collect(),
        shown_time(received.times.0),
        shown_time(received.times.1),
        received.removed.map_or_else(|| "-".to_owned(), shown_time),
    ]
}
