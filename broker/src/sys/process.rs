//! Making and hardening processes.

use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{ForkResult, Pid};

/// Forks this process, which must have one thread: then the child may go on as if it were alone.
///
/// # Errors
/// EAGAIN and ENOMEM of fork(2); EDEADLK where this process has more than one thread.
pub fn fork_single_threaded() -> Result<ForkResult, Errno> {
    if !is_single_threaded() {
        return Err(Errno::EDEADLK);
    }
    // SAFETY: with one thread no lock is held by a thread that the child lacks, so the child may call
    // anything the parent could.
    unsafe { nix::unistd::fork() }
}

/// As [`fork_single_threaded`], and the child is this process's sibling: its parent is this one's
/// (`CLONE_PARENT`, clone(2)).
///
/// # Errors
/// As there.
pub fn fork_sibling() -> Result<ForkResult, Errno> {
    if !is_single_threaded() {
        return Err(Errno::EDEADLK);
    }
    let flags = libc::CLONE_PARENT | libc::SIGCHLD;
    // SAFETY: without CLONE_VM the child has its own copy of this stack, and every other argument is 0 or
    // unused, in whichever order an architecture has them; there is one thread, as for fork above.
    let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
    match i32::try_from(pid).unwrap_or(0) {
        0 => Ok(ForkResult::Child),
        child => Ok(ForkResult::Parent { child: Pid::from_raw(child) }),
    }
}

/// A directory of threads has two links of its own and one for each of them (`proc_task_getattr`,
/// fs/proc/base.c).
fn is_single_threaded() -> bool {
    std::fs::metadata("/proc/self/task").is_ok_and(|threads| threads.nlink() == 3)
}

/// Forks a test's process, where the test runner's other threads do nothing but wait for this one.
#[cfg(test)]
pub(crate) fn fork_beside_an_idle_runner() -> Result<ForkResult, Errno> {
    // SAFETY: a thread that waits on a channel holds no lock that the child could need, and fork(3) itself
    // leaves the allocator usable.
    unsafe { nix::unistd::fork() }
}

/// Makes this process unreadable to others of its user: no core dump, no ptrace, no `/proc/PID/mem`,
/// `environ`, `maps` or `fd` (`PR_SET_DUMPABLE`, prctl(2)). An exec undoes it.
///
/// # Errors
/// Those of prctl(2) and setrlimit(2).
pub fn harden() -> Result<(), Errno> {
    nix::sys::prctl::set_dumpable(false)?;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0)
}

/// Whether the kernel may make large pages of this process's memory, and of its children's (`PR_SET_THP_DISABLE`,
/// prctl(2)). Large ones are quicker where all of a block is used, and waste memory where a few pages of it are.
pub fn make_large_pages(may: bool) {
    // A machine without large pages has nothing to say here.
    let _ = nix::sys::prctl::set_thp_disable(!may);
}

/// Does what uses all of some large block with large pages, also in a process that goes without.
pub fn with_large_pages<T>(work: impl FnOnce() -> T) -> T {
    let without = nix::sys::prctl::get_thp_disable().unwrap_or(false);
    if without {
        make_large_pages(true);
    }
    let done = work();
    if without {
        make_large_pages(false);
    }
    done
}

/// Whether this program was started with more than its caller's rights: it is set-user-ID, set-group-ID or has
/// capabilities of its own, and the caller's environment and descriptors are somebody else's (`AT_SECURE`,
/// getauxval(3)).
pub fn has_gained_rights() -> bool {
    // SAFETY: getauxval reads what the kernel has left to this process at its start.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Sends a signal by its number. Unlike nix's kill, it knows the real-time ones.
///
/// # Errors
/// Those of kill(2).
pub fn send(to: Pid, number: i32) -> Result<(), Errno> {
    // SAFETY: kill(2) touches no memory of this process, whatever the numbers mean.
    Errno::result(unsafe { libc::kill(to.as_raw(), number) }).map(drop)
}

/// Ignores a signal in this process.
///
/// # Errors
/// EINVAL of sigaction(2) for signals that cannot be ignored.
pub fn ignore(which: Signal) -> Result<(), Errno> {
    // SAFETY: SIG_IGN runs no code of ours.
    unsafe { signal(which, SigHandler::SigIgn) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_forks_beside_other_threads() {
        // A test runs beside its runner's main thread.
        assert!(!is_single_threaded());
        assert_eq!(fork_single_threaded().err(), Some(Errno::EDEADLK));
        assert_eq!(fork_sibling().err(), Some(Errno::EDEADLK));
    }
}
