//! What a process descriptor can tell: whose it is, whether that process lives, who its parent is.
//!
//! A pidfd (pidfd_open(2), Linux 5.3) refers to one process for as long as it is open, whatever its number
//! comes to mean later. Numbers below are those of the caller's pid namespace.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

use kin_policy::{Pid, Tid};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::statfs::{FsType, fstatfs};

use super::proc;

/// `PIDFD_THREAD` of linux/pidfd.h (Linux 6.9): the descriptor is one thread's, leader or not.
const PIDFD_THREAD: libc::c_int = libc::O_EXCL;
/// `PIDFD_INFO_PID` of linux/pidfd.h: set in the answer's mask where pid, tgid and ppid are valid.
const PIDFD_INFO_PID: u64 = 1 << 0;
/// `PID_FS_MAGIC` of linux/magic.h (Linux 6.9).
const PID_FS_MAGIC: FsType = FsType(0x5049_4446);

/// `struct pidfd_info` of linux/pidfd.h in its first version (64 bytes), which later kernels still accept.
#[repr(C)]
#[derive(Default)]
struct RawInfo {
    mask: u64,
    cgroupid: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    credentials: [u32; 8],
    exit_code: i32,
}

mod ioctl {
    nix::ioctl_readwrite!(get_info, 0xFF, 11, super::RawInfo);
}

/// Who a descriptor's task is, at the moment of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// The task's own number: of a thread, where the descriptor is a thread's.
    pub pid: u32,
    /// Its thread group.
    pub tgid: u32,
    /// Its parent's thread group; 0 where that is outside the caller's pid namespace, and above pid 1.
    pub ppid: u32,
}

impl Info {
    /// `None` where the kernel filled in no numbers: the process was reaped meanwhile.
    fn from_raw(raw: &RawInfo) -> Option<Self> {
        (raw.mask & PIDFD_INFO_PID != 0 && raw.pid != 0 && raw.tgid != 0).then_some(Self {
            pid: raw.pid,
            tgid: raw.tgid,
            ppid: raw.ppid,
        })
    }
}

/// What of this the running kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// pidfd_open(2), Linux 5.3.
    pub open: bool,
    /// `PIDFD_THREAD`, Linux 6.9.
    pub thread: bool,
    /// pidfs, whose inode numbers are never reused within one boot, Linux 6.9.
    pub inode: bool,
    /// `PIDFD_GET_INFO`, Linux 6.13.
    pub info: bool,
}

/// Asks the kernel about this process itself, once.
pub fn capabilities() -> Capabilities {
    static FOUND: OnceLock<Capabilities> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let own = std::process::id();
        let group = Pid::new(own).and_then(|pid| open(pid).ok());
        let group = group.as_ref().map(AsFd::as_fd);
        let thread = u32::try_from(nix::unistd::gettid().as_raw()).ok().and_then(Tid::new);
        Capabilities {
            open: group.is_some(),
            thread: thread.is_some_and(|tid| open_thread(tid).is_ok()),
            inode: group.is_some_and(|fd| fstatfs(fd).is_ok_and(|fs| fs.filesystem_type() == PID_FS_MAGIC)),
            info: group.is_some_and(|fd| matches!(info(fd), Ok(Some(info)) if info.tgid == own)),
        }
    })
}

/// A descriptor of the thread group `pid`. It is close-on-exec.
///
/// # Errors
/// ESRCH where there is no such task; EINVAL or (newer kernels) ENOENT where it is a thread but no group's
/// leader; EMFILE, ENFILE; ENOSYS before Linux 5.3.
pub fn open(pid: Pid) -> Result<OwnedFd, Errno> {
    pidfd_open(pid.get(), 0)
}

/// A descriptor of the thread `tid`, leader or not. It is close-on-exec.
///
/// # Errors
/// ESRCH (or EINVAL) where there is no such thread; EMFILE, ENFILE; EINVAL before Linux 6.9.
pub fn open_thread(tid: Tid) -> Result<OwnedFd, Errno> {
    pidfd_open(tid.get(), PIDFD_THREAD)
}

