//! How does the command start? The keeper forks it and holds it back until the broker knows it: nothing
//! that it does can come before its grant's start.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use kin_broker::control::protocol::Granted;
use kin_broker::control::{read_frame, write_frame};
use kin_broker::sys::paths::Directories;
use kin_broker::sys::{filter, process, socket};
use kin_broker::{Class, Error, Result, describe};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{ForkResult, Pid, close};
use serde::{Deserialize, Serialize};

use super::link::wait_readable;
use super::private::{self, Namespaces};
use super::{signals, values};

/// The one byte that lets it go.
const GO: &[u8] = b"g";

/// What the child says before it is the command.
#[derive(Serialize, Deserialize)]
enum Word {
    /// It can be looked at, and is in the namespaces that it is to have.
    Ready,
    /// It could not do what comes before the exec.
    Refused(Error),
    /// The exec failed, with this errno.
    NotExecuted(i32),
    /// There is another one that waits, with this pid: the keeper's end of its gate comes with this.
    Next(u32),
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

/// Forks; the child lets go of `keepers`, which are the keeper's own descriptors, goes to a mount namespace of its own
/// where its grant says so, and waits.
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

/// What lies between fork and exec. While it waits the broker mounts for it, where it has gone apart.
fn make_ready(mut gate: &UnixStream, granted: &Granted) -> Result<()> {
    if granted.private.is_some() {
        private::go_apart()?;
    }
    keep_executables(granted)?;
    write_frame(&mut gate, &Word::Ready, None).map_err(|error| Error::internal("tell the keeper", error))?;
    wait_to_go(gate);
    granted.private.as_ref().map_or(Ok(()), |plan| private::lay(granted, plan))
}

/// Before the broker looks, and before anything runs that is not ours: so each process of the tree has the filter.
/// In a user namespace of its own this process has the capability that spares it `no_new_privs`.
fn keep_executables(granted: &Granted) -> Result<()> {
    let refused = |errno: Errno| {
        let message =
            format!("the command could not be kept from naming its program: {}", describe(&errno.into()));
        Error::new(Class::Unreachable, "filter_unavailable", message)
            .hint("seccomp filters are wanted for files with `exe`; `kin run --only` goes without those")
    };
    if granted.pinned { filter::keep_executables().map_err(refused) } else { Ok(()) }
}

/// Ends this process where the keeper has no use for it.
fn wait_to_go(mut gate: &UnixStream) {
    if gate.read_exact(&mut [0; GO.len()]).is_err() {
        std::process::exit(0);
    }
}

/// Forks a child that stays behind with what the keeper lets go of (the terminal's session, the descriptors that
/// were passed, the directory) until a command has to be started again, in `namespaces` where those are not here.
///
/// # Errors
/// Those of fork(2) and socketpair(2).
pub(super) fn stay_behind(
    command: Command,
    keepers: &[RawFd],
    directories: &Directories,
    granted: &Granted,
    namespaces: Option<Namespaces>,
) -> io::Result<Waiting> {
    let (gate, childs) = UnixStream::pair()?;
    match process::fork_single_threaded()? {
        ForkResult::Parent { child } => Ok(Waiting { child: Some(child), gate }),
        ForkResult::Child => {
            drop(gate);
            for fd in keepers {
                let _ = close(*fd);
            }
            let _ = prctl::set_name(c"kin-next");
            become_next(command, childs, directories, granted, namespaces)
        }
    }
}

/// When its turn comes it first makes the next one, a child of the keeper's as it is itself.
fn become_next(
    mut command: Command,
    mut gate: UnixStream,
    directories: &Directories,
    granted: &Granted,
    namespaces: Option<Namespaces>,
) -> ! {
    let made = loop {
        wait_to_go(&gate);
        match UnixStream::pair().and_then(|pair| Ok((pair, process::fork_sibling()?))) {
            Ok(((keepers, childs), ForkResult::Child)) => {
                // Held here, it would keep this one waiting for a keeper that is gone.
                drop(keepers);
                gate = childs;
            }
            Ok(((keepers, _), ForkResult::Parent { child })) => break Ok((keepers, child)),
            Err(error) => break Err(Error::internal("fork", error)),
        }
    };
    let told = made.and_then(|(keepers, child)| {
        say_with(&gate, &Word::Next(child.as_raw().cast_unsigned()), keepers.as_fd())
    });
    let ready = told.and_then(|()| make_next_ready(&gate, granted, namespaces));
    let word = match ready.and_then(|()| values::put_into(&mut command, directories, granted)) {
        Ok(()) => Word::NotExecuted(command.exec().raw_os_error().unwrap_or(0)),
        Err(error) => Word::Refused(error),
    };
    let _ = write_frame(&mut &gate, &word, None);
    std::process::exit(127)
}

fn make_next_ready(mut gate: &UnixStream, granted: &Granted, namespaces: Option<Namespaces>) -> Result<()> {
    wait_to_go(gate);
    signals::discard_pending();
    let _ = prctl::set_dumpable(true);
    namespaces.map_or(Ok(()), |namespaces| namespaces.enter())?;
    keep_executables(granted)?;
    write_frame(&mut gate, &Word::Ready, None).map_err(|error| Error::internal("tell the keeper", error))?;
    wait_to_go(gate);
    Ok(())
}

fn say_with(gate: &UnixStream, word: &Word, descriptor: BorrowedFd<'_>) -> Result<()> {
    let fault = |error: io::Error| Error::internal("tell the keeper", error);
    let mut frame = Vec::new();
    write_frame(&mut frame, word, None).map_err(fault)?;
    socket::send_with(gate, &frame, descriptor).map(drop).map_err(|errno| fault(errno.into()))
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

    /// Waits until it can be looked at, and is in the namespaces that it is to have.
    ///
    /// # Errors
    /// Why it is not.
    pub(super) fn ready(&self) -> Result<()> {
        match self.hear()? {
            (Word::Ready, _) => Ok(()),
            _ => Err(Error::internal("make the command ready", "it ended")),
        }
    }

    /// Its turn has come: the one that stays behind in its place, once there is one.
    ///
    /// # Errors
    /// Why there is none within `limit`.
    pub(super) fn take_turn(&mut self, limit: Duration) -> Result<Self> {
        let fault = |error: io::Error| Error::internal("start the command again", error);
        self.gate.write_all(GO).map_err(fault)?;
        let nobody = || Error::internal("start the command again", "nobody stays behind");
        let [true] = wait_readable([Some(&self.gate)], Some(limit)) else { return Err(nobody()) };
        let (Word::Next(pid), Some(gate)) = self.hear()? else { return Err(nobody()) };
        self.gate.write_all(GO).map_err(fault)?;
        Ok(Self { child: Some(Pid::from_raw(pid.cast_signed())), gate: gate.into() })
    }

    /// It has ended, and was waited for.
    pub(super) fn has_ended(mut self) {
        self.child = None;
    }

    fn hear(&self) -> Result<(Word, Option<OwnedFd>)> {
        let fault = |why: &str| Error::internal("make the command ready", why);
        let mut begin = [0; 4096];
        let (got, with) = socket::receive(&self.gate, &mut begin).map_err(|errno| fault(errno.desc()))?;
        match read_frame(&mut begin[..got].chain(&self.gate)) {
            Ok(Some((Word::Refused(error), _))) => Err(error),
            Ok(Some((word, _))) => Ok((word, with)),
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
            Ok(Some((Word::NotExecuted(0) | Word::Ready | Word::Next(_), _))) => {
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
            // It may be stopped.
            let _ = kill(child, Signal::SIGKILL);
            let _ = nix::sys::wait::waitpid(child, None);
        }
    }
}
