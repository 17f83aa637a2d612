//! What is known of one reader: its lineage, proven once, and its program, read afresh each time.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use kin_policy::{Lineage, Namespaces, Process, Tid};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::ancestry::Ancestry;
use super::namespaces::{self, Links};
use super::procfs;
use super::table::{Held, Identity};
use crate::sys::{link, pidfd, proc};

/// A reader whose every ancestor up to its root (or to the top, outside any tree) was proven.
#[derive(Debug)]
pub struct Known {
    held: Arc<Held>,
    root: Option<Arc<Held>>,
    lineage: Lineage,
    ancestry: OnceLock<Ancestry>,
    window: OnceLock<Option<Window>>,
    filtered: AtomicBool,
}

/// What `/proc` has of a thread, held open: its `comm`, the link to its executable, and where it says its
/// namespaces.
#[derive(Debug)]
struct Window {
    comm: File,
    exe: OwnedFd,
    links: Links,
}

impl Window {
    /// `None` where the thread is gone (ESRCH on its `comm`).
    fn look(&self) -> Option<Program> {
        let mut room = [0; link::ROOM];
        let exe = link::read(&self.exe, c"", &mut room).ok().map(|exe| OsStr::from_bytes(exe).into());
        Some(Program { exe, comm: procfs::read_comm(&self.comm).ok()?, proven: false })
    }
}

/// What a thread runs at the moment of asking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// Its executable as the kernel prints it (` (deleted)` included); `None` where it may not be read. It
    /// describes and proves nothing: in another mount namespace the same path is another file.
    pub exe: Option<PathBuf>,
    /// The thread's own name, as bytes of its own choice; empty where it is gone.
    pub comm: Vec<u8>,
    /// Whether the executable is what the kernel loaded, and no word of the thread's own: see
    /// [`Known::is_filtered`].
    pub proven: bool,
}

impl Known {
    pub(super) fn new(tid: Tid, held: Arc<Held>, ancestors: Vec<Process>, root: Option<Arc<Held>>) -> Self {
        let lineage = Lineage { tid, process: held.process(), ancestors };
        Self {
            held,
            root,
            lineage,
            ancestry: OnceLock::new(),
            window: OnceLock::new(),
            filtered: AtomicBool::new(false),
        }
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
    /// known across an exec; where it ended meanwhile, both are empty. About 4 µs.
    pub fn program(&self) -> Program {
        Program { proven: self.is_filtered(), ..self.through_window(Window::look).unwrap_or_default() }
    }

    /// Whether the thread has at least so many seccomp filters, those of its tree's command, under which it cannot
    /// name its own executable ([`crate::sys::filter`]). Asked until it is so: a thread never loses one. About 14 µs.
    pub(crate) fn has_filters(&self, least: u32) -> bool {
        if !self.is_filtered() {
            let own = self.directory().and_then(|directory| procfs::filters_at(&directory));
            self.filtered.fetch_or(own.is_some_and(|own| own >= least), Ordering::AcqRel);
        }
        self.is_filtered()
    }

    /// Whether that was found.
    pub(crate) fn is_filtered(&self) -> bool {
        self.filtered.load(Ordering::Acquire)
    }

    /// The user and pid namespaces that the thread is in now, read at every call; `None` where the kernel
    /// would not say. About 2.5 µs.
    pub fn namespaces(&self) -> Option<Namespaces> {
        self.through_window(|window| window.links.look())
    }

    /// The file that the thread runs now, opened without rights to it (`O_PATH`) and never by the path that
    /// the kernel prints; `None` where the thread may not be looked into, or is gone, or where something is
    /// mounted over a directory in `/proc`: then the link may be another process's.
    pub(crate) fn executable(&self) -> Option<OwnedFd> {
        let directory = self.directory()?;
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        proc::own().ok()?.steady(|| openat(&directory, "exe", flags, Mode::empty()).ok())?
    }

    /// The mounts that the thread sees (`/proc/TID/mountinfo`).
    pub(crate) fn mounts(&self) -> Option<Vec<u8>> {
        namespaces::read_at(&self.directory()?, "mountinfo")
    }

    fn through_window<T>(&self, look: impl Fn(&Window) -> Option<T>) -> Option<T> {
        match self.window.get_or_init(|| self.open_window()) {
            // The held one may be of an earlier thread of this group with this number: then it is closed.
            Some(window) => look(window).or_else(|| look(&self.open_window()?)),
            None => look(&self.open_window()?),
        }
    }

    fn open_window(&self) -> Option<Window> {
        let directory = self.directory()?;
        let comm = proc::below(&directory, "comm", OFlag::O_RDONLY).ok()?;
        let exe = proc::below(&directory, "exe", OFlag::O_PATH | OFlag::O_NOFOLLOW).ok()?;
        let links = Links::of(directory, &self.held)?;
        Some(Window { comm: File::from(comm), exe, links })
    }

    /// The thread's directory, proven to be this process's: what is read through it afterwards is that
    /// thread's or nobody's, whoever gets its number.
    fn directory(&self) -> Option<OwnedFd> {
        let directory = namespaces::directory_of(self.lineage.tid)?;
        self.is_there().then_some(directory)
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
