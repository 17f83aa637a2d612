//! `kin reveal`: the one command that prints a value.

use std::ffi::OsString;
use std::io::IsTerminal;

use clap::Args;
use kin_broker::Result;
use kin_broker::control::protocol::{Question, SecretInfo};
use kin_broker::paths::Directories;

use super::terminal::{Terminal, confirmation_needed};
use super::{connect, output, reference, show, unlock};

/// Print the value of a secret
///
/// A person has to agree, on a terminal or by --yes, and it is recorded. Inside a grant's tree it is denied:
/// programs read files. The value is printed byte for byte; on a terminal a newline follows it.
#[derive(Args)]
#[command(after_help = "Examples:
  kin reveal stripe/test_key
  kin reveal tls/key --yes > key.pem        a script that means it")]
pub(super) struct Arguments {
    /// The secret's name
    #[arg(value_name = "REF")]
    reference: OsString,
    /// Agree here instead of on a terminal
    #[arg(long)]
    yes: bool,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let reference = reference(&arguments.reference)?;
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
        terminal.confirm("Print its value?")?;
    }
    let question = Question::Reveal { reference, confirmed: true };
    let (_, value) =
        unlock::asking(&mut client, |client| client.ask_for_value::<SecretInfo>(question.clone()))?;
    output::write(value.bytes())?;
    match std::io::stdout().is_terminal() {
        true => output::line(""),
        false => Ok(()),
    }
}
