//! Who is at the other end of a Unix socket, and what descriptor comes through it?

use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

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

/// Reads what has arrived, and at most one descriptor that came with it: the kernel closes the others for
/// want of room (`MSG_CTRUNC`, cmsg(3)). It is close-on-exec.
///
/// # Errors
/// Those of recvmsg(2).
pub fn receive(stream: &UnixStream, buffer: &mut [u8]) -> Result<(usize, Option<OwnedFd>), Errno> {
    #[repr(C)]
    struct Control {
        header: libc::cmsghdr,
        descriptor: libc::c_int,
    }
    // SAFETY: all zeroes is a valid value of every field of both structures.
    let (mut control, mut message): (Control, libc::msghdr) = unsafe { std::mem::zeroed() };
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    // Room for exactly one: the header and one int, without the padding that a second would fit in.
    // SAFETY: CMSG_LEN is arithmetic.
    let room = unsafe { libc::CMSG_LEN(size_of::<libc::c_int>() as u32) } as usize;
    message.msg_controllen = room;
    // SAFETY: the message describes `buffer` and `control`, which outlive the call, with their true sizes.
    let got = unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let got = Errno::result(got)?;
    let is_one = message.msg_controllen >= room
        && control.header.cmsg_len == room
        && (control.header.cmsg_level, control.header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS);
    // SAFETY: the kernel has put one new descriptor there, which nobody else owns.
    let descriptor = is_one.then(|| unsafe { OwnedFd::from_raw_fd(control.descriptor) });
    Ok((got.unsigned_abs(), descriptor))
}

/// Sends bytes, which must not be none, with one descriptor.
///
/// # Errors
/// Those of sendmsg(2).
pub fn send_with(stream: &UnixStream, bytes: &[u8], descriptor: BorrowedFd<'_>) -> Result<usize, Errno> {
    let descriptors = [descriptor.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(bytes)], &rights, MsgFlags::MSG_NOSIGNAL, None)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn j05_of_many_descriptors_one_arrives_and_none_stays_open() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let file = std::fs::File::open("/dev/null").unwrap();
        let before = open();
        for many in [0, 1, 2, 3, 250] {
            let descriptors = vec![file.as_raw_fd(); many];
            let rights = [ControlMessage::ScmRights(&descriptors)];
            let rights = if many == 0 { &[][..] } else { &rights[..] };
            sendmsg::<()>(ours.as_raw_fd(), &[IoSlice::new(b"x")], rights, MsgFlags::empty(), None).unwrap();
            let (got, descriptor) = receive(&theirs, &mut [0; 8]).unwrap();
            assert_eq!((got, descriptor.is_some()), (1, many > 0), "{many}");
            assert_eq!(open(), before + usize::from(many > 0), "{many}");
        }
        send_with(&ours, b"y", file.as_fd()).unwrap();
        assert!(receive(&theirs, &mut [0; 8]).unwrap().1.is_some());
    }
}
