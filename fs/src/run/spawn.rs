//! How does the command start? The keeper forks it and holds it back until the broker knows it: nothing
//! that it does can come before its grant's start.

use std::io::{self, Read, Write};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use kin_broker::sys::process;
use nix::sys::prctl;
use nix::unistd::{ForkResult, Pid, close};

/// The one byte that says that it can be looked at, and the one that lets it go.
const READY: &[u8] = b"r";
const GO: &[u8] = b"g";

/// A process that waits to become the command. Dropped, it never does.
pub(super) struct Waiting {
    child: Option<Pid>,
    gate: UnixStream,
}

/// Forks; the child lets go of `keepers`, which are the keeper's own descriptors, and waits. Returns once it can
/// be looked at.
///
/// # Errors
/// Those of fork(2) and socketpair(2).
pub(super) fn fork(command: Command, keepers: &[RawFd]) -> io::Result<Waiting> {
    let (gate, childs) = UnixStream::pair()?;
    match process::fork_single_threaded()? {
        ForkResult::Parent { child } => {
            drop(childs);
            let mut waiting = Waiting { child: Some(child), gate };
            waiting.gate.read_exact(&mut [0; READY.len()])?;
            Ok(waiting)
        }
        ForkResult::Child => {
            drop(gate);
            become_command(command, keepers, childs)
        }
    }
}

/// It holds nothing of the keeper's by the time it can be looked at: the broker has to see what a process
/// that is not dumpable hides (its namespaces, proc_pid_ns(5)).
fn become_command(mut command: Command, keepers: &[RawFd], mut gate: UnixStream) -> ! {
    for fd in keepers {
        let _ = close(*fd);
    }
    let _ = prctl::set_dumpable(true);
    let _ = gate.write_all(READY);
    let mut go = [0; GO.len()];
    if gate.read_exact(&mut go).is_err() {
        std::process::exit(0);
    }
    let error = command.exec();
    let _ = gate.write_all(&error.raw_os_error().unwrap_or(0).to_le_bytes());
    std::process::exit(127)
}

impl Waiting {
    /// Its number.
    pub(super) fn pid(&self) -> u32 {
        self.child.map_or(0, |child| child.as_raw().cast_unsigned())
    }

    /// Lets it become the command; returns once it has.
    ///
    /// # Errors
    /// Those of execve(2).
    pub(super) fn release(mut self) -> io::Result<u32> {
        self.gate.write_all(GO)?;
        let mut errno = [0; size_of::<i32>()];
        // The child's end closes by itself at the exec.
        match self.gate.read_exact(&mut errno) {
            Err(_) => Ok(self.child.take().map_or(0, |child| child.as_raw().cast_unsigned())),
            Ok(()) => match i32::from_le_bytes(errno) {
                0 => Err(io::ErrorKind::InvalidInput.into()),
                errno => Err(io::Error::from_raw_os_error(errno)),
            },
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
