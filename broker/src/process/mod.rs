//! Who asks, and what does it run? From whom it descends is proven step by step.
//!
//! [`Identifier::identify`] turns the thread id of a request into a [`Known`] reader: its thread group pinned
//! by a pidfd, and every ancestor up to the innermost root, proven as `walk.rs` explains. What was proven for
//! readers inside a tree is remembered, which is sound because:
//!
//! - A hit asks whether the pinned process lives and still has the thread. While it lives its number is its
//!   own, so a reused thread id or pid cannot hit.
//! - The same poll asks whether the root lives. A root is a keeper, which is a child subreaper: an orphan goes
//!   to its nearest living ancestor that is one (PR_SET_CHILD_SUBREAPER, prctl(2const)), within its own pid
//!   namespace. So while the keeper lives no process of the broker's pid namespace leaves its tree, and none
//!   comes in. Ancestors in between may exit; they are history, and still true.
//! - A pid namespace below the broker's has an init of its own, which adopts whoever is orphaned there: a
//!   stranger that enters one inside the tree comes in, a member that enters one outside leaves. So a reader
//!   there is walked afresh, and is proven only where no step leads from a child to that init; and the control
//!   socket answers nobody there.
//! - A known ancestor ends a walk only where it is alive at that moment and the child's parent number is read
//!   again afterwards: it is pinned like any other parent.
//! - Being nearer to a *new* root is the one change that matters. Whoever makes a grant lets [`Roots`] know the
//!   root first and calls [`Identifier::forget_below`] then; a walk that began before is not remembered.
//! - That a reader is outside every tree is never remembered.

pub mod ancestry;
mod cache;
pub(crate) mod executables;
mod known;
mod namespaces;
pub(crate) mod peer;
mod pidfd;
mod pinned;
mod procfs;
mod table;
mod tree;
mod walk;

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use kin_policy::{Lineage, Namespaces, Pid, Process, Tid, Unidentified};
use nix::sys::resource::{Resource, getrlimit};

use cache::Cache;
use pinned::Pinned;
use walk::{Adoption, Ascent, Walk};

use crate::Result;

pub use known::{Known, Program};
pub use procfs::{check_proc, covered_in_proc, in_initial_pid_namespace, is_own as proc_is_own};
pub(crate) use procfs::{comm, has_open_to_write, is_being_killed, is_ending};
pub use table::{Absent, Choice, Held, Identity, ProcessTable};
pub use tree::{Branch, tree_of};

/// Whose trees there are. Asked during walks, on the threads that answer the filesystem: quick, and without
/// calling back.
pub trait Roots {
    /// Whether `candidate` is the root of a grant, live or ended, whose keeper still lives: compare with
    /// [`Identity::is_same`].
    fn is_root(&self, candidate: &Identity) -> bool;
}

/// Identifies readers and socket peers.
pub struct Identifier {
    table: Box<dyn ProcessTable>,
    cache: Cache,
    pinned: Pinned,
}

impl Identifier {
    /// How many readers are worth remembering.
    pub const CAPACITY: usize = 1024;

    /// Remembers at most `capacity` readers, and at most an eighth of the soft RLIMIT_NOFILE: a reader takes
    /// four descriptors, and for every four readers there is one more for an ancestor.
    ///
    /// # Errors
    /// `kernel_too_old` where the kernel lacks what `choice` needs.
    pub fn new(choice: Choice, capacity: usize) -> Result<Self> {
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
        let affordable = usize::try_from(soft / 8).unwrap_or(usize::MAX);
        Ok(Self::with_table(choice.table()?, capacity.min(affordable)))
    }

