//! `kin unlink`: takes links away that `kin link` put there, and brings back what they replaced.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use kin_broker::admin::batches::{UnlinkInfo, UnlinkRequest, UnlinkState};
use kin_broker::control::protocol::Question;
use kin_broker::sys::paths::Directories;
use kin_broker::{Result, describe};

use super::terminal::{Terminal, confirmation_needed};
use super::{Format, bad_usage, connect, link, output, project, unlock};

/// Take away the links that `kin link` put there
///
/// Only links that kin made go, and only while they are the same; and the lines of .gitignore that it added.
/// With --restore a file that a link took the place of comes back, in the clear, as the vault has it now; one that
/// was taken apart by its keys comes back as it was then. A person has to agree, on a terminal or by --yes, and it is
/// recorded. Inside a grant's tree all of it is denied.
#[derive(Args)]
#[command(after_help = "Examples:
  kin unlink
  kin unlink .env --restore                 the file is back as it was")]
pub(super) struct Arguments {
    /// Only these files
    #[arg(value_name = "FILE")]
    files: Vec<OsString>,
    /// Bring back the files that the links took the place of
    #[arg(long)]
    restore: bool,
    /// Agree here instead of on a terminal
    #[arg(long, requires = "restore")]
    yes: bool,
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let files = link::files(&arguments.files)?;
    let directories = Directories::from_environment()?;
    let directory = directory()?;
    let terminal = match arguments.restore && !arguments.yes {
        false => None,
        true => Some(Terminal::open().ok_or_else(|| {
            confirmation_needed("restoring a file").hint("a script that means it says --yes")
        })?),
    };
    let mut client = connect::to_broker(&directories)?;
    if let Some(mut terminal) = terminal {
        terminal.confirm("Write the files back, in the clear?")?;
    }
    let restore = arguments.restore;
    let request = UnlinkRequest { directory, files, restore, confirmed: restore };
    let gone: Vec<UnlinkInfo> =
        unlock::asking(&mut client, |client| client.ask(Question::Unlink(request.clone())))?;
    if arguments.format.json {
        return output::json(&gone);
    }
    if gone.is_empty() {
        output::note("kin made no links here");
    }
    for link in &gone {
        let path = output::printable_path(&link.path);
        output::line(&match link.state {
            UnlinkState::Removed => format!("unlinked {path}"),
            UnlinkState::Restored => format!("restored {path}, in the clear"),
            UnlinkState::Gone => format!("{path} was gone already"),
            UnlinkState::Kept => format!("{path} is another file now, and stays"),
        })?;
    }
    Ok(())
}

/// The project's directory, or where it was: its manifest may be gone.
fn directory() -> Result<PathBuf> {
    project::directory().or_else(|_| {
        std::env::current_dir().map_err(|error| {
            let message = format!("the working directory has no path: {}", describe(&error));
            bad_usage("bad_path", message, "change to the project's directory")
        })
    })
}
