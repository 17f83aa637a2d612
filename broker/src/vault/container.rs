//! Which bytes are a vault?
//!
//! An age file for the identity's recipient, around one JSON object that is signed with a key derived from
//! the identity: who knows only the recipient can write an age file, but not a vault. The values in it, and
//! the key that seals them, are sealed once more, so that no buffer of age or JSON ever holds one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use base64ct::{Base64, Encoding};
use kin_policy::Reference;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::{MAX_VALUE, seal};
use crate::Plaintext;
use crate::error::{Class, Error, Result};
use crate::keys::{Identity, age_file, authenticate};

/// The first and only format so far.
const FORMAT: u32 = 1;
/// Bytes of a vault's file, at most.
pub(super) const LIMIT: u64 = 64 << 20;
/// The place that the data key is sealed for.
const DATA_KEY: &[u8] = b"kin/data-key/1";

/// The payload.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Content {
    format: u32,
    /// Grows by one with each write.
    pub(super) generation: u64,
    data_key: Sealed,
    pub(super) secrets: BTreeMap<Reference, Record>,
}

/// One secret.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Record {
    /// Oldest first, never empty; the last is current.
    pub(super) versions: Vec<Version>,
}

/// One version of a secret.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Version {
    /// From 1.
    pub(super) version: u64,
    /// Seconds of Unix time.
    pub(super) created: i64,
    /// Bytes of the value.
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<String>,
    /// When it should be replaced: seconds of Unix time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) due: Option<i64>,
    /// How the broker made it, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) generated: Option<String>,
    /// What it can be found by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) attributes: BTreeMap<String, String>,
    /// Gone once the value was destroyed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sealed: Option<Sealed>,
}

/// Nonce, ciphertext and tag; base64 in JSON. A copy shares its bytes.
#[derive(Clone)]
pub(super) struct Sealed(pub(super) Arc<[u8]>);

impl Serialize for Sealed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Base64::encode_string(&self.0))
    }
}

impl<'de> Deserialize<'de> for Sealed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = Base64::decode_vec(&text).map_err(|_| serde::de::Error::custom("not base64"))?;
        Ok(Self(bytes.into()))
    }
}

/// The keys that hang off the identity, as long as the vault is unlocked.
pub(super) struct Keys {
    recipient: age::x25519::Recipient,
    mac: Zeroizing<[u8; 32]>,
    anchor: Zeroizing<[u8; 32]>,
    wrap: Plaintext,
}

impl Keys {
    pub(super) fn of(identity: &Identity) -> Self {
        Self {
            recipient: identity.age().to_public(),
            mac: identity.derive("kin/vault-mac/1"),
            anchor: super::anchor::key(identity),
            wrap: Plaintext::copy_of(&*identity.derive("kin/vault-key/1")),
        }
    }

    /// What the anchor is signed with.
    pub(super) fn anchor(&self) -> &[u8; 32] {
        &self.anchor
    }
}

impl Content {
    /// A vault without secrets, and the key that will seal them.
    pub(super) fn new(keys: &Keys) -> Result<(Self, Plaintext)> {
        let data_key = crate::generate::random(32)?;
        let sealed = seal::seal(&keys.wrap, DATA_KEY, data_key.bytes())?;
        let content =
            Self { format: FORMAT, generation: 1, data_key: Sealed(sealed.into()), secrets: BTreeMap::new() };
        Ok((content, data_key))
    }

    /// The file.
    pub(super) fn encode(&self, keys: &Keys) -> Result<Vec<u8>> {
        let json = serde_json::to_vec(self).map_err(|error| Error::internal("write the vault", error))?;
        let payload = Zeroizing::new(authenticate::sign(&keys.mac, json));
        age_file::encrypt(&payload, &keys.recipient)
            .map_err(|error| Error::internal("encrypt the vault", error))
    }

    /// Reads the file. Nothing is parsed before all of it is decrypted and authenticated.
    pub(super) fn decode(
        file: &[u8],
        path: &Path,
        identity: &Identity,
        keys: &Keys,
    ) -> Result<(Self, Plaintext)> {
        let payload =
            age_file::decrypt(file, &identity.age()).map_err(|_| corrupt(path, "does not decrypt"))?;
        if !authenticate::verify(&keys.mac, &payload) {
            let message = format!("{} was not written by this vault's owner", path.display());
            return Err(Error::new(Class::Integrity, "vault_unauthenticated", message).hint(RESTORE));
        }
        check_format(&payload, path)?;
        let content: Self =
            serde_json::from_slice(&payload).map_err(|_| corrupt(path, "is not a vault inside"))?;
        if !content.secrets.values().all(Record::is_sound) {
            return Err(corrupt(path, "contradicts itself"));
        }
        let data_key = seal::open(&keys.wrap, DATA_KEY, &content.data_key.0)
            .filter(|key| key.len() == 32)
            .ok_or_else(|| corrupt(path, "has a damaged key"))?;
        Ok((content, data_key))
    }
}

impl Record {
    fn is_sound(&self) -> bool {
        let ascending = self.versions.is_sorted_by(|older, newer| older.version < newer.version);
        let sized = |version: &Version| {
            let sealed = version.size.saturating_add(seal::OVERHEAD as u64);
            version.size <= MAX_VALUE as u64
                && version.sealed.as_ref().is_none_or(|value| value.0.len() as u64 == sealed)
        };
        let current = self.versions.last().is_some_and(|current| current.sealed.is_some());
        current && ascending && self.versions.iter().all(sized)
    }
}

/// What a version of a secret is sealed for. The reference comes last, so no two places look alike.
pub(super) fn place(reference: &Reference, version: u64) -> Vec<u8> {
    format!("kin/value/{FORMAT}/{version}/{reference}").into_bytes()
}

const RESTORE: &str = "put a copy of it back";

pub(super) fn corrupt(path: &Path, why: &str) -> Error {
    Error::new(Class::Integrity, "vault_corrupt", format!("{} {why}", path.display())).hint(RESTORE)
}

fn check_format(payload: &[u8], path: &Path) -> Result<()> {
    #[derive(Deserialize)]
    struct Format {
        format: u64,
    }
    let found =
        serde_json::from_slice::<Format>(payload).map_err(|_| corrupt(path, "is not a vault inside"))?.format;
    if found == u64::from(FORMAT) {
        return Ok(());
    }
    let message = format!("{} has format {found}; this kin reads format {FORMAT}", path.display());
    Err(Error::new(Class::Integrity, "vault_format", message).hint("use the kin that wrote it"))
}
