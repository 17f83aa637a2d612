//! `kin init`: makes the vault and the identity that opens it.

use std::path::PathBuf;

use clap::Args;
use kin_broker::control::protocol::{KeyMethod, Question, VaultMade};
use kin_broker::paths::Directories;
use kin_broker::{Class, Error, Plaintext, Result, describe};

use super::terminal::Terminal;
use super::{Format, bad_usage, connect, output, value};

/// Make the vault and the identity that opens it
///
/// The vault is encrypted to an identity of its own. The identity is kept in the keyring of the session, in
/// a file that a passphrase opens, or in a file as it is, for machines with neither. Without an option
/// the passphrase is asked for.
#[derive(Args)]
#[command(after_help = "Examples:
  kin init                                  ask for a passphrase
  kin init --keyring                        the Secret Service keeps the identity
  pass show kin | kin init --passphrase-stdin
  kin init --key-file ~/.config/kin.key     for CI: whoever reads the file opens the vault")]
pub(super) struct Arguments {
    /// Keep the identity in the Secret Service (gnome-keyring, KeePassXC, KWallet)
    #[arg(long, group = "method")]
    keyring: bool,
    /// Encrypt the identity with the passphrase on the first line of standard input
    #[arg(long, group = "method")]
    passphrase_stdin: bool,
    /// Keep the identity in this file, as it is
    #[arg(long, value_name = "PATH", group = "method")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let directories = Directories::from_environment()?;
    let (method, passphrase) = method(arguments)?;
    let question = Question::Init { method };
    let mut client = connect::to_broker(&directories)?;
    let made: VaultMade = client.ask_with(question, passphrase.as_ref())?;
    if arguments.format.json {
        return output::json(&made);
    }
    output::line(&format!(
        "made the vault {}\nrecipient {}",
        output::printable_path(&made.vault),
        output::printable(&made.recipient)
    ))
}

fn method(arguments: &Arguments) -> Result<(KeyMethod, Option<Plaintext>)> {
    if arguments.keyring {
        return Ok((KeyMethod::Keyring, None));
    }
    if let Some(path) = &arguments.key_file {
        let path = std::path::absolute(path).map_err(|error| {
            bad_usage("bad_path", format!("the key file has no path: {}", describe(&error)), "name a file")
        })?;
        return Ok((KeyMethod::KeyFile { path }, None));
    }
    let passphrase = match arguments.passphrase_stdin {
        true => value::passphrase_from_stdin()?,
        false => {
            new_passphrase("the vault", "choose one of --keyring, --passphrase-stdin and --key-file PATH")?
        }
    };
    Ok((KeyMethod::Passphrase, Some(passphrase)))
}

/// A passphrase that is typed twice.
///
/// # Errors
/// `passphrase_needed` without a terminal, with that hint; `passphrase_mismatch`.
pub(super) fn new_passphrase(what: &str, elsewhere: &str) -> Result<Plaintext> {
    let mut terminal = Terminal::open().ok_or_else(|| {
        Error::new(
            Class::Locked,
            "passphrase_needed",
            "a passphrase is needed, and there is no terminal to ask at",
        )
        .hint(elsewhere)
    })?;
    let first = value::passphrase(terminal.hidden(&format!("New passphrase for {what}: "))?)?;
    let second = terminal.hidden("The same again: ")?;
    match first.bytes() == second.bytes() {
        true => Ok(first),
        false => Err(bad_usage("passphrase_mismatch", "the two passphrases differ", "try again")),
    }
}
