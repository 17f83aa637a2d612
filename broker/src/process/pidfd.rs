//! The process table through thread pidfds, `PIDFD_GET_INFO` and pidfs inodes (Linux 6.13).

use std::os::fd::{AsFd, OwnedFd};

use kin_policy::{Pid, Process, Tid};
use nix::errno::Errno;

use super::namespaces;
use super::procfs::{self, Stat};
use super::table::{Absent, Held, Identity, ProcessTable};
use crate::sys::pidfd;

/// Marks a stand-in for a start time that /proc would not tell; no clock tick count reaches it.
const NO_START: u64 = 1 << 63;

/// See the module.
pub(super) struct PidfdTable;

impl ProcessTable for PidfdTable {
    fn name(&self) -> &'static str {
        "pidfd"
    }

    fn open(&self, pid: Pid) -> Result<Held, Absent> {
        pin(pid, pidfd::open(pid).map_err(absent)?)
    }

    fn adopt(&self, pid: Pid, fd: OwnedFd) -> Result<Held, Absent> {
        if pidfd::number(fd.as_fd()) == Some(pid) { pin(pid, fd) } else { Err(Absent::Missing) }
    }

    fn leader_of(&self, tid: Tid) -> Result<Pid, Absent> {
        let thread = pidfd::open_thread(tid).map_err(absent)?;
        let info = pidfd::info(thread.as_fd()).map_err(absent)?.ok_or(Absent::Missing)?;
        Pid::new(info.tgid).ok_or(Absent::Missing)
    }

    /// The numbers first, the poll second: a process that lives after the answer lived when it was given.
    fn parent(&self, child: &Held) -> Result<Option<Pid>, Absent> {
        let info = pidfd::info(child.as_fd());
        if !child.is_alive() {
            return Err(Absent::Missing);
        }
        let info = info.map_err(|_| Absent::Hidden)?.ok_or(Absent::Missing)?;
        Ok(Pid::new(info.ppid))
    }

    fn has_thread(&self, pid: Pid, tid: Tid) -> bool {
        pidfd::has_thread(pid, tid)
    }

    fn numbers(&self, held: &Held) -> Result<Vec<u32>, Absent> {
        namespaces::numbers_of(held)
    }
}

/// Reads the start time under the descriptor's protection: while the process lives its number is its own.
/// Where /proc hides it (hidepid) the inode stands in, which is as unique.
fn pin(pid: Pid, fd: OwnedFd) -> Result<Held, Absent> {
    let inode = pidfd::inode(fd.as_fd()).ok_or(Absent::Hidden)?;
    let stat = Stat::read(pid);
    if !pidfd::is_alive(fd.as_fd()) {
        return Err(Absent::Missing);
    }
    let start = match stat {
        Ok(stat) => stat.start,
        Err(error) if procfs::is_refusal(error) => NO_START | inode,
        Err(_) => return Err(Absent::Hidden),
    };
    Ok(Held::new(Identity { process: Process { pid, start }, inode: Some(inode) }, fd))
}

/// What pidfd_open(2) says of a number that no living thread group (or thread) has: ESRCH, and EINVAL or
/// ENOENT of a thread that leads no group.
pub(super) fn absent(error: Errno) -> Absent {
    match error {
        Errno::ESRCH | Errno::EINVAL | Errno::ENOENT => Absent::Missing,
        _ => Absent::Hidden,
    }
}
