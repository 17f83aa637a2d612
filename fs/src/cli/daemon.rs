//! `kin daemon`: starts the broker.

use std::io::Write;

use clap::Args;
use kin_broker::Result;
use kin_broker::identity::{in_initial_pid_namespace, proc_is_own};
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
    if let Some(warning) = warning() {
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
    let options = DaemonOptions { foreground: arguments.foreground, private_only: arguments.private_only };
    daemon::run(&Directories::from_environment()?, options)
}

/// A pid namespace ends what a broker can see: a reader outside arrives as thread 0 (pid_namespaces(7)).
fn warning() -> Option<&'static str> {
    match (proc_is_own(), in_initial_pid_namespace()) {
        (false, _) => Some("/proc is of another pid namespace, so every reader will be refused"),
        (true, false) => Some("this is no initial pid namespace, and readers outside it will be refused"),
        (true, true) => None,
    }
}
