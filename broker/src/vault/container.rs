//! Which bytes are a vault?
//!
//! An age file for the identity's recipient, around one JSON object that is signed with a key derived from
//! the identity: who knows only the recipient can write an age file, but not a vault. The values in it, and
//! the key that seals them, are sealed once more, so that no buffer of age or JSON ever holds one.
//!
//! It may be for others too (a recovery key, a colleague). For each of them the root of the vault's keys is
//! sealed with a key that only they and the owner have in common, so that they can tell it from a forgery.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use age::DecryptError;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kin_policy::{GrantId, Reference};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::{MAX_VALUE, StoreMark, seal};
use crate::Plaintext;
use crate::keys::{Identity, Root, age_file, authenticate, is_recipient};
use crate::sys::error::{Class, Error, Result};

/// A vault that is for its owner alone.
const FORMAT: u32 = 1;
/// One that is for others too.
const SHARED: u32 = 2;
/// Those others, at most: the header of an age file grows with them.
pub(super) const MOST_RECIPIENTS: usize = 20;
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    recipients: Vec<Recipient>,
    /// Which trust store is the newest; missing where a kin wrote it that remembered none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) trust: Option<StoreMark>,
    pub(super) secrets: BTreeMap<Reference, Record>,
}

/// Somebody else that the vault is for.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Recipient {
    /// `age1…`
    pub(super) recipient: String,
    /// Seconds of Unix time.
    pub(super) since: i64,
    /// Whether the broker made its identity: a recovery key, on paper.
    #[serde(default)]
    pub(super) paper: bool,
    /// The root of the vault's keys, sealed for it by the owner.
    sealed: Sealed,
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
    /// The grant whose tree wrote it, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) grant: Option<GrantId>,
    /// What it can be found by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) attributes: BTreeMap<String, String>,
    /// Gone once the value was destroyed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sealed: Option<Sealed>,
}

/// Nonce, ciphertext and tag; base64 in JSON, by code that is fast: this is no secret. A copy shares its bytes.
#[derive(Clone)]
pub(super) struct Sealed(pub(super) Arc<[u8]>);

impl Serialize for Sealed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Sealed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Text<'t>(#[serde(borrow)] Cow<'t, str>);
        let Text(text) = Text::deserialize(deserializer)?;
        let bytes = BASE64_STANDARD.decode(&*text).map_err(|_| serde::de::Error::custom("not base64"))?;
        Ok(Self(bytes.into()))
    }
}

/// The keys that hang off the identity, as long as the vault is unlocked.
pub(super) struct Keys {
    owner: age::x25519::Recipient,
    root: Root,
    mac: Zeroizing<[u8; 32]>,
    anchor: Zeroizing<[u8; 32]>,
    wrap: Plaintext,
}

impl Keys {
    pub(super) fn of(identity: &Identity) -> Self {
        Self::hanging_off(identity.root(), identity.age().to_public())
    }

    fn hanging_off(root: Root, owner: age::x25519::Recipient) -> Self {
        Self {
            owner,
            mac: root.derive("kin/vault-mac/1"),
            anchor: root.derive(super::anchor::PURPOSE),
            wrap: Plaintext::copy_of(&*root.derive("kin/vault-key/1")),
            root,
        }
    }

    /// What the anchor is signed with.
    pub(super) fn anchor(&self) -> &[u8; 32] {
        &self.anchor
    }

    /// What all of them hang off.
    pub(super) fn root(&self) -> &Root {
        &self.root
    }
}

impl Content {
    /// A vault without secrets, and the key that will seal them.
    pub(super) fn new(keys: &Keys) -> Result<(Self, Plaintext)> {
        let data_key = crate::vault::generate::random(32)?;
        let sealed = seal::seal(&keys.wrap, DATA_KEY, data_key.bytes())?;
        let (data_key_sealed, secrets) = (Sealed(sealed.into()), BTreeMap::new());
        let content = Self {
            format: FORMAT,
            generation: 1,
            data_key: data_key_sealed,
            recipients: Vec::new(),
            trust: Some(StoreMark::nothing()),
            secrets,
        };
        Ok((content, data_key))
    }

    /// Who else it is for.
    pub(super) fn recipients(&self) -> &[Recipient] {
        &self.recipients
    }

    /// From now on it is for these others.
    pub(super) fn share(&mut self, recipients: Vec<Recipient>) {
        self.format = if recipients.is_empty() { FORMAT } else { SHARED };
        self.recipients = recipients;
    }

    /// The file.
    pub(super) fn encode(&self, keys: &Keys) -> Result<Vec<u8>> {
        let mut json = Vec::with_capacity(self.room());
        serde_json::to_writer(&mut json, self).map_err(|error| Error::internal("write the vault", error))?;
        let payload = Zeroizing::new(authenticate::sign(&keys.mac, json));
        let others = self.recipients.iter().map(|other| age::x25519::Recipient::from_str(&other.recipient));
        let others: Vec<_> =
            others.collect::<Result<_, _>>().map_err(|error| Error::internal("read a recipient", error))?;
        let all = others.iter().chain(std::iter::once(&keys.owner));
        age_file::encrypt_to(&payload, all.map(|of| of as &dyn age::Recipient))
            .map_err(|error| Error::internal("encrypt the vault", error))
    }

    /// Bytes that its JSON takes, or a few more: a buffer that grows is copied, and wiped, each time.
    fn room(&self) -> usize {
        let of_version = |version: &Version| {
            let sealed = version.sealed.as_ref().map_or(0, |sealed| sealed.0.len());
            256 + sealed * 4 / 3 + version.note.as_ref().map_or(0, String::len)
        };
        let of_secret = |(name, record): (&Reference, &Record)| {
            name.as_str().len() + record.versions.iter().map(of_version).sum::<usize>()
        };
        4096 + self.secrets.iter().map(of_secret).sum::<usize>()
    }

