//! Who is at the other end of a Unix socket.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;

/// `SO_PEERPIDFD` of asm-generic/socket.h (Linux 6.5); libc has it on some targets only.
const SO_PEERPIDFD: libc::c_int = 77;

/// A pidfd of the process that connected (or listened), fixed at that moment: unlike the number in
/// `SO_PEERCRED` it cannot come to mean somebody else.
///
/// # Errors
/// `ENOPROTOOPT` before Linux 6.5; `ESRCH` or `EINVAL` where the peer is gone.
pub fn peer_pidfd(stream: &UnixStream) -> Result<OwnedFd, Errno> {
    let mut fd: libc::c_int = -1;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes one int into `fd`, and `len` says that there is room for it.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut len,
        )
    };
    Errno::result(result)?;
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
