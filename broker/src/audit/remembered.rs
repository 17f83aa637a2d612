//! What does the vault remember of the record? Its beginning and a head, under a MAC that only the vault's
//! identity can make.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::anchor::Head;
use super::log::{AuditLog, PATIENCE};
use super::record::Event;
use super::seals;
use super::{NotLogged, json, tail};
use crate::keys::{Identity, Root, authenticate};
use crate::sys::clock;
use crate::sys::error::{Class, Error, Result};
use crate::sys::files;

/// What the vault's key was derived for.
const PURPOSE: &str = "kin/audit/1";

/// What was remembered, and is authentic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The public half of the first sealing key.
    pub root: [u8; 32],
    /// A head that the record has had.
    pub head: Head,
}

/// The vault's memory, while the vault is open.
pub(super) struct Memory {
    key: Zeroizing<[u8; 32]>,
    root: [u8; 32],
    path: PathBuf,
    /// Why the record is not the one that the vault remembers: what it remembers is kept then.
    refused: Option<&'static str>,
    /// The head that was written down last.
    head: Option<Head>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    v: u32,
    root: String,
    head: String,
    /// When it was written: seconds of Unix time. `None` where the file system's clock is another.
    written: Option<i64>,
}

const FORMAT: u32 = 2;
/// How far from the time that it names a file's last change may be, in seconds. Nobody but the kernel sets that one
/// (st_ctime, inode(7)), so a copy that is put back later shows.
const FRESH: i64 = 30;

const UNAUTHENTICATED: &str = "unauthenticated";
const ANOTHER: &str = "another_record";
const PUT_BACK: &str = "put_back";
const FORGOTTEN: &str = "forgotten";

impl AuditLog {
    /// The vault was opened: from now on it remembers the record, in the file `path`. Where it remembers another one,
    /// or something else than the record has, that is recorded, and what it remembers stays.
    ///
    /// # Errors
    /// Storage errors, and [`NotLogged`].
    pub fn remember(&self, identity: &Identity, path: &Path) -> Result<()> {
        let (key, root) = (identity.derive(PURPOSE), seals::read_root(&self.dir)?);
        let mut memory = Memory { key, root, path: path.to_owned(), refused: None, head: None };
        let found = read(path, &memory.key)?;
        memory.refused = self.refused(&found, &root)?;
        if let Some(reason) = memory.refused {
            self.append(&Event::AuditReject { reason })?;
        } else if matches!(found, Found::Nothing) {
            // First, so that a record which says that it is remembered always is.
            memory.advance(&self.position()?)?;
            self.append_anchor(&root)?;
        }
        self.sync()?;
        memory.advance(&self.position()?)?;
        self.keeper.try_lock_for(PATIENCE).ok_or(NotLogged::Stalled)?.memory = Some(memory);
        Ok(())
    }

    /// Why this record is not the one that was remembered, where it is not.
    fn refused(&self, found: &Found, root: &[u8; 32]) -> Result<Option<&'static str>> {
        Ok(match found {
            Found::Forged => Some(UNAUTHENTICATED),
            Found::Nothing => tail::was_remembered(&self.dir)?.then_some(FORGOTTEN),
            Found::This { there, .. } if there.root != *root => Some(ANOTHER),
            Found::This { there, .. } if !tail::has(&self.dir, &there.head)? => Some(ANOTHER),
            Found::This { fresh: false, .. } => Some(PUT_BACK),
            Found::This { .. } => None,
        })
    }

    fn append_anchor(&self, root: &[u8; 32]) -> Result<u64, NotLogged> {
        let mut text = Vec::with_capacity(64);
        json::hex(&mut text, root);
        self.append(&Event::AuditAnchor { root: &String::from_utf8_lossy(&text) })
    }

    /// Whether the record is not the one that the vault remembers.
    pub(crate) fn is_refused(&self) -> bool {
        let keeper = self.keeper.try_lock_for(PATIENCE);
        keeper.is_some_and(|keeper| keeper.memory.as_ref().is_some_and(|memory| memory.refused.is_some()))
    }

    /// A person says that the record is to be remembered as it is from now on, whatever was remembered before.
    ///
    /// # Errors
    /// Storage errors, and [`NotLogged`].
    pub(crate) fn accept(&self) -> Result<()> {
        self.append_anchor(&seals::read_root(&self.dir)?)?;
        self.sync()?;
        let head = self.position()?;
        let mut keeper = self.keeper.try_lock_for(PATIENCE).ok_or(NotLogged::Stalled)?;
        let Some(memory) = &mut keeper.memory else { return Ok(()) };
        memory.refused = None;
        memory.advance(&head)
    }

    /// The vault is about to be locked: it remembers the record as it is now.
    pub fn forget(&self) {
        let Some(mut keeper) = self.keeper.try_lock_for(PATIENCE) else { return };
        let Some(mut memory) = keeper.memory.take().filter(|_| self.is_in_place()) else { return };
        // Where this fails, what the vault remembers is older, and so says less, and nothing wrong.
        let Ok(head) = self.position() else { return };
        let _ = self.sync().and_then(|()| memory.advance(&head));
    }

    /// What the vault remembers; `None` while it is locked.
    ///
    /// # Errors
    /// `audit_broken` where it remembers another record, or somebody else wrote down what it should
    /// remember, put an older copy of that back, or took it away.
    pub fn remembered(&self) -> Result<Option<Remembered>> {
        let keeper = self.keeper.try_lock_for(PATIENCE).ok_or(NotLogged::Stalled)?;
        let Some(memory) = &keeper.memory else { return Ok(None) };
        let name = memory.path.display();
        let broken = |why: String| Err(Error::new(Class::Integrity, "audit_broken", why).hint(ACCEPT));
        match (read(&memory.path, &memory.key)?, memory.refused) {
            (Found::Nothing, _) | (_, Some(FORGOTTEN)) => {
                broken(format!("{name} is missing: the vault cannot say which record it knows"))
            }
            (Found::Forged, _) => broken(format!("{name} was not written by this vault's owner")),
            (_, Some(PUT_BACK)) => {
                broken(format!("{name} is an older copy that was put back: the record may be one too"))
            }
            (Found::This { there, .. }, _) => Ok(Some(there)),
        }
    }
}

