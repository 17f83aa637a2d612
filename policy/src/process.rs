//! Threads, thread groups and processes are different things and have different types.

use core::fmt;
use serde::{Deserialize, Serialize};

/// A thread id, as it stands in a FUSE request header. Never a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tid(u32);

impl Tid {
    /// The kernel answers 0 for a thread that the mount's pid namespace cannot see: that is nobody.
    pub const fn new(raw: u32) -> Option<Self> {
        if raw == 0 { None } else { Some(Self(raw)) }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// The number of a thread group. Numbers are reused; [`Process`] is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pid(u32);

impl Pid {
    /// 0 is nobody.
    pub const fn new(raw: u32) -> Option<Self> {
        if raw == 0 { None } else { Some(Self(raw)) }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Tid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One process of this boot: its number and when it started.
///
/// `start` is field 22 of `/proc/PID/stat` (clock ticks since boot, proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Process {
    /// Its number while it lives.
    pub pid: Pid,
    /// Clock ticks from boot to its start.
    pub start: u64,
}

/// The namespaces in which a process's user and process ids have their meaning, by their inode numbers
/// (namespaces(7)). A process changes its user namespace as it likes, its pid namespace never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Namespaces {
    /// Of user ids and capabilities, and with it of what it may mount.
    pub user: u64,
    /// Of process ids.
    pub pid: u64,
}

/// A reader and where it comes from, every link proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// The thread that asks.
    pub tid: Tid,
    /// Its thread group.
    pub process: Process,
    /// Parent, grandparent, …: up to and with the innermost grant's root where there is one,
    /// else as far as the processes could be seen.
    pub ancestors: Vec<Process>,
}

impl Lineage {
    /// How many steps up `process` stands: 1 is the parent; `None` where it is no ancestor.
    pub fn depth_of(&self, process: Process) -> Option<usize> {
        self.ancestors.iter().position(|ancestor| *ancestor == process).map(|index| index + 1)
    }

    /// The process through which this reader descends from `root`: the root's own child.
    pub fn branch_below(&self, root: Process) -> Option<Process> {
        match self.depth_of(root)? {
            1 => Some(self.process),
            depth => self.ancestors.get(depth - 2).copied(),
        }
    }
}
