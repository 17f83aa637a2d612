//! `kin lock`: locks the vault and ends every grant.

use clap::Args;
use kin_broker::Result;
use kin_broker::control::protocol::{Question, Withdrawn};
use kin_broker::sys::paths::Directories;

use super::{Format, connect, output, revoke};

/// Lock the vault and end every grant
///
/// Values and identity leave the broker's memory, and every open handle stops reading. `kin unlock` unlocks
/// the vault; ended grants stay ended.
#[derive(Args)]
#[command(after_help = "Example:
  kin lock")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let withdrawn = match connect::to_running(&Directories::from_environment()?) {
        Ok(mut client) => Some(client.ask::<Withdrawn>(Question::Lock)?),
        Err(error) if connect::is_absent(&error) => None,
        Err(error) => return Err(error),
    };
    if arguments.format.json {
        return output::json(&withdrawn.unwrap_or(Withdrawn { grants: Vec::new() }));
    }
    match withdrawn {
        None => output::line("no broker runs: nothing is unlocked"),
        Some(withdrawn) if withdrawn.grants.is_empty() => output::line("the vault is locked"),
        Some(withdrawn) => {
            revoke::list(&withdrawn)?;
            output::line("the vault is locked")
        }
    }
}
