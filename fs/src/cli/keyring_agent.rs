//! `kin keyring-agent`: the broker's own hand for the Secret Service, in a process that can be given up on.

use clap::{Args, ValueEnum};
use kin_broker::{Error, Result};

/// Talk to the Secret Service for the broker
///
/// Started by the broker: a keyring that never answers must not hold it up.
#[derive(Args)]
#[command(after_help = "Example:
  kin keyring-agent probe       exit code 0 where the Secret Service answers")]
pub(super) struct Arguments {
    /// What to do there
    action: Action,
}

#[derive(Clone, Copy, ValueEnum)]
enum Action {
    /// Read the identity, to standard output
    Get,
    /// Store the identity, from standard input
    Put,
    /// See whether it answers
    Probe,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    serve(arguments.action)
}

fn serve(_: Action) -> Result<()> {
    Err(Error::internal("serve the keyring", "it is not merged yet"))
}
