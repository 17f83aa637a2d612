//! `kin keyring-agent`: the broker's own hand for the Secret Service, in a process that can be given up on.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use kin_broker::keys::keyring_agent::serve;

/// Talk to the Secret Service for the broker
///
/// Started by the broker: a keyring that never answers must not hold it up.
#[derive(Args)]
#[command(after_help = "Example:
  kin keyring-agent probe       exit code 0 where the Secret Service answers")]
pub(super) struct Arguments {
    /// What to do there
    action: Action,
    /// Whose identity: the recipient that it belongs to
    #[arg(default_value = "")]
    recipient: String,
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

pub(super) fn answer(arguments: &Arguments) -> ExitCode {
    let action = match arguments.action {
        Action::Get => "get",
        Action::Put => "put",
        Action::Probe => "probe",
    };
    ExitCode::from(serve(action, &arguments.recipient, std::io::stdin().lock(), std::io::stdout().lock()))
}
