//! What does the broker hold while it runs?

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use kin_policy::{DirectoryName, Ending, Exe, FileName, Reference, Timestamp};
use parking_lot::{Mutex, RwLock};

use crate::admin::autolock::Autolock;
use crate::admin::rekey_files;
use crate::admin::settings::Settings;
use crate::admin::unlock::Custody;
use crate::audit::behalf::with_asker;
use crate::audit::pending::Owed;
use crate::audit::{self, AuditLog, Event};
use crate::children::renamer::Renamer;
use crate::children::zygote::Zygote;
use crate::delivery::redaction;
use crate::delivery::versions::Rotation;
use crate::delivery::write::ServeWritable;
use crate::grants::book::Grants;
use crate::grants::expiry::Warden;
use crate::grants::live::LiveGrant;
use crate::grants::placeholders::Placeholders;
use crate::grants::private_mount::ServePrivate;
use crate::process::executables::{Executables, Unhashed};
use crate::process::{Choice, Identifier};
use crate::sys::clock;
use crate::sys::config::Config;
use crate::sys::ebb::Ebb;
use crate::sys::error::{Class, Error, Result};
use crate::sys::memory;
use crate::sys::paths::Directories;
use crate::sys::places::{Inode, Places, inode};
use crate::vault::{Place, Vault};

/// The broker: it decides (through kin-policy), delivers, records and withdraws.
pub struct Broker {
    /// Where its things are.
    pub directories: Directories,
    pub(crate) identifier: Identifier,
    pub(crate) grants: Grants,
    pub(crate) executables: Arc<Executables>,
    pub(crate) audit: AuditLog,
    pub(crate) custody: RwLock<Custody>,
    /// Held by whoever changes the vault, the trust store or the custody; never on a FUSE thread.
    pub(crate) changing: Mutex<()>,
    /// The projects that were granted in this broker's life, and what their files last stood for.
    pub(crate) projects: RwLock<HashMap<DirectoryName, BTreeMap<FileName, Reference>>>,
    pub(crate) autolock: Autolock,
    pub(crate) started: Timestamp,
    pub(crate) warden: Warden,
    pub(crate) placeholders: Placeholders,
    pub(crate) private_mounts: OnceLock<Box<dyn ServePrivate>>,
    pub(crate) writable_mount: OnceLock<Box<dyn ServeWritable>>,
    pub(crate) no_mount: OnceLock<Error>,
    pub(crate) zygote: OnceLock<Zygote>,
    pub(crate) rotation: Rotation,
    pub(crate) owed: Owed,
    /// The runtime directory that it came up in.
    runtime: Option<Inode>,
    pub(crate) settings: Settings,
}

impl Broker {
    /// A broker with its record open and nothing granted.
    ///
    /// # Errors
    /// What the configuration says that cannot be; `memory_not_locked` where it must be and cannot; what the
    /// audit log refuses to continue, and what the kernel will not give (descriptors, epoll).
    pub fn new(directories: Directories, identity: Choice) -> Result<Arc<Self>> {
        let config = Config::read(&directories)?;
        if config.vault.require_mlock && !memory::is_locked() {
            let message = "the pages for values cannot be locked in memory, and `require_mlock` is set";
            return Err(Error::new(Class::Unsafe, "memory_not_locked", message)
                .hint("raise RLIMIT_MEMLOCK; `kin doctor` says how"));
        }
        rekey_files::settle(&Place::of(&directories), &directories)?;
        let settings = audit::Settings { sync: config.audit.sync, ..audit::Settings::default() };
        let audit = AuditLog::open_with(&directories.state, settings)?;
        let unclean = directories.state.join(RUNNING).exists();
        let grants_lost = if unclean { grants_lost(&directories.state)? } else { 0 };
        let broker = Arc::new(Self {
            settings: Settings::new(&config),
            identifier: Identifier::new(identity, Identifier::CAPACITY)?,
            grants: Grants::default(),
            executables: Arc::default(),
            audit,
            custody: RwLock::new(Custody::default()),
            changing: Mutex::new(()),
            projects: RwLock::default(),
            autolock: Autolock::new(config.vault),
            started: clock::now(),
            warden: Warden::new()?,
            placeholders: Placeholders::begin(&directories.state)?,
            private_mounts: OnceLock::new(),
            writable_mount: OnceLock::new(),
            no_mount: OnceLock::new(),
            zygote: OnceLock::new(),
            rotation: Rotation::default(),
            owed: Owed::default(),
            runtime: inode(&directories.runtime),
            directories,
        });
        let version = env!("CARGO_PKG_VERSION");
        broker.mark_as_running()?;
        let started = broker.record(&Event::BrokerStart { version, unclean, grants_lost });
        // A mark that stood before is for the start that tells of it.
        started.inspect_err(|_| {
            if !unclean {
                broker.unmark()
            }
        })?;
        Ok(broker)
    }

    /// The last step but the record itself: a start that fails before leaves no mark.
    fn mark_as_running(&self) -> Result<()> {
        std::fs::write(self.directories.state.join(RUNNING), b"")
            .map_err(|error| Error::storage("mark the broker as running", &error))
    }

    fn unmark(&self) {
        let _ = std::fs::remove_file(self.directories.state.join(RUNNING));
    }

    /// The vault, where it is unlocked.
    pub(crate) fn vault(&self) -> Option<Arc<Vault>> {
        self.custody.read().vault()
    }

    /// Whether the mount should show a directory of this name: a project was granted under it.
    pub fn knows_project(&self, name: &DirectoryName) -> bool {
        self.projects.read().contains_key(name)
    }

