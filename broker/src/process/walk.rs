//! From whom does a process descend? The walk that pid reuse and exits under way cannot fool.
//!
//! One step: read the child's parent number P; pin the process numbered P (a pidfd, alive); read the
//! child's parent number again. If it is still P and the child lives, the pinned process was the child's
//! parent at that instant. Otherwise the walk starts over.
//!
//! Why the second reading suffices: an exiting parent's children go to one of its own ancestors (or to
//! another thread of it, with the same number), so every process that can ever become the child's parent
//! existed before the child. The parent numbered P at the first reading either lived at the moment of
//! pinning, and then it is what was pinned; or it had exited, and the child had moved to a process that
//! existed while P was taken and so has another number, for good.
//!
//! Steps are proven at different instants, lowest first. That is sound because exits only shorten a chain
//! upwards: who is my parent's ancestor now was mine when my parent was proven.

use std::sync::Arc;

use kin_policy::{Pid, Process, Tid, Unidentified};

use super::Roots;
use super::known::Known;
use super::table::{Absent, Held, ProcessTable};

/// How often a walk starts over before it gives up. Each start needs another ancestor to have exited
/// under the walk.
const ATTEMPTS: usize = 64;
/// How many ancestors a walk follows: a decision has to be there within 100 ms, and a step through /proc
/// takes about 30 µs.
pub(super) const DEPTH: usize = 2048;
/// How often a process other than 1 has to say that it has no parent.
const TOPS: usize = 3;
/// How many of the nearest ancestors are handed back pinned, to be remembered as readers of their own.
const NEAREST: usize = 16;

/// The way up from one process.
#[derive(Debug, Default)]
pub(super) struct Ascent {
    /// Nearest first; the last one is the root where there is one.
    pub(super) ancestors: Vec<Process>,
    /// The innermost root.
    pub(super) root: Option<Arc<Held>>,
    /// The first of `ancestors`, pinned: those that this walk proved itself, without the root.
    pub(super) nearest: Vec<Arc<Held>>,
}

/// What a walk goes by.
pub(super) struct Walk<'a> {
    pub(super) table: &'a dyn ProcessTable,
    pub(super) roots: &'a dyn Roots,
    /// The living group leader of that number, where its own way up to a root is known already.
    pub(super) known: &'a dyn Fn(Pid) -> Option<Arc<Known>>,
    /// The living thread group of that number, pinned.
    pub(super) open: &'a dyn Fn(Pid) -> Result<Arc<Held>, Absent>,
    /// Whether a parent that may have adopted a stranger ends the walk.
    pub(super) adoption: Adoption,
}

/// What it means to be a child of the init of a pid namespace below the broker's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Adoption {
    /// Not looked at: nobody there is delivered anything for it.
    Ignored,
    /// It proves nothing. An orphan goes to the init of its own pid namespace, and never past it to a subreaper
    /// above (`find_new_reaper`, kernel/exit.c): so a stranger that enters the namespace (setns(2)) and forks
    /// twice becomes the init's child.
    ProvesNothing,
}

enum Halt {
    Moved,
    Refused(Unidentified),
}

enum Above {
    Root(Arc<Held>),
    Known(Arc<Known>),
    Parent { held: Arc<Held>, next: Option<Pid> },
}

