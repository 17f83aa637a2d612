//! Where do the broker's own processes come from? From a zygote: a process that the broker forked before it held
//! anything or had a second thread, and that forks again for each of them. So nobody ever could look into one: it is
//! not dumpable from its first moment, which an exec would undo.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, chdir, close, dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use crate::children::mounter;
use crate::children::renamer;
use crate::sys::error::{Error, Result};
use crate::sys::inherited::close_all_but;
use crate::sys::process::{fork_single_threaded, ignore};
use crate::sys::socket::{receive, send_with};

/// What a process of the zygote's is for: one byte on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// It masks values in the output of a grant's command.
    Redact = b'r' as isize,
    /// It mounts in the namespaces of a grant's command.
    Mount = b'm' as isize,
    /// It gives the user's mount its name.
    Rename = b'n' as isize,
}

/// The broker's side of it. It ends when this is dropped.
#[derive(Debug)]
pub struct Zygote(UnixStream);

impl Zygote {
    /// Forks it; `redact` is a redactor's life. This process must have one thread, be hardened, and hold nothing secret.
    ///
    /// # Errors
    /// Those of fork(2) and socketpair(2).
    pub(crate) fn start(redact: fn(UnixStream) -> !) -> Result<Self> {
        let fault = |what: &'static str| move |error: std::io::Error| Error::internal(what, error);
        let (ours, theirs) = UnixStream::pair().map_err(fault("make a socket pair"))?;
        match fork_single_threaded().map_err(|errno| Error::internal("fork", errno))? {
            ForkResult::Parent { .. } => Ok(Self(ours)),
            ForkResult::Child => live(&theirs, redact),
        }
    }

    /// A new process for this: the broker's end of the socket between them.
    ///
    /// # Errors
    /// `internal` where the zygote is gone.
    pub(crate) fn fork(&self, task: Task) -> Result<UnixStream> {
        let (ours, theirs) =
            UnixStream::pair().map_err(|error| Error::internal("make a socket pair", error))?;
        let sent = send_with(&self.0, &[task as u8], theirs.as_fd());
        sent.map_err(|errno| Error::internal("ask for a process", errno.desc()))?;
        Ok(ours)
    }
}

fn live(socket: &UnixStream, redact: fn(UnixStream) -> !) -> ! {
    let _ = let_go_of_all_but(socket.as_raw_fd());
    let _ = setsid();
    // The kernel reaps its children then (waitpid(2)).
    let _ = ignore(Signal::SIGCHLD);
    let _ = prctl::set_name(c"kin-redactor");
    loop {
        let mut task = [0];
        match receive(socket, &mut task) {
            Ok((1.., Some(childs))) => {
                if let Ok(ForkResult::Child) = fork_single_threaded() {
                    let _ = close(socket.as_raw_fd());
                    let childs = UnixStream::from(childs);
                    match task[0] {
                        task if task == Task::Mount as u8 => mounter::main(childs),
                        task if task == Task::Rename as u8 => renamer::main(childs),
                        _ => redact(childs),
                    }
                }
            }
            Err(Errno::EINTR) => {}
            _ => std::process::exit(0),
        }
    }
}

/// Terminal, directory, lock and whatever else the broker has by now: an end of it must not wait for this process.
fn let_go_of_all_but(kept: RawFd) -> std::io::Result<()> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    drop(null);
    close_all_but(&[kept])?;
    chdir("/").map_err(Into::into)
}
