//! Has a person agreed to exactly this manifest, at exactly this place?
//!
//! The store is a file of its own, signed with a key that hangs off the identity. The vault remembers which one was
//! written last, so that an old one that is put back trusts nothing. A change goes in three steps: the new
//! store is written beside the old one; the vault takes its mark, and this is the one moment at which the change
//! happens; the new one takes the place of the old. Whoever opens the store after a crash compares, and finishes.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kin_policy::{DirectoryName, ProjectName};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use similar::TextDiff;
use zeroize::Zeroizing;

use crate::audit::{Change, Event, Logged, PolicyChange};
use crate::keys::{Identity, Root, authenticate};
use crate::project::info::TrustState;
use crate::project::manifest::{Manifest, printable};
use crate::sys::error::{Class, Error, Result};
use crate::sys::files::{self, Prepared, RealDisk};
use crate::sys::path_bytes;
use crate::vault::{Acknowledged, StoreMark, Vault};

const FORMAT: u32 = 1;
/// What the key is derived for that it is signed with.
const PURPOSE: &str = "kin/trust/1";
/// Bytes of the store, at most.
const LIMIT: u64 = 64 << 20;
/// Lines of a diff that are shown, and how long may be spent on making it a small one.
const DIFF_LINES: usize = 400;
const DIFF_TIME: Duration = Duration::from_millis(300);

/// What is trusted. No program that merely writes the file can make a manifest trusted, whatever it writes there.
pub struct TrustStore {
    path: PathBuf,
    key: Zeroizing<[u8; 32]>,
    trusted: Vec<Trusted>,
    /// What the vault knows it by.
    mark: StoreMark,
    /// Why the file that is there is not this one: it is kept beside the next one.
    refused: Option<Refused>,
}

/// Why a store is treated as empty: to be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Somebody else wrote it.
    Forged,
    /// It is not the one that was written last.
    RolledBack,
    /// There was one, and it is gone.
    Missing,
}

impl Refused {
    /// The word that records use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forged => "trust_unauthenticated",
            Self::RolledBack => "trust_rollback",
            Self::Missing => "trust_missing",
        }
    }
}

/// One manifest that is trusted.
#[derive(Clone, Serialize, Deserialize)]
struct Trusted {
    #[serde(with = "path_bytes")]
    directory: PathBuf,
    project: ProjectName,
    mounted_as: DirectoryName,
    hash: String,
    /// Seconds of Unix time.
    trusted_at: i64,
    text: String,
}

#[derive(Serialize, Deserialize)]
struct Document {
    format: u32,
    trusted: Vec<Trusted>,
}

/// A change of what is trusted: what the store is to become. Only a store makes one, and [`TrustStore::commit`]
/// takes it once it is logged.
#[must_use]
pub struct Planned {
    bytes: Vec<u8>,
    trusted: Vec<Trusted>,
    mark: StoreMark,
    change: PolicyChange,
    directory: PathBuf,
    /// The project and the hash of its manifest, where it is to be trusted.
    manifest: Option<(ProjectName, String)>,
}

impl Change for Planned {
    fn events(&self) -> Vec<Event<'_>> {
        vec![Event::Policy {
            change: self.change,
            project: self.manifest.as_ref().map(|(project, _)| project),
            directory: &self.directory,
            hash: self.manifest.as_ref().map(|(_, hash)| hash.as_str()),
            reason: None,
            asker: None,
        }]
    }
}

impl Acknowledged for Planned {
    fn mark(&self) -> &StoreMark {
        &self.mark
    }
}

/// A store that goes on under a vault that does not know it: one from before vaults remembered any, or one that
/// was open while its vault was restored.
#[must_use]
pub(crate) struct Adoption {
    mark: StoreMark,
    directory: PathBuf,
}

impl Change for Adoption {
    fn events(&self) -> Vec<Event<'_>> {
        let (change, directory) = (PolicyChange::Adopt, self.directory.as_path());
        vec![Event::Policy { change, project: None, directory, hash: None, reason: None, asker: None }]
    }
}

impl Acknowledged for Adoption {
    fn mark(&self) -> &StoreMark {
        &self.mark
    }
}

impl TrustStore {
    /// Reads the store at `path`, of which the vault says that it is the one of `mark`; where there is none, it is
    /// empty. A vault that says nothing takes any that is authentic. A change that was cut short is brought to its
    /// end first.
    ///
    /// # Errors
    /// `unsafe_file`, `trust_format` (Integrity: a newer kin wrote it), or a storage error.
    pub(crate) fn open(path: &Path, identity: &Identity, mark: Option<&StoreMark>) -> Result<Self> {
        let key = identity.derive(PURPOSE);
        let nothing = mark.cloned().unwrap_or_else(StoreMark::nothing);
        let mut store =
            Self { path: path.to_owned(), key, trusted: Vec::new(), mark: nothing, refused: None };
        let Some(bytes) = settled(path, &store.key, mark)? else {
            store.refused = mark.filter(|mark| !mark.is_nothing()).map(|_| Refused::Missing);
            return Ok(store);
        };
        let own = StoreMark::of(&bytes);
        store.refused = match mark {
            _ if !authenticate::verify(&store.key, &bytes) => Some(Refused::Forged),
            Some(mark) if *mark != own => Some(Refused::RolledBack),
            _ => None,
        };
        if store.refused.is_none() {
            (store.trusted, store.mark) = (parse(&bytes, path)?, own);
        }
        Ok(store)
    }

