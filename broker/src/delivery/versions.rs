//! Who hears that a secret has another version? Programs that watch a file of it, through whoever shows the
//! files, and keepers that asked. Nobody who stores a version waits for either.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};

use kin_policy::{Binding, DirectoryName, FileName, GrantId, Reference};
use parking_lot::{Condvar, Mutex};

use crate::broker::Broker;
use crate::grants::live::LiveGrant;
use crate::sys::clock;
use crate::sys::error::{Class, Error, Result};
use crate::sys::frame::Answer;
use crate::sys::frame::write_frame;
use crate::vault::{Mark, Vault};

/// Keepers that are told: each costs a connection for as long as its grant stands.
const MOST: usize = 1024;
/// What a keeper is told, once for any number of versions that it has not read of yet.
const NOTICE: &[u8] = b"v";

/// Secrets that have another version, or none any more, and the grant whose tree wrote it, where one did.
type Changed = BTreeMap<Reference, Option<GrantId>>;

/// Who shows versions to programs: this room knows no file systems.
pub trait ShowVersions: Send + Sync {
    /// These files have another version, or none any more. Returns at once.
    fn changed(&self, files: &BTreeSet<(DirectoryName, FileName)>);
}

/// What is known of versions, and who wants to hear of others.
#[derive(Default)]
pub(crate) struct Rotation {
    known: Mutex<BTreeMap<Reference, Mark>>,
    changed: Mutex<Changed>,
    some: Condvar,
    keepers: Mutex<HashMap<GrantId, (Arc<LiveGrant>, UnixStream)>>,
    shown: OnceLock<Box<dyn ShowVersions>>,
}

impl Rotation {
    /// This is the vault from now on, also where another was opened before it was locked.
    pub(crate) fn publish(&self, vault: &Vault) {
        let now = vault.marks();
        let mut known = self.known.lock();
        let names: BTreeSet<_> = now.keys().chain(known.keys()).collect();
        let others = names.into_iter().filter(|name| now.get(*name) != known.get(*name));
        let writer = |name| now.get(name).and_then(|(.., grant)| *grant);
        self.changed.lock().extend(others.map(|name| (name.clone(), writer(name))));
        *known = now;
        self.some.notify_one();
    }

    /// Waits until there are any, and takes them.
    fn wait(&self) -> Changed {
        let mut changed = self.changed.lock();
        while changed.is_empty() {
            self.some.wait(&mut changed);
        }
        std::mem::take(&mut changed)
    }

    /// Tells the keepers, but nobody of what its own tree wrote. One that has not read of the last is told already;
    /// one that is gone is forgotten.
    fn tell(&self, changed: &Changed) {
        self.keepers.lock().retain(|_, (live, stream)| {
            !concerns(live, changed)
                || match stream.write(NOTICE) {
                    Ok(_) => true,
                    Err(error) => error.kind() == io::ErrorKind::WouldBlock,
                }
        });
    }

    /// The grant has ended: its keeper hears of nothing more, and of that by the end of its connection.
    pub(crate) fn forget(&self, grant: GrantId) {
        let gone = self.keepers.lock().remove(&grant);
        drop(gone);
    }
}

impl Broker {
    /// Lets `shown` show versions; the first one stays.
    pub fn show_versions_by(&self, shown: Box<dyn ShowVersions>) {
        let _ = self.rotation.shown.set(shown);
    }

    /// The rotation's thread: returns never. No lock is held here that a change of the vault waits for.
    pub fn tell_of_versions(&self) {
        loop {
            let changed = self.rotation.wait();
            self.rotation.tell(&changed);
            let Some(shown) = self.rotation.shown.get() else { continue };
            let files = self.files_of(&changed);
            if !files.is_empty() {
                shown.changed(&files);
            }
        }
    }

    /// The files that live grants have of these secrets.
    fn files_of(&self, changed: &Changed) -> BTreeSet<(DirectoryName, FileName)> {
        let now = clock::now();
        let mut files = BTreeSet::new();
        for live in self.grants.all().iter().filter(|live| live.is_current(now)) {
            let concerned = live
                .grant
                .names()
                .filter(|file| is_of(live.grant.behind(file), |reference| changed.contains_key(reference)));
            files.extend(concerned.map(|file| (live.grant.project.clone(), file.clone())));
        }
        files
    }

    /// Answers a keeper, and tells it from then on, through this connection alone, whenever a secret of its grant
    /// has another version.
    ///
    /// # Errors
    /// `grant_ended`; `rotation_limit` where as many keepers as can be are told; what the connection says.
    pub(crate) fn tell_keeper(&self, live: Arc<LiveGrant>, mut stream: &UnixStream) -> Result<()> {
        let id = live.grant.id;
        let fault = |error: io::Error| Error::internal("tell the keeper", error);
        {
            let mut keepers = self.rotation.keepers.lock();
            if keepers.len() >= MOST && !keepers.contains_key(&id) {
                let message = format!("{MOST} runs are told of rotations already");
                return Err(Error::new(Class::Denied, "rotation_limit", message).hint("see `kin status`"));
            }
            // The answer goes before the first notice, which waits for this lock; nobody waits for the keeper.
            stream.set_nonblocking(true).map_err(fault)?;
            write_frame(&mut stream, &Answer::Done(()), None).map_err(fault)?;
            keepers.insert(id, (live.clone(), stream.try_clone().map_err(fault)?));
        }
        // A withdrawal ends the grant before it forgets the keeper: it has found this entry, or is seen here.
        if live.ended().is_some() {
            self.rotation.forget(id);
        }
        Ok(())
    }
}

fn concerns(live: &LiveGrant, changed: &Changed) -> bool {
    let foreign = |reference: &Reference| changed.get(reference).is_some_and(|by| *by != Some(live.grant.id));
    is_of(live.grant.every_binding().map(|(_, binding)| binding), foreign)
}

fn is_of<'a>(mut bindings: impl Iterator<Item = &'a Binding>, changed: impl Fn(&Reference) -> bool) -> bool {
    bindings.any(|binding| changed(&binding.reference))
}