impl Walk<'_> {
    /// Up to the innermost root, else to the top.
    pub(super) fn ascend(&self, reader: &Held) -> Result<Ascent, Unidentified> {
        for _ in 0..ATTEMPTS {
            match self.attempt(reader) {
                Ok(ascent) => return Ok(ascent),
                Err(Halt::Refused(why)) => return Err(why),
                Err(Halt::Moved) if reader.is_alive() => {}
                Err(Halt::Moved) => return Err(Unidentified::Gone),
            }
        }
        Err(Unidentified::Unstable)
    }

    fn attempt(&self, reader: &Held) -> Result<Ascent, Halt> {
        let mut ascent = Ascent::default();
        let mut climbed: Option<Arc<Held>> = None;
        let mut above = self.parent(reader)?;
        while let Some(pid) = above {
            if ascent.ancestors.len() >= DEPTH {
                return Err(Halt::Refused(Unidentified::TooDeep));
            }
            let child = climbed.as_deref().unwrap_or(reader);
            match self.step(child, pid)? {
                Above::Parent { held, .. } if self.may_have_adopted(&held, child)? => {
                    return Err(Halt::Refused(Unidentified::Unverifiable));
                }
                Above::Parent { held, next } => {
                    ascent.ancestors.push(held.process());
                    if ascent.nearest.len() < NEAREST {
                        ascent.nearest.push(Arc::clone(&held));
                    }
                    (climbed, above) = (Some(held), next);
                }
                Above::Root(root) => {
                    ascent.ancestors.push(root.process());
                    ascent.root = Some(root);
                    break;
                }
                Above::Known(known) => return ascent.joined(&known),
            }
        }
        Ok(ascent)
    }

    /// Proves that the process numbered `pid` is the child's parent.
    fn step(&self, child: &Held, pid: Pid) -> Result<Above, Halt> {
        let above = self.pin(pid);
        if self.parent(child)? != Some(pid) {
            return Err(Halt::Moved);
        }
        above
    }

    fn pin(&self, pid: Pid) -> Result<Above, Halt> {
        if let Some(known) = (self.known)(pid) {
            let root = self.roots.is_root(&known.identity());
            return Ok(if root { Above::Root(Arc::clone(known.held())) } else { Above::Known(known) });
        }
        let held = (self.open)(pid).map_err(halt)?;
        if self.roots.is_root(&held.identity()) {
            return Ok(Above::Root(held));
        }
        let next = self.parent(&held)?;
        Ok(Above::Parent { held, next })
    }

    fn parent(&self, child: &Held) -> Result<Option<Pid>, Halt> {
        parent(self.table, child).map_err(halt)
    }

    /// Whether `parent` is number 1 of the pid namespace of its child, and that is not the broker's own.
    fn may_have_adopted(&self, parent: &Held, child: &Held) -> Result<bool, Halt> {
        if self.adoption == Adoption::Ignored {
            return Ok(false);
        }
        let numbers = |held| self.table.numbers(held).map_err(halt);
        let above = numbers(parent)?;
        Ok(above.len() > 1 && above.last() == Some(&1) && numbers(child)?.len() == above.len())
    }
}

/// The number of the parent's thread group; `None` above the top of the pid namespace.
///
/// One answer without a number proves no top. The kernel follows the child's parent and then reads that one's
/// number (`task_ppid_nr_ns`, kernel/pid.c). A parent that is reaped between the two has no number any more
/// (`__unhash_process`, kernel/exit.c). The child has another parent by then, so the next answer is right
/// unless that one is reaped in its turn. Process 1 has no parent that it could lose.
pub(super) fn parent(table: &dyn ProcessTable, child: &Held) -> Result<Option<Pid>, Absent> {
    let readings = if child.process().pid.get() == 1 { 1 } else { TOPS };
    for _ in 0..readings {
        if let Some(parent) = table.parent(child)? {
            return Ok(Some(parent));
        }
    }
    Ok(None)
}

impl Ascent {
    /// This way continued by that of a known ancestor.
    fn joined(mut self, known: &Known) -> Result<Self, Halt> {
        let lineage = known.lineage();
        self.ancestors.push(lineage.process);
        self.ancestors.extend_from_slice(&lineage.ancestors);
        if self.ancestors.len() > DEPTH {
            return Err(Halt::Refused(Unidentified::TooDeep));
        }
        self.root = known.root_held().map(Arc::clone);
        Ok(self)
    }
}

/// On the way up a process that is gone means that the way changed; one that hides ends it.
fn halt(absent: Absent) -> Halt {
    match absent {
        Absent::Missing => Halt::Moved,
        Absent::Hidden => Halt::Refused(Unidentified::Unverifiable),
    }
}

/// Pins the thread group of a thread. The number of a leader is tried as the group's own first: most
/// readers have one thread.
pub(super) fn thread_group(table: &dyn ProcessTable, tid: Tid) -> Result<Held, Unidentified> {
    if let Some(pid) = Pid::new(tid.get())
        && let Ok(held) = table.open(pid)
    {
        return Ok(held);
    }
    for _ in 0..ATTEMPTS {
        let pid = table.leader_of(tid).map_err(Absent::unidentified)?;
        match table.open(pid) {
            // The group lives after it was seen to have the thread: the number was its own then.
            Ok(held) if table.has_thread(pid, tid) && held.is_alive() => return Ok(held),
            Err(Absent::Hidden) => return Err(Unidentified::Unverifiable),
            Err(Absent::Missing) if pid.get() == tid.get() => return Err(Unidentified::Gone),
            _ => {}
        }
    }
    Err(Unidentified::Unstable)
}
