//! `kin run`: a command that may read this project's secrets.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Args;
use kin_broker::paths::Directories;
use kin_broker::{Error, Result};
use kin_fs::run::{RunOptions, run};
use kin_policy::FileName;

use super::{bad_usage, connect, duration, project, unlock};

/// Run a command that may read this project's secrets
///
/// The command and its descendants get a grant: they read this project's secrets as files below $KIN_DIR,
/// and nobody else does. The exit code is the command's own, and the prompt returns when it ends; the
/// grant lasts until its last descendant is gone. The broker is started where none runs.
///
/// With --private the command gets a mount namespace of its own, in which a file whose binding has a path is
/// there too: .env, ~/.aws/credentials. Nobody outside sees it. Unless it is root, sudo and setuid programs do
/// not work in it; nothing can be renamed over such a file.
#[derive(Args)]
#[command(override_usage = "kin run [OPTIONS] [--] <CMD>...")]
#[command(after_help = "Examples:
  kin run -- npm test
  kin run --only DATABASE_URL --ttl 10m -- ./migrate.sh
  kin run --private -- aws s3 ls
  kin run -- sh -c 'psql \"$(cat \"$KIN_DIR/DATABASE_URL\")\"'")]
pub(super) struct Arguments {
    /// Grant only these files of the project, instead of all
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    only: Option<Vec<String>>,
    /// End the grant after this time, from 1s to 30d: 90s, 10m, 1h30m, 2d
    #[arg(long, value_name = "D", allow_hyphen_values = true)]
    ttl: Option<OsString>,
    /// End the grant when the command ends, though its descendants go on
    #[arg(long)]
    end_with_child: bool,
    /// Mount for this command alone, in a namespace of its own, with files at their real paths too
    #[arg(long)]
    private: bool,
    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

pub(super) fn answer(arguments: Arguments) -> Result<ExitCode> {
    start(options(arguments)?)
}

fn options(arguments: Arguments) -> Result<RunOptions> {
    if arguments.command.first().is_none_or(|program| program.is_empty()) {
        return Err(bad_usage("usage", "the command is empty", "usage: kin run [OPTIONS] [--] <CMD>..."));
    }
    let only =
        arguments.only.map(|names| names.into_iter().map(FileName::new).collect::<Result<Vec<_>, _>>());
    Ok(RunOptions {
        command: arguments.command,
        only: only.transpose()?,
        ttl: arguments.ttl.as_deref().map(duration::ttl).transpose()?,
        end_with_child: arguments.end_with_child,
        private: arguments.private,
        project_directory: project::directory()?,
    })
}

fn start(options: RunOptions) -> Result<ExitCode> {
    let directories = Directories::from_environment()?;
    let connect = if options.private { connect::to_broker_for_private } else { connect::to_broker };
    let code = run(&directories, options, &connect, &|error| ask_for_the_key(&directories, error));
    Ok(ExitCode::from(u8::try_from(code.exit_code()?).unwrap_or(u8::MAX)))
}

/// A vault that waits for its passphrase can be opened here and now; one that a person locked cannot.
fn ask_for_the_key(directories: &Directories, error: &Error) -> Result<bool> {
    if error.code != "passphrase_needed" {
        return Ok(false);
    }
    unlock::unlock(&mut connect::to_broker(directories)?, None).map(|()| true)
}
