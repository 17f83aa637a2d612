//! How does one grant stand, and what has it been delivered?

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use kin_policy::{
    Around, Ending, FileName, Grant, GrantId, Namespaces, Orphans, Process, Reference, Standing, Timestamp,
    Uses,
};
use parking_lot::{Mutex, RwLock};

use crate::grants::private_mount::Mapped;
use crate::grants::redactor::Channel;
use crate::grants::rendered_file::Rendered;
use crate::grants::temp_file::{Origins, Scratches};
use crate::process::Held;
use crate::sys::memory;

/// Files of one grant that may be open at once.
pub(crate) const OPEN_FILES: usize = 8192;
/// Versions of one secret that are remembered as passed on.
const VERSIONS: usize = 8;
/// Memory that values may take before no more files are opened, in bytes.
const HELD: usize = 1 << 30;

/// The command of a grant, as it is when it is started.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// Its process.
    pub process: Process,
    /// When that was.
    pub started: Timestamp,
    /// The namespaces it starts in; `None` where they could not be told.
    pub namespaces: Option<Namespaces>,
    /// How many seccomp filters it has, where its keeper laid one on it.
    pub filters: Option<u32>,
}

/// A grant that stands in the book: from its making until its keeper is gone. One that has ended stays
/// while its keeper lives, so that its tree never falls through to an outer grant.
#[derive(Debug)]
pub struct LiveGrant {
    /// What was granted.
    pub grant: Grant,
    /// The grant that its keeper was itself a member of.
    pub outer: Option<Arc<LiveGrant>>,
    /// The project's canonical path.
    pub directory: PathBuf,
    /// The command, for `kin status`.
    pub command_line: Vec<String>,
    pub(super) keeper: Held,
    keepers_namespaces: Option<Namespaces>,
    command: RwLock<Option<Command>>,
    tree_emptied: AtomicBool,
    orphans_refused: AtomicBool,
    ended: OnceLock<Ending>,
    opens: AtomicU64,
    opens_of: BTreeMap<FileName, AtomicU64>,
    delivered: AtomicU64,
    deliveries: Mutex<HashMap<u64, Weak<dyn OpenFile>>>,
    has_inner: AtomicBool,
    inner: Mutex<Vec<Weak<LiveGrant>>>,
    mounted: AtomicBool,
    mapped: OnceLock<Box<dyn Mapped>>,
    rendered: BTreeMap<FileName, Rendered>,
    redactor: OnceLock<Channel>,
    /// What is beside the files that it may write.
    pub(crate) scratches: Scratches,
    /// What was delivered to its tree, where that may write beside its files.
    passed: Mutex<Origins>,
}

/// A file that was delivered under a grant and is open still, as the grant sees it.
pub trait OpenFile: Send + Sync + std::fmt::Debug {
    /// What the grant knows it by.
    fn numbered(&self, number: u64);
    /// Nothing of it can be read from here on; returns once no read is under way.
    fn wipe(&self);
    /// The size of what this process has written to this file by it and the vault does not have.
    fn draft_of(&self, file: &FileName, process: Process) -> Option<u64>;
}

impl LiveGrant {
    /// A grant just made, and the namespaces of its keeper where they could be told.
    pub fn new(
        grant: Grant,
        outer: Option<Arc<LiveGrant>>,
        directory: PathBuf,
        command_line: Vec<String>,
        keeper: Held,
        keepers_namespaces: Option<Namespaces>,
    ) -> Self {
        let counted = grant.every_binding().filter(|(_, binding)| binding.limits.max_opens.is_some());
        let opens_of = counted.map(|(file, _)| (file.clone(), AtomicU64::new(0))).collect();
        Self {
            grant,
            outer,
            directory,
            command_line,
            keeper,
            keepers_namespaces,
            command: RwLock::new(None),
            tree_emptied: AtomicBool::new(false),
            orphans_refused: AtomicBool::new(false),
            ended: OnceLock::new(),
            opens: AtomicU64::new(0),
            opens_of,
            delivered: AtomicU64::new(0),
            deliveries: Mutex::new(HashMap::new()),
            has_inner: AtomicBool::new(false),
            inner: Mutex::new(Vec::new()),
            mounted: AtomicBool::new(false),
            mapped: OnceLock::new(),
            rendered: BTreeMap::new(),
            redactor: OnceLock::new(),
            scratches: Scratches::default(),
            passed: Mutex::default(),
        }
    }

    /// With what its files of several bindings are made of.
    #[must_use]
    pub(crate) fn rendering(self, rendered: BTreeMap<FileName, Rendered>) -> Self {
        Self { rendered, ..self }
    }

    /// What a file of several bindings is made of.
    pub(crate) fn rendered(&self, file: &FileName) -> Option<&Rendered> {
        self.rendered.get(file)
    }

    /// Whether it is the grant `id`, or was made inside that one's tree.
    pub fn is_within(&self, id: GrantId) -> bool {
        self.outwards().any(|live| live.grant.id == id)
    }

