//! `kin daemon`: starts the broker.

use clap::Args;
use kin_broker::Result;
use kin_broker::paths::Directories;
use kin_fs::daemon::{self, DaemonOptions};

use super::Format;

/// Start the broker
///
/// One broker runs for a user, or for a KIN_HOME. It returns when the broker is ready; exit code 6 where one
/// runs already. `kin run` and most other commands start it by themselves.
#[derive(Args)]
#[command(after_help = "Examples:
  kin daemon
  kin daemon --foreground       under a service manager, or to see why it does not start")]
pub(super) struct Arguments {
    /// Stay in the foreground, until SIGTERM or `kin stop`
    #[arg(long)]
    foreground: bool,
    /// Start also where the user's mount cannot be made, for private mounts alone
    #[arg(long, hide = true)]
    private_only: bool,
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let options = DaemonOptions { foreground: arguments.foreground, private_only: arguments.private_only };
    daemon::run(&Directories::from_environment()?, options)
}
