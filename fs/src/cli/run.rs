//! `kin run`: a command that may read this project's secrets.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use kin_broker::sys::limits;
use kin_broker::sys::paths::Directories;
use kin_broker::{Error, Result};
use kin_fs::run::{OnRotate, RunOptions, run};
use kin_policy::{FileName, Limits};

use super::env_file::{self, Variables};
use super::{bad_usage, connect, duration, output, project, unlock};

/// Run a command that may read this project's secrets
///
/// The command and its descendants get a grant: they read this project's secrets as files below $KIN_DIR,
/// and nobody else does. The exit code is the command's own, and the prompt returns when it ends; the
/// grant lasts until its last descendant is gone. The broker is started where none runs.
///
/// With --private the command gets a mount namespace of its own, in which a file whose binding has a path is
/// there too: .env, ~/.aws/credentials. Nobody outside sees it. Unless it is root, sudo and setuid programs do
/// not work in it; nothing can be renamed over such a file.
///
/// With --redact every value of the grant is masked in what the command and its descendants write to stdout, stderr
/// and the terminal: as it is and as base64, hexadecimal and the like. What a program does to hide a value on
/// purpose is not seen through.
#[derive(Args)]
#[command(override_usage = "kin run [OPTIONS] [--] <CMD>...")]
#[command(after_help = "Examples:
  kin run -- npm test
  kin run --only DATABASE_URL --ttl 10m -- ./migrate.sh
  kin run --max-opens DATABASE_URL=1 --for-first 30s -- ./server
  kin run --private -- aws s3 ls
  kin run --env-file dev.env -- ./server
  kin run --redact -- ./agent
  kin run -- sh -c 'psql \"$(cat \"$KIN_DIR/DATABASE_URL\")\"'")]
pub(super) struct Arguments {
    /// Grant only these files of the project, instead of all
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    only: Option<Vec<String>>,
    /// End the grant after this time, from 1s to 30d: 90s, 10m, 1h30m, 2d
    #[arg(long, value_name = "D", allow_hyphen_values = true)]
    ttl: Option<OsString>,
    /// Permit this many opens in all, or of one file: 1 to 1000000000; repeatable
    #[arg(long, value_name = "N|FILE=N", allow_hyphen_values = true)]
    max_opens: Vec<OsString>,
    /// Permit opens only this long after the start of the command: written as for --ttl
    #[arg(long, value_name = "D", allow_hyphen_values = true)]
    for_first: Option<OsString>,
    /// Set variables for the command alone, from a file like .env: NAME=value, or NAME=kin://REF for the value of
    /// a secret that the project binds; repeatable
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// End the grant when the command ends, though its descendants go on
    #[arg(long)]
    end_with_child: bool,
    /// Mask this project's values in what the command writes to its terminal, stdout and stderr
    #[arg(long, overrides_with = "no_redact")]
    redact: bool,
    /// Pass on what the command writes as it is; the default, unless kin.toml says `redact = true`
    #[arg(long, overrides_with = "redact")]
    no_redact: bool,
    /// Mount for this command alone, in a namespace of its own, with files at their real paths too
    #[arg(long)]
    private: bool,
    /// Send the command this signal when a secret of the grant has another version, or start it again
    #[arg(long, value_name = "SIGNAL|restart", allow_hyphen_values = true)]
    on_rotate: Option<OsString>,
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
    let MaxOpens { in_all, of_files } = max_opens(&arguments.max_opens)?;
    let on_rotate = arguments.on_rotate.as_deref().map(on_rotate).transpose()?;
    let for_first = arguments.for_first.as_deref().map(duration::window).transpose()?;
    let Variables { plain, references } = env_file::read(&arguments.env_file)?;
    Ok(RunOptions {
        command: arguments.command,
        only: only.transpose()?,
        ttl: arguments.ttl.as_deref().map(duration::ttl).transpose()?,
        limits: Limits { max_opens: in_all, for_first },
        max_opens_of: of_files,
        variables: plain,
        values: references,
        end_with_child: arguments.end_with_child,
        private: arguments.private,
        redact: (arguments.redact || arguments.no_redact).then_some(arguments.redact),
        on_rotate,
        project_directory: project::directory()?,
    })
}

fn on_rotate(argument: &OsStr) -> Result<OnRotate> {
    argument.to_str().and_then(OnRotate::parse).ok_or_else(|| {
        let message = format!("\"{}\" is neither a signal nor \"restart\"", output::excerpt(argument));
        bad_usage("bad_on_rotate", message, "write --on-rotate HUP, or --on-rotate restart")
    })
}

/// What all `--max-opens` say together.
#[derive(Default)]
struct MaxOpens {
    in_all: Option<u64>,
    of_files: Vec<(FileName, u64)>,
}

fn max_opens(arguments: &[OsString]) -> Result<MaxOpens> {
    let mut said = MaxOpens::default();
    for argument in arguments {
        let text = argument.to_str().ok_or_else(|| bad_max_opens(argument))?;
        let (file, number) =
            text.rsplit_once('=').map_or((None, text), |(file, number)| (Some(file), number));
        let number = limits::opens(number).ok_or_else(|| bad_max_opens(argument))?;
        match file {
            Some(file) => said.of_files.push((FileName::new(file)?, number)),
            None => said.in_all = said.in_all.into_iter().chain([number]).min(),
        }
    }
    Ok(said)
}

fn bad_max_opens(argument: &OsStr) -> Error {
    let message = format!("\"{}\" is not {}", output::excerpt(argument), limits::OPENS);
    bad_usage("bad_max_opens", message, "write --max-opens 5, or --max-opens FILE=5")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn said(arguments: &[&str]) -> Result<MaxOpens> {
        max_opens(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn opens_are_bounded_in_all_and_for_single_files() {
        let MaxOpens { in_all, of_files } = said(&["7", "A=2", "5", "a=b=1"]).unwrap();
        let files: Vec<_> = of_files.iter().map(|(file, number)| (file.as_str(), *number)).collect();
        assert_eq!((in_all, &files[..]), (Some(5), &[("A", 2), ("a=b", 1)][..]));
        assert_eq!(said(&[]).unwrap().in_all, None);
    }

    #[test]
    fn numbers_of_opens_that_are_none_have_a_code() {
        for bad in ["0", "-1", "NaN", "18446744073709551616", "", "A=", "A=0", "A", "1=x"] {
            let error = said(&[bad]).err().unwrap();
            assert_eq!((error.exit_code(), error.code.as_ref()), (2, "bad_max_opens"), "{bad:?}");
        }
        assert_eq!(said(&["../x=1"]).err().unwrap().code, "bad_name");
    }
}
