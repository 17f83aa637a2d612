//! What may be known of the vault without a value?

use std::collections::BTreeMap;

use kin_policy::{GrantId, Reference};
use serde::{Deserialize, Serialize};

/// Seconds before a rotation is due in which it is said: two weeks.
pub const DUE_SOON: i64 = 14 * 24 * 60 * 60;

/// What may be known of a secret without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretInfo {
    /// Its name.
    pub reference: Reference,
    /// Its current version, from 1.
    pub version: u64,
    /// The size of the current value, in bytes.
    pub size: u64,
    /// When the current version was made: seconds of Unix time.
    pub created: i64,
    /// A note for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// When the current version should be replaced: seconds of Unix time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<i64>,
    /// How the broker made the current version, where it did: `hex:32`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generated: Option<String>,
    /// What it can be found by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// One version of a secret, without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// From 1.
    pub version: u64,
    /// The size of its value, in bytes.
    pub size: u64,
    /// When it was made: seconds of Unix time.
    pub created: i64,
    /// A note for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// When it should be replaced: seconds of Unix time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<i64>,
    /// The grant whose tree wrote it, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantId>,
    /// When another replaced it; `None` for the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<i64>,
    /// Whether its value can still be read: the current one's always, an old one's for a while.
    pub readable: bool,
}

/// Somebody that the vault is for beside its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientInfo {
    /// `age1…`
    pub recipient: String,
    /// Since when: seconds of Unix time.
    pub since: i64,
    /// Whether it is a recovery key that kin made.
    pub paper: bool,
}

/// A secret that should be replaced by now, or soon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DueInfo {
    /// Its name.
    pub reference: Reference,
    /// When: seconds of Unix time.
    pub due: i64,
    /// Whether that is over.
    pub overdue: bool,
}

/// What the vault remembers of the record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Remembered {
    /// The public half of its first sealing key.
    pub root: [u8; 32],
    /// The number of a record that it has had.
    pub seq: u64,
    /// That record's MAC.
    pub mac: [u8; 32],
}
