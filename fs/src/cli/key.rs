//! Where does a new identity come to be kept, and what is that good for?

use std::path::PathBuf;

use clap::Args;
use kin_broker::control::protocol::KeyMethod;
use kin_broker::keys::given::Given;
use kin_broker::{Class, Error, Plaintext, Result, describe};

use super::terminal::Terminal;
use super::{bad_usage, output, value};

/// Where the identity is to be kept.
#[derive(Args)]
pub(super) struct Place {
    /// Keep the identity in the Secret Service (gnome-keyring, KeePassXC, KWallet)
    #[arg(long, group = "method")]
    keyring: bool,
    /// Encrypt the identity with the passphrase on the first line of standard input
    #[arg(long, group = "method")]
    passphrase_stdin: bool,
    /// Keep the identity in this file, as it is
    #[arg(long, value_name = "PATH", group = "method")]
    key_file: Option<PathBuf>,
    /// Take the identity that this descriptor gives, and keep it nowhere: each unlock gives it again
    #[arg(long, value_name = "N", group = "method")]
    identity_fd: Option<i32>,
}

impl Place {
    /// Whether the command line names one.
    pub(super) fn is_given(&self) -> bool {
        self.keyring || self.passphrase_stdin || self.key_file.is_some() || self.identity_fd.is_some()
    }

    /// Whether the passphrase comes on standard input.
    pub(super) fn reads_stdin(&self) -> bool {
        self.passphrase_stdin
    }

    /// How it is kept, where that is not a passphrase, with the identity where it is given.
    ///
    /// # Errors
    /// `bad_path`; those of [`Given::read`].
    pub(super) fn method(&self) -> Result<(KeyMethod, Option<Plaintext>)> {
        if self.keyring {
            return Ok((KeyMethod::Keyring, None));
        }
        if let Some(path) = &self.key_file {
            let path = std::path::absolute(path).map_err(|error| {
                let message = format!("the key file has no path: {}", describe(&error));
                bad_usage("bad_path", message, "name a file")
            })?;
            return Ok((KeyMethod::KeyFile { path }, None));
        }
        match self.identity_fd {
            Some(fd) => Ok((KeyMethod::Given, Some(Given::Descriptor(fd).read()?))),
            None => Ok((KeyMethod::Passphrase, None)),
        }
    }

    /// As [`Self::method`], with the passphrase: from standard input, or asked for at the terminal.
    ///
    /// # Errors
    /// As there; `passphrase_needed` without a terminal, `passphrase_mismatch`, those of a bad passphrase.
    pub(super) fn method_and_secret(&self) -> Result<(KeyMethod, Option<Plaintext>)> {
        match self.method()? {
            (KeyMethod::Passphrase, _) if self.passphrase_stdin => {
                Ok((KeyMethod::Passphrase, Some(value::passphrase_from_stdin()?)))
            }
            (KeyMethod::Passphrase, _) => Ok((KeyMethod::Passphrase, Some(new_passphrase()?))),
            kept => Ok(kept),
        }
    }
}

/// A new passphrase for the vault, typed twice.
///
/// # Errors
/// As [`typed_twice`].
pub(super) fn new_passphrase() -> Result<Plaintext> {
    typed_twice("the vault", "choose one of --keyring, --passphrase-stdin and --key-file PATH")
}

/// A passphrase that is typed twice.
///
/// # Errors
/// `passphrase_needed` without a terminal, with that hint; `passphrase_mismatch`.
pub(super) fn typed_twice(what: &str, elsewhere: &str) -> Result<Plaintext> {
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

/// What a place of the identity protects against.
pub(super) fn protects(method: &KeyMethod) -> String {
    match method {
        KeyMethod::Keyring => {
            "the key is in the session's keyring: safe from who takes the disk, and from other \
                               users"
                .into()
        }
        KeyMethod::Passphrase => {
            "the key is behind the passphrase: safe from who takes the disk, and, until it is \
                                  typed, from programs of yours; as strong as the passphrase"
                .into()
        }
        KeyMethod::KeyFile { path } => format!(
            "the key is in {}: safe from nobody who reads that file, so keep it apart from the vault",
            output::printable_path(path)
        ),
        KeyMethod::Given => {
            "the key is nowhere of kin's: as safe as the place that gives it at each unlock".into()
        }
    }
}

/// What a place of the identity does not protect against, where a person should know it at once.
pub(super) fn warning(method: &KeyMethod) -> Option<&'static str> {
    matches!(method, KeyMethod::Keyring).then_some(
        "any program of yours can ask an unlocked keyring for the key, and open the vault without kin",
    )
}

/// Says it once: when the identity comes to this place, and not where it was there `before`.
pub(super) fn warn(method: &KeyMethod, before: Option<&KeyMethod>) {
    if let Some(warning) = warning(method).filter(|_| before != Some(method)) {
        output::note(&format!("warning: {warning}"));
    }
}
