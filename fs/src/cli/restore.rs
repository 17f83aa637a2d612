//! `kin restore`: the vault of a backup, in the place of the one that is there.

use std::path::PathBuf;

use clap::Args;
use kin_broker::control::protocol::{Question, Restored};
use kin_broker::paths::Directories;
use kin_broker::{Plaintext, Result};

use super::backup::absolute;
use super::terminal::{Terminal, confirmation_needed};
use super::{Format, connect, output, unlock};

/// Put the vault of a backup in the place of the one that is there
///
/// The backup must be of this vault's identity, and whole. All that was stored since is gone. It works where the
/// vault is lost or damaged, as long as its identity is there.
#[derive(Args)]
#[command(after_help = "Examples:
  kin restore /media/stick/kin.age
  kin restore kin.age --yes                 a script that means it")]
pub(super) struct Arguments {
    /// What `kin backup` made
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Agree here instead of on a terminal
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let path = absolute(&arguments.file)?;
    let terminal = match arguments.yes {
        true => None,
        false => Some(Terminal::open().ok_or_else(|| {
            confirmation_needed("replacing the vault").hint("a script that means it says --yes")
        })?),
    };
    let mut client = connect::to_broker(&Directories::from_environment()?)?;
    let mut passphrase: Option<Plaintext> = None;
    let mut ask = |confirmed| {
        let question = Question::Restore { path: path.clone(), confirmed };
        match client.ask_with::<Restored>(question.clone(), passphrase.as_ref()) {
            Err(error) if error.code == "passphrase_needed" => {
                passphrase = Some(unlock::ask_passphrase()?);
                client.ask_with(question, passphrase.as_ref())
            }
            answer => answer,
        }
    };
    if let Some(mut terminal) = terminal {
        terminal.say(&description(&ask(false)?))?;
        terminal.confirm("Put it in the place of the vault?")?;
    }
    let restored = ask(true)?;
    if arguments.format.json {
        return output::json(&restored);
    }
    output::line(&format!("restored {} secrets", restored.secrets))
}

fn description(restored: &Restored) -> String {
    let mut text = format!("secrets     {}\ngeneration  {}\n", restored.secrets, restored.generation);
    if let Some(replaces) = restored.replaces {
        text += &format!("replaces    a vault of {replaces} secrets\n");
    }
    text
}