/// The remedy where a person knows why.
const ACCEPT: &str = "put copies back, or, if you changed that yourself, `kin unlock --accept-rollback` takes the record as it is";

impl Memory {
    /// Remembers `head`, which must be on the disk: after a power cut it would be ahead of the record.
    pub(super) fn advance(&mut self, head: &Head) -> Result<()> {
        if self.refused.is_some() || self.head == Some(*head) {
            return Ok(());
        }
        // A disk may be slow once; a file system with a clock of its own is so each time.
        for written in [Some(clock::unix_seconds()), Some(clock::unix_seconds()), None] {
            self.write(head, written)?;
            if written.is_none_or(|written| is_fresh(&self.path, written, FRESH / 2)) {
                break;
            }
        }
        self.head = Some(*head);
        Ok(())
    }

    fn write(&self, head: &Head, written: Option<i64>) -> Result<()> {
        let mut root = Vec::with_capacity(64);
        json::hex(&mut root, &self.root);
        let root = String::from_utf8_lossy(&root).into_owned();
        let document = Document { v: FORMAT, root, head: head.to_string(), written };
        files::write_atomic(&self.path, &document.signed(&self.key)?)
    }
}

impl Document {
    fn signed(&self, key: &[u8; 32]) -> Result<Vec<u8>> {
        let json = serde_json::to_vec(self)
            .map_err(|error| Error::internal("write down the record's head", error))?;
        Ok(authenticate::sign(key, json))
    }
}

/// What the vault remembers, signed with a key of `new` instead of `old`; `None` where it remembers nothing, or
/// somebody else wrote that down, or put it back: then it stays as it is.
///
/// # Errors
/// `unsafe_file`, or a storage error.
pub(crate) fn signed_again(path: &Path, old: &Root, new: &Root) -> Result<Option<Vec<u8>>> {
    let (old, new) = (old.derive(PURPOSE), new.derive(PURPOSE));
    let Found::This { document, fresh: true, .. } = read(path, &old)? else { return Ok(None) };
    let written = document.written.map(|_| clock::unix_seconds());
    Document { written, ..document }.signed(&new).map(Some)
}

/// Whether the file was last changed about then.
fn is_fresh(path: &Path, written: i64, within: i64) -> bool {
    let changed = std::fs::symlink_metadata(path).map(|meta| meta.ctime());
    changed.is_ok_and(|changed| changed.abs_diff(written) <= within.unsigned_abs())
}

enum Found {
    Nothing,
    Forged,
    This { there: Remembered, document: Document, fresh: bool },
}

fn read(path: &Path, key: &[u8; 32]) -> Result<Found> {
    let Some(bytes) = files::read_private(path, 4096)? else { return Ok(Found::Nothing) };
    if !authenticate::verify(key, &bytes) {
        return Ok(Found::Forged);
    }
    let document = serde_json::from_slice::<Document>(&bytes).ok().filter(|document| document.v == FORMAT);
    let found = document.and_then(|document| {
        let root = json::unhex(document.root.as_bytes())?;
        let there = Remembered { root, head: document.head.parse().ok()? };
        let fresh = document.written.is_none_or(|written| is_fresh(path, written, FRESH));
        Some(Found::This { there, document, fresh })
    });
    Ok(found.unwrap_or(Found::Forged))
}

#[cfg(test)]
#[path = "remembered_tests.rs"]
mod tests;
