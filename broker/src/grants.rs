//! Which grants are there, how do they stand, and what have they been delivered?

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use kin_policy::{Ending, Grant, GrantId, Lineage, Orphans, Pid, Process, Standing, Timestamp};
use parking_lot::{Mutex, RwLock};

use crate::delivery::Delivery;
use crate::identity::{Held, Identity, Roots};

/// The most grants that stand at once.
pub const LIMIT: usize = 10_000;

/// A grant that stands in the book: from its making until its keeper is gone. One that has ended stays
/// while its keeper lives, so that its tree never falls through to an outer grant.
#[derive(Debug)]
pub struct LiveGrant {
    /// What was granted.
    pub grant: Grant,
    /// The grant that its keeper was itself a member of.
    pub outer: Option<GrantId>,
    /// Every grant that it stands in, that one included.
    within: Vec<GrantId>,
    /// The project's canonical path.
    pub directory: PathBuf,
    /// The command, for `kin status`.
    pub command_line: Vec<String>,
    keeper: Held,
    front: Held,
    command: OnceLock<Process>,
    command_ended: AtomicBool,
    tree_emptied: AtomicBool,
    orphans_refused: AtomicBool,
    ended: OnceLock<Ending>,
    opens: AtomicU64,
    deliveries: Mutex<HashMap<u64, Weak<Delivery>>>,
    has_inner: AtomicBool,
    inner: Mutex<Vec<Weak<LiveGrant>>>,
    mounted: AtomicBool,
}

impl LiveGrant {
    /// A grant just made.
    pub fn new(
        grant: Grant,
        outer: Option<&LiveGrant>,
        directory: PathBuf,
        command_line: Vec<String>,
        keeper: Held,
        front: Held,
    ) -> Self {
        Self {
            grant,
            outer: outer.map(|outer| outer.grant.id),
            within: outer.map(|outer| [&outer.within[..], &[outer.grant.id]].concat()).unwrap_or_default(),
            directory,
            command_line,
            keeper,
            front,
            command: OnceLock::new(),
            command_ended: AtomicBool::new(false),
            tree_emptied: AtomicBool::new(false),
            orphans_refused: AtomicBool::new(false),
            ended: OnceLock::new(),
            opens: AtomicU64::new(0),
            deliveries: Mutex::new(HashMap::new()),
            has_inner: AtomicBool::new(false),
            inner: Mutex::new(Vec::new()),
            mounted: AtomicBool::new(false),
        }
    }

    /// Whether it is the grant `id`, or was made inside that one's tree.
    pub fn is_within(&self, id: GrantId) -> bool {
        self.grant.id == id || self.within.contains(&id)
    }

    /// Notes that its private mount is served; `false` where it had one already.
    pub fn mounted(&self) -> bool {
        !self.mounted.swap(true, Ordering::AcqRel)
    }

    /// Remembers a grant that was made inside this one's tree.
    pub fn contains(&self, inner: &Arc<LiveGrant>) {
        let mut list = self.inner.lock();
        list.retain(|weak| weak.strong_count() > 0);
        list.push(Arc::downgrade(inner));
        self.has_inner.store(true, Ordering::Release);
    }

    /// The grants that were made directly inside this one's tree and still stand.
    pub fn inner(&self) -> Vec<Arc<LiveGrant>> {
        self.inner.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// How it stands, for a reader whose identity was proven just now: that proof found its keeper alive.
    pub fn standing(&self) -> Standing<'_> {
        let ended = self.ended.get().copied();
        let orphans = match self.orphans_refused.load(Ordering::Acquire) || self.has_lost_a_keeper() {
            false => Orphans::Admitted,
            true => Orphans::Refused { command: self.command.get().copied() },
        };
        Standing { grant: &self.grant, ended, orphans }
    }

    /// Whether nobody has ended it and its time is not up.
    pub fn is_current(&self, now: Timestamp) -> bool {
        self.ended.get().is_none() && self.grant.expires.is_none_or(|expires| now < expires)
    }

