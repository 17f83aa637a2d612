//! `kin restore`: the vault of a backup, in the place of the one that is there.

use std::path::PathBuf;

use clap::Args;
use kin_broker::Result;
use kin_broker::control::protocol::{Question, Restored};
use kin_broker::keys::given::Given;
use kin_broker::sys::paths::Directories;

use super::backup::absolute;
use super::terminal::{Terminal, confirmation_needed};
use super::{Format, connect, output, unlock, value};

/// Put the vault of a backup in the place of the one that is there
///
/// The backup must be of this vault's identity, and whole. All that was stored since is gone. It works where the
/// vault is lost or damaged, as long as its identity is there. On a machine without a vault the identity comes from
/// FILE.identity, which `kin backup` puts beside the backup of a vault with a passphrase, or by --identity-fd.
#[derive(Args)]
#[command(after_help = "Examples:
  kin restore /media/stick/kin.age
  kin restore kin.age --yes                 a script that means it
  pass show kin | kin restore kin.age --yes --passphrase-stdin
  kin restore kin.age --identity-fd 3 3< key")]
pub(super) struct Arguments {
    /// What `kin backup` made
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Agree here instead of on a terminal
    #[arg(long)]
    yes: bool,
    /// Read the passphrase from the first line of standard input
    #[arg(long, group = "source", requires = "yes")]
    passphrase_stdin: bool,
    /// Take the identity itself, from this descriptor
    #[arg(long, value_name = "N", group = "source")]
    identity_fd: Option<i32>,
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    unlock::value_from_environment_is_refused()?;
    let path = absolute(&arguments.file)?;
    let terminal = match arguments.yes {
        true => None,
        false => Some(Terminal::open().ok_or_else(|| {
            confirmation_needed("replacing the vault").hint("a script that means it says --yes")
        })?),
    };
    let mut client = connect::to_broker(&Directories::from_environment()?)?;
    let identity = arguments.identity_fd.is_some();
    let mut secret = match arguments.identity_fd {
        Some(fd) => Some(Given::Descriptor(fd).read()?),
        None => arguments.passphrase_stdin.then(value::passphrase_from_stdin).transpose()?,
    };
    let mut ask = |confirmed| {
        let question = Question::Restore { path: path.clone(), confirmed, identity };
        match client.ask_with::<Restored>(question.clone(), secret.as_ref()) {
            Err(error) if error.code == "passphrase_needed" && secret.is_none() => {
                let asked = unlock::ask_passphrase();
                secret = Some(
                    asked.map_err(|error| error.hint("`--passphrase-stdin` takes it without a terminal"))?,
                );
                client.ask_with(question, secret.as_ref())
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
