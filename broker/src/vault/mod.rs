//! What is stored? Named secrets, encrypted. It makes no access decisions: it opens a value for a logged permit, and
//! for nothing else.

mod anchor;
mod attributes;
mod container;
pub mod generate;
mod history;
pub mod info;
mod mark;
mod planned;
mod recipients;
mod seal;
#[cfg(any(test, fuzzing))]
mod unrecorded;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kin_policy::{GrantId, Permit, Reference};
use zeroize::Zeroizing;

use crate::Plaintext;
use crate::audit::Logged;
use crate::keys::Identity;
use crate::sys::error::{Class, Error, Result};
use crate::sys::files::{self, Disk, Prepared, RealDisk};
use crate::sys::paths::Directories;
use crate::vault::info::{SecretInfo, VersionInfo};
use anchor::Freshness;
use container::{Content, Keys, Record, Sealed, Version, corrupt, place};

pub(crate) use anchor::digest as digest_of;
pub(crate) use history::{due, modified};
pub(crate) use mark::StoreMark;
pub(crate) use planned::Acknowledged;
pub use planned::{Making, Planned};
pub(crate) use recipients::Rekeyed;

/// Bytes of a value, at most.
pub const MAX_VALUE: usize = crate::sys::frame::MAX_VALUE;
/// Bytes of a note, at most.
pub const MAX_NOTE: usize = 1024;

/// Where a vault is: its file, and the anchor outside of it that tells an old one.
#[derive(Clone)]
pub struct Place {
    file: PathBuf,
    anchor: PathBuf,
    disk: Arc<dyn Disk>,
}

impl Place {
    /// In these files; they should be in two directories, so that a backup of one is not one of both.
    pub fn new(file: PathBuf, anchor: PathBuf) -> Self {
        Self { file, anchor, disk: Arc::new(RealDisk) }
    }

    /// What writes there.
    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// The vault's file.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// The user's.
    pub fn of(directories: &Directories) -> Self {
        Self::new(directories.vault_file(), directories.vault_anchor())
    }
}

/// What is kept beside a value, and is no secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// A note for people.
    pub note: Option<String>,
    /// When it should be replaced: seconds of Unix time.
    pub due: Option<i64>,
    /// How the broker made it, where it did.
    pub generated: Option<String>,
    /// The grant whose tree wrote it, where one did.
    pub grant: Option<GrantId>,
    /// What it can be found by: `env` = `prod`.
    pub attributes: BTreeMap<String, String>,
}

impl Facts {
    /// What the next version has of this one: the note and the attributes, and the time until it is due begins anew.
    pub(crate) fn kept(old: SecretInfo, now: i64) -> Self {
        let due = old.due.map(|at| now.saturating_add(at.saturating_sub(old.created)));
        Self { note: old.note, due, generated: None, grant: None, attributes: old.attributes }
    }
}

/// Number, second of making, and size of a version, and the grant whose tree wrote it.
pub(crate) type Mark = (u64, i64, u64, Option<GrantId>);

/// An unlocked vault. Its values stay sealed in memory. One process writes it: the broker. A clone is a
/// cheap snapshot: changing one changes the file and itself, and leaves the other as it was.
#[derive(Clone)]
pub struct Vault {
    place: Place,
    keys: Arc<Keys>,
    data_key: Arc<Plaintext>,
    content: Arc<Content>,
}

impl Vault {
    /// Makes an empty vault.
    ///
    /// # Errors
    /// `vault_exists` (Denied) where something is there already, or a storage error.
    pub fn create(making: Logged<Making>, identity: &Identity) -> Result<Self> {
        let place = making.get().place();
        if files::exists(&place.file) {
            let message = format!("{} is there already", place.file.display());
            return Err(Error::new(Class::Denied, "vault_exists", message).hint("move it away to begin anew"));
        }
        let keys = Keys::of(identity);
        let (content, data_key) = Content::new(&keys)?;
        let vault = Self::of(place, keys, data_key, content);
        vault.write(&vault.content)?;
        Ok(vault)
    }