    /// Why the file is not used, where it is not.
    pub fn refused(&self) -> Option<Refused> {
        self.refused
    }

    /// What `vault` has yet to learn, where this store goes on and is not the one that it knows.
    pub(crate) fn to_adopt(&self, vault: &Vault) -> Option<Adoption> {
        let unknown = match vault.store_mark() {
            None => true,
            Some(mark) => self.refused.is_none() && *mark != self.mark,
        };
        let directory = self.path.parent().unwrap_or(&self.path).to_owned();
        unknown.then(|| Adoption { mark: self.mark.clone(), directory })
    }

    /// From now on it is signed with a key of `root`: the file has been signed again, with [`signed_again`].
    pub(crate) fn follow(&mut self, root: &Root) {
        self.key = root.derive(PURPOSE);
    }

    /// How a manifest stands. Never [`TrustState::Locked`]: who has a store has the key.
    pub fn check(&self, manifest: &Manifest) -> TrustState {
        match self.at(&manifest.directory) {
            None => TrustState::Untrusted,
            Some(trusted) if trusted.hash == manifest.hash => TrustState::Trusted,
            Some(trusted) => TrustState::Changed { diff: diff(&trusted.text, &manifest.text) },
        }
    }

    /// To trust exactly this manifest at its path; `now` is in seconds of Unix time. It keeps its directory in the
    /// mount for as long as it is trusted under this name.
    ///
    /// # Errors
    /// `mount_name_taken` (Denied) where another path has the same hash of eight digits; `trust_full` (Storage).
    pub fn plan_trust(&self, manifest: &Manifest, now: i64) -> Result<Planned> {
        let mounted_as = self.would_mount_as(manifest);
        if self.others(&manifest.directory).any(|trusted| trusted.mounted_as == mounted_as) {
            let message = format!("another project is mounted as {mounted_as}");
            let hint = "give one of them another name in its kin.toml";
            return Err(Error::new(Class::Denied, "mount_name_taken", message).hint(hint));
        }
        let mut next: Vec<_> = self.others(&manifest.directory).cloned().collect();
        next.push(Trusted {
            directory: manifest.directory.clone(),
            project: manifest.project.clone(),
            mounted_as,
            hash: manifest.hash.clone(),
            trusted_at: now,
            text: manifest.text.clone(),
        });
        let named = Some((manifest.project.clone(), manifest.hash.clone()));
        self.plan(next, PolicyChange::Trust, (&manifest.directory, named))
    }

    /// To trust nothing at `directory` any longer; `None` where nothing is.
    ///
    /// # Errors
    /// `trust_full` (Storage).
    pub fn plan_untrust(&self, directory: &Path) -> Result<Option<Planned>> {
        if self.at(directory).is_none() {
            return Ok(None);
        }
        let next = self.others(directory).cloned().collect();
        self.plan(next, PolicyChange::Untrust, (directory, None)).map(Some)
    }

    /// The directory in the mount of what is trusted at `directory`, a canonical path.
    pub fn mounted_as(&self, directory: &Path) -> Option<DirectoryName> {
        self.at(directory).map(|trusted| trusted.mounted_as.clone())
    }

    /// The directory that it has, or would get: the first checkout of a name has the name itself, others
    /// have the name and a hash of their path.
    pub fn would_mount_as(&self, manifest: &Manifest) -> DirectoryName {
        if let Some(trusted) = self.at(&manifest.directory)
            && trusted.project == manifest.project
        {
            return trusted.mounted_as.clone();
        }
        let name = manifest.project.as_str();
        let taken = self.others(&manifest.directory).any(|trusted| trusted.mounted_as.as_str() == name);
        let text = if taken {
            let hash = Sha256::digest(manifest.directory.as_os_str().as_bytes());
            format!("{name}~{}", &format!("{hash:x}")[..8])
        } else {
            name.to_owned()
        };
        DirectoryName::new(text).expect("a project's name, with eight digits or without, names a directory")
    }

    fn at(&self, directory: &Path) -> Option<&Trusted> {
        self.trusted.iter().find(|trusted| trusted.directory == directory)
    }

    fn others<'a>(&'a self, directory: &'a Path) -> impl Iterator<Item = &'a Trusted> {
        self.trusted.iter().filter(move |trusted| trusted.directory != directory)
    }

