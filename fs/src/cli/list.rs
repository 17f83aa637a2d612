//! `kin list`: every secret, without its value.

use clap::Args;
use jiff::tz::TimeZone;
use kin_broker::Result;
use kin_broker::control::protocol::{Question, SecretInfo};
use kin_broker::paths::Directories;

use super::{Format, connect, output, unlock};

/// List the secrets, without their values
///
/// Names, versions, sizes, dates, when a rotation is due, and notes. No value is read.
#[derive(Args)]
#[command(after_help = "Examples:
  kin list
  kin list --json | jq -r '.[].reference'")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let mut client = connect::to_broker(&Directories::from_environment()?)?;
    let secrets: Vec<SecretInfo> = unlock::asking(&mut client, |client| client.ask(Question::List))?;
    if arguments.format.json {
        return output::json(&secrets);
    }
    if secrets.is_empty() {
        output::note("no secrets yet: `kin set REF` stores one");
        return Ok(());
    }
    let rows = secrets.iter().map(|secret| {
        vec![
            secret.reference.to_string(),
            secret.version.to_string(),
            secret.size.to_string(),
            local_time(secret.created),
            secret.due.map(due).unwrap_or_default(),
            secret.note.clone().unwrap_or_default(),
        ]
    });
    output::print(&output::table(&["REFERENCE", "VERSION", "BYTES", "CREATED", "DUE", "NOTE"], rows))
}

/// When a rotation is due: a date, or that it is over.
pub(super) fn due(seconds: i64) -> String {
    let date = local_time(seconds);
    match seconds <= kin_broker::clock::unix_seconds() {
        true => "overdue".into(),
        false => date.split(' ').next().unwrap_or_default().into(),
    }
}

/// Seconds of Unix time as local time, `2026-11-23 05:41:58`.
pub(super) fn local_time(seconds: i64) -> String {
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => seconds.to_string(),
    }
}