    /// Whether it still permits anything at `now`. A keeper that is gone has ended its grant, whether or
    /// not anybody has noticed yet.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.is_current(now) && self.keeper.is_alive()
    }

    /// How it was ended, where it was.
    pub fn ended(&self) -> Option<Ending> {
        self.ended.get().copied()
    }

    /// Ends it, once: `false` where it had ended before.
    pub fn end(&self, ending: Ending) -> bool {
        self.ended.set(ending).is_ok()
    }

    /// The keeper: the root of its tree.
    pub fn keeper(&self) -> &Held {
        &self.keeper
    }

    /// The front that the shell waits for.
    pub fn front(&self) -> &Held {
        &self.front
    }

    /// Notes the command that the keeper spawned; the first word counts.
    pub fn command_started(&self, command: Process) {
        let _ = self.command.set(command);
    }

    /// Notes that the command has ended: from now on the front may go.
    pub fn command_ended(&self) {
        self.command_ended.store(true, Ordering::Release);
    }

    /// Whether the command has ended.
    pub fn has_command_ended(&self) -> bool {
        self.command_ended.load(Ordering::Acquire)
    }

    /// Notes that the keeper saw its last descendant go.
    pub fn tree_emptied(&self) {
        self.tree_emptied.store(true, Ordering::Release);
    }

    /// Whether the keeper may have left descendants behind.
    pub fn may_have_survivors(&self) -> bool {
        !self.tree_emptied.load(Ordering::Acquire)
    }

    /// An inner keeper left survivors that now hang on this one: see [`Orphans::Refused`].
    pub fn refuse_orphans(&self) {
        self.orphans_refused.store(true, Ordering::Release);
    }

    /// Whether an inner keeper is gone and the warden has not seen to it yet: its survivors hang here now.
    fn has_lost_a_keeper(&self) -> bool {
        if !self.has_inner.load(Ordering::Acquire) {
            return false;
        }
        let inner = self.inner.lock();
        let lost = |inner: Arc<LiveGrant>| inner.may_have_survivors() && !inner.keeper.is_alive();
        inner.iter().filter_map(Weak::upgrade).any(lost)
    }

    /// Opens that were allowed.
    pub fn opens(&self) -> u64 {
        self.opens.load(Ordering::Relaxed)
    }

    /// Remembers a delivery, so that withdrawal can wipe it; one that comes after a withdrawal is wiped at
    /// once.
    pub fn delivered(&self, delivery: &Arc<Delivery>) {
        let number = self.opens.fetch_add(1, Ordering::Relaxed);
        delivery.numbered(number);
        self.deliveries.lock().insert(number, Arc::downgrade(delivery));
        // A withdrawal sets this before it collects what to wipe: it has either found this delivery, or is
        // seen here.
        if self.ended.get().is_some() {
            delivery.wipe();
        }
    }

    /// Forgets a delivery that was closed.
    pub fn closed(&self, number: u64) {
        self.deliveries.lock().remove(&number);
    }

    /// Wipes everything that was delivered and is still open; returns once no read of it is under way.
    pub fn wipe_deliveries(&self) {
        let open: Vec<_> = self.deliveries.lock().drain().filter_map(|(_, weak)| weak.upgrade()).collect();
        open.iter().for_each(|delivery| delivery.wipe());
    }
}

/// Every grant whose keeper lives, by its root's number, which is nobody else's for as long.
#[derive(Debug, Default)]
pub struct Grants {
    by_root: RwLock<HashMap<Pid, Arc<LiveGrant>>>,
}

impl Grants {
    /// Enters a new grant.
    pub fn enter(&self, live: Arc<LiveGrant>) {
        self.by_root.write().insert(live.grant.root.pid, live);
    }

    /// Strikes a grant out: its keeper is gone.
    pub fn strike(&self, root: Process) {
        let mut by_root = self.by_root.write();
        if by_root.get(&root.pid).is_some_and(|live| live.grant.root == root) {
            by_root.remove(&root.pid);
        }
    }

    /// The grant rooted at this process.
    pub fn at(&self, root: Process) -> Option<Arc<LiveGrant>> {
        self.by_root.read().get(&root.pid).filter(|live| live.grant.root == root).cloned()
    }

    /// The innermost grant that this lineage belongs to. The walk ends at the first root.
    pub fn innermost(&self, lineage: &Lineage) -> Option<Arc<LiveGrant>> {
        self.at(*lineage.ancestors.last()?)
    }

    /// The grant of this id.
    pub fn find(&self, id: GrantId) -> Option<Arc<LiveGrant>> {
        self.by_root.read().values().find(|live| live.grant.id == id).cloned()
    }

    /// All of them, oldest first.
    pub fn all(&self) -> Vec<Arc<LiveGrant>> {
        let mut all: Vec<_> = self.by_root.read().values().cloned().collect();
        all.sort_by_key(|live| live.grant.created);
        all
    }

    /// How many stand.
    pub fn len(&self) -> usize {
        self.by_root.read().len()
    }

    /// Whether none stands.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When the next of them ends by itself.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        let by_root = self.by_root.read();
        by_root.values().filter(|live| live.ended().is_none()).filter_map(|live| live.grant.expires).min()
    }
}

impl Roots for Grants {
    fn is_root(&self, candidate: &Identity) -> bool {
        let by_root = self.by_root.read();
        by_root.get(&candidate.process.pid).is_some_and(|live| live.keeper.identity().is_same(candidate))
    }
}
