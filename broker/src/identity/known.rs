//! What is known of one reader: its lineage, proven once, and its program, read afresh each time.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use kin_policy::{Lineage, Process, Tid};

use super::table::{Held, Identity};
use crate::audit::Ancestry;
use crate::sys::pidfd;

/// Room for a comm: 15 bytes and the newline; kernel workers have longer ones (proc_pid_comm(5)).
const COMM: usize = 128;

/// A reader whose every ancestor up to its root (or to the top, outside any tree) was proven.
#[derive(Debug)]
pub struct Known {
    held: Arc<Held>,
    root: Option<Arc<Held>>,
    lineage: Lineage,
    ancestry: OnceLock<Ancestry>,
    comm: OnceLock<Option<File>>,
}

/// What a thread runs at the moment of asking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// Its executable as the kernel prints it (` (deleted)` included); `None` where it may not be read. It
    /// describes and proves nothing: in another mount namespace the same path is another file.
    pub exe: Option<PathBuf>,
    /// The thread's own name, as bytes of its own choice; empty where it is gone.
    pub comm: Vec<u8>,
}

impl Known {
    pub(super) fn new(tid: Tid, held: Arc<Held>, ancestors: Vec<Process>, root: Option<Arc<Held>>) -> Self {
        let lineage = Lineage { tid, process: held.process(), ancestors };
        Self { held, root, lineage, ancestry: OnceLock::new(), comm: OnceLock::new() }
    }

    /// Thread, thread group and ancestors; the last one is the root where there is one.
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// The thread group.
    pub fn identity(&self) -> Identity {
        self.held.identity()
    }

    /// The innermost root above it; `None` for an outsider.
    pub fn root(&self) -> Option<Process> {
        self.root.as_ref().map(|root| root.process())
    }

    /// Whether the reader's process lives, and its root where it has one: one poll(2), about 0.4 µs.
    pub fn is_alive(&self) -> bool {
        match &self.root {
            Some(root) => self.held.is_alive_with(root),
            None => self.held.is_alive(),
        }
    }

    /// The ancestors, rendered once for all records of this reader.
    pub fn ancestry(&self) -> &Ancestry {
        self.ancestry.get_or_init(|| Ancestry::of(&self.lineage.ancestors))
    }

    /// What the thread runs now. Both parts are read at every call, because a thread that is known stays
    /// known across an exec; where it ended meanwhile, both are empty. About 6 µs.
    pub fn program(&self) -> Program {
        let exe = std::fs::read_link(format!("/proc/{}/exe", self.lineage.tid)).ok();
        let comm = self.comm().unwrap_or_default();
        if self.is_there() { Program { exe, comm } } else { Program::default() }
    }

    fn comm(&self) -> io::Result<Vec<u8>> {
        let path = || format!("/proc/{}/comm", self.lineage.tid);
        let held = self.comm.get_or_init(|| {
            let file = File::open(path()).ok()?;
            self.is_there().then_some(file)
        });
        let mut comm = vec![0; COMM];
        let len = match held.as_ref().map(|file| file.read_at(&mut comm, 0)) {
            Some(Ok(len)) => len,
            // The held one was of an earlier thread of this group with this number.
            _ => File::open(path())?.read_at(&mut comm, 0)?,
        };
        comm.truncate(len);
        if comm.last() == Some(&b'\n') {
            comm.pop();
        }
        Ok(comm)
    }

    /// Whether the thread's number is still a thread's of this process.
    fn is_there(&self) -> bool {
        let pid = self.held.process().pid;
        let leads = pid.get() == self.lineage.tid.get();
        (leads || pidfd::has_thread(pid, self.lineage.tid)) && self.held.is_alive()
    }

    pub(super) fn held(&self) -> &Arc<Held> {
        &self.held
    }

    pub(super) fn root_held(&self) -> Option<&Arc<Held>> {
        self.root.as_ref()
    }

    /// Whether `process` is this reader or among its ancestors.
    pub(super) fn involves(&self, process: Process) -> bool {
        self.lineage.process == process || self.lineage.depth_of(process).is_some()
    }
}
