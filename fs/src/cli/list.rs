//! `kin list`: every secret, without its value.

use clap::Args;
use jiff::tz::TimeZone;
use kin_broker::Result;
use kin_broker::control::Client;
use kin_broker::control::protocol::{Question, SecretInfo};
use kin_broker::sys::clock;
use kin_broker::sys::paths::Directories;
use kin_broker::vault::info::DUE_SOON;

use super::select::{self, Selection};
use super::{Format, connect, output, unlock};

/// List the secrets, without their values
///
/// Names, versions, sizes, dates, when a rotation is due, attributes and notes; all of them, or those that are
/// asked for by name, attribute or time. No value is read.
#[derive(Args)]
#[command(after_help = "Examples:
  kin list
  kin list 'db/*' --attr env=prod
  kin list --expiring 30d
  kin list stripe --json | jq -r '.[].reference'")]
pub(super) struct Arguments {
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    // A bad pattern is refused before anything is asked.
    arguments.selection.of(Vec::new())?;
    let mut client = connect::to_broker(&Directories::from_environment()?)?;
    let all = all(&mut client)?;
    let none_yet = all.is_empty();
    let secrets = arguments.selection.of(all)?;
    if arguments.format.json {
        return output::json(&secrets);
    }
    if secrets.is_empty() {
        let why =
            if none_yet { "no secrets yet: `kin set REF` stores one" } else { "no secret is like that" };
        output::note(why);
        return Ok(());
    }
    output::print(&table(&secrets))
}

/// Every secret that the vault has; it is unlocked where it has to be.
///
/// # Errors
/// The broker's, and those of unlocking.
pub(super) fn all(client: &mut Client) -> Result<Vec<SecretInfo>> {
    unlock::asking(client, |client| client.ask(Question::List))
}

/// Names and what is known of them.
pub(super) fn table(secrets: &[SecretInfo]) -> String {
    let attributed = secrets.iter().any(|secret| !secret.attributes.is_empty());
    let mut head = vec!["REFERENCE", "VERSION", "BYTES", "CREATED", "DUE", "NOTE"];
    head.extend(attributed.then_some("ATTRIBUTES"));
    let rows = secrets.iter().map(|secret| {
        let mut row = vec![
            secret.reference.to_string(),
            secret.version.to_string(),
            secret.size.to_string(),
            local_time(secret.created),
            secret.due.map(due).unwrap_or_default(),
            secret.note.clone().unwrap_or_default(),
        ];
        row.extend(attributed.then(|| select::attributes(secret)));
        row
    });
    output::table(&head, rows)
}

/// When a rotation is due: a date, or that it is over.
pub(super) fn due(seconds: i64) -> String {
    match seconds <= clock::unix_seconds() {
        true => "overdue".into(),
        false => local_date(seconds),
    }
}

/// What is to be said of a rotation that is over, or that is due soon, with its date.
pub(super) fn rotation(due: i64) -> Option<String> {
    let (date, now) = (local_date(due), clock::unix_seconds());
    match due {
        due if due <= now => Some(format!("overdue for rotation since {date}")),
        due if due <= now.saturating_add(DUE_SOON) => Some(format!("due for rotation on {date}")),
        _ => None,
    }
}

fn local_date(seconds: i64) -> String {
    local_time(seconds).split(' ').next().unwrap_or_default().into()
}

/// Seconds of Unix time as local time, `2026-11-23 05:41:58`.
pub(super) fn local_time(seconds: i64) -> String {
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => seconds.to_string(),
    }
}
