//! Which signals are the command's, and does it have them already?
//!
//! The terminal signals its whole foreground group, so the command, which is in the front's group, has
//! what the front has. What a process sent to the front alone has to be passed on. The kernel does not
//! say whether a process sent a signal to the front or to the whole group: it is passed on then too, for
//! twice is better than never.

use std::os::fd::{AsFd, BorrowedFd};

use kin_broker::sys::child::is_ignored;
use kin_broker::sys::standard::pipe_was_ignored;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::unistd::{getpid, getsid};

/// What is no message to the command: SIGKILL and SIGSTOP cannot be caught, SIGCHLD tells of this process's own
/// children, and a fault of its own has to end it.
const OWN: [Signal; 7] = [
    Signal::SIGKILL,
    Signal::SIGSTOP,
    Signal::SIGCHLD,
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGILL,
    Signal::SIGFPE,
];

/// What the front does not die of and the keeper is deaf to: everything else, real-time signals too, but for
/// those that the C library keeps for itself (sigfillset leaves them out, nptl(7)). The kernel keeps what is
/// blocked also where it is ignored, as SIGPIPE is in every Rust program and SIGURG by default (`sig_ignored`,
/// kernel/signal.c).
pub(super) fn handled() -> SigSet {
    let mut handled = SigSet::all();
    OWN.into_iter().for_each(|signal| handled.remove(signal));
    handled
}

/// The signals that this process has got and blocked, read one by one. The set must be blocked already.
pub(super) struct Signals(SignalFd);

impl Signals {
    pub(super) fn of(set: &SigSet) -> Result<Self, Errno> {
        SignalFd::with_flags(set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map(Self)
    }

    /// The next one; `None` where there is none.
    pub(super) fn next(&self) -> Option<Received> {
        self.0.read_signal().ok().flatten().map(Received)
    }
}

/// Discards what is pending of what is blocked: it was for a group that this process is in, not for it.
pub(super) fn discard_pending() {
    let blocked = SigSet::thread_get_mask();
    if let Some(pending) = blocked.ok().and_then(|blocked| Signals::of(&blocked).ok()) {
        while pending.next().is_some() {}
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A signal and where it came from.
pub(super) struct Received(siginfo);

impl Received {
    /// Its number.
    pub(super) fn number(&self) -> i32 {
        self.0.ssi_signo as i32
    }

    /// Whether the command, in the same process group, got it from the terminal too.
    ///
    /// A hangup tells the session's leader alone (`tty_signal_session_leader` in the kernel's
    /// tty_jobctrl.c): a front that leads its session passes it on. Alarms are nobody's but the front's.
    pub(super) fn reached_the_group(&self) -> bool {
        let by_the_kernel = self.0.ssi_code == libc::SI_KERNEL;
        match self.number() {
            libc::SIGHUP | libc::SIGCONT => by_the_kernel && getsid(None) != Ok(getpid()),
            libc::SIGINT | libc::SIGQUIT | libc::SIGTSTP | libc::SIGTTIN => by_the_kernel,
            libc::SIGTTOU | libc::SIGWINCH => by_the_kernel,
            _ => false,
        }
    }

    /// Whether this process, the keeper or one of the keeper's tree sent it (`kill 0` in a script).
    pub(super) fn is_from_within(&self, keeper: u32) -> bool {
        self.0.ssi_pid == std::process::id() || descends_from(self.0.ssi_pid, keeper)
    }

    /// Whether it has to be passed on to the command: it was sent to this process alone, from without.
    pub(super) fn is_for_the_command(&self, keeper: u32) -> bool {
        !(self.reached_the_group() || self.is_from_within(keeper))
    }

    /// Whether it ends a process that does nothing about it, and is meant to.
    pub(super) fn is_an_end(&self) -> bool {
        [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM].contains(&self.number())
    }

    /// Whether it ends a run of which it is not known that the command has started: it would have ended
    /// the command.
    pub(super) fn ends_the_start(&self, keeper: u32) -> bool {
        const HARMLESS: [i32; 6] =
            [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU, libc::SIGCONT, libc::SIGWINCH, libc::SIGURG];
        let number = self.number();
        // Rust ignores SIGPIPE here; the command does where this process was started so.
        let ignored = if number == libc::SIGPIPE { pipe_was_ignored() } else { is_ignored(number) };
        !(HARMLESS.contains(&number) || ignored || self.is_from_within(keeper))
    }
}

/// The most steps of a walk towards init: processes that fork while it walks must not make it endless.
const MOST_STEPS: usize = 4096;

/// Whether `pid` is `root` or below it. A process that is gone, or of another pid namespace (0), is not.
fn descends_from(pid: u32, root: u32) -> bool {
    std::iter::successors(Some(pid), |pid| parent(*pid))
        .take(MOST_STEPS)
        .take_while(|pid| *pid > 1)
        .any(|pid| pid == root)
}

/// Whether `pid` is stopped by a signal.
pub(super) fn is_stopped(pid: u32) -> bool {
    state_and_parent(pid).is_some_and(|(state, _)| state == "T")
}

fn parent(pid: u32) -> Option<u32> {
    state_and_parent(pid)?.1.parse().ok()
}

/// Fields 3 and 4 of `/proc/PID/stat`; the name in field 2 may hold anything, so they are looked for from
/// the end.
fn state_and_parent(pid: u32) -> Option<(String, String)> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let mut fields = std::str::from_utf8(&stat[after_name..]).ok()?.split_ascii_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_is_found_below_its_ancestors_only() {
        let me = std::process::id();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(descends_from(child.id(), child.id()));
        assert!(descends_from(child.id(), me));
        assert!(!descends_from(me, child.id()));
        assert!(!descends_from(0, me));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!descends_from(child.id(), me));
    }
}
