//! Which grants are there?

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use kin_policy::{Grant, GrantId, Lineage, Pid, Process, Timestamp};
use nix::sys::resource::{Resource, getrlimit};
use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::grants::live::LiveGrant;
use crate::process::{Identity, Roots};

/// The most grants that stand at once.
const LIMIT: usize = 10_000;
/// Descriptors that are not for grants: known readers (see [`crate::process::Identifier::new`]), connections
/// and open files.
const RESERVE: usize = 4096;

/// The most grants that stand at once: 10,000, or fewer where the soft RLIMIT_NOFILE does not allow for so
/// many and for everybody else's opens.
pub fn limit() -> usize {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    affordable(usize::try_from(soft).unwrap_or(usize::MAX))
}

/// A grant takes one: its keeper's.
fn affordable(descriptors: usize) -> usize {
    (descriptors - RESERVE.min(descriptors / 2)).min(LIMIT)
}

/// Every grant whose keeper lives.
#[derive(Debug, Default)]
pub struct Grants {
    book: RwLock<Book>,
    entering: Mutex<()>,
}

/// Two ways to a grant, and the order in which grants end by themselves.
#[derive(Debug, Default)]
struct Book {
    /// By the root's number, which is nobody else's for as long.
    by_root: HashMap<Pid, Arc<LiveGrant>>,
    by_id: HashMap<GrantId, Arc<LiveGrant>>,
    deadlines: BTreeSet<(Timestamp, GrantId)>,
}

impl Book {
    fn rooted_at(&self, root: Process) -> Option<&Arc<LiveGrant>> {
        self.by_root.get(&root.pid).filter(|live| live.grant.root == root)
    }

    fn drop_deadline(&mut self, grant: &Grant) {
        if let Some(expires) = grant.expires {
            self.deadlines.remove(&(expires, grant.id));
        }
    }
}

impl Grants {
    /// Room for one more, for as long as it is held: nobody else enters meanwhile. `None` where there is none.
    pub fn room(&self, limit: usize) -> Option<MutexGuard<'_, ()>> {
        let entering = self.entering.lock();
        (self.len() < limit).then_some(entering)
    }

    /// Enters a new grant.
    pub fn enter(&self, live: Arc<LiveGrant>) {
        let mut book = self.book.write();
        let Grant { id, root, expires, .. } = live.grant;
        book.deadlines.extend(expires.map(|expires| (expires, id)));
        book.by_id.insert(id, live.clone());
        if let Some(before) = book.by_root.insert(root.pid, live) {
            book.by_id.remove(&before.grant.id);
            book.drop_deadline(&before.grant);
        }
    }

    /// Strikes a grant out: its keeper is gone.
    pub fn strike(&self, root: Process) {
        let mut book = self.book.write();
        if let Some(live) = book.rooted_at(root).cloned() {
            book.by_root.remove(&root.pid);
            book.by_id.remove(&live.grant.id);
            book.drop_deadline(&live.grant);
        }
    }

    /// The grant rooted at this process.
    pub fn at(&self, root: Process) -> Option<Arc<LiveGrant>> {
        self.book.read().rooted_at(root).cloned()
    }

    /// The innermost grant that this lineage belongs to. The walk ends at the first root.
    pub fn innermost(&self, lineage: &Lineage) -> Option<Arc<LiveGrant>> {
        self.at(*lineage.ancestors.last()?)
    }

    /// All of them, oldest first.
    pub fn all(&self) -> Vec<Arc<LiveGrant>> {
        let mut all: Vec<_> = self.book.read().by_id.values().cloned().collect();
        all.sort_by_key(|live| live.grant.created);
        all
    }

    /// How many stand.
    pub fn len(&self) -> usize {
        self.book.read().by_id.len()
    }

    /// Whether none stands.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When the next of them ends by itself.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.book.read().deadlines.first().map(|(expires, _)| *expires)
    }

    /// One whose time is up at `now`, each once: its deadline is taken off.
    pub fn take_expired(&self, now: Timestamp) -> Option<Arc<LiveGrant>> {
        let mut book = self.book.write();
        let (_, id) = book.deadlines.first().copied().filter(|(expires, _)| *expires <= now)?;
        book.deadlines.pop_first();
        book.by_id.get(&id).cloned()
    }

    /// The grant has ended: nobody need wait for its time to be up.
    pub fn forget_deadline(&self, grant: &Grant) {
        if grant.expires.is_some() {
            self.book.write().drop_deadline(grant);
        }
    }
}

impl Roots for Grants {
    fn is_root(&self, candidate: &Identity) -> bool {
        let book = self.book.read();
        book.by_root.get(&candidate.process.pid).is_some_and(|live| live.keeper.identity().is_same(candidate))
    }
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
