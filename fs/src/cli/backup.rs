//! `kin backup`: a copy of the vault, which is encrypted as the vault is.

use std::path::PathBuf;

use clap::Args;
use kin_broker::control::protocol::{BackupMade, Question};
use kin_broker::sys::paths::Directories;
use kin_broker::{Result, describe};

use super::{Format, bad_usage, connect, output, unlock};

/// Keep a copy of the vault in a file
///
/// It is encrypted to the vault's identity, and is read back before this succeeds. With a passphrase the
/// encrypted identity goes beside it; an identity in the keyring or in a key file has to be kept by other means.
#[derive(Args)]
#[command(after_help = "Example:
  kin backup /media/stick/kin.age")]
pub(super) struct Arguments {
    /// A file that is not there yet
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let path = absolute(&arguments.file)?;
    let mut client = connect::to_broker(&Directories::from_environment()?)?;
    let question = Question::Backup { path };
    let made: BackupMade = unlock::asking(&mut client, |client| client.ask(question.clone()))?;
    if arguments.format.json {
        return output::json(&made);
    }
    let path = output::printable_path(&made.path);
    output::line(&format!("kept {} secrets, generation {}, in {path}", made.secrets, made.generation))?;
    match &made.identity {
        Some(identity) => output::line(&format!(
            "the identity, behind its passphrase, is in {}",
            output::printable_path(identity)
        )),
        None => {
            output::note(
                "the identity is not in it: without the keyring's item or the key file nothing opens it",
            );
            Ok(())
        }
    }
}

/// A path that the broker finds too.
pub(super) fn absolute(path: &std::path::Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| {
        bad_usage("bad_path", format!("the file has no path: {}", describe(&error)), "name a file")
    })
}
