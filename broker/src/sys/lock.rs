//! A lock that says who holds it: unlike flock(2), a record lock (fcntl_locking(2)) has an owner that others can ask
//! for.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// Locks a whole file for this process, which loses it with the first descriptor of the file that it closes.
///
/// # Errors
/// EAGAIN or EACCES where another process holds it; the others of fcntl_locking(2).
pub fn hold(file: impl AsFd) -> Result<(), Errno> {
    fcntl(file.as_fd(), FcntlArg::F_SETLK(&whole())).map(drop)
}

/// The process that holds it, numbered in this pid namespace.
///
/// # Errors
/// Those of fcntl_locking(2).
pub fn holder(file: BorrowedFd<'_>) -> Result<Option<u32>, Errno> {
    let mut found = whole();
    // SAFETY: the kernel reads and writes one `flock`, which lives through the call.
    Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut found) })?;
    let held = found.l_type != libc::F_UNLCK as libc::c_short;
    Ok(u32::try_from(found.l_pid).ok().filter(|pid| held && *pid != 0))
}

fn whole() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}
