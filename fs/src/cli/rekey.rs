//! `kin rekey`: the vault under another identity.

use clap::Args;
use kin_broker::Result;
use kin_broker::control::protocol::{KeyMethod, Question, Rekeyed, Status};
use kin_broker::sys::paths::Directories;

use super::unlock::value_from_environment_is_refused;
use super::{Format, connect, key, output, unlock};

/// Give the vault a new identity
///
/// Every value is sealed anew, under new keys, and the new identity is kept where the options say; without one, where
/// the old one is, and a new passphrase is asked for. Live grants go on. A kill at any moment leaves the old vault or
/// the new, each with its key. Backups made before stay as they are: the old identity opens them.
#[derive(Args)]
#[command(after_help = "Examples:
  kin rekey                                 a new identity, and a new passphrase
  kin rekey --keyring                       from now on in the Secret Service
  kin rekey --key-file ~/.config/kin2.key   a file that is not there yet")]
pub(super) struct Arguments {
    #[command(flatten)]
    place: key::Place,
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    value_from_environment_is_refused()?;
    let mut client = connect::to_broker(&Directories::from_environment()?)?;
    let now = client.ask::<Status>(Question::Status)?.vault.key;
    let (method, secret) = match arguments.place.is_given() {
        true => arguments.place.method_and_secret().map(|(method, secret)| (Some(method), secret))?,
        false if now == Some(KeyMethod::Passphrase) => {
            // The old one first, as a person expects to be asked.
            unlock::unlock(&mut client, None)?;
            (None, Some(key::new_passphrase()?))
        }
        false => (None, None),
    };
    let question = Question::Rekey { method };
    let made: Rekeyed =
        unlock::asking(&mut client, |client| client.ask_with(question.clone(), secret.as_ref()))?;
    key::warn(&made.key, now.as_ref());
    if arguments.format.json {
        return output::json(&made);
    }
    say(&made)?;
    output::note(
        "backups made before this need the old identity, which stays where it was; make a new backup",
    );
    Ok(())
}

/// What the vault has become.
pub(super) fn say(made: &Rekeyed) -> Result<()> {
    let recipient = made.recipient.as_deref().unwrap_or_default();
    output::line(&format!("the vault has a new identity, and {} secrets", made.secrets))?;
    output::line(&format!("recipient {}", output::printable(recipient)))?;
    output::line(&key::protects(&made.key))?;
    Ok(())
}