    /// Finds out what a reader runs, on another thread, and calls `then` there, once and within 2 s. What it
    /// is handed is for that reader's request alone.
    pub fn hash(&self, unhashed: Unhashed, then: impl FnOnce(Exe) + Send + 'static) {
        self.executables.hash(unhashed, then);
    }

    /// Appends a record that must stand before its cause goes on.
    ///
    /// # Errors
    /// `audit_failed` (storage) where it could not be written.
    pub(crate) fn record(&self, event: &Event<'_>) -> Result<()> {
        with_asker(|asker| self.audit.append(&event.asked_by(asker))).map(drop).map_err(Error::from)
    }

    /// Records what has happened already, now or as soon as that is possible.
    pub(crate) fn record_or_owe(&self, event: &Event<'_>) {
        if self.record(event).is_err() {
            self.owed.keep(event);
        }
    }

    /// The process that the broker's own processes come from. This process must have one thread, be hardened, and hold
    /// nothing secret.
    ///
    /// # Errors
    /// Those of fork(2) and socketpair(2).
    pub fn start_zygote() -> Result<Zygote> {
        Zygote::start(redaction::main)
    }

    /// Lets `zygote` fork the processes that this broker needs; the first one stays.
    pub fn fork_by(&self, zygote: Zygote) {
        let _ = self.zygote.set(zygote);
    }

    /// Where they come from.
    ///
    /// # Errors
    /// `internal` where there is none.
    pub(crate) fn zygote(&self) -> Result<&Zygote> {
        self.zygote.get().ok_or_else(|| Error::internal("fork", "this broker has no zygote"))
    }

    /// A renamer, which does not see what is mounted from now on.
    ///
    /// # Errors
    /// `internal` where this user may have no mount namespace.
    pub fn renamer(&self) -> Result<Renamer> {
        Renamer::start(self.zygote()?)
    }

    /// Ends one grant and those made inside it: no open is recorded after this returns, no read served.
    /// `false` where it had ended before.
    pub(crate) fn withdraw(&self, live: &LiveGrant, ending: Ending) -> bool {
        if !live.end(ending) {
            return false;
        }
        // The withdrawal itself does not wait for its record: it is safer done than written.
        let (grant, project) = (live.grant.id, &live.grant.project);
        self.record_or_owe(&Event::GrantEnd { grant, project, ending, asker: None });
        self.grants.forget_deadline(&live.grant);
        self.rotation.forget(live.grant.id);
        live.wipe_deliveries();
        live.unmap();
        for inner in live.inner() {
            self.withdraw(&inner, ending);
        }
        if live.grant.writable().next().is_some()
            && let Some(server) = self.writable_mount.get()
        {
            server.settle();
        }
        true
    }

    /// Ends every grant; their ids, oldest first. In time linear in the grants.
    pub(crate) fn withdraw_all(&self, ending: Ending) -> Vec<kin_policy::GrantId> {
        let mut all = self.grants.all();
        all.retain(|live| live.ended().is_none());
        for live in &all {
            self.withdraw(live, ending);
        }
        all.iter().map(|live| live.grant.id).collect()
    }

    /// The recorder's thread: every second, whether the vault is to lock itself, ends that could not be recorded,
    /// counts of repeated denials that are due, what is not yet on the disk, seals and anchors. Returns once the
    /// socket, or a directory around it or the record, was removed, moved or replaced: nobody can reach this broker
    /// then, and another may have taken its place. So it is when the user's last session ends, and logind removes the
    /// runtime directory (pam_systemd(8)).
    pub fn keep_record(&self) {
        let mut ebb = Ebb::default();
        let places = Places::of(&self.directories);
        let mut due = Instant::now() + EACH_SECOND;
        while places.are_own() {
            places.wait(due.saturating_duration_since(Instant::now()));
            if Instant::now() < due {
                continue;
            }
            due = Instant::now() + EACH_SECOND;
            self.lock_if_due();
            self.owed.settle(&self.audit);
            // What fails is tried again in the next second.
            let _ = self.audit.tend(false);
            ebb.look();
        }
    }

    /// Whether the directories of the socket and the record are still those that it came up in.
    pub fn is_in_place(&self) -> bool {
        self.audit.is_in_place() && inode(&self.directories.runtime) == self.runtime
    }

    /// Notes that somebody else took the mount down.
    pub fn mount_lost(&self) {
        self.record_or_owe(&Event::MountLost);
    }

    /// The last act: every grant ends, the record says why, and all of it is on the disk.
    pub fn shut(&self, reason: &'static str) {
        self.withdraw_all(Ending::Stopped);
        self.placeholders.release_all();
        self.owed.settle(&self.audit);
        self.audit.flush(true);
        let _ = self.record(&Event::BrokerStop { reason });
        let _ = self.audit.tend(true);
        self.audit.forget();
        if self.audit.is_in_place() {
            self.unmark();
        }
    }
}

/// How often the recorder sees to the record.
const EACH_SECOND: Duration = Duration::from_secs(1);

/// Stands while a broker runs; one that finds it was preceded by one that was cut short.
const RUNNING: &str = "running";

/// Grants that the record shows as made since the last start and not as ended: they were lost with the
/// broker that was cut short.
fn grants_lost(state: &Path) -> Result<u64> {
    let mut open = HashSet::new();
    audit::query_last_run(state, |record| match record.event() {
        "broker.start" => open.clear(),
        "grant.create" => drop(record.grant().map(|grant| open.insert(grant.into_owned()))),
        "grant.expire" | "grant.revoke" => drop(record.grant().map(|grant| open.remove(&*grant))),
        _ => {}
    })?;
    Ok(open.len() as u64)
}
