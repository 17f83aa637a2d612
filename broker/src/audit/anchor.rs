//! How long was the record at least? A copy of its head outside of it, so that a tail that was cut shows.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::chain::{GENESIS, Tag};
use super::json::{self, Members};
use super::seals::{self, PublicKey, Sealer};
use crate::sys::error::{Class, Error, Result};
use crate::sys::files;

/// A record's number, and its MAC: it stands for all that was written up to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its number; 0 before the first record.
    pub seq: u64,
    /// Its MAC.
    pub mac: [u8; 32],
}

/// Before the first record.
pub(super) const START: Head = Head { seq: 0, mac: GENESIS };

/// The head as it was written down, signed in the epoch that was open then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Anchor {
    pub(super) head: Head,
    pub(super) epoch: u64,
    signature: [u8; 64],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'a> {
    v: u32,
    seq: u64,
    mac: &'a str,
    epoch: u64,
    sig: &'a str,
}

pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("audit.anchor")
}

/// Reads the anchor; `None` where there is none.
pub(super) fn read(dir: &Path) -> Result<Option<Anchor>> {
    let Some(bytes) = files::read_private(&path(dir), 4096)? else { return Ok(None) };
    let parsed = serde_json::from_slice::<Document<'_>>(&bytes).ok().filter(|document| document.v == 1);
    let anchor = parsed.and_then(|document| {
        let head = Head { seq: document.seq, mac: json::unhex(document.mac.as_bytes())? };
        Some(Anchor { head, epoch: document.epoch, signature: json::unhex(document.sig.as_bytes())? })
    });
    anchor.map(Some).ok_or_else(|| {
        Error::new(Class::Integrity, "audit_broken", "audit.anchor is damaged").hint(seals::RESTORE)
    })
}

/// Puts `head` in the place of the one before, in one step.
pub(super) fn write(dir: &Path, head: &Head, sealer: &Sealer) -> Result<()> {
    let mut text = b"{\"v\":1".to_vec();
    let mut members = Members(&mut text);
    members.number("seq", head.seq);
    members.hexadecimal("mac", &head.mac);
    members.number("epoch", sealer.epoch());
    members.hexadecimal("sig", &sealer.sign_head(head.seq, &head.mac));
    text.extend_from_slice(b"}\n");
    files::write_atomic(&path(dir), &text)
}

impl Anchor {
    /// Whether the key `by` signed it.
    pub(super) fn is_signed(&self, by: &PublicKey) -> bool {
        seals::head_is_signed(by, self.epoch, self.head.seq, &self.head.mac, &self.signature)
    }
}

/// The refusal of a record that ends before it ended.
pub(super) fn truncated(have: u64, want: u64) -> Error {
    let message = format!("the record was cut: have {have}, want {want}");
    Error::new(Class::Integrity, "audit_truncated", message)
        .hint("put a copy back, or move all files audit.* away to begin a new record")
}

/// The refusal of a record that goes on further behind its anchor than a broker writes.
pub(super) fn left_behind() -> Error {
    let why = "audit.anchor is older than the record's last seals: they were not made by a broker";
    Error::new(Class::Integrity, "audit_broken", why).hint(seals::RESTORE)
}

impl std::str::FromStr for Head {
    type Err = Error;

    /// Reads `SEQ:MAC`, as `kin audit verify` prints it.
    fn from_str(text: &str) -> Result<Self> {
        let head = text
            .split_once(':')
            .and_then(|(seq, mac)| Some(Self { seq: seq.parse().ok()?, mac: json::unhex(mac.as_bytes())? }));
        head.ok_or_else(|| {
            Error::new(Class::Usage, "bad_head", "a head is a record's number, a colon and its mac")
                .hint("`kin audit verify` prints it")
        })
    }
}

impl std::fmt::Display for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut mac = Vec::with_capacity(64);
        let digits: &Tag = &self.mac;
        json::hex(&mut mac, digits);
        write!(f, "{}:{}", self.seq, String::from_utf8_lossy(&mac))
    }
}
