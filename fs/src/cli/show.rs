//! `kin show`: what is known of a secret, without its value.

use std::ffi::OsString;

use clap::Args;
use kin_broker::Result;
use kin_broker::control::protocol::{Question, SecretInfo};
use kin_broker::sys::paths::Directories;

use super::{Format, connect, list, output, reference, select, unlock};

/// Show what is known of a secret, without its value
///
/// Version, size, date and note of one secret. Its value is not read.
#[derive(Args)]
#[command(after_help = "Example:
  kin show stripe/test_key")]
pub(super) struct Arguments {
    /// The secret's name
    #[arg(value_name = "REF")]
    reference: OsString,
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let reference = reference(&arguments.reference)?;
    let mut client = connect::to_broker(&Directories::from_environment()?)?;
    let question = Question::Show { reference };
    let secret: SecretInfo = unlock::asking(&mut client, |client| client.ask(question.clone()))?;
    match arguments.format.json {
        true => output::json(&secret),
        false => output::print(&description(&secret)),
    }
}

/// One fact a line.
pub(super) fn description(secret: &SecretInfo) -> String {
    let mut text = format!(
        "reference  {}\nversion    {}\nbytes      {}\ncreated    {}\n",
        secret.reference,
        secret.version,
        secret.size,
        list::local_time(secret.created)
    );
    if let Some(due) = secret.due {
        text += &format!("due        {}\n", list::due(due));
    }
    if let Some(generated) = &secret.generated {
        text += &format!("generated  {}\n", output::printable(generated));
    }
    if !secret.attributes.is_empty() {
        text += &format!("attributes {}\n", output::printable(&select::attributes(secret)));
    }
    if let Some(note) = &secret.note {
        text += &format!("note       {}\n", output::printable(note));
    }
    text
}