    /// Reads the owner's file. Nothing is parsed before all of it is decrypted and authenticated.
    pub(super) fn decode(
        file: &[u8],
        path: &Path,
        identity: &Identity,
        keys: &Keys,
    ) -> Result<(Self, Plaintext)> {
        Self::parse(&decrypt(file, path, identity)?, path, keys)
    }

    /// Reads a file that is for `reader` too, and was made by the owner of the recipient `owner`. Who the file is
    /// for has to be parsed before it can be authenticated; nothing else is.
    pub(super) fn decode_for(
        file: &[u8],
        path: &Path,
        reader: &Identity,
        owner: &str,
    ) -> Result<(Self, Plaintext, Keys)> {
        let payload = decrypt(file, path, reader)?;
        let keys = match reader.recipient() == owner {
            true => Keys::of(reader),
            false => sealed_for(&payload, reader, owner).ok_or_else(|| unauthenticated(path))?,
        };
        let (content, data_key) = Self::parse(&payload, path, &keys)?;
        Ok((content, data_key, keys))
    }

    fn parse(payload: &[u8], path: &Path, keys: &Keys) -> Result<(Self, Plaintext)> {
        if !authenticate::verify(&keys.mac, payload) {
            return Err(unauthenticated(path));
        }
        check_format(payload, path)?;
        let content: Self =
            serde_json::from_slice(payload).map_err(|_| corrupt(path, "is not a vault inside"))?;
        if !content.is_sound() {
            return Err(corrupt(path, "contradicts itself"));
        }
        let data_key = seal::open(&keys.wrap, DATA_KEY, &content.data_key.0)
            .filter(|key| key.len() == 32)
            .ok_or_else(|| corrupt(path, "has a damaged key"))?;
        Ok((content, data_key))
    }

    fn is_sound(&self) -> bool {
        let shared = self.format == SHARED;
        shared != self.recipients.is_empty()
            && self.recipients.len() <= MOST_RECIPIENTS
            && self.recipients.iter().all(|other| is_recipient(&other.recipient))
            && self.secrets.values().all(Record::is_sound)
    }
}

impl Recipient {
    /// Seals the root of the owner's keys for `recipient`; `None` where that is no recipient.
    pub(super) fn new(owner: &Identity, recipient: &str, since: i64, paper: bool) -> Option<Result<Self>> {
        let key = owner.agree(recipient).filter(|_| is_recipient(recipient))?;
        let place = root_place(owner.recipient(), recipient);
        let sealed = seal::seal(&key, &place, owner.root().bytes().bytes());
        let recipient = recipient.to_owned();
        Some(sealed.map(|sealed| Self { recipient, since, paper, sealed: Sealed(sealed.into()) }))
    }
}

/// The owner's keys, out of what was sealed for `reader`.
fn sealed_for(payload: &[u8], reader: &Identity, owner: &str) -> Option<Keys> {
    #[derive(Deserialize)]
    struct Shared {
        recipients: Vec<Recipient>,
    }
    let shared = serde_json::from_slice::<Shared>(payload).ok()?;
    let ours = shared.recipients.iter().find(|other| other.recipient == reader.recipient())?;
    let place = root_place(owner, reader.recipient());
    let root = seal::open(&reader.agree(owner)?, &place, &ours.sealed.0)?;
    Some(Keys::hanging_off(Root::of(root)?, age::x25519::Recipient::from_str(owner).ok()?))
}

fn decrypt(file: &[u8], path: &Path, identity: &Identity) -> Result<Zeroizing<Vec<u8>>> {
    age_file::decrypt(file, &identity.age()).map_err(|error| match error {
        DecryptError::InvalidHeader => not_age(path),
        DecryptError::NoMatchingKeys => corrupt(path, "is encrypted to another key"),
        _ => corrupt(path, "is damaged: it does not decrypt"),
    })
}

/// Whether it begins as an age file does (C2SP, age.md).
pub(super) fn is_age(file: &[u8]) -> bool {
    file.starts_with(b"age-encryption.org/v1\n")
}

pub(super) fn not_age(path: &Path) -> Error {
    corrupt(path, "is no file of a vault's")
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
    format!("kin/value/1/{version}/{reference}").into_bytes()
}

/// What the root of the keys of `owner` is sealed for.
fn root_place(owner: &str, recipient: &str) -> Vec<u8> {
    format!("kin/root/1/{owner}/{recipient}").into_bytes()
}

const RESTORE: &str = "put a copy of it back";

pub(super) fn corrupt(path: &Path, why: &str) -> Error {
    Error::new(Class::Integrity, "vault_corrupt", format!("{} {why}", path.display())).hint(RESTORE)
}

fn unauthenticated(path: &Path) -> Error {
    let message = format!("{} was not written by this vault's owner", path.display());
    Error::new(Class::Integrity, "vault_unauthenticated", message).hint(RESTORE)
}

fn check_format(payload: &[u8], path: &Path) -> Result<()> {
    #[derive(Deserialize)]
    struct Format {
        format: u64,
    }
    let found =
        serde_json::from_slice::<Format>(payload).map_err(|_| corrupt(path, "is not a vault inside"))?.format;
    if [FORMAT, SHARED].map(u64::from).contains(&found) {
        return Ok(());
    }
    let message =
        format!("{} has format {found}; this kin reads formats {FORMAT} and {SHARED}", path.display());
    Err(Error::new(Class::Integrity, "vault_format", message).hint("use the kin that wrote it"))
}