    fn with_table(table: Box<dyn ProcessTable>, capacity: usize) -> Self {
        let at_least_one = |capacity| NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN);
        let cache = Cache::new(at_least_one(capacity));
        Self { table, cache, pinned: Pinned::new(at_least_one(capacity / 4)) }
    }

    /// Which process table it goes by: `pidfd` or `procfs`.
    pub fn table(&self) -> &'static str {
        self.table.name()
    }

    /// Who the thread `tid` of a request header is. Under 1 µs where it is known; it does not block.
    ///
    /// # Errors
    /// Why it could not be proven, which is a denial.
    pub fn identify(&self, tid: u32, roots: &dyn Roots) -> Result<Arc<Known>, Unidentified> {
        let tid = Tid::new(tid).ok_or(Unidentified::Invisible)?;
        if let Some(known) = self.cache.get(tid) {
            if self.is_current(&known) {
                return Ok(known);
            }
            self.cache.remove(&known);
        }
        self.identify_afresh(tid, roots)
    }

    fn identify_afresh(&self, tid: Tid, roots: &dyn Roots) -> Result<Arc<Known>, Unidentified> {
        let began = self.cache.generation();
        let held = Arc::new(walk::thread_group(&*self.table, tid)?);
        let Ascent { ancestors, root, nearest } = self.ascend(&held, roots)?;
        let mut readers = Vec::new();
        if root.is_some() {
            readers.extend(nearest.into_iter().enumerate().filter_map(|(index, held)| {
                let tid = Tid::new(held.process().pid.get())?;
                Some(Arc::new(Known::new(tid, held, ancestors[index + 1..].to_vec(), root.clone())))
            }));
        }
        let known = Arc::new(Known::new(tid, held, ancestors, root));
        // The reader last, so that it is the last to be evicted.
        self.cache.insert(began, readers.into_iter().rev().chain([Arc::clone(&known)]));
        Ok(known)
    }

    /// Pins a process (a keeper, a front, a socket's peer) by its number, or by a descriptor of it, which must
    /// be `pid`'s.
    ///
    /// # Errors
    /// `Gone` where it has exited or the descriptor is another's; `Unverifiable`.
    pub fn hold(&self, pid: Pid, pidfd: Option<OwnedFd>) -> Result<Held, Unidentified> {
        let held = match pidfd {
            Some(pidfd) => self.table.adopt(pid, pidfd),
            None => self.table.open(pid),
        };
        held.map_err(Absent::unidentified)
    }

    /// The number of the process's parent, true while both live; `None` where it has exited or has none here.
    pub fn parent_of(&self, child: &Held) -> Option<Pid> {
        walk::parent(&*self.table, child).ok().flatten()
    }

    /// The user and pid namespaces that a held process is in now; `None` where the kernel would not say.
    pub fn namespaces_of(&self, held: &Held) -> Option<Namespaces> {
        namespaces::of(held)
    }

    /// Whether namespaces are in the broker's own pid namespace; no where the kernel would not say which they are.
    pub fn is_own_pid_namespace(&self, namespaces: Option<Namespaces>) -> bool {
        namespaces::is_own_pid_namespace(namespaces)
    }

    /// Whether this is the broker's own user namespace.
    pub fn is_own_user_namespace(&self, namespaces: Namespaces) -> bool {
        namespaces::is_own_user_namespace(namespaces)
    }

    /// Whether a held process lives in the broker's own pid namespace, and in none below.
    pub fn shares_pid_namespace(&self, held: &Held) -> bool {
        self.table.numbers(held).is_ok_and(|numbers| numbers.len() == 1)
    }

    /// How many seccomp filters a held process has; `None` where the kernel would not say.
    pub(crate) fn filters_of(&self, held: &Held) -> Option<u32> {
        let directory = namespaces::directory_of(Tid::new(held.process().pid.get())?)?;
        procfs::filters_at(&directory).filter(|_| held.is_alive())
    }

    /// From whom a held process descends: up to and with the innermost root above it, else to the top. Nothing
    /// is remembered. The process itself does not count as its own ancestor.
    ///
    /// # Errors
    /// Why it could not be proven, which is a denial.
    pub fn walk_up(&self, held: &Held, roots: &dyn Roots) -> Result<Lineage, Unidentified> {
        let tid = Tid::new(held.process().pid.get()).ok_or(Unidentified::Invisible)?;
        let ancestors = self.ascend(held, roots)?.ancestors;
        Ok(Lineage { tid, process: held.process(), ancestors })
    }

    /// Forgets every reader that is `root` or below it, and voids walks under way. To be called after [`Roots`]
    /// knows of a grant made at `root`, and once the keeper is gone. Looks at all that is known.
    pub fn forget_below(&self, root: Process) {
        self.cache.forget_below(root);
    }

    /// From whom a known reader descends now, with nothing remembered on the way: exits since it was proven
    /// may have brought it nearer to its root. In a pid namespace below the broker's own its way up must not lead
    /// through a child of that namespace's init: [`Adoption::ProvesNothing`].
    ///
    /// # Errors
    /// Why it could not be proven, which is a denial.
    pub fn walk_again(&self, known: &Known, roots: &dyn Roots) -> Result<Lineage, Unidentified> {
        let open = |pid: Pid| self.pinned.open(&*self.table, pid);
        let adoption = Adoption::ProvesNothing;
        let walk = Walk { table: &*self.table, roots, known: &|_| None, open: &open, adoption };
        let ancestors = walk.ascend(known.held())?.ancestors;
        Ok(Lineage { ancestors, ..known.lineage().clone() })
    }

    /// Forgets everybody, and voids walks under way.
    pub fn forget_all(&self) {
        self.cache.forget_all();
    }

    /// How many readers are known.
    pub fn known(&self) -> usize {
        self.cache.len()
    }

    fn ascend(&self, held: &Held, roots: &dyn Roots) -> Result<Ascent, Unidentified> {
        let known = |pid: Pid| {
            let known = self.cache.get(Tid::new(pid.get())?)?;
            (known.lineage().process.pid == pid && known.is_alive()).then_some(known)
        };
        let open = |pid: Pid| self.pinned.open(&*self.table, pid);
        let adoption = Adoption::Ignored;
        Walk { table: &*self.table, roots, known: &known, open: &open, adoption }.ascend(held)
    }

    /// Whether the thread's number is still a thread's of that process, and reader and root live. The poll
    /// comes last: a process that lives after the answer owned its number when it was given.
    fn is_current(&self, known: &Known) -> bool {
        let pid = known.lineage().process.pid;
        let tid = known.lineage().tid;
        let leads = pid.get() == tid.get();
        (leads || self.table.has_thread(pid, tid)) && known.is_alive()
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod live_tests;
#[cfg(test)]
mod race_tests;
#[cfg(test)]
mod soak;
