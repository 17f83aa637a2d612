//! `kin init`: makes the vault and the identity that opens it.

use clap::Args;
use kin_broker::Result;
use kin_broker::control::protocol::{Question, VaultMade};
use kin_broker::sys::paths::Directories;

use super::unlock::value_from_environment_is_refused;
use super::{Format, connect, key, output};

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
  kin init --key-file ~/.config/kin.key     for CI: whoever reads the file opens the vault
  kin init --identity-fd 3 3< key           for services: kin keeps no key")]
pub(super) struct Arguments {
    #[command(flatten)]
    place: key::Place,
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    value_from_environment_is_refused()?;
    let directories = Directories::from_environment()?;
    let (method, secret) = arguments.place.method_and_secret()?;
    let question = Question::Init { method: method.clone() };
    let mut client = connect::to_broker(&directories)?;
    let made: VaultMade = client.ask_with(question, secret.as_ref())?;
    key::warn(&method, None);
    if arguments.format.json {
        return output::json(&made);
    }
    output::line(&format!(
        "made the vault {}\nrecipient {}\n{}",
        output::printable_path(&made.vault),
        output::printable(&made.recipient),
        key::protects(&method)
    ))
}
