//! `kin rm`: destroys every version of a secret.

use std::ffi::OsString;

use clap::Args;
use kin_broker::Result;
use kin_broker::control::protocol::{Question, SecretInfo};
use kin_broker::sys::paths::Directories;

use super::terminal::{Terminal, confirmation_needed};
use super::{Format, connect, output, reference, show, unlock};

/// Destroy every version of a secret
///
/// A person has to agree, on a terminal or by --yes. Inside a grant's tree it is denied.
#[derive(Args)]
#[command(after_help = "Examples:
  kin rm stripe/test_key
  kin rm stripe/test_key --yes              a script that means it")]
pub(super) struct Arguments {
    /// The secret's name
    #[arg(value_name = "REF")]
    reference: OsString,
    /// Agree here instead of on a terminal
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let reference = reference(&arguments.reference)?;
    let directories = Directories::from_environment()?;
    let terminal = match arguments.yes {
        true => None,
        false => Some(Terminal::open().ok_or_else(|| {
            confirmation_needed("destroying a secret").hint("a script that means it says --yes")
        })?),
    };
    let mut client = connect::to_broker(&directories)?;
    if let Some(mut terminal) = terminal {
        let question = Question::Show { reference: reference.clone() };
        let secret: SecretInfo = unlock::asking(&mut client, |client| client.ask(question.clone()))?;
        terminal.say(&show::description(&secret))?;
        terminal.confirm("Destroy every version of it?")?;
    }
    let question = Question::Remove { reference };
    let removed: SecretInfo = unlock::asking(&mut client, |client| client.ask(question.clone()))?;
    if arguments.format.json {
        return output::json(&removed);
    }
    output::line(&format!("removed {}, whose last version was {}", removed.reference, removed.version))?;
    output::note("a backup or a snapshot of the vault's file may still hold it: change it where it is used");
    Ok(())
}