    fn plan(
        &self,
        next: Vec<Trusted>,
        change: PolicyChange,
        (directory, manifest): (&Path, Option<(ProjectName, String)>),
    ) -> Result<Planned> {
        let document = Document { format: FORMAT, trusted: next };
        let json = serde_json::to_vec(&document).map_err(|error| Error::internal("write trust", error))?;
        let bytes = authenticate::sign(&self.key, json);
        if bytes.len() as u64 > LIMIT {
            return Err(Error::new(Class::Storage, "trust_full", "too many manifests are trusted")
                .hint("`kin untrust` in projects that are done"));
        }
        let (mark, directory) = (StoreMark::of(&bytes), directory.to_owned());
        Ok(Planned { bytes, trusted: document.trusted, mark, change, directory, manifest })
    }

    /// Does what was planned, with `vault`, which remembers it.
    ///
    /// # Errors
    /// A storage error. Nothing has changed then, except where only the last step of the vault's write failed,
    /// making it durable.
    pub(crate) fn commit(&mut self, planned: Logged<Planned>, vault: &mut Vault) -> Result<()> {
        let (disk, announced) = (vault.disk(), announced(&self.path));
        Prepared::new(&*disk, &announced, &planned.get().bytes)?.put_in_place()?;
        vault.acknowledge(&planned)?;
        // It has happened: where its place cannot be taken now, the next who opens the store sees to that.
        let _ = keep_refused(&self.path, self.refused.is_some())
            .and_then(|()| files::move_file(&*disk, &announced, &self.path));
        let Planned { trusted, mark, .. } = planned.into_inner();
        (self.trusted, self.mark, self.refused) = (trusted, mark, None);
        Ok(())
    }
}

/// Where the next store waits for the vault's word.
fn announced(path: &Path) -> PathBuf {
    files::beside(path, ".announced")
}

/// The bytes of the store at `path`, of which the vault says that it is the one of `mark`. One that was announced and
/// that the vault took has its place then; one that it never took is gone.
fn settled(path: &Path, key: &[u8; 32], mark: Option<&StoreMark>) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let (there, announced) = (files::read_private(path, LIMIT)?, announced(path));
    let authentic = |bytes: &[u8]| authenticate::verify(key, bytes);
    let is_newest = |bytes: &[u8]| authentic(bytes) && mark.is_some_and(|mark| *mark == StoreMark::of(bytes));
    if !files::exists(&announced) {
        return Ok(there);
    }
    if there.as_ref().is_some_and(|bytes| is_newest(bytes)) {
        files::remove(&RealDisk, &announced)?;
        return Ok(there);
    }
    match files::read_private(&announced, LIMIT)?.filter(|bytes| is_newest(bytes)) {
        Some(bytes) => {
            keep_refused(path, there.is_some_and(|there| !authentic(&there)))?;
            files::move_file(&RealDisk, &announced, path)?;
            Ok(Some(bytes))
        }
        None => Ok(there),
    }
}

/// A file that was refused is kept for a look.
fn keep_refused(path: &Path, refused: bool) -> Result<()> {
    match refused && files::exists(path) {
        true => files::move_aside(path, ".rejected"),
        false => Ok(()),
    }
}

/// The bytes of the store at `path`, signed with a key of `new` instead of `old`; `None` where there is no store,
/// or one that was refused. `mark` is as for [`TrustStore::open`].
///
/// # Errors
/// `unsafe_file`, or a storage error.
pub(crate) fn signed_again(
    path: &Path,
    mark: Option<&StoreMark>,
    (old, new): (&Root, &Root),
) -> Result<Option<Vec<u8>>> {
    let (old, new) = (old.derive(PURPOSE), new.derive(PURPOSE));
    let store = settled(path, &old, mark)?;
    Ok(store.and_then(|bytes| authenticate::sign_again(&old, &new, &bytes)))
}

fn parse(bytes: &[u8], path: &Path) -> Result<Vec<Trusted>> {
    match serde_json::from_slice::<Document>(bytes) {
        Ok(document) if document.format == FORMAT => Ok(document.trusted),
        _ => {
            let message = format!("{} was written by another version of kin", path.display());
            Err(Error::new(Class::Integrity, "trust_format", message).hint("use the kin that wrote it"))
        }
    }
}

fn diff(trusted: &str, now: &str) -> String {
    let diff = TextDiff::configure().timeout(DIFF_TIME).diff_lines(trusted, now);
    let text = printable(&diff.unified_diff().header("trusted", "now").to_string());
    let mut lines = text.lines();
    let mut shown = lines.by_ref().take(DIFF_LINES).collect::<Vec<_>>().join("\n");
    let more = lines.count();
    if more > 0 {
        shown.push_str(&format!("\n… {more} more lines"));
    }
    shown
}

#[cfg(test)]
#[path = "trust_store_tests.rs"]
mod tests;
