//! `kin reveal`: the one command that prints a value.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;

use clap::Args;
use kin_broker::Result;
use kin_broker::control::protocol::{Question, SecretInfo};
use kin_broker::sys::paths::Directories;

use super::terminal::{Terminal, confirmation_needed};
use super::{connect, output, reference, show, unlock};

/// Print the value of a secret
///
/// A person has to agree, on a terminal or by --yes, and it is recorded. Inside a grant's tree it is denied:
/// programs read files. The value is printed byte for byte; on a terminal a newline follows it.
#[derive(Args)]
#[command(after_help = "Examples:
  kin reveal stripe/test_key
  kin reveal stripe/test_key@3              what it was before
  kin reveal tls/key --yes > key.pem        a script that means it")]
pub(super) struct Arguments {
    /// The secret's name; REF@N is its version N
    #[arg(value_name = "REF")]
    reference: OsString,
    /// An old version, as long as `kin history` shows it as old
    #[arg(long, value_name = "N")]
    version: Option<u64>,
    /// Agree here instead of on a terminal
    #[arg(long)]
    yes: bool,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let (name, version) = versioned(&arguments.reference, arguments.version);
    let reference = reference(&name)?;
    let directories = Directories::from_environment()?;
    let terminal = match arguments.yes {
        true => None,
        false => Some(Terminal::open().ok_or_else(|| {
            confirmation_needed("revealing a value").hint("a script that means it says --yes")
        })?),
    };
    let mut client = connect::to_broker(&directories)?;
    if let Some(mut terminal) = terminal {
        let question = Question::Show { reference: reference.clone() };
        let secret: SecretInfo = unlock::asking(&mut client, |client| client.ask(question.clone()))?;
        terminal.say(&show::description(&secret))?;
        match version {
            None => terminal.confirm("Print its value?")?,
            Some(version) => terminal.confirm(&format!("Print the value of version {version}?"))?,
        }
    }
    let question = Question::Reveal { reference, version, confirmed: true };
    let (_, value) =
        unlock::asking(&mut client, |client| client.ask_for_value::<SecretInfo>(question.clone()))?;
    output::write(value.bytes())?;
    match std::io::stdout().is_terminal() {
        true => output::line(""),
        false => Ok(()),
    }
}

/// `REF@N` taken apart; no name holds an '@'.
fn versioned(argument: &OsStr, version: Option<u64>) -> (OsString, Option<u64>) {
    let parts = argument.to_str().and_then(|text| text.rsplit_once('@'));
    match parts.and_then(|(name, number)| Some((name, number.parse().ok()?))) {
        Some((name, number)) if version.is_none() => (name.into(), Some(number)),
        _ => (argument.to_owned(), version),
    }
}
