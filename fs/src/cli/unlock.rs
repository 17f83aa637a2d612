//! `kin unlock`, and how a command that meets a locked vault asks for its passphrase.

use clap::Args;
use kin_broker::control::Client;
use kin_broker::control::protocol::{KeyMethod, Question, Status};
use kin_broker::paths::Directories;
use kin_broker::{Class, Error, Plaintext, Result};

use super::terminal::Terminal;
use super::{Format, connect, output, value};

/// Unlock the vault
///
/// The broker takes the identity from where `kin init` put it; a passphrase is asked for. Inside a grant's
/// tree it is denied.
#[derive(Args)]
#[command(after_help = "Examples:
  kin unlock
  pass show kin | kin unlock --passphrase-stdin")]
pub(super) struct Arguments {
    /// Read the passphrase from the first line of standard input
    #[arg(long)]
    passphrase_stdin: bool,
    /// Take an old vault that you put there yourself, instead of the newest that was written
    #[arg(long)]
    accept_rollback: bool,
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let directories = Directories::from_environment()?;
    let passphrase = arguments.passphrase_stdin.then(value::passphrase_from_stdin).transpose()?;
    let mut client = connect::to_broker(&directories)?;
    unlock_with(&mut client, passphrase, arguments.accept_rollback)?;
    match arguments.format.json {
        true => output::json(&serde_json::json!({ "vault": "unlocked" })),
        false => output::line("the vault is unlocked"),
    }
}

/// Asks the broker; where its vault waits for a passphrase, unlocks it and asks once more. A vault that a
/// person locked stays locked: that is for `kin unlock` to undo.
///
/// # Errors
/// Those of `ask` and of [`unlock`].
pub(super) fn asking<T>(client: &mut Client, mut ask: impl FnMut(&mut Client) -> Result<T>) -> Result<T> {
    match ask(client) {
        Err(error) if error.code == "passphrase_needed" => {
            unlock(client, None)?;
            ask(client)
        }
        answer => answer,
    }
}

/// Unlocks the vault, where it is not. A passphrase that was not given is asked for at the terminal.
///
/// # Errors
/// `passphrase_needed` without a terminal; the broker's.
pub(super) fn unlock(client: &mut Client, given: Option<Plaintext>) -> Result<()> {
    unlock_with(client, given, false)
}

fn unlock_with(client: &mut Client, given: Option<Plaintext>, accept_rollback: bool) -> Result<()> {
    let vault = client.ask::<Status>(Question::Status)?.vault;
    if vault.state == "unlocked" {
        // Nothing to do, but inside a grant's tree even that is refused.
        return client.ask(Question::Unlock { accept_rollback });
    }
    let passphrase = match (vault.key, given) {
        (Some(KeyMethod::Passphrase), None) => Some(ask_passphrase()?),
        (Some(KeyMethod::Passphrase), given) => given,
        _ => None,
    };
    client.ask_with(Question::Unlock { accept_rollback }, passphrase.as_ref())
}

pub(super) fn ask_passphrase() -> Result<Plaintext> {
    let mut terminal = Terminal::open().ok_or_else(|| {
        Error::new(
            Class::Locked,
            "passphrase_needed",
            "the vault is locked, and there is no terminal to ask for its passphrase at",
        )
        .hint("unlock it first: `kin unlock`, in scripts with --passphrase-stdin")
    })?;
    value::passphrase(terminal.hidden("Passphrase of the vault: ")?)
}
