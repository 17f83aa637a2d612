//! Which key seals the record now, and how does it give way to the next, so that who reads today's key
//! cannot sign for yesterday?
//!
//! Each seal is a record that the current key signs, and that names the next one. Then the current key is
//! destroyed. docs/audit-format.md has the bytes, and the order of the steps.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use chacha20poly1305::aead::OsRng;
use chacha20poly1305::aead::rand_core::RngCore;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use super::chain::Tag;
use super::json::{self, Members};
use crate::sys::error::{Class, Error, Result};
use crate::sys::files;

/// The public half of a sealing key.
pub(super) type PublicKey = [u8; 32];

/// The event that a seal is.
pub(super) const NAME: &str = "audit.seal";

const SEAL: &[u8] = b"kin/audit/seal/1";
const TIMELY_SEAL: &[u8] = b"kin/audit/seal/2";
const ANCHOR: &[u8] = b"kin/audit/anchor/1";
/// Epoch, then the key.
const LENGTH: usize = 8 + 32;

/// What a seal says, once it has been read from its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    /// The number of the key that signed it, from 0.
    pub(super) epoch: u64,
    /// The public half of the key that follows.
    pub(super) next: PublicKey,
    /// The first record that it seals; `None` of one whose time was not kept to.
    pub(super) first: Option<u64>,
    pub(super) signature: [u8; 64],
}

/// Holds the key of the epoch that is open.
pub(super) struct Sealer {
    dir: PathBuf,
    epoch: u64,
    key: SigningKey,
    /// The seal that ended the epoch before stands in the log, but that epoch's key is not destroyed yet.
    unfinished: bool,
}

/// The key for the next epoch: it is on the disk already, beside the current one.
pub(super) struct Next(SigningKey);

pub(super) fn root_path(dir: &Path) -> PathBuf {
    dir.join("audit.root")
}

pub(super) fn key_path(dir: &Path) -> PathBuf {
    dir.join("audit.seal")
}

fn next_path(dir: &Path) -> PathBuf {
    dir.join("audit.seal.next")
}

impl Sealer {
    /// For a log without records: the key of epoch 0, and its public half beside it.
    pub(super) fn begin(dir: &Path) -> Result<Self> {
        let key = match read_key(&key_path(dir)) {
            Ok(Some((0, key))) => key,
            _ => random_key()?,
        };
        // Also where it was there: the start that made it may have failed at its sync.
        files::write_atomic(&key_path(dir), &*encoded(0, &key))?;
        let mut root = Vec::with_capacity(65);
        json::hex(&mut root, key.verifying_key().as_bytes());
        root.push(b'\n');
        files::write_atomic(&root_path(dir), &root)?;
        Ok(Self { dir: dir.to_owned(), epoch: 0, key, unfinished: false })
    }

    /// For a log whose last seal named `expected`, or that has none and begins with it.
    pub(super) fn resume(dir: &Path, epoch: u64, expected: &PublicKey) -> Result<Self> {
        let is_it =
            |found: &(u64, SigningKey)| found.0 == epoch && found.1.verifying_key().as_bytes() == expected;
        if let Some((_, key)) = read_key(&key_path(dir))?.filter(is_it) {
            return Ok(Self { dir: dir.to_owned(), epoch, key, unfinished: false });
        }
        // A crash between a seal and the end of its key leaves both keys.
        match read_key(&next_path(dir))?.filter(is_it) {
            Some((_, key)) => {
                let mut sealer = Self { dir: dir.to_owned(), epoch, key, unfinished: true };
                sealer.finish()?;
                Ok(sealer)
            }
            None => Err(foreign_key()),
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Draws the next key and puts it on the disk, before any record names it.
    pub(super) fn prepare(&self) -> Result<Next> {
        let key = random_key()?;
        files::write_atomic(&next_path(&self.dir), &*encoded(self.epoch + 1, &key))?;
        Ok(Next(key))
    }

    /// The seal that ends this epoch in record `seq`, which follows one with the MAC `previous`; `first` is the first
    /// record that it seals.
    pub(super) fn seal(&self, seq: u64, previous: &Tag, next: &Next, first: u64) -> Seal {
        let next = next.0.verifying_key().to_bytes();
        let mut seal = Seal { epoch: self.epoch, next, first: Some(first), signature: [0; 64] };
        seal.signature = self.key.sign(&seal.signed(seq, previous)).to_bytes();
        seal
    }

    /// The seal stands in the log: from here on the next key signs.
    pub(super) fn advance(&mut self, next: Next) {
        (self.key, self.epoch, self.unfinished) = (next.0, self.epoch + 1, true);
    }

    /// Destroys the key of the epoch before, once its seal is on the disk. Where this fails it is to be
    /// tried again before the next seal.
    pub(super) fn finish(&mut self) -> Result<()> {
        if !self.unfinished {
            return Ok(());
        }
        let path = key_path(&self.dir);
        let failed = |error: std::io::Error| Error::storage("replace the audit log's sealing key", &error);
        let old = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(&path);
        match std::fs::rename(next_path(&self.dir), &path) {
            // An earlier try came so far, and the sync of the directory failed: it is not tried again as it is.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                files::write_atomic(&path, &*encoded(self.epoch, &self.key))?;
            }
            renamed => renamed.map_err(failed)?,
        }
        std::fs::File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
        // The name is gone already; this is for whoever reads the raw disk.
        let _ = old.and_then(|mut old| old.write_all(&[0; LENGTH]).and_then(|()| old.sync_all()));
        self.unfinished = false;
        Ok(())
    }

    /// The signature of a head of the log, made in the open epoch.
    pub(super) fn sign_head(&self, seq: u64, mac: &Tag) -> [u8; 64] {
        self.key.sign(&anchored(self.epoch, seq, mac)).to_bytes()
    }
}

impl Seal {
    /// Its fields, as they stand in its record.
    pub(super) fn write(&self, out: &mut Members<'_>) {
        out.number("epoch", self.epoch);
        out.hexadecimal("next", &self.next);
        if let Some(first) = self.first {
            out.number("first", first);
        }
        out.hexadecimal("sig", &self.signature);
    }

