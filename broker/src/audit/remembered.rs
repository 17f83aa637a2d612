//! What does the vault remember of the record? Its beginning and a head, under a MAC that only the vault's
//! identity can make.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::anchor::Head;
use super::log::{AuditLog, PATIENCE};
use super::record::Event;
use super::seals;
use super::{NotLogged, json};
use crate::error::{Class, Error, Result};
use crate::files;
use crate::keys::{Identity, Root, authenticate};

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
    /// The record is another one than the vault remembers: what it remembers is kept.
    refused: bool,
}

#[derive(Serialize)]
struct Document {
    v: u32,
    root: String,
    seq: u64,
    head: String,
}

/// Where that is.
pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join("audit.vault")
}

impl AuditLog {
    /// The vault was opened: from now on it remembers the record. Where it remembers another one, that is
    /// recorded, and what it remembers stays.
    ///
    /// # Errors
    /// Storage errors, and [`NotLogged`].
    pub fn remember(&self, identity: &Identity) -> Result<()> {
        let (key, root) = (identity.derive(PURPOSE), seals::read_root(&self.dir)?);
        let head = self.position()?;
        let found = read(&self.dir, &key)?;
        let refused = match &found {
            Found::Nothing => false,
            Found::Forged => true,
            Found::This(there) => there.root != root || there.head.seq > head.seq,
        };
        if refused {
            let reason = if matches!(found, Found::Forged) { "unauthenticated" } else { "another_record" };
            self.append(&Event::AuditReject { reason })?;
        } else if matches!(found, Found::Nothing) {
            let mut text = Vec::with_capacity(64);
            json::hex(&mut text, &root);
            self.append(&Event::AuditAnchor { root: &String::from_utf8_lossy(&text) })?;
        }
        let memory = Memory { key, root, refused };
        let head = self.position()?;
        self.sync()?;
        memory.write(&self.dir, &head)?;
        self.keeper.try_lock_for(PATIENCE).ok_or(NotLogged::Stalled)?.memory = Some(memory);
        Ok(())
    }

    /// The vault is about to be locked: it remembers the record as it is now.
    pub fn forget(&self) {
        let Some(mut keeper) = self.keeper.try_lock_for(PATIENCE) else { return };
        let Some(memory) = keeper.memory.take().filter(|_| self.is_in_place()) else { return };
        // Where this fails, what the vault remembers is older, and so says less, and nothing wrong.
        let Ok(head) = self.position() else { return };
        let _ = self.sync().and_then(|()| memory.write(&self.dir, &head));
    }

    /// What the vault remembers; `None` while it is locked.
    ///
    /// # Errors
    /// `audit_broken` where it remembers another record, or somebody else wrote down what it should
    /// remember.
    pub fn remembered(&self) -> Result<Option<Remembered>> {
        let keeper = self.keeper.try_lock_for(PATIENCE).ok_or(NotLogged::Stalled)?;
        let Some(memory) = &keeper.memory else { return Ok(None) };
        match read(&self.dir, &memory.key)? {
            Found::This(remembered) => Ok(Some(remembered)),
            Found::Nothing => Err(seals::missing("audit.vault")),
            Found::Forged => {
                let why = "audit.vault was not written by this vault's owner";
                Err(Error::new(Class::Integrity, "audit_broken", why).hint(seals::RESTORE))
            }
        }
    }
}

impl Memory {
    /// Remembers `head`, which must be on the disk: after a power cut it would be ahead of the record.
    pub(super) fn write(&self, dir: &Path, head: &Head) -> Result<()> {
        if self.refused {
            return Ok(());
        }
        let mut root = Vec::with_capacity(64);
        json::hex(&mut root, &self.root);
        let root = String::from_utf8_lossy(&root).into_owned();
        let document = Document { v: 1, root, seq: head.seq, head: head.to_string() };
        let json =
            serde_json::to_vec(&document).map_err(|error| Error::internal("write audit.vault", error))?;
        files::write_atomic(&path(dir), &authenticate::sign(&self.key, json))
    }
}

/// What the vault remembers, signed with a key of `new` instead of `old`; `None` where it remembers nothing, or
/// somebody else wrote that down: then it stays as it is.
///
/// # Errors
/// `unsafe_file`, or a storage error.
pub(crate) fn signed_again(dir: &Path, old: &Root, new: &Root) -> Result<Option<Vec<u8>>> {
    let there = files::read_private(&path(dir), 4096)?;
    let (old, new) = (old.derive(PURPOSE), new.derive(PURPOSE));
    Ok(there.and_then(|bytes| authenticate::sign_again(&old, &new, &bytes)))
}

enum Found {
    Nothing,
    Forged,
    This(Remembered),
}

fn read(dir: &Path, key: &[u8; 32]) -> Result<Found> {
    let Some(bytes) = files::read_private(&path(dir), 4096)? else { return Ok(Found::Nothing) };
    if !authenticate::verify(key, &bytes) {
        return Ok(Found::Forged);
    }
    #[derive(Deserialize)]
    struct Signed {
        root: String,
        head: String,
    }
    let parsed = serde_json::from_slice::<Signed>(&bytes).ok();
    let remembered = parsed.and_then(|signed| {
        Some(Remembered { root: json::unhex(signed.root.as_bytes())?, head: signed.head.parse().ok()? })
    });
    Ok(remembered.map_or(Found::Forged, Found::This))
}
