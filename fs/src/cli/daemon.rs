//! `kin daemon`: starts the broker.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::Args;
use kin_broker::children::programs;
use kin_broker::keys::given::{CREDENTIAL, Given};
use kin_broker::process::{check_proc, in_initial_pid_namespace, proc_is_own};
use kin_broker::sys::paths::Directories;
use kin_broker::{Error, Result};
use kin_fs::daemon::{self, DaemonOptions};

use super::Format;

/// Start the broker
///
/// One broker runs for a user, or for a KIN_HOME. It returns when the broker is ready; exit code 6 where one
/// runs already. `kin run` and most other commands start it by themselves.
#[derive(Args)]
#[command(after_help = "Examples:
  kin daemon
  kin daemon --foreground       under a service manager, or to see why it does not start
  kin daemon --foreground --identity-credential     LoadCredentialEncrypted=kin.identity in the unit
  kin daemon --identity-fd 3 3< key                 in CI: the key is in no file of kin's")]
pub(super) struct Arguments {
    /// Stay in the foreground, until SIGTERM or `kin stop`
    #[arg(long)]
    foreground: bool,
    /// Open the vault with the identity that this descriptor gives
    #[arg(long, value_name = "N", group = "identity")]
    identity_fd: Option<i32>,
    /// Open the vault with the identity in this file of $CREDENTIALS_DIRECTORY, without a name kin.identity
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = CREDENTIAL, group = "identity")]
    identity_credential: Option<String>,
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
    let descriptor = arguments.identity_fd.map(Given::Descriptor);
    let identity = descriptor.or(arguments.identity_credential.clone().map(Given::Credential));
    let (foreground, private_only) = (arguments.foreground, arguments.private_only);
    let options = DaemonOptions { foreground, private_only, identity };
    daemon::run(&Directories::from_environment()?, options)
}

/// Starts this program again where its environment is not one of a broker's own making: what the loader and the C
/// library were told by the caller (LD_PRELOAD, GLIBC_TUNABLES) is gone after that too.
///
/// # Errors
/// Those of [`check_proc`], by which its own file is found; `internal` where it cannot be executed.
pub(super) fn with_its_own_environment() -> Result<()> {
    check_proc()?;
    if programs::is_own(std::env::vars_os().collect()) {
        return Ok(());
    }
    let mut arguments = std::env::args_os();
    let fault = |error: std::io::Error| Error::internal("start with an environment of its own", error);
    let mut again = Command::new(std::env::current_exe().map_err(fault)?);
    again.arg0(arguments.next().unwrap_or_default()).args(arguments).env_clear();
    Err(fault(again.envs(programs::environment(&|name| std::env::var_os(name))).exec()))
}

/// A pid namespace ends what a broker can see: a reader outside arrives as thread 0 (pid_namespaces(7)).
fn warning() -> Option<&'static str> {
    match (proc_is_own(), in_initial_pid_namespace()) {
        (false, _) => Some("/proc is of another pid namespace, so every reader will be refused"),
        (true, false) => Some("this is no initial pid namespace, and readers outside it will be refused"),
        (true, true) => None,
    }
}