    /// Reads them from a record's event and what follows it; `None` where that is no seal.
    pub(super) fn read(event: &[u8]) -> Option<Self> {
        let rest = event.strip_prefix(NAME.as_bytes())?.strip_prefix(b"\",\"epoch\":")?;
        let (epoch, rest) = rest.split_at(memchr::memchr(b',', rest)?);
        let epoch = std::str::from_utf8(epoch).ok()?.parse().ok()?;
        let (next, rest) = rest.strip_prefix(b",\"next\":\"")?.split_at_checked(64)?;
        let (first, rest) = match rest.strip_prefix(b"\",\"first\":") {
            None => (None, rest.strip_prefix(b"\"")?),
            Some(rest) => {
                let (first, rest) = rest.split_at(memchr::memchr(b',', rest)?);
                (Some(std::str::from_utf8(first).ok()?.parse().ok()?), rest)
            }
        };
        let (signature, _) = rest.strip_prefix(b",\"sig\":\"")?.split_at_checked(128)?;
        Some(Self { epoch, next: json::unhex(next)?, first, signature: json::unhex(signature)? })
    }

    /// Whether the key `by` made it for record `seq` behind `previous`.
    pub(super) fn is_signed(&self, by: &PublicKey, seq: u64, previous: &Tag) -> bool {
        is_signed(by, &self.signed(seq, previous), &self.signature)
    }

    /// What the signature is of.
    fn signed(&self, seq: u64, previous: &Tag) -> Vec<u8> {
        let (purpose, first) = match self.first {
            None => (SEAL, [].to_vec()),
            Some(first) => (TIMELY_SEAL, first.to_le_bytes().to_vec()),
        };
        [purpose, &self.epoch.to_le_bytes(), &seq.to_le_bytes(), previous, &self.next, &first].concat()
    }
}

/// Whether the key `by` signed this head of the log in `epoch`.
pub(super) fn head_is_signed(by: &PublicKey, epoch: u64, seq: u64, mac: &Tag, signature: &[u8; 64]) -> bool {
    is_signed(by, &anchored(epoch, seq, mac), signature)
}

/// The public half of the first sealing key.
pub(super) fn read_root(dir: &Path) -> Result<PublicKey> {
    let path = root_path(dir);
    let text = files::read_private(&path, 4096)?.ok_or_else(|| missing("audit.root"))?;
    json::unhex(text.trim_ascii_end())
        .ok_or_else(|| Error::new(Class::Integrity, "audit_broken", "audit.root is damaged").hint(RESTORE))
}

/// A log without one of its companions proves nothing.
pub(super) fn missing(name: &str) -> Error {
    Error::new(Class::Integrity, "audit_broken", format!("{name} is missing, but there is a log"))
        .hint(RESTORE)
}

pub(super) const RESTORE: &str =
    "restore it from a backup, or move all files audit.* away to begin a new record";

/// The number of the key on the disk; `None` where there is none.
pub(super) fn epoch_on_disk(dir: &Path) -> Result<Option<u64>> {
    Ok(read_key(&key_path(dir))?.map(|(epoch, _)| epoch))
}

fn foreign_key() -> Error {
    let why = "audit.seal is not the key that the record's last seal names";
    Error::new(Class::Integrity, "audit_broken", why).hint(RESTORE)
}

fn read_key(path: &Path) -> Result<Option<(u64, SigningKey)>> {
    let Some(bytes) = files::read_private(path, 4096)? else { return Ok(None) };
    let whole = bytes.len() == LENGTH;
    let parts = bytes.split_first_chunk().filter(|_| whole);
    Ok(parts.and_then(|(epoch, key)| {
        let key: &[u8; 32] = key.try_into().ok()?;
        Some((u64::from_le_bytes(*epoch), SigningKey::from_bytes(key)))
    }))
}

fn encoded(epoch: u64, key: &SigningKey) -> Zeroizing<[u8; LENGTH]> {
    let mut bytes = Zeroizing::new([0; LENGTH]);
    bytes[..8].copy_from_slice(&epoch.to_le_bytes());
    bytes[8..].copy_from_slice(key.as_bytes());
    bytes
}

fn random_key() -> Result<SigningKey> {
    let mut bytes = Zeroizing::new([0; 32]);
    OsRng.try_fill_bytes(&mut *bytes).map_err(|error| Error::internal("draw random bytes", error))?;
    Ok(SigningKey::from_bytes(&bytes))
}

fn anchored(epoch: u64, seq: u64, mac: &Tag) -> Vec<u8> {
    [ANCHOR, &epoch.to_le_bytes(), &seq.to_le_bytes(), mac].concat()
}

fn is_signed(by: &PublicKey, message: &[u8], signature: &[u8; 64]) -> bool {
    let Ok(by) = VerifyingKey::from_bytes(by) else { return false };
    by.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
}