    /// Reads the vault, all of it, and checks who wrote it and that it is the newest.
    ///
    /// # Errors
    /// `vault_absent` (Locked); `unsafe_file`; class Integrity: `vault_corrupt`, `vault_unauthenticated`,
    /// `vault_format`, `vault_rollback`, `vault_unanchored`; a storage error.
    pub fn open(place: &Place, identity: &Identity) -> Result<Self> {
        let (vault, file) = Self::read(place, identity)?;
        let generation = vault.content.generation;
        match anchor::check(&place.anchor, vault.keys.anchor(), generation, &file)? {
            Freshness::Marked => {}
            Freshness::Ahead => vault.mark(&vault.content, &file)?.put_in_place()?,
        }
        Ok(vault)
    }

    /// As [`Self::open`], for a person who knows that the vault is an old one. [`Self::plan_accept`] makes it the
    /// newest.
    ///
    /// # Errors
    /// As there, without those about its age.
    pub(crate) fn open_old(place: &Place, identity: &Identity) -> Result<Self> {
        Self::read(place, identity).map(|(vault, _)| vault)
    }

    /// The vault in the bytes of a backup, for a look. It has the place of the one that it may replace.
    ///
    /// # Errors
    /// Class Integrity: `vault_corrupt`, `vault_unauthenticated`, `vault_format`.
    pub fn of_backup(place: &Place, from: &Path, bytes: &[u8], identity: &Identity) -> Result<Self> {
        let keys = Keys::of(identity);
        let (content, data_key) = Content::decode(bytes, from, identity, &keys)?;
        Ok(Self::of(place, keys, data_key, content))
    }

