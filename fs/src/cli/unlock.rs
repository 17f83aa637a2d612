//! `kin unlock`, and how a command that meets a locked vault asks for its passphrase.

use clap::Args;
use kin_broker::control::Client;
use kin_broker::control::protocol::{KeyMethod, Question, Status, Unlock};
use kin_broker::keys::given::Given;
use kin_broker::sys::paths::Directories;
use kin_broker::{Class, Error, Plaintext, Result};

use super::terminal::Terminal;
use super::{Format, bad_usage, connect, output, value};

/// Unlock the vault
///
/// The broker takes the identity from where `kin init` put it; a passphrase is asked for. Inside a grant's
/// tree it is denied.
#[derive(Args)]
#[command(after_help = "Examples:
  kin unlock
  pass show kin | kin unlock --passphrase-stdin
  kin unlock --identity-fd 3 3< key
  kin unlock --session-keyring              until logout, an automatic lock or `kin lock`")]
pub(super) struct Arguments {
    /// Read the passphrase from the first line of standard input
    #[arg(long, group = "source")]
    passphrase_stdin: bool,
    /// Take the identity itself, from this descriptor
    #[arg(long, value_name = "N", group = "source")]
    identity_fd: Option<i32>,
    /// Let the kernel remember the identity for this login session, so that the next broker asks for nothing
    #[arg(long)]
    session_keyring: bool,
    /// Take an old vault that you put there yourself, instead of the newest that was written
    #[arg(long)]
    accept_rollback: bool,
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    value_from_environment_is_refused()?;
    let directories = Directories::from_environment()?;
    let given = match arguments.identity_fd {
        Some(fd) => Some(Given::Descriptor(fd).read()?),
        None => arguments.passphrase_stdin.then(value::passphrase_from_stdin).transpose()?,
    };
    let how = Unlock {
        accept_rollback: arguments.accept_rollback,
        identity: arguments.identity_fd.is_some(),
        remember: arguments.session_keyring,
    };
    let mut client = connect::to_broker(&directories)?;
    unlock_by(&mut client, how, given)?;
    match arguments.format.json {
        true => output::json(&serde_json::json!({ "vault": "unlocked" })),
        false => output::line("the vault is unlocked"),
    }
}

/// A passphrase or a key in the environment is one that other processes can read: it is not taken, and not ignored.
///
/// # Errors
/// `secret_in_environment` (Usage).
pub(super) fn value_from_environment_is_refused() -> Result<()> {
    const NAMES: [&str; 4] = ["KIN_PASSPHRASE", "KIN_PASSWORD", "KIN_KEY", "KIN_RECOVERY_KEY"];
    match NAMES.into_iter().find(|name| std::env::var_os(name).is_some()) {
        None => Ok(()),
        Some(name) => Err(bad_usage(
            "secret_in_environment",
            format!("{name} is in the environment, where other programs of yours can read it"),
            "unset it; give a passphrase with --passphrase-stdin, a key with --identity-fd N",
        )),
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
    unlock_by(client, Unlock::default(), given)
}

fn unlock_by(client: &mut Client, how: Unlock, given: Option<Plaintext>) -> Result<()> {
    let vault = client.ask::<Status>(Question::Status)?.vault;
    let passphrase = vault.key == Some(KeyMethod::Passphrase);
    let given = given.filter(|_| vault.state != "unlocked" && (passphrase || how.identity));
    let unlocked: Result<()> = match client.ask_with(Question::Unlock(how), given.as_ref()) {
        Err(error) if error.code == "passphrase_needed" && given.is_none() => {
            client.ask_with(Question::Unlock(how), Some(&ask_passphrase()?))
        }
        answer => answer,
    };
    unlocked?;
    if vault.state != "unlocked" {
        let notices = client.ask::<Status>(Question::Status)?.vault.notices;
        notices.iter().for_each(|notice| output::note(&format!("warning: {}", output::printable(notice))));
    }
    Ok(())
}

pub(super) fn ask_passphrase() -> Result<Plaintext> {
    value_from_environment_is_refused()?;
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
