//! What does a person ask for, and what is the answer?

use std::collections::BTreeMap;
use std::path::PathBuf;

use kin_policy::Reference;
use serde::{Deserialize, Serialize};

use crate::keys::KeyMethod;
use crate::sys::error::{Class, Error};
use crate::sys::path_bytes;

/// A new version of a secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewVersion {
    /// The secret's name.
    pub reference: Reference,
    /// A specification for a value that the broker makes: `hex:32`, `ssh-ed25519`.
    #[serde(default)]
    pub generate: Option<String>,
    /// A note for people.
    #[serde(default)]
    pub note: Option<String>,
    /// After how many seconds it should be replaced.
    #[serde(default)]
    pub expires_s: Option<u64>,
    /// The version of the same secret whose value it gets.
    #[serde(default)]
    pub from_version: Option<u64>,
    /// What it can be found by.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// It replaces one that is there, and keeps what is not given here: the note, the time until the next
    /// rotation, the attributes, and, without a value, how the broker made it.
    #[serde(default)]
    pub rotate: bool,
}

/// How the vault is to be unlocked.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Unlock {
    /// Also one that is older than the newest: the person put it there.
    #[serde(default)]
    pub accept_rollback: bool,
    /// The value is the identity itself, not a passphrase.
    #[serde(default)]
    pub identity: bool,
    /// The kernel remembers the identity for this login session.
    #[serde(default)]
    pub remember: bool,
}

/// A vault, or the backup of one, that is to be had back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recovery {
    /// Where the new identity is kept.
    pub method: KeyMethod,
    /// The backup; `None` is the vault that is there.
    pub from: Option<PathBuf>,
    /// The recipient of the owner who wrote it; `None` is the one that is pinned here.
    pub owner: Option<String>,
    /// Also one that is older than the newest.
    pub accept_rollback: bool,
    /// A person confirmed; without, it is only looked at.
    pub confirmed: bool,
}

/// A vault has another identity, or would have.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rekeyed {
    /// The age recipient of the new one; `None` where it was only looked at.
    pub recipient: Option<String>,
    /// Where it is kept.
    pub key: KeyMethod,
    /// How many secrets the vault has.
    pub secrets: usize,
    /// Its generation.
    pub generation: u64,
}

/// A vault was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VaultMade {
    /// The age recipient that its identity belongs to.
    pub recipient: String,
    /// The vault's file.
    #[serde(with = "path_bytes")]
    pub vault: PathBuf,
}

/// A backup was made, and read back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackupMade {
    /// The vault's copy.
    #[serde(with = "path_bytes")]
    pub path: PathBuf,
    /// The copy of the identity that a passphrase opens, where there is one.
    pub identity: Option<PathBuf>,
    /// How many secrets are in it.
    pub secrets: usize,
    /// Its generation.
    pub generation: u64,
}

/// What is in a backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Restored {
    /// How many secrets are in it.
    pub secrets: usize,
    /// Its generation.
    pub generation: u64,
    /// How many secrets the vault had that it replaces, where that was open.
    pub replaces: Option<usize>,
}

/// The refusal of what nobody agreed to yet.
pub(crate) fn confirmation(verb: &str) -> Error {
    Error::new(Class::Denied, "confirmation_needed", format!("`kin {verb}` wants a person to confirm it"))
        .hint("answer on a terminal, or say --yes")
}