    /// Notes that its private mount is served; `false` where it had one already.
    pub fn mounted(&self) -> bool {
        !self.mounted.swap(true, Ordering::AcqRel)
    }

    /// Notes what its private mount may have in the page cache.
    pub fn mapped_by(&self, mapped: Box<dyn Mapped>) {
        let _ = self.mapped.set(mapped);
    }

    /// Empties the page cache of the private mount that its tree sees.
    pub(crate) fn unmap(&self) {
        if let Some(mapped) = self.outwards().find_map(|live| live.mapped.get()) {
            mapped.unmap();
        }
    }

    /// Remembers the redactor of its output; the first one stays.
    pub(crate) fn redact_by(&self, channel: Channel) {
        let _ = self.redactor.set(channel);
    }

    /// The redactor of its output, where it has one.
    pub(crate) fn redactor(&self) -> Option<&Channel> {
        self.redactor.get()
    }

    /// Remembers a grant that was made inside this one's tree.
    pub fn contains(&self, inner: &Arc<LiveGrant>) {
        let mut list = self.inner.lock();
        // Only where the list would grow: each entry is looked at once for each time that it doubles.
        if list.len() == list.capacity() {
            list.retain(|weak| weak.strong_count() > 0);
        }
        list.push(Arc::downgrade(inner));
        self.has_inner.store(true, Ordering::Release);
    }

