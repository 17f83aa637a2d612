//! `kin revoke`: ends grants.

use clap::Args;
use kin_broker::Result;
use kin_broker::control::protocol::{Question, Withdrawn};
use kin_broker::sys::paths::Directories;

use super::{Format, bad_usage, connect, output};

/// End grants
///
/// From the moment this returns, nothing is opened under the grant, and open handles stop reading. The
/// processes themselves go on.
#[derive(Args)]
#[command(override_usage = "kin revoke [OPTIONS] <ID | --all>")]
#[command(after_help = "Examples:
  kin revoke 1a2b3c4d       the id, or a beginning of it, as `kin status` shows it
  kin revoke --all")]
pub(super) struct Arguments {
    /// The grant's id, or an unambiguous beginning of it
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    id: Option<String>,
    /// End every grant
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let grant = arguments.id.as_deref().map(parse).transpose()?;
    let mut client = connect::to_running(&Directories::from_environment()?)?;
    let withdrawn: Withdrawn = client.ask(Question::Revoke { grant })?;
    if arguments.format.json {
        return output::json(&withdrawn);
    }
    if withdrawn.grants.is_empty() {
        return output::line("there is no live grant");
    }
    list(&withdrawn)
}

/// One line for each grant that ended.
///
/// # Errors
/// Those of printing.
pub(super) fn list(withdrawn: &Withdrawn) -> Result<()> {
    let lines: String = withdrawn.grants.iter().map(|id| format!("ended {id}\n")).collect();
    output::print(&lines)
}

fn parse(id: &str) -> Result<String> {
    match (1..=32).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(id.to_ascii_lowercase()),
        false => Err(bad_usage(
            "bad_grant_id",
            "a grant's id is up to 32 hexadecimal digits",
            "`kin status` shows the ids of the live grants",
        )),
    }
}
