//! How does a command get a grant for itself and all that it starts?
//!
//! Two processes. The keeper is the grant's root and lives as long as the tree does; the front is what
//! the shell waits for, and is gone the moment the command is. Neither ever holds a value: what the command
//! writes is redacted in a process of the broker's.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use kin_broker::control::Client;
use kin_broker::control::protocol::REDACTION_WANTED;
use kin_broker::process::check_proc;
use kin_broker::sys::paths::Directories;
use kin_broker::sys::{child, process};
use kin_broker::{Class, Error, Result};
use kin_policy::{FileName, Limits, Reference};
use nix::sys::signal::SigSet;
use nix::unistd::ForkResult;

mod begin;
mod broker;
mod descriptors;
mod front;
mod front_terminal;
mod gains;
mod keeper;
mod link;
mod output;
mod private;
mod rotation;
mod signals;
mod spawn;
mod status;
mod terminal;
mod values;

use output::Output;
pub use private::try_namespaces;
pub use rotation::OnRotate;

/// What is to be run, and what it may be delivered.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// Only these files, where given.
    pub only: Option<Vec<FileName>>,
    /// The grant ends after this long, where given.
    pub ttl: Option<Duration>,
    /// What bounds its opens.
    pub limits: Limits,
    /// Opens of single files, at most.
    pub max_opens_of: Vec<(FileName, u64)>,
    /// Variables of the command, as they are.
    pub variables: Vec<(OsString, OsString)>,
    /// Variables of the command that get the values of these secrets.
    pub values: Vec<(String, Reference)>,
    /// The grant ends with the command, not with its tree.
    pub end_with_child: bool,
    /// The command gets a mount namespace of its own, with files at their real paths.
    pub private: bool,
    /// Values are masked in what it writes to stdout, stderr and its terminal; as the project says, where nothing is.
    pub redact: Option<bool>,
    /// What the command gets when a secret of the grant has another version.
    pub on_rotate: Option<OnRotate>,
    /// The directory that holds `kin.toml`.
    pub project_directory: PathBuf,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was started.
    Refused(Error),
    /// The command's exit code, or 125, 126 or 127, of which a line on stderr has told.
    Exited(i32),
    /// The command died by this signal.
    Signaled(i32),
}

impl Outcome {
    /// The exit code, of which there is none where the command died by a signal: this process dies by it too.
    ///
    /// # Errors
    /// The refusal.
    pub fn exit_code(self) -> Result<i32> {
        match self {
            Self::Refused(error) => Err(error),
            Self::Exited(code) => Ok(code),
            Self::Signaled(signal) => {
                child::die_by(signal);
                Ok(128 + signal)
            }
        }
    }
}

/// Runs the command under a grant and waits for it.
///
/// `connect` is called where no broker answers: it starts one, and the grant is asked for again. That
/// happens here and not in the keeper, so that a broker never descends from a grant's root. `unlock` is
/// called where the grant is refused because the vault is locked; `true` asks again.
///
/// This process must have one thread. It becomes non-dumpable; once the command runs, its stdin and stdout
/// are `/dev/null` and the descriptors that were passed to it are closed: they are the command's.
pub fn run(
    directories: &Directories,
    options: RunOptions,
    connect: &dyn Fn(&Directories) -> Result<Client>,
    unlock: &dyn Fn(&Error) -> Result<bool>,
) -> Outcome {
    let once = || -> Result<Outcome> {
        if options.command.is_empty() {
            return Err(Error::new(Class::Usage, "usage", "there is no command to run"));
        }
        let mut start = Start::here(directories, &options)?;
        let mut connected = false;
        loop {
            match start.attempt()? {
                Outcome::Refused(error) if error.code == "broker_unreachable" && !connected => {
                    drop(connect(directories)?);
                    connected = true;
                }
                // The streams are made before the broker is asked.
                Outcome::Refused(error) if error.code == REDACTION_WANTED && start.redact.is_none() => {
                    start.redact = Some(true);
                }
                Outcome::Refused(error) if error.class == Class::Locked => {
                    if !unlock(&error)? {
                        return Err(error);
                    }
                }
                outcome => return Ok(outcome),
            }
        }
    };
    once().unwrap_or_else(Outcome::Refused)
}

/// What this process was like when it was started, which is what the command shall be like.
struct Start<'a> {
    directories: &'a Directories,
    options: &'a RunOptions,
    front: u32,
    mask: SigSet,
    passed: Vec<RawFd>,
    redact: Option<bool>,
}

impl<'a> Start<'a> {
    fn here(directories: &'a Directories, options: &'a RunOptions) -> Result<Self> {
        // Not `process::harden`: a core limit of 0 would be the command's too. A process that is not
        // dumpable leaves no core file in any case (core(5)).
        nix::sys::prctl::set_dumpable(false)
            .map_err(|error| Error::internal("become non-dumpable", error))?;
        let mask = SigSet::thread_get_mask().map_err(|error| Error::internal("read the mask", error))?;
        let passed = child::passed_descriptors().map_err(|error| {
            check_proc().err().unwrap_or_else(|| Error::internal("list descriptors", error))
        })?;
        let front = std::process::id();
        Ok(Self { directories, options, front, mask, passed, redact: options.redact })
    }

    /// One keeper's life, as far as the front sees it.
    fn attempt(&self) -> Result<Outcome> {
        let (ours, keepers) =
            UnixStream::pair().map_err(|error| Error::internal("make a socket pair", error))?;
        let output = (self.redact == Some(true)).then(Output::here).transpose()?;
        // Blocked before the fork: neither process may miss one or die of one.
        signals::handled().thread_block().map_err(|error| Error::internal("block signals", error))?;
        // What is buffered must not be written by both.
        let _ = std::io::stdout().flush();
        let outcome = match process::fork_single_threaded() {
            Ok(ForkResult::Child) => {
                drop(ours);
                keeper::main(self, keepers, output.map(Output::keepers))
            }
            Ok(ForkResult::Parent { child }) => {
                drop(keepers);
                let outcome = front::wait(self, child, ours, output.map(Output::fronts));
                if matches!(outcome, Ok(Outcome::Refused(_))) {
                    let _ = nix::sys::wait::waitpid(child, None);
                }
                outcome
            }
            Err(error) => Err(Error::internal("fork", error)),
        };
        let _ = self.mask.thread_set_mask();
        outcome
    }
}

/// One line on stderr, which may be closed.
fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
