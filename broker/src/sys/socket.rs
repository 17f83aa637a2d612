//! Who is at the other end of a Unix socket, and what descriptor comes through it?

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::sockopt::PassCred;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind, sendmsg,
    setsockopt, socket,
};

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

/// A listener at `path` whose connections say with every read who sent what was read ([`hear`]). It is told so
/// before anybody can connect: a connection has it from its listener (`unix_accept`, since Linux 6.16
/// `unix_stream_connect`, net/unix/af_unix.c), and without, what is sent bears no name.
///
/// # Errors
/// Those of socket(2), bind(2) and listen(2); `InvalidInput` where the path is too long (unix(7)).
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let address = UnixAddr::new(path).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, PassCred, &true)?;
    bind(socket.as_raw_fd(), &address)?;
    nix::sys::socket::listen(&socket, Backlog::MAXALLOWABLE)?;
    Ok(socket.into())
}

/// What one read gave.
#[derive(Debug)]
pub struct Heard {
    /// How many bytes; 0 is the end.
    pub bytes: usize,
    /// The process that sent them, numbered in this pid namespace; 0 where it has no number here, or nobody said.
    pub speaker: u32,
    /// A descriptor that came with them.
    pub descriptor: Option<OwnedFd>,
}

/// Reads what one process has sent, and who it is: the kernel notes the sender with each piece of data and gives no
/// two senders' in one read (`unix_stream_read_generic`, net/unix/af_unix.c). What a ring sends (io_uring(7)) is
/// whose thread submits it, or the ring's maker's where that has the kernel poll it. Who has CAP_SYS_ADMIN in
/// its own pid namespace may name another process of it (`scm_check_creds`, net/core/scm.c).
///
/// # Errors
/// Those of recvmsg(2).
pub fn hear(stream: &UnixStream, buffer: &mut [u8]) -> Result<Heard, Errno> {
    // The kernel puts the credentials first (`scm_recv`, include/net/scm.h), and then as many descriptors as fit.
    let mut control = Control::<CREDENTIALS>::new();
    let bytes = control.receive(stream, buffer)?;
    let mut heard = Heard { bytes, speaker: 0, descriptor: None };
    control.each(|kind, data| match kind {
        libc::SCM_CREDENTIALS => {
            // SAFETY: the kernel has written one ucred there.
            let credentials = unsafe { data.cast::<libc::ucred>().read_unaligned() };
            heard.speaker = u32::try_from(credentials.pid).unwrap_or(0);
        }
        // SAFETY: as below.
        libc::SCM_RIGHTS => heard.descriptor = Some(unsafe { owned(data) }),
        _ => {}
    });
    Ok(heard)
}

/// Reads what has arrived, and at most one descriptor that came with it: the kernel closes the others for
/// want of room (`MSG_CTRUNC`, cmsg(3)). It is close-on-exec.
///
/// # Errors
/// Those of recvmsg(2).
pub fn receive(stream: &UnixStream, buffer: &mut [u8]) -> Result<(usize, Option<OwnedFd>), Errno> {
    let mut control = Control::<0>::new();
    let bytes = control.receive(stream, buffer)?;
    let mut descriptor = None;
    control.each(|kind, data| {
        if kind == libc::SCM_RIGHTS {
            // SAFETY: the kernel has put one new descriptor there, which nobody else owns; there is room for no more.
            descriptor = Some(unsafe { owned(data) });
        }
    });
    Ok((bytes, descriptor))
}

/// # Safety
/// `data` points to a new descriptor, which nobody else owns.
unsafe fn owned(data: *const u8) -> OwnedFd {
    // SAFETY: the caller's.
    unsafe { OwnedFd::from_raw_fd(data.cast::<libc::c_int>().read_unaligned()) }
}

/// Room for credentials, padding included.
// SAFETY: CMSG_SPACE is arithmetic.
const CREDENTIALS: usize = unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as u32) } as usize;
/// Room for exactly one descriptor: a header and one int, without the padding that a second would fit in.
// SAFETY: CMSG_LEN is arithmetic.
const DESCRIPTOR: usize = unsafe { libc::CMSG_LEN(size_of::<libc::c_int>() as u32) } as usize;

/// Room for what comes beside data: `BEFORE` bytes, and one descriptor.
#[repr(C)]
struct Control<const BEFORE: usize> {
    aligned: [libc::cmsghdr; 0],
    room: [u8; 64],
    message: libc::msghdr,
}

impl<const BEFORE: usize> Control<BEFORE> {
    fn new() -> Self {
        const { assert!(BEFORE + DESCRIPTOR <= 64) };
        // SAFETY: all zeroes is a valid value of every field.
        unsafe { std::mem::zeroed() }
    }

    fn receive(&mut self, stream: &UnixStream, buffer: &mut [u8]) -> Result<usize, Errno> {
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        self.message.msg_iov = &raw mut part;
        self.message.msg_iovlen = 1;
        self.message.msg_control = self.room.as_mut_ptr().cast();
        self.message.msg_controllen = (BEFORE + DESCRIPTOR) as _;
        // SAFETY: the message describes `buffer` and `room`, which outlive the call, with sizes that they have.
        let got = unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut self.message, libc::MSG_CMSG_CLOEXEC) };
        self.message.msg_iov = std::ptr::null_mut();
        self.message.msg_iovlen = 0;
        Errno::result(got).map(isize::unsigned_abs)
    }

    /// Hands over each message of the socket's level, by its kind and where its data is.
    fn each(&self, mut take: impl FnMut(libc::c_int, *const u8)) {
        // SAFETY: `message` describes `room`, as the kernel has filled it in; both live through the loop.
        unsafe {
            let mut header = libc::CMSG_FIRSTHDR(&raw const self.message);
            while let Some(found) = header.as_ref() {
                if found.cmsg_level == libc::SOL_SOCKET {
                    take(found.cmsg_type, libc::CMSG_DATA(header));
                }
                header = libc::CMSG_NXTHDR(&raw const self.message, header);
            }
        }
    }
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

    #[test]
    fn whoever_sends_is_named_and_of_many_descriptors_one_arrives() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("socket");
        let listener = listen(&path).unwrap();
        let ours = UnixStream::connect(&path).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let say = |many: usize| {
            let descriptors = vec![file.as_raw_fd(); many];
            let rights = [ControlMessage::ScmRights(&descriptors)];
            let rights = if many == 0 { &[][..] } else { &rights[..] };
            sendmsg::<()>(ours.as_raw_fd(), &[IoSlice::new(b"x")], rights, MsgFlags::empty(), None).unwrap();
        };
        // Said before it is accepted, and after.
        say(0);
        let (theirs, _) = listener.accept().unwrap();
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open();
        for many in [0, 1, 2, 9, 250, 0] {
            let heard = hear(&theirs, &mut [0; 8]).unwrap();
            assert_eq!((heard.bytes, heard.speaker), (1, std::process::id()), "{many}");
            drop(heard);
            assert_eq!(open(), before);
            say(many);
            let heard = hear(&theirs, &mut [0; 8]).unwrap();
            assert_eq!((heard.bytes, heard.descriptor.is_some()), (1, many > 0), "{many}");
            assert_eq!((heard.speaker, open()), (std::process::id(), before + usize::from(many > 0)));
            say(0);
        }
        let long = home.path().join("x".repeat(200));
        assert_eq!(listen(&long).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
