//! What the walk asks of the kernel's process table, and which of the ways to ask this kernel offers.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kin_policy::{Pid, Process, Tid, Unidentified};

use super::pidfd::PidfdTable;
use super::procfs::ProcfsTable;
use crate::sys::pidfd;
use crate::{Class, Error, Result};

/// What makes a process itself: number and start time, and its pidfs inode where the kernel has those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Number and start time.
    pub process: Process,
    /// Its inode in pidfs (Linux 6.9): no other process of this boot has it.
    pub inode: Option<u64>,
}

impl Identity {
    /// Whether both are one process: by number and inode where both have one, else by number and start.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self.inode, other.inode) {
            (Some(own), Some(others)) => self.process.pid == other.process.pid && own == others,
            _ => self.process == other.process,
        }
    }
}

/// A process pinned by a pidfd of its thread group: while this is held, it is that process or nobody.
#[derive(Debug)]
pub struct Held {
    identity: Identity,
    pidfd: OwnedFd,
}

impl Held {
    pub(super) fn new(identity: Identity, pidfd: OwnedFd) -> Self {
        Self { identity, pidfd }
    }

    /// Who it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Its number and start time.
    pub fn process(&self) -> Process {
        self.identity.process
    }

    /// Whether it has not exited; a zombie has. About 0.4 µs.
    pub fn is_alive(&self) -> bool {
        pidfd::is_alive(self.pidfd.as_fd())
    }

    /// Whether both live, in one call.
    pub fn is_alive_with(&self, other: &Self) -> bool {
        pidfd::are_alive(self.pidfd.as_fd(), other.pidfd.as_fd())
    }
}

/// For epoll(7): the descriptor turns readable when the process exits.
impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Why the table has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// There is no such process, or it has exited.
    Missing,
    /// There is one, and the kernel would not say more (hidepid), or a resource ran out.
    Hidden,
}

impl Absent {
    /// What it means when it is the asked-for process itself that is absent.
    pub(super) fn unidentified(self) -> Unidentified {
        match self {
            Self::Missing => Unidentified::Gone,
            Self::Hidden => Unidentified::Unverifiable,
        }
    }
}

/// The kernel's process table, as far as the walk needs it. Every answer about a [`Held`] process was
/// true at one instant at which that process lived.
pub trait ProcessTable: Send + Sync {
    /// The word for it: `pidfd`, `procfs`.
    fn name(&self) -> &'static str;

    /// Pins the living thread group numbered `pid`. A number of a thread that leads none is `Missing`.
    ///
    /// # Errors
    /// See [`Absent`].
    fn open(&self, pid: Pid) -> Result<Held, Absent>;

    /// As [`open`](Self::open), by a descriptor that somebody else made, which must be `pid`'s.
    ///
    /// # Errors
    /// `Missing` too where the descriptor is another process's.
    fn adopt(&self, pid: Pid, pidfd: OwnedFd) -> Result<Held, Absent>;

    /// The thread group that the thread belongs to, by number: true only at the moment of asking.
    ///
    /// # Errors
    /// See [`Absent`].
    fn leader_of(&self, tid: Tid) -> Result<Pid, Absent>;

    /// The number of the parent's thread group; `None` above the top of the pid namespace, and for an instant
    /// while a parent is reaped.
    ///
    /// # Errors
    /// `Missing` where `child` has exited.
    fn parent(&self, child: &Held) -> Result<Option<Pid>, Absent>;

    /// Whether the group numbered `pid` has a thread numbered `tid` now.
    fn has_thread(&self, pid: Pid, tid: Tid) -> bool;

    /// The process's number in the broker's pid namespace, and in each one below that it is in, innermost last.
    ///
    /// # Errors
    /// `Missing` where it has exited; `Hidden` where the kernel would not say, or it is not below the broker's.
    fn numbers(&self, held: &Held) -> Result<Vec<u32>, Absent>;
}

/// Which way to ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The best that the kernel has.
    #[default]
    Auto,
    /// Thread pidfds, `PIDFD_GET_INFO` and pidfs inodes: Linux 6.13.
    Pidfd,
    /// `/proc` and plain pidfds: Linux 5.6.
    Procfs,
}

impl Choice {
    /// The table that this choice stands for on the running kernel.
    ///
    /// # Errors
    /// `kernel_too_old` where the kernel lacks what it needs; `proc_hidden` where it is `/proc`, and that
    /// hides processes.
    pub fn table(self) -> Result<Box<dyn ProcessTable>> {
        let kernel = pidfd::capabilities();
        let complete = kernel.open && kernel.thread && kernel.inode && kernel.info;
        match self {
            Self::Auto | Self::Pidfd if complete => Ok(Box::new(PidfdTable)),
            Self::Auto | Self::Procfs if kernel.open => {
                refuse_hidden_processes()?;
                Ok(Box::new(ProcfsTable))
            }
            Self::Pidfd => {
                Err(too_old("PIDFD_GET_INFO", "Linux 6.13 or newer has it; procfs works from 5.6"))
            }
            Self::Auto | Self::Procfs => Err(too_old("pidfd_open", "Linux 5.3 or newer has it")),
        }
    }
}

/// With hidepid a user sees no process that is not dumpable, so no keeper and no client of ours: nobody
/// could be identified, and a broker that refuses everybody is worse than none.
fn refuse_hidden_processes() -> Result<()> {
    match crate::sys::mounts::hidepid() {
        Some(level) if !nix::unistd::geteuid().is_root() => {
            let message = format!("/proc is mounted with hidepid={level}, so nobody could be identified");
            Err(Error::new(Class::Unreachable, "proc_hidden", message)
                .hint("mount /proc without hidepid, or use Linux 6.13 or newer"))
        }
        _ => Ok(()),
    }
}

fn too_old(what: &str, hint: &str) -> Error {
    Error::new(Class::Unreachable, "kernel_too_old", format!("this kernel has no {what}")).hint(hint)
}
