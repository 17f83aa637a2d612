//! Is who answers on the socket a broker of kin's? Asked before a value is sent there.
//!
//! Whoever binds the socket first is asked first, and every process of the user can bind it. No mark of a broker is
//! beyond such a process, but all of them together are beyond a script that listens: the process that listens is
//! the one that speaks; it is hidden from its own user (`PR_SET_DUMPABLE`, prctl(2)), in no user namespace that
//! somebody made to look into it; it runs this very program; and it holds the broker's lock.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use kin_policy::Pid;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt::PassCred};
use nix::sys::stat::Mode;

use super::protocol::{Answer, Hello, Question, Request};
use crate::sys::error::{Class, Error, Result};
use crate::sys::frame::{read_frame, write_frame};
use crate::sys::lock;
use crate::sys::paths::LOCK;
use crate::sys::socket::hear;

/// What every process outside of a user namespace has in its `uid_map` (user_namespaces(7)).
const EVERY_UID: [u64; 3] = [0, 0, u32::MAX as u64];

/// Refuses a peer that lacks one of the marks. `number` and `held` are the process that listens.
///
/// # Errors
/// `broker_untrusted`; `broker_unreachable` where it ends meanwhile.
pub(super) fn demand(
    stream: &UnixStream,
    number: Option<Pid>,
    held: BorrowedFd<'_>,
    runtime: BorrowedFd<'_>,
) -> Result<()> {
    let Some(number) = number else {
        let message = "what answers on the broker's socket cannot be seen from this pid namespace";
        return Err(Error::new(Class::Unreachable, "broker_untrusted", message)
            .hint("nothing was sent: ask from where the broker was started"));
    };
    let process = Path::new("/proc").join(number.get().to_string());
    let lacking = if holder(runtime) != Some(number.get()) {
        Some("it does not hold the broker's lock")
    } else if !is_hidden(&process) {
        Some("other programs of yours can look into it")
    } else if is_enclosed(&process) {
        Some("it is in a user namespace")
    } else if !runs_this_program(&process) {
        Some(ANOTHER_PROGRAM)
    } else if speaker(stream)? != Some(number.get()) {
        Some("another process speaks for it")
    } else {
        None
    };
    // What was read under its number was its own only if it lives still.
    match lacking {
        Some(why) => Err(untrusted(number, why)),
        None if has_ended(held) => Err(untrusted(number, "it has ended")),
        None => Ok(()),
    }
}

const ANOTHER_PROGRAM: &str = "it runs another program than this kin";

fn untrusted(number: Pid, why: &str) -> Error {
    let message = format!("process {} answers on the broker's socket and is no broker: {why}", number.get());
    let hint = match why {
        ANOTHER_PROGRAM => {
            "nothing was sent; if kin was replaced by another version, `kin stop` first".to_owned()
        }
        _ => format!("nothing was sent; see what process {} is, end it, then try again", number.get()),
    };
    Error::new(Class::Unreachable, "broker_untrusted", message).hint(hint)
}

/// Who holds the broker's lock.
fn holder(runtime: BorrowedFd<'_>) -> Option<u32> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let file = openat(runtime, LOCK, flags, Mode::empty()).ok()?;
    lock::holder(file.as_fd()).ok()?
}

/// Whether others of its user are kept out of it: then its files in `/proc` are the root's of its user namespace
/// (`task_dump_owner`, fs/proc/base.c), or not to be seen at all (hidepid, proc(5)). Root is kept out of nothing.
fn is_hidden(process: &Path) -> bool {
    let us = nix::unistd::geteuid().as_raw();
    us == 0 || std::fs::metadata(process.join("stat")).map_or(true, |meta| meta.uid() != us)
}

/// Whether its user namespace is another than everybody's, while ours is that: who made a namespace may look into
/// all that was started in it (`ptrace_has_cap`, kernel/ptrace.c). Anyone may read the map.
fn is_enclosed(process: &Path) -> bool {
    let everybodys = |process: &Path| {
        let map = std::fs::read_to_string(process.join("uid_map")).ok()?;
        Some(
            map.split_whitespace().map(str::parse).collect::<std::result::Result<Vec<u64>, _>>().ok()?
                == EVERY_UID,
        )
    };
    everybodys(Path::new("/proc/self")) == Some(true) && everybodys(process) == Some(false)
}

