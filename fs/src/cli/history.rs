//! `kin history`: the versions of a secret, without their values.

use std::ffi::OsString;

use clap::Args;
use kin_broker::Result;
use kin_broker::control::protocol::{Question, VersionInfo};
use kin_broker::sys::paths::Directories;

use super::{Format, connect, list, output, reference, unlock};

/// List the versions of a secret, without their values
///
/// The value of a version that was replaced can be revealed for 30 days, where it is one of the last sixteen.
/// Then it is destroyed; that it was there is remembered.
#[derive(Args)]
#[command(after_help = "Example:
  kin history stripe/test_key")]
pub(super) struct Arguments {
    /// The secret's name
    #[arg(value_name = "REF")]
    reference: OsString,
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let reference = reference(&arguments.reference)?;
    let mut client = connect::to_broker(&Directories::from_environment()?)?;
    let question = Question::History { reference };
    let versions: Vec<VersionInfo> = unlock::asking(&mut client, |client| client.ask(question.clone()))?;
    if arguments.format.json {
        return output::json(&versions);
    }
    let rows = versions.iter().rev().map(|version| {
        let state = match (version.replaced, version.readable) {
            (None, _) => "current",
            (_, true) => "old",
            (_, false) => "destroyed",
        };
        vec![
            version.version.to_string(),
            state.to_owned(),
            version.size.to_string(),
            list::local_time(version.created),
            version.replaced.map(list::local_time).unwrap_or_default(),
            version.grant.map(|grant| format!("grant {:.8}", grant.to_string())).unwrap_or_default(),
            version.note.clone().unwrap_or_default(),
        ]
    });
    output::print(&output::table(
        &["VERSION", "STATE", "BYTES", "CREATED", "REPLACED", "WRITTEN BY", "NOTE"],
        rows,
    ))
}
