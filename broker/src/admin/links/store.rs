//! Which links did kin make? Signed with a key that hangs off the identity: no program that merely writes the
//! file can have something else taken away, or written back.

use std::path::{Path, PathBuf};

use kin_policy::{FileName, FilePath, Reference};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::ignored::Line;
use super::place::Old;
use crate::admin::batches::LinkInfo;
use crate::grants::placeholders::{Inode, Placeholder};
use crate::keys::{Identity, authenticate};
use crate::project::manifest::Manifest;
use crate::project::mount_targets::Way;
use crate::sys::error::{Class, Error, Result};
use crate::sys::files;
use crate::sys::path_bytes;

const FORMAT: u32 = 1;
/// Bytes of the store, at most.
const LIMIT: u64 = 16 << 20;

/// One link of kin's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Linked {
    /// The project's canonical directory.
    #[serde(with = "path_bytes")]
    directory: PathBuf,
    pub(super) file: FileName,
    /// The directory that the path is below.
    #[serde(with = "path_bytes")]
    pub(super) base: PathBuf,
    pub(super) path: FilePath,
    /// What the link says.
    #[serde(with = "path_bytes")]
    pub(super) target: PathBuf,
    pub(super) inode: Option<Inode>,
    /// Directories that were made for it.
    pub(super) made: Vec<Placeholder>,
    /// The line that was added to `.gitignore`.
    pub(super) ignored: Option<Line>,
    /// What it took the place of.
    pub(super) kept: Option<Kept>,
}

/// A file that a link took the place of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The secret that has its bytes.
    pub(super) reference: Reference,
    /// The permissions that it had.
    pub(super) mode: u32,
}

impl Linked {
    pub(super) fn new(
        manifest: &Manifest,
        info: &LinkInfo,
        base: &Path,
        path: &FilePath,
        made: &[Placeholder],
    ) -> Self {
        Self {
            directory: manifest.directory.clone(),
            file: info.file.clone(),
            base: base.to_owned(),
            path: path.clone(),
            target: info.target.clone(),
            inode: None,
            made: made.to_vec(),
            ignored: None,
            kept: None,
        }
    }

    /// The line for git that was added now, and what was done for this place before.
    pub(super) fn also(&mut self, ignored: Option<Line>, store: &Store) {
        let before = store.at(self).cloned();
        self.ignored = ignored.or(before.as_ref().and_then(|before| before.ignored.clone()));
        self.made = before.into_iter().flat_map(|before| before.made).chain(self.made.drain(..)).collect();
    }

    /// That it took the place of this file.
    pub(super) fn replaced(&mut self, reference: &Reference, old: &Old) {
        self.kept = Some(Kept { reference: reference.clone(), mode: old.mode() });
    }

    /// This link is that inode.
    pub(super) fn of(self, inode: Inode) -> Self {
        Self { inode: Some(inode), ..self }
    }

    pub(super) fn way(&self) -> Way<'_> {
        Way { base: &self.base, path: &self.path, link: &self.target }
    }

    pub(super) fn whole(&self) -> PathBuf {
        self.way().whole()
    }

    fn is_at(&self, other: &Self) -> bool {
        self.base == other.base && self.path == other.path
    }
}

#[derive(Serialize, Deserialize)]
struct Document {
    format: u32,
    links: Vec<Linked>,
}

/// All of them.
pub(super) struct Store {
    path: PathBuf,
    key: Zeroizing<[u8; 32]>,
    links: Vec<Linked>,
}

impl Store {
    /// Reads the store at `path`; where there is none, it is empty.
    ///
    /// # Errors
    /// `unsafe_file`, `links_unauthenticated` (Integrity), or a storage error.
    pub(super) fn open(path: &Path, identity: &Identity) -> Result<Self> {
        let key = identity.derive("kin/links/1");
        let mut store = Self { path: path.to_owned(), key, links: Vec::new() };
        let Some(bytes) = files::read_private(path, LIMIT)? else { return Ok(store) };
        let document = authenticate::verify(&store.key, &bytes)
            .then(|| serde_json::from_slice::<Document>(&bytes).ok())
            .flatten()
            .filter(|document| document.format == FORMAT);
        let Some(document) = document else {
            let message = format!("{} was not written by this vault's kin", path.display());
            let hint = "move it away; the links that it names are then yours to remove";
            return Err(Error::new(Class::Integrity, "links_unauthenticated", message).hint(hint));
        };
        store.links = document.links;
        Ok(store)
    }

    /// What is remembered of the same place.
    pub(super) fn at(&self, linked: &Linked) -> Option<&Linked> {
        self.links.iter().find(|other| other.is_at(linked))
    }

    /// Those of a project, or these of them.
    ///
    /// # Errors
    /// `unknown_link`.
    pub(super) fn of(&self, directory: &Path, files: Option<&[FileName]>) -> Result<Vec<Linked>> {
        let own: Vec<_> = self.links.iter().filter(|linked| linked.directory == directory).collect();
        let unknown = |file: &&FileName| !own.iter().any(|linked| linked.file == **file);
        if let Some(file) = files.into_iter().flatten().find(unknown) {
            let message = format!("kin made no link for {file} here");
            return Err(
                Error::new(Class::Usage, "unknown_link", message).hint("`kin link` says what it made")
            );
        }
        let wanted = |linked: &&&Linked| files.is_none_or(|files| files.contains(&linked.file));
        Ok(own.iter().filter(wanted).map(|linked| Linked::clone(linked)).collect())
    }

    pub(super) fn remember(&mut self, linked: Linked) -> Result<()> {
        let mut next: Vec<_> = self.links.iter().filter(|other| !other.is_at(&linked)).cloned().collect();
        next.push(linked);
        self.commit(next)
    }

    pub(super) fn forget(&mut self, linked: &Linked) -> Result<()> {
        let next = self.links.iter().filter(|other| !other.is_at(linked)).cloned().collect();
        self.commit(next)
    }

    fn commit(&mut self, next: Vec<Linked>) -> Result<()> {
        let document = Document { format: FORMAT, links: next };
        let json =
            serde_json::to_vec(&document).map_err(|error| Error::internal("write the links", error))?;
        files::write_atomic(&self.path, &authenticate::sign(&self.key, json))?;
        self.links = document.links;
        Ok(())
    }
}