/// Whether it runs the file that this process runs. Where that cannot be looked at, as that of a hidden process,
/// the size of the program's text is compared, which everybody sees (`statm`, proc_pid_statm(5)).
fn runs_this_program(process: &Path) -> bool {
    let own = Path::new("/proc/self");
    match (File::open(process.join("exe")), File::open(own.join("exe"))) {
        (Ok(theirs), Ok(ours)) => is_same_file(&theirs, &ours).unwrap_or(false),
        _ => text(process).is_none_or(|theirs| Some(theirs) == text(own)),
    }
}

/// One file, or two of the same content.
fn is_same_file(one: &File, other: &File) -> io::Result<bool> {
    let (a, b) = (one.metadata()?, other.metadata()?);
    if (a.dev(), a.ino()) == (b.dev(), b.ino()) || a.len() != b.len() {
        return Ok(a.len() == b.len());
    }
    let (mut mine, mut yours) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut at = 0;
    while at < a.len() {
        let part = usize::try_from(a.len() - at).unwrap_or(usize::MAX).min(mine.len());
        one.read_exact_at(&mut mine[..part], at)?;
        other.read_exact_at(&mut yours[..part], at)?;
        if mine[..part] != yours[..part] {
            return Ok(false);
        }
        at += part as u64;
    }
    Ok(true)
}

/// Pages of a process's text.
fn text(process: &Path) -> Option<u64> {
    std::fs::read_to_string(process.join("statm")).ok()?.split(' ').nth(3)?.parse().ok()
}

/// Who answers a question: a socket that one process listens at may be served by another, which inherited it.
fn speaker(stream: &UnixStream) -> Result<Option<u32>> {
    let lost = |error: &io::Error| super::client::lost(error);
    setsockopt(stream, PassCred, &true).map_err(|errno| lost(&errno.into()))?;
    let mut heard = Heard { stream, speakers: Vec::new() };
    let mut sending = stream;
    write_frame(&mut sending, &Request::from(Question::Hello), None).map_err(|error| lost(&error))?;
    let answer = read_frame::<Answer<Hello>>(&mut heard).map_err(|error| lost(&error))?;
    setsockopt(stream, PassCred, &false).map_err(|errno| lost(&errno.into()))?;
    match answer {
        Some((Answer::Done(_), None)) => Ok(heard.only()),
        Some((Answer::Failed(error), _)) => Err(error),
        _ => Err(lost(&io::ErrorKind::UnexpectedEof.into())),
    }
}

/// A stream that notes who has sent what is read from it.
struct Heard<'a> {
    stream: &'a UnixStream,
    speakers: Vec<u32>,
}

impl Heard<'_> {
    /// The one that sent all of it.
    fn only(&self) -> Option<u32> {
        let (first, others) = self.speakers.split_first()?;
        others.iter().all(|other| other == first).then_some(*first)
    }
}

impl Read for Heard<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let heard = hear(self.stream, buffer)?;
        if heard.bytes > 0 {
            self.speakers.push(heard.speaker);
        }
        Ok(heard.bytes)
    }
}

fn has_ended(process: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(process, PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, PollTimeout::ZERO) {
            Err(Errno::EINTR) => {}
            outcome => return outcome != Ok(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::waitpid;
    use nix::unistd::ForkResult;

    use super::*;
    use crate::sys::process::fork_beside_an_idle_runner;

    #[test]
    fn j17_who_serves_a_socket_that_another_listens_at_is_found_out() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        // It has inherited the listener: for the kernel this process is the peer.
        let child = match fork_beside_an_idle_runner().unwrap() {
            ForkResult::Parent { child } => child,
            ForkResult::Child => loop {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = read_frame::<Request>(&mut stream);
                let hello = Hello { pid: std::process::id(), version: String::new() };
                let _ = write_frame(&mut stream, &Answer::Done(hello), None);
            },
        };
        let stream = UnixStream::connect(&path).unwrap();
        let found = speaker(&stream);
        kill(child, Signal::SIGKILL).unwrap();
        waitpid(child, None).unwrap();
        assert_eq!(found.unwrap(), u32::try_from(child.as_raw()).ok());
    }

    #[test]
    fn what_runs_another_program_or_in_a_namespace_is_told_from_this() {
        let own = Path::new("/proc/self");
        assert!(runs_this_program(own) && !is_enclosed(own));
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Path::new("/proc").join(other.id().to_string());
        // Until its exec it is this program still.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while runs_this_program(&process) && std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        let (another, texts) = (!runs_this_program(&process), (text(&process), text(own)));
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(another && texts.0 != texts.1, "{texts:?}");
    }
}
