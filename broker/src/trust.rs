//! Has a person agreed to exactly this manifest, at exactly this place?

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kin_policy::{DirectoryName, ProjectName};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use similar::TextDiff;
use zeroize::Zeroizing;

use crate::control::protocol::{TrustState, path_bytes};
use crate::error::{Class, Error, Result};
use crate::files;
use crate::keys::{Identity, Root, authenticate};
use crate::manifest::{Manifest, printable};

const FORMAT: u32 = 1;
/// What the key is derived for that it is signed with.
const PURPOSE: &str = "kin/trust/1";
/// Bytes of the store, at most.
const LIMIT: u64 = 64 << 20;
/// Lines of a diff that are shown, and how long may be spent on making it a small one.
const DIFF_LINES: usize = 400;
const DIFF_TIME: Duration = Duration::from_millis(300);

/// What is trusted. It is signed with a key that hangs off the identity: no program that merely writes the
/// file can make a manifest trusted.
pub struct TrustStore {
    path: PathBuf,
    key: Zeroizing<[u8; 32]>,
    trusted: Vec<Trusted>,
    /// The file there now was refused: it is kept beside the next one.
    refused: bool,
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

/// Whether the store in the file was written by somebody else, and is treated as empty: to be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tampered(pub bool);

impl TrustStore {
    /// Reads the store at `path`; where there is none, it is empty.
    ///
    /// # Errors
    /// `unsafe_file`, `trust_format` (Integrity: a newer kin wrote it), or a storage error.
    pub fn open(path: &Path, identity: &Identity) -> Result<(Self, Tampered)> {
        let key = identity.derive(PURPOSE);
        let mut store = Self { path: path.to_owned(), key, trusted: Vec::new(), refused: false };
        let Some(bytes) = files::read_private(path, LIMIT)? else { return Ok((store, Tampered(false))) };
        if authenticate::verify(&store.key, &bytes) {
            store.trusted = parse(&bytes, path)?;
        } else {
            store.refused = true;
        }
        let tampered = Tampered(store.refused);
        Ok((store, tampered))
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

    /// Trusts exactly this manifest at its path; `now` is in seconds of Unix time. Returns its directory in
    /// the mount, which it keeps for as long as it is trusted under this name.
    ///
    /// # Errors
    /// `mount_name_taken` (Denied) where another path has the same hash of eight digits; a storage error, and
    /// then nothing has changed.
    pub fn trust(&mut self, manifest: &Manifest, now: i64) -> Result<DirectoryName> {
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
            mounted_as: mounted_as.clone(),
            hash: manifest.hash.clone(),
            trusted_at: now,
            text: manifest.text.clone(),
        });
        self.commit(next)?;
        Ok(mounted_as)
    }

    /// Trusts nothing at `directory` any longer; whether something was.
    ///
    /// # Errors
    /// A storage error, and then nothing has changed.
    pub fn untrust(&mut self, directory: &Path) -> Result<bool> {
        if self.at(directory).is_none() {
            return Ok(false);
        }
        let next = self.others(directory).cloned().collect();
        self.commit(next).map(|()| true)
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

    fn commit(&mut self, next: Vec<Trusted>) -> Result<()> {
        let document = Document { format: FORMAT, trusted: next };
        let json = serde_json::to_vec(&document).map_err(|error| Error::internal("write trust", error))?;
        let bytes = authenticate::sign(&self.key, json);
        if bytes.len() as u64 > LIMIT {
            return Err(Error::new(Class::Storage, "trust_full", "too many manifests are trusted")
                .hint("`kin untrust` in projects that are done"));
        }
        if self.refused {
            files::move_aside(&self.path, ".rejected")?;
            self.refused = false;
        }
        files::write_atomic(&self.path, &bytes)?;
        self.trusted = document.trusted;
        Ok(())
    }
}

/// The bytes of the store at `path`, signed with a key of `new` instead of `old`; `None` where there is no store,
/// or one that was refused.
///
/// # Errors
/// `unsafe_file`, or a storage error.
pub(crate) fn signed_again(path: &Path, old: &Root, new: &Root) -> Result<Option<Vec<u8>>> {
    let store = files::read_private(path, LIMIT)?;
    let (old, new) = (old.derive(PURPOSE), new.derive(PURPOSE));
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
#[path = "trust_tests.rs"]
mod tests;