fn pidfd_open(number: u32, flags: libc::c_int) -> Result<OwnedFd, Errno> {
    let number = libc::pid_t::try_from(number).map_err(|_| Errno::ESRCH)?;
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, number, flags) })?;
    // SAFETY: the call succeeded, so the result is a new descriptor (an int) that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Numbers of the descriptor's task (`PIDFD_GET_INFO`); `None` where it was reaped and the kernel answered
/// all the same. A zombie still answers: ask [`is_alive`] afterwards.
///
/// # Errors
/// ESRCH where it was reaped; ENOTTY or EINVAL before Linux 6.13.
pub fn info(pidfd: BorrowedFd<'_>) -> Result<Option<Info>, Errno> {
    let mut raw = RawInfo { mask: PIDFD_INFO_PID, ..RawInfo::default() };
    // SAFETY: the request number carries the size of `RawInfo`, and the kernel writes no more than that.
    unsafe { ioctl::get_info(pidfd.as_raw_fd(), &raw mut raw) }?;
    Ok(Info::from_raw(&raw))
}

/// The process that a descriptor from elsewhere refers to; `None` where it was reaped or is invisible.
/// `PIDFD_GET_INFO`, else the `Pid:` line of `/proc/self/fdinfo` (pidfd_open(2)).
pub fn number(pidfd: BorrowedFd<'_>) -> Option<Pid> {
    if capabilities().info {
        return info(pidfd).ok().flatten().and_then(|info| Pid::new(info.tgid));
    }
    let lines = proc::own().ok()?.read(&proc::mine(format!("fdinfo/{}", pidfd.as_raw_fd()))).ok()?;
    let pid = lines.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    Pid::new(pid.trim().parse().ok()?)
}

/// The descriptor's inode in pidfs: one per process and boot, never reused, the same through every
/// descriptor of that process. `None` before Linux 6.9, where all pidfds share one anonymous inode.
pub fn inode(pidfd: BorrowedFd<'_>) -> Option<u64> {
    if !capabilities().inode {
        return None;
    }
    nix::sys::stat::fstat(pidfd).ok().map(|stat| stat.st_ino)
}

/// Whether the process has not exited: a zombie has. A poll that fails says no.
pub fn is_alive(pidfd: BorrowedFd<'_>) -> bool {
    poll(&mut [watch(pidfd)], PollTimeout::ZERO) == Ok(0)
}

/// Whether both live, in one call.
pub fn are_alive(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    poll(&mut [watch(one), watch(other)], PollTimeout::ZERO) == Ok(0)
}

fn watch(pidfd: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::new(pidfd, PollFlags::POLLIN)
}

/// Whether the thread group numbered `pid` has a thread numbered `tid` now (tgkill(2) with signal 0; EPERM
/// is a yes from somebody else's thread).
pub fn has_thread(pid: Pid, tid: Tid) -> bool {
    let (Ok(group), Ok(thread)) = (libc::pid_t::try_from(pid.get()), libc::pid_t::try_from(tid.get())) else {
        return false;
    };
    // SAFETY: tgkill takes three integers and touches no memory of ours; signal 0 is only a check.
    let result = Errno::result(unsafe { libc::syscall(libc::SYS_tgkill, group, thread, 0) });
    matches!(result, Ok(_) | Err(Errno::EPERM))
}

/// Sends a signal to the descriptor's process and to no other; `None` only checks (pidfd_send_signal(2)).
///
/// # Errors
/// ESRCH where it is gone; EPERM.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: Option<Signal>) -> Result<(), Errno> {
    let number = signal.map_or(0, |signal| signal as libc::c_int);
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed and stands for that of kill(2); the rest are integers.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), number, no_info, 0 as libc::c_uint)
    };
    Errno::result(result).map(drop)
}

#[cfg(test)]
#[path = "pidfd_tests.rs"]
mod tests;
