//! How child processes start, how they are awaited, and how this process ends the way one of them did.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

use nix::errno::Errno;
use nix::sys::signal::SigSet;

/// The next thing that happened to a child: its end, a stop or a continuation; `None` where nothing did.
/// Unlike nix's, it knows deaths by real-time signals.
///
/// # Errors
/// `ECHILD` where this process has no child left (waitpid(2)).
pub fn next_child() -> Result<Option<(u32, ExitStatus)>, Errno> {
    let mut status = 0;
    // SAFETY: the kernel writes one int into `status`.
    let pid =
        unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::WUNTRACED | libc::WCONTINUED) };
    let pid = Errno::result(pid)?;
    Ok(u32::try_from(pid).ok().filter(|pid| *pid != 0).map(|pid| (pid, ExitStatus::from_raw(status))))
}

/// Whether this process ignores `signal`.
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: all zeroes is a valid sigaction, and the kernel only fills it in: no disposition changes.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut old) == 0 && old.sa_sigaction == libc::SIG_IGN
    }
}

/// Gives `signal` its default disposition.
pub fn set_default(signal: i32) {
    // SAFETY: SIG_DFL runs no code of ours.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Makes `command` start with exactly this mask, and with these signals ignored.
///
/// It is done in the child, between fork and exec, so that this process never has to unblock a signal.
pub fn start_with_signals(command: &mut Command, mask: SigSet, ignored: Vec<i32>) {
    let set_up = move || {
        for signal in &ignored {
            // SAFETY: SIG_IGN runs no code of ours.
            unsafe { libc::signal(*signal, libc::SIG_IGN) };
        }
        Ok(mask.thread_set_mask()?)
    };
    // SAFETY: the closure makes async-signal-safe calls alone (signal-safety(7)) and allocates nothing.
    unsafe { command.pre_exec(set_up) };
}

/// Ends this process by `signal`, without a core dump; returns only where that signal ends no process.
pub fn die_by(signal: i32) {
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
    set_default(signal);
    // SAFETY: `only` is initialised by sigemptyset before it is read, and lives through the calls.
    unsafe {
        let mut only: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut only);
        libc::sigaddset(&raw mut only, signal);
        libc::raise(signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const only, std::ptr::null_mut());
    }
}

/// Takes a descriptor that was passed to this process, so that no child of its gets it too. One of the three
/// standard ones is duplicated.
///
/// # Errors
/// EBADF where it is not open, or is one of our own: those are close-on-exec.
pub fn take_passed(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only reads, whatever the number means.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    let ours = flags >= 0 && flags & libc::FD_CLOEXEC != 0;
    if flags < 0 || ours {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    if fd <= 2 {
        // SAFETY: the duplicate is a new descriptor that nobody else owns.
        let new = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
        return match new {
            // SAFETY: as above, and the call succeeded.
            0.. => Ok(unsafe { OwnedFd::from_raw_fd(new) }),
            _ => Err(io::Error::last_os_error()),
        };
    }
    // SAFETY: F_SETFD changes one flag of this number; it was passed to us, so nothing here owns it yet.
    unsafe {
        libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// The descriptors above 2 that an exec of this process would pass on. Everything that we open is
/// close-on-exec: these were passed to us, for the command, and nothing here owns them.
///
/// # Errors
/// Those of reading `/proc/self/fd`.
pub fn passed_descriptors() -> io::Result<Vec<RawFd>> {
    let mut passed = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(fd) = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else {
            continue;
        };
        // SAFETY: F_GETFD only reads, whatever the number means.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        if fd > 2 && flags >= 0 && flags & libc::FD_CLOEXEC == 0 {
            passed.push(fd);
        }
    }
    Ok(passed)
}
