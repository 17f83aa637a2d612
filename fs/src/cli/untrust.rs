//! `kin untrust`: trusts this project's `kin.toml` no longer.

use clap::Args;
use kin_broker::Result;
use kin_broker::control::protocol::Question;
use kin_broker::sys::paths::Directories;

use super::{Format, connect, output, project, unlock};

/// Trust this project's kin.toml no longer
///
/// Later runs of this project are refused until it is trusted again. Grants that live stay as they are:
/// `kin revoke` ends them.
#[derive(Args)]
#[command(after_help = "Example:
  kin untrust")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let directories = Directories::from_environment()?;
    let directory = project::directory()?;
    let mut client = connect::to_broker(&directories)?;
    let question = Question::Untrust { directory: directory.clone() };
    unlock::asking(&mut client, |client| client.ask::<()>(question.clone()))?;
    if arguments.format.json {
        return output::json(&serde_json::json!({ "untrusted": directory.to_string_lossy() }));
    }
    output::line(&format!("kin.toml in {} is not trusted now", output::printable_path(&directory)))
}