    /// The vault's file, read again and checked: what a backup is.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn copy(place: &Place, identity: &Identity) -> Result<(Self, Zeroizing<Vec<u8>>)> {
        let (vault, file) = Self::read(place, identity)?;
        anchor::check(&place.anchor, vault.keys.anchor(), vault.content.generation, &file)?;
        Ok((vault, file))
    }

    /// What writes it.
    pub(crate) fn disk(&self) -> Arc<dyn Disk> {
        self.place.disk.clone()
    }

    fn read(place: &Place, identity: &Identity) -> Result<(Self, Zeroizing<Vec<u8>>)> {
        let file = files::read_private(&place.file, container::LIMIT)?.ok_or_else(|| absent(place))?;
        let keys = Keys::of(identity);
        let (content, data_key) = Content::decode(&file, &place.file, identity, &keys)?;
        Ok((Self::of(place, keys, data_key, content), file))
    }

    fn of(place: &Place, keys: Keys, data_key: Plaintext, content: Content) -> Self {
        let (keys, data_key, content) = (Arc::new(keys), Arc::new(data_key), Arc::new(content));
        Self { place: place.clone(), keys, data_key, content }
    }

    /// Opens the current version of the secret that `permit` names.
    ///
    /// # Errors
    /// `secret_missing` where the vault has none of that name, `vault_corrupt` where its value is not the
    /// one that was sealed for that name and version; an internal error for a permit that names none.
    pub fn unseal(&self, permit: &Logged<Permit>) -> Result<Plaintext> {
        let reference = named(permit)?;
        self.open_version(reference, self.current(reference).ok_or_else(|| missing(reference))?)
    }

    /// Whether the current version of the secret that `permit` names has just this value. Nothing else is told of
    /// it, so the permit need not be on the record.
    ///
    /// # Errors
    /// As [`Self::unseal`].
    pub fn has(&self, permit: &Permit, value: &Plaintext) -> Result<bool> {
        let reference = compared(permit)?;
        self.is_value(reference, self.current(reference).ok_or_else(|| missing(reference))?, value)
    }

    /// As [`Self::has`], of one version.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn has_version(&self, permit: &Permit, version: u64, value: &Plaintext) -> Result<bool> {
        let reference = compared(permit)?;
        let found = self.versions(reference).iter().find(|found| found.version == version);
        self.is_value(reference, found.ok_or_else(|| missing(reference))?, value)
    }

    fn is_value(&self, reference: &Reference, version: &Version, value: &Plaintext) -> Result<bool> {
        Ok(version.size == value.len() as u64
            && self.open_version(reference, version)?.bytes() == value.bytes())
    }

    /// Opens the current version of one of the secrets that `permit` names.
    ///
    /// # Errors
    /// As [`Self::unseal`].
    pub fn unseal_of(&self, permit: &Logged<Permit>, reference: &Reference) -> Result<Plaintext> {
        if !permit.get().references().contains(reference) {
            return Err(Error::internal("unseal a value", "the permit is for others"));
        }
        self.open_version(reference, self.current(reference).ok_or_else(|| missing(reference))?)
    }

    /// Opens one version of the secret that `permit` names; `now` is in seconds of Unix time.
    ///
    /// # Errors
    /// As [`Self::unseal`]; `version_missing` and `version_destroyed` (Usage).
    pub fn unseal_version(&self, permit: &Logged<Permit>, version: u64, now: i64) -> Result<Plaintext> {
        let reference = named(permit)?;
        self.check_version(reference, version, now)?;
        let found = self.versions(reference).iter().find(|found| found.version == version);
        self.open_version(reference, found.ok_or_else(|| missing(reference))?)
    }

    /// Whether one version can still be read.
    ///
    /// # Errors
    /// `secret_missing`, `version_missing`, `version_destroyed` (Usage).
    pub fn check_version(&self, reference: &Reference, version: u64, now: i64) -> Result<()> {
        let refuse = |code, message| {
            let hint = format!("`kin history {reference}` shows what there is");
            Err(Error::new(Class::Usage, code, message).hint(hint))
        };
        match self.history(reference, now)?.iter().find(|found| found.version == version) {
            None => refuse("version_missing", format!("{reference} has no version {version}")),
            Some(found) if found.readable => Ok(()),
            Some(_) => refuse(
                "version_destroyed",
                format!("the value of {reference}, version {version}, is destroyed"),
            ),
        }
    }

    fn open_version(&self, reference: &Reference, version: &Version) -> Result<Plaintext> {
        let sealed = version.sealed.as_ref().map_or(&[][..], |sealed| &sealed.0);
        seal::open(&self.data_key, &place(reference, version.version), sealed)
            .ok_or_else(|| corrupt(&self.place.file, &format!("has a damaged value for {reference}")))
    }

    fn seal_version(
        &self,
        reference: &Reference,
        record: &Record,
        value: &Plaintext,
        facts: Facts,
        created: i64,
    ) -> Result<Version> {
        let Facts { note, due, generated, grant, attributes } = facts;
        check_size("value_too_large", "the value", value.len(), MAX_VALUE)?;
        check_size("note_too_long", "the note", note.as_ref().map_or(0, String::len), MAX_NOTE)?;
        attributes::check(&attributes)?;
        let version = record.versions.last().map_or(0, |current| current.version) + 1;
        let created = record.versions.last().map_or(created, |current| history::after(current, created));
        let sealed = seal::seal(&self.data_key, &place(reference, version), value.bytes())?;
        let (size, sealed) = (value.len() as u64, Some(Sealed(sealed.into())));
        Ok(Version { version, created, size, note, due, generated, grant, attributes, sealed })
    }

    /// What may be known of every secret, by name.
    pub fn list(&self) -> Vec<SecretInfo> {
        self.infos(None).collect()
    }

    /// The same of those whose names come after `after`, one at a time.
    pub(crate) fn infos(&self, after: Option<&Reference>) -> impl Iterator<Item = SecretInfo> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let later = self.content.secrets.range::<Reference, _>((from, Bound::Unbounded));
        later.filter_map(|(reference, record)| Some(describe(reference, record.versions.last()?)))
    }

    /// How many secrets there are.
    pub(crate) fn count(&self) -> usize {
        self.content.secrets.len()
    }

    /// What may be known of one.
    pub fn info(&self, reference: &Reference) -> Option<SecretInfo> {
        self.current(reference).map(|current| describe(reference, current))
    }

    /// The number of a secret's current version.
    pub fn version(&self, reference: &Reference) -> Option<u64> {
        self.current(reference).map(|current| current.version)
    }

    /// What tells the current version of each secret from any other.
    pub(crate) fn marks(&self) -> BTreeMap<Reference, Mark> {
        let current = |(name, record): (&Reference, &Record)| {
            let Version { version, created, size, grant, .. } = record.versions.last()?;
            Some((name.clone(), (*version, *created, *size, *grant)))
        };
        self.content.secrets.iter().filter_map(current).collect()
    }

    /// How many writes led to this vault, its making included.
    pub fn generation(&self) -> u64 {
        self.content.generation
    }

    /// Every version of a secret that is remembered, oldest first; `now` is in seconds of Unix time.
    ///
    /// # Errors
    /// `secret_missing`.
    pub fn history(&self, reference: &Reference, now: i64) -> Result<Vec<VersionInfo>> {
        match self.versions(reference) {
            [] => Err(missing(reference)),
            versions => Ok(history::describe(versions, now)),
        }
    }

    fn versions(&self, reference: &Reference) -> &[Version] {
        self.content.secrets.get(reference).map_or(&[], |record| &record.versions)
    }

    fn current(&self, reference: &Reference) -> Option<&Version> {
        self.versions(reference).last()
    }

    /// Both files are written before either is put in its place, so that a full disk changes neither; the
    /// vault goes first, so that a crash leaves none that is older than its anchor.
    fn write(&self, content: &Content) -> Result<()> {
        let file = self.encode(content, &self.keys)?;
        let vault = Prepared::new(&*self.place.disk, &self.place.file, &file)?;
        let anchor = self.mark(content, &file)?;
        vault.put_in_place()?;
        anchor.put_in_place()
    }

    fn encode(&self, content: &Content, keys: &Keys) -> Result<Vec<u8>> {
        let file = content.encode(keys)?;
        if file.len() as u64 > container::LIMIT {
            let message = format!("the vault would be larger than {} MiB", container::LIMIT >> 20);
            return Err(
                Error::new(Class::Storage, "vault_full", message).hint("remove secrets with `kin rm`")
            );
        }
        Ok(file)
    }

    fn mark(&self, content: &Content, file: &[u8]) -> Result<Prepared<'_>> {
        let says = (content.generation, content.trust.as_ref());
        anchor::prepare(&*self.place.disk, &self.place.anchor, self.keys.anchor(), says, file)
    }
}

