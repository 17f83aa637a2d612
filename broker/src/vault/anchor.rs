//! Is this vault the one that was written last? A mark outside its file remembers.
//!
//! The mark says which generation was acknowledged, and which bytes it had. It is written after the vault
//! and before the acknowledgement: a crash between the two leaves a vault that is newer than its mark, which
//! is accepted and marked, and never one that is older.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::StoreMark;
use crate::keys::authenticate;
use crate::sys::error::{Class, Error, Result};
use crate::sys::files::{self, Disk, Prepared};

const FORMAT: u32 = 1;
/// Bytes of the mark, at most.
const LIMIT: u64 = 4096;
/// What a person says who knows that the vault is an old one.
const OVERRIDE: &str =
    "if you put an old copy there yourself, `kin unlock --accept-rollback` takes it as it is";

/// What the mark says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    format: u32,
    generation: u64,
    /// SHA-256 of the vault's file, hexadecimal.
    digest: String,
    /// What that vault says of the trust store: it is still known where the vault is lost, or rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trust: Option<StoreMark>,
}

/// How a vault stands to its mark.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// It is the marked one.
    Marked,
    /// It was written after the mark, which has to follow.
    Ahead,
}

/// What the key is derived for that the mark is signed with.
pub(super) const PURPOSE: &str = "kin/vault-anchor/1";

/// Whether the vault of these bytes and this generation is the newest that was acknowledged.
///
/// # Errors
/// Class Integrity: `vault_rollback` for an older one, or another of the same generation;
/// `vault_unanchored` where the mark is missing or not ours.
pub(super) fn check(path: &Path, key: &[u8; 32], generation: u64, file: &[u8]) -> Result<Freshness> {
    match read(path, key)? {
        Some(mark) if generation > mark.generation => Ok(Freshness::Ahead),
        Some(mark) if generation == mark.generation && digest(file) == mark.digest => Ok(Freshness::Marked),
        Some(mark) if generation == mark.generation => Err(rollback(&format!(
            "the vault is another than the one written last, of the same generation {generation}"
        ))),
        Some(mark) => Err(rollback(&format!(
            "the vault is older than the one written last: have generation {generation}, want {}",
            mark.generation
        ))),
        // A vault just made, whose making was cut short, and which holds nothing.
        None if generation == 1 => Ok(Freshness::Ahead),
        None => {
            let message = format!("nothing says that the vault is the newest: {} is missing", path.display());
            Err(Error::new(Class::Integrity, "vault_unanchored", message).hint(OVERRIDE))
        }
    }
}

/// The generation that the mark has; 0 where there is no mark of ours.
pub(super) fn generation(path: &Path, key: &[u8; 32]) -> u64 {
    read(path, key).ok().flatten().map_or(0, |mark| mark.generation)
}

/// What the newest vault says of the trust store; `None` where there is no mark of ours that tells.
pub(super) fn store_mark(path: &Path, key: &[u8; 32]) -> Option<StoreMark> {
    read(path, key).ok().flatten().and_then(|mark| mark.trust)
}

/// A mark for this vault, ready to be put in its place.
///
/// # Errors
/// A storage error.
pub(super) fn prepare<'d>(
    disk: &'d dyn Disk,
    path: &Path,
    key: &[u8; 32],
    (generation, trust): (u64, Option<&StoreMark>),
    file: &[u8],
) -> Result<Prepared<'d>> {
    Prepared::new(disk, path, &render(key, (generation, trust), file)?)
}

/// The bytes of such a mark.
pub(super) fn render(
    key: &[u8; 32],
    (generation, trust): (u64, Option<&StoreMark>),
    file: &[u8],
) -> Result<Vec<u8>> {
    let mark = Mark { format: FORMAT, generation, digest: digest(file), trust: trust.cloned() };
    let json = serde_json::to_vec(&mark).map_err(|error| Error::internal("write the anchor", error))?;
    Ok(authenticate::sign(key, json))
}

fn read(path: &Path, key: &[u8; 32]) -> Result<Option<Mark>> {
    let Some(bytes) = files::read_private(path, LIMIT)? else { return Ok(None) };
    let signed = authenticate::verify(key, &bytes);
    let mark = signed.then(|| serde_json::from_slice::<Mark>(&bytes).ok()).flatten();
    match mark.filter(|mark| mark.format == FORMAT) {
        Some(mark) => Ok(Some(mark)),
        None => {
            let message = format!("{} was not written by this vault's owner", path.display());
            Err(Error::new(Class::Integrity, "vault_unanchored", message).hint(OVERRIDE))
        }
    }
}

fn rollback(message: &str) -> Error {
    Error::new(Class::Integrity, "vault_rollback", message).hint(OVERRIDE)
}

/// SHA-256, hexadecimal.
pub(crate) fn digest(file: &[u8]) -> String {
    format!("{:x}", Sha256::digest(file))
}
