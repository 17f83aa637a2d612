//! `kin rotate`: a new version in the place of one that is there.

use std::ffi::OsString;

use clap::Args;
use kin_broker::Result;
use kin_broker::control::protocol::{NewVersion, Question, SecretInfo};
use kin_broker::sys::paths::Directories;

use super::set::{Facts, Source, quiet_reference, store};
use super::{Format, connect, unlock};

/// Store a new version of a secret that is there
///
/// Without a source, a value that the broker made is made again in the same way, and another is asked for on
/// a terminal. The note and the time until the next rotation stay, unless they are given; attributes are added to
/// those that it has. New opens get the new version at once; the old one can be revealed for 30 days.
#[derive(Args)]
#[command(after_help = "Examples:
  kin rotate deploy/key                     made anew, as it was made before
  kin rotate db/url --stdin < new-url
  kin rotate app/session --generate hex:32 --expires 90d
  kin rotate kube/config --from-version 3   the value of an old version once more: see kin history")]
pub(super) struct Arguments {
    /// The secret's name
    #[arg(value_name = "REF")]
    reference: OsString,
    #[command(flatten)]
    source: Source,
    /// The value of this old version, which nobody sees, becomes the current one again
    #[arg(long, value_name = "N", conflicts_with = "source")]
    from_version: Option<u64>,
    #[command(flatten)]
    facts: Facts,
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(arguments: Arguments) -> Result<()> {
    let reference = quiet_reference(&arguments.reference)?;
    let facts = arguments.facts.of(reference.clone())?;
    let mut client = connect::to_broker(&Directories::from_environment()?)?;
    if let Some(version) = arguments.from_version {
        let new = NewVersion { from_version: Some(version), rotate: true, ..facts };
        return store(&mut client, new, None, arguments.format);
    }
    let question = Question::Show { reference: reference.clone() };
    let old: SecretInfo = unlock::asking(&mut client, |client| client.ask(question.clone()))?;
    let again = !arguments.source.is_given() && old.generated.is_some();
    let value = if again { None } else { arguments.source.value(&reference)? };
    let new = NewVersion { generate: arguments.source.into_generate(), rotate: true, ..facts };
    store(&mut client, new, value.as_ref(), arguments.format)
}