    /// The grants that were made directly inside this one's tree and still stand.
    pub fn inner(&self) -> Vec<Arc<LiveGrant>> {
        self.inner.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// How it stands, for a reader whose identity was proven just now (that proof found its keeper alive) and
    /// who asks for `file`. Whether the vault has locked itself is not the grant's to know.
    pub fn standing<'a>(&'a self, file: Option<&FileName>, around: &'a [Around<'a>]) -> Standing<'a> {
        let orphans = match self.orphans_refused.load(Ordering::Acquire) || self.has_lost_a_keeper() {
            false => Orphans::Admitted,
            true => Orphans::Refused,
        };
        let (grant, ended, uses) = (&self.grant, self.ended(), self.uses(file));
        let (command, namespaces) = (self.command(), self.namespaces());
        Standing {
            grant,
            ended,
            suspended: false,
            crowded: false,
            command,
            orphans,
            namespaces,
            uses,
            around,
        }
    }

    /// The namespaces that its readers are to be in: those that its command was started in, and until there
    /// is one, the keeper's.
    pub fn namespaces(&self) -> Option<Namespaces> {
        self.command.read().map_or(self.keepers_namespaces, |command| command.namespaces)
    }

    /// How many seccomp filters each process of its tree has at least, where a keeper laid one on the command of
    /// this grant, or of one around it: then none can name its own executable.
    pub(crate) fn filters(&self) -> Option<u32> {
        let outwards = std::iter::successors(Some(self), |live| live.outer.as_deref());
        outwards.filter_map(|live| live.command.read().and_then(|command| command.filters)).next()
    }

    /// The grants around it, innermost first.
    pub fn around(&self, file: Option<&FileName>) -> Vec<Around<'_>> {
        self.and_around(file).skip(1).collect()
    }

    /// It, and the grants around it, innermost first.
    pub(crate) fn and_around(&self, file: Option<&FileName>) -> impl Iterator<Item = Around<'_>> {
        self.outwards().map(move |live| Around {
            grant: &live.grant,
            ended: live.ended(),
            namespaces: live.namespaces(),
            uses: live.uses(file),
        })
    }

    fn outwards(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |live| live.outer.as_deref())
    }

    /// Whether a reader with these namespaces is where its readers are to be, and where those of every grant
    /// around it are.
    pub(crate) fn is_place_of(&self, namespaces: Option<Namespaces>) -> bool {
        namespaces.is_some() && self.outwards().all(|live| live.namespaces() == namespaces)
    }

    /// What has been used of it, and how much of that was `file`. Only files that have a limit are counted.
    pub(crate) fn uses(&self, file: Option<&FileName>) -> Uses {
        let of_file = file.and_then(|file| self.opens_of.get(file));
        Uses {
            started: self.command.read().map(|command| command.started),
            opens: self.opens.load(Ordering::Relaxed),
            of_file: of_file.map_or(0, |opens| opens.load(Ordering::Relaxed)),
        }
    }

    /// Counts one open of `file`, and of each binding that it is made of, here and in every grant around. For
    /// the log alone, under its lock.
    pub fn opened(&self, file: &FileName) {
        self.opened_together([file]);
    }

    /// Counts one open of a file that may hold what all these do.
    pub(crate) fn opened_together<'f>(&self, files: impl IntoIterator<Item = &'f FileName> + Clone) {
        let parts = |file| self.grant.files.get(file).into_iter().flat_map(|of| of.bindings.keys());
        let mut live = Some(self);
        while let Some(LiveGrant { opens, opens_of, outer, .. }) = live {
            opens.fetch_add(1, Ordering::Relaxed);
            let files = files.clone().into_iter();
            for name in files.flat_map(|file| parts(file).chain([file])) {
                if let Some(opens) = opens_of.get(name) {
                    opens.fetch_add(1, Ordering::Relaxed);
                }
            }
            live = outer.as_deref();
        }
    }

    /// Notes that its tree, and those around it, have been delivered these versions by that file: from now on they
    /// may be in whatever that tree writes.
    pub(crate) fn passed_on(&self, file: &FileName, versions: &[(Reference, u64)]) {
        let outwards = std::iter::successors(Some(self), |live| live.outer.as_deref());
        for live in outwards.filter(|live| live.grant.writable().next().is_some()) {
            let mut passed = live.passed.lock();
            let known = &mut passed.entry(file.clone()).or_default().versions;
            if versions.len() > 1 {
                *known = versions.iter().cloned().collect();
            } else if versions.first().is_some_and(|one| !known.contains(one)) {
                known.extend(versions.iter().cloned());
                if known.len() > VERSIONS {
                    known.pop_first();
                }
            }
        }
    }

    /// What may be in a file that its tree writes now, under this name: what was delivered to it, and the file
    /// that the name tells of; any that it may write, where it tells of none.
    pub(crate) fn may_be_in(&self, name: &FileName) -> Origins {
        let mut origins = self.passed.lock().clone();
        let related = |file: &&FileName| name.as_str().contains(file.as_str());
        let is_any = !self.grant.writable().any(|file| related(&file));
        for file in self.grant.writable().filter(|file| is_any || related(file)) {
            origins.entry(file.clone()).or_default();
        }
        origins
    }

    /// Whether nobody has ended it, or one around it, and its time is not up.
    pub fn is_current(&self, now: Timestamp) -> bool {
        self.ended.get().is_none()
            && self.grant.expires.is_none_or(|expires| now < expires)
            && self.outer.as_ref().is_none_or(|outer| outer.is_current(now))
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

    /// Notes the command that the keeper is about to start, in place of the one before.
    pub fn command_started(&self, command: Command) {
        *self.command.write() = Some(command);
    }

    /// The command, where the keeper has named it.
    pub fn command(&self) -> Option<Process> {
        self.command.read().map(|command| command.process)
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

    /// Opens that were allowed, here and in grants made inside.
    pub fn opens(&self) -> u64 {
        self.opens.load(Ordering::Relaxed)
    }

    /// Remembers a delivery, so that withdrawal can wipe it; one that comes after a withdrawal is wiped at
    /// once.
    pub fn delivered(&self, delivery: &Arc<dyn OpenFile>) {
        let number = self.delivered.fetch_add(1, Ordering::Relaxed);
        delivery.numbered(number);
        self.deliveries.lock().insert(number, Arc::downgrade(delivery));
        // A withdrawal sets this before it collects what to wipe: it has either found this delivery, or is
        // seen here.
        if self.ended.get().is_some() {
            delivery.wipe();
        }
    }

    /// Whether as many files are open as values are held for, its own or all.
    pub(crate) fn is_crowded(&self) -> bool {
        self.open_deliveries() >= OPEN_FILES || memory::mapped() >= HELD
    }

    /// Whether its tree may write the file.
    pub(crate) fn is_writable(&self, file: &FileName) -> bool {
        self.grant.bindings.get(file).is_some_and(|binding| binding.writable)
    }

    /// The size of what this process has written to the file and the vault has not, by the handle that it opened
    /// last.
    pub(crate) fn draft_of(&self, file: &FileName, process: Process) -> Option<u64> {
        if !self.is_writable(file) {
            return None;
        }
        let open: Vec<_> = {
            let deliveries = self.deliveries.lock();
            deliveries.iter().filter_map(|(number, weak)| Some((*number, weak.upgrade()?))).collect()
        };
        let own = open.iter().filter_map(|(number, open)| Some((number, open.draft_of(file, process)?)));
        own.max_by_key(|(number, _)| **number).map(|(_, size)| size)
    }

    /// Whether values take as much memory as they may: what is open does not grow then.
    pub(crate) fn is_memory_full() -> bool {
        memory::mapped() >= HELD
    }

    /// How many of its deliveries are open.
    pub(crate) fn open_deliveries(&self) -> usize {
        self.deliveries.lock().len()
    }

    /// Forgets a delivery that was closed.
    pub fn closed(&self, number: u64) {
        self.deliveries.lock().remove(&number);
    }

    /// Wipes everything that was delivered and is still open; returns once no read of it is under way.
    pub fn wipe_deliveries(&self) {
        let open: Vec<_> = self.deliveries.lock().drain().filter_map(|(_, weak)| weak.upgrade()).collect();
        open.iter().for_each(|delivery| delivery.wipe());
        self.scratches.wipe();
    }
}