/// Whether there is a vault, as far as that can be told without its key.
///
/// # Errors
/// `unsafe_file`; `vault_corrupt` (Integrity) for what is no age file; a storage error where it cannot be read.
pub fn is_there(directories: &Directories) -> Result<bool> {
    let path = directories.vault_file();
    match files::read_private(&path, container::LIMIT)? {
        None => Ok(false),
        Some(file) if container::is_age(&file) => Ok(true),
        Some(_) => Err(container::not_age(&path)),
    }
}

fn absent(place: &Place) -> Error {
    let message = format!("there is no vault at {}", place.file.display());
    Error::new(Class::Locked, "vault_absent", message)
        .hint("its key is there: `kin restore BACKUP` brings it back")
}

/// SHA-256 of a vault's file, hexadecimal; `None` where there is none.
pub(crate) fn digest(place: &Place) -> Result<Option<String>> {
    let file = files::read_private(&place.file, container::LIMIT)?;
    Ok(file.map(|file| anchor::digest(&file)))
}

/// The refusal for a name that the vault does not have.
pub fn missing(reference: &Reference) -> Error {
    Error::new(Class::Usage, "secret_missing", format!("the vault has no secret {reference}"))
        .hint(format!("`kin set {reference}` stores it, `kin list` shows what there is"))
}

fn describe(reference: &Reference, current: &Version) -> SecretInfo {
    SecretInfo {
        reference: reference.clone(),
        version: current.version,
        size: current.size,
        created: current.created,
        note: current.note.clone(),
        due: current.due,
        generated: current.generated.clone(),
        attributes: current.attributes.clone(),
    }
}

fn named(permit: &Logged<Permit>) -> Result<&Reference> {
    let reference = permit.get().reference();
    reference.ok_or_else(|| Error::internal("unseal a value", "the permit is only to look"))
}

fn compared(permit: &Permit) -> Result<&Reference> {
    permit.reference().ok_or_else(|| Error::internal("compare a value", "the permit is to look"))
}

fn check_size(code: &'static str, what: &str, size: usize, limit: usize) -> Result<()> {
    if size <= limit {
        return Ok(());
    }
    Err(Error::new(Class::Usage, code, format!("{what} has {size} bytes; at most {limit} can be kept")))
}

#[cfg(test)]
#[path = "vault_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "crash_tests.rs"]
mod crash_tests;
