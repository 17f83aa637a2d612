//! `kin audit --exposed`: who was delivered a value, and so has to be thought of when it leaked.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kin_broker::Result;
use kin_broker::audit::{self, Filter, Record};
use kin_broker::paths::Directories;
use serde::Serialize;

use super::shown_time;
use crate::cli::output;

/// Who it was: one program under one grant, with one version.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Receiver {
    /// `null` where a person revealed it.
    version: Option<u64>,
    project: Option<String>,
    grant: Option<String>,
    program: Option<String>,
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
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    receiver: &'a Receiver,
    #[serde(flatten)]
    received: &'a Received,
}

pub(super) fn answer(directories: &Directories, filter: Filter, json: bool) -> Result<()> {
    let mut receivers: BTreeMap<Receiver, Received> = BTreeMap::new();
    let asked = filter.version;
    // What a person was shown has no version: it may have been any.
    let filter = Filter { version: None, denied: false, ..filter };
    let wanted = filter.reference.as_ref().map(ToString::to_string);
    audit::query(&directories.state, &filter, |record| {
        let own = |(name, _): &(Cow<'_, str>, _)| wanted.as_deref().is_none_or(|wanted| name == wanted);
        for (_, version) in record.delivered().into_iter().filter(own) {
            let delivered = match record.event() {
                // Opened by who emptied it: its value was not delivered.
                "open.allow" if record.op().as_deref() == Some("write") => false,
                "open.allow" => asked.is_none() || asked == version,
                "vault.reveal" | "vault.export" => true,
                _ => false,
            };
            if delivered {
                note(&mut receivers, record, version);
            }
        }
    })?;
    let rows: Vec<_> = receivers.iter().map(|(receiver, received)| Row { receiver, received }).collect();
    if json {
        let reference = filter.reference.as_ref().map(ToString::to_string);
        return output::json(
            &serde_json::json!({ "reference": reference, "version": asked, "exposed": rows }),
        );
    }
    if rows.is_empty() {
        output::note("nobody was delivered it");
        return Ok(());
    }
    let head = ["VERSION", "PROGRAM", "NAME", "PROCESSES", "OPENS", "PROJECT", "GRANT", "FIRST", "LAST"];
    output::print(&output::table(&head, rows.iter().map(shown)))
}

fn note(receivers: &mut BTreeMap<Receiver, Received>, record: &Record<'_>, version: Option<u64>) {
    let owned = |text: Option<std::borrow::Cow<'_, str>>| text.map(|text| text.into_owned());
    let revealed = matches!(record.event(), "vault.reveal" | "vault.export");
    let receiver = Receiver {
        version,
        project: owned(record.project()),
        grant: owned(record.grant()),
        program: owned(record.exe()),
        name: if revealed { Some(record.event().replace("vault.", "kin ")) } else { owned(record.comm()) },
    };
    let time = record.time();
    let received = receivers.entry(receiver).or_insert_with(|| Received {
        processes: BTreeSet::new(),
        opens: 0,
        first: time.to_string(),
        last: String::new(),
        times: (time, time),
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
        text(&receiver.program),
        text(&receiver.name),
        received.processes.len().to_string(),
        received.opens.to_string(),
        text(&receiver.project),
        text(&receiver.grant).chars().take(8).collect(),
        shown_time(received.times.0),
        shown_time(received.times.1),
    ]
}
