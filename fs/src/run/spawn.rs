//! How does the command start? The keeper forks it and holds it back until the broker knows it: nothing
//! that it does can come before its grant's start.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use kin_broker::control::protocol::Granted;
use kin_broker::control::{read_frame, write_frame};
use kin_broker::paths::Directories;
use kin_broker::sys::{process, socket};
use kin_broker::{Error, Result};
use nix::sys::prctl;
use nix::unistd::{ForkResult, Pid, close};
use serde::{Deserialize, Serialize};

use super::{private, values};

/// The one byte that lets it go.
const GO: &[u8] = b"g";

/// What the child says before it is the command.
#[derive(Serialize, Deserialize)]
enum Word {
    /// It can be looked at, and has mounted where it was to: the device comes with this.
    Ready,
    /// It could not do what comes before the exec.
    Refused(Error),
    /// The exec failed, with this errno.
    NotExecuted(i32),
}

/// Why it is no command.
pub(super) enum Failed {
    /// What comes before the exec was refused.
    Refused(Error),
    /// The fork or the exec failed.
    NotStarted(io::Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::NotStarted(error)
    }
}

/// A process that waits to become the command. Dropped, it never does.
pub(super) struct Waiting {
    child: Option<Pid>,
    gate: UnixStream,
}

/// Forks; the child lets go of `keepers`, which are the keeper's own descriptors, mounts where its grant says
/// so, and waits.
///
/// # Errors
/// Those of fork(2) and socketpair(2).
pub(super) fn fork(
    command: Command,
    keepers: &[RawFd],
    directories: &Directories,
    granted: &Granted,
) -> io::Result<Waiting> {
    let (gate, childs) = UnixStream::pair()?;
    match process::fork_single_threaded()? {
        ForkResult::Parent { child } => Ok(Waiting { child: Some(child), gate }),
        ForkResult::Child => {
            drop(gate);
            become_command(command, keepers, childs, directories, granted)
        }
    }
}

/// It holds nothing of the keeper's by the time it can be looked at: the broker has to see what a process
/// that is not dumpable hides (its namespaces, proc_pid_ns(5)).
fn become_command(
    mut command: Command,
    keepers: &[RawFd],
    gate: UnixStream,
    directories: &Directories,
    granted: &Granted,
) -> ! {
    for fd in keepers {
        let _ = close(*fd);
    }
    let _ = prctl::set_dumpable(true);
    let ready =
        make_ready(&gate, granted).and_then(|()| values::put_into(&mut command, directories, granted));
    let word = match ready {
        Ok(()) => Word::NotExecuted(command.exec().raw_os_error().unwrap_or(0)),
        Err(error) => Word::Refused(error),
    };
    let _ = write_frame(&mut &gate, &word, None);
    std::process::exit(127)
}

/// What lies between fork and exec. The device is the broker's alone once this waits: whoever looks into a
/// mount whose broker has died must get an error, and not wait.
fn make_ready(mut gate: &UnixStream, granted: &Granted) -> Result<()> {
    let fault = |error: io::Error| Error::internal("tell the keeper", error);
    match &granted.private {
        Some(plan) => {
            let device = private::mount_apart(plan)?;
            let mut word = Vec::new();
            write_frame(&mut word, &Word::Ready, None)
                .and_then(|()| Ok(socket::send_with(gate, &word, device.as_fd())?))
                .map_err(fault)?;
        }
        None => write_frame(&mut gate, &Word::Ready, None).map_err(fault)?,
    }
    let mut go = [0; GO.len()];
    if gate.read_exact(&mut go).is_err() {
        std::process::exit(0);
    }
    granted.private.as_ref().map_or(Ok(()), |plan| private::lay(granted, plan))
}

impl Waiting {
    /// Its number.
    pub(super) fn pid(&self) -> u32 {
        self.child.map_or(0, |child| child.as_raw().cast_unsigned())
    }

    /// To wait for its word.
    pub(super) fn gate(&self) -> &UnixStream {
        &self.gate
    }

    /// Waits until it can be looked at: the device of the mount that it has made, where it was to make one.
    ///
    /// # Errors
    /// Why it made none.
    pub(super) fn ready(&self) -> Result<Option<OwnedFd>> {
        let fault = |why: &str| Error::internal("make the command ready", why);
        let mut begin = [0; 4096];
        let (got, device) = socket::receive(&self.gate, &mut begin).map_err(|errno| fault(errno.desc()))?;
        match read_frame(&mut begin[..got].chain(&self.gate)) {
            Ok(Some((Word::Ready, _))) => Ok(device),
            Ok(Some((Word::Refused(error), _))) => Err(error),
            _ => Err(fault("it ended")),
        }
    }

    /// Lets it become the command; returns once it has.
    ///
    /// # Errors
    /// What comes before the exec, or those of execve(2).
    pub(super) fn release(mut self) -> Result<u32, Failed> {
        self.gate.write_all(GO)?;
        // The child's end closes by itself at the exec.
        match read_frame(&mut self.gate) {
            Ok(Some((Word::Refused(error), _))) => Err(error.into()),
            Ok(Some((Word::NotExecuted(0) | Word::Ready, _))) => {
                Err(io::Error::from(io::ErrorKind::InvalidInput).into())
            }
            Ok(Some((Word::NotExecuted(errno), _))) => Err(io::Error::from_raw_os_error(errno).into()),
            Ok(None) | Err(_) => Ok(self.child.take().map_or(0, |child| child.as_raw().cast_unsigned())),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            let _ = self.gate.shutdown(std::net::Shutdown::Both);
            let _ = nix::sys::wait::waitpid(child, None);
        }
    }
}
