//! What opens the vault? Where its identity is kept, and whether what came from there is the right one.

pub(crate) mod age_file;
pub(crate) mod authenticate;
pub mod given;
mod identity;
mod key_file;
pub mod keyring;
pub mod keyring_agent;
mod method;
mod passphrase;
pub mod session;

pub(crate) use identity::Root;
pub use identity::{Identity, is_recipient};
pub use method::KeyMethod;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Plaintext;
use crate::sys::error::{Class, Error, Result};
use crate::sys::files::{self, Disk, RealDisk};
use crate::sys::paths::Directories;
use keyring::Agent;

const FORMAT: u32 = 1;
/// Bytes of `key.json`, and of an identity under a passphrase.
const LIMIT: u64 = 64 << 10;

/// A vault and its key that are about to follow others: what `key.json.next` says.
#[derive(Serialize, Deserialize)]
pub(crate) struct Next {
    /// What `key.json` is to say.
    config: Config,
    /// SHA-256 of the vault's file, hexadecimal, once it is the new one.
    pub(crate) vault: String,
}

impl Next {
    /// Reads it; `None` where nothing is about to follow.
    ///
    /// # Errors
    /// `key_config_invalid`, `unsafe_file`, or a storage error.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>> {
        let Some(bytes) = files::read_private(path, LIMIT)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|_| invalid_config(path))
    }

    /// Its bytes.
    pub(crate) fn render(successor: &Successor, vault: String) -> Result<Vec<u8>> {
        let next = Self { config: successor.config(), vault };
        serde_json::to_vec(&next).map_err(|error| Error::internal("write key.json.next", error))
    }

    /// What `key.json` is to say, as bytes.
    pub(crate) fn config(&self) -> Result<Vec<u8>> {
        self.config.render()
    }
}

/// What `key.json` says. The recipient is pinned: no other identity is accepted, wherever it comes from.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    format: u32,
    method: KeyMethod,
    recipient: String,
}

impl Config {
    fn render(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| Error::internal("write key.json", error))
    }

    fn pinned(&self, identity: Identity) -> Result<Identity> {
        match identity.recipient() == self.recipient {
            true => Ok(identity),
            false => Err(mismatch("the identity is not the one that the vault was made with")),
        }
    }
}

/// Makes an identity (or takes the one in an existing key file), keeps it, and pins it.
///
/// # Errors
/// `vault_exists` (Denied) where there is a vault, `key_exists` (Denied) where one is lost; `passphrase_needed`,
/// `empty_passphrase`, `bad_key_file`; the errors of the place where it is to be kept.
pub fn create(
    directories: &Directories,
    method: &KeyMethod,
    passphrase: Option<&Plaintext>,
    session_bus: Option<&str>,
) -> Result<Identity> {
    create_through(&Agent::own(), directories, method, passphrase, session_bus)
}

/// As [`create`], asking the keyring through `agent`.
///
/// # Errors
/// As [`create`].
pub fn create_through(
    agent: &Agent,
    directories: &Directories,
    method: &KeyMethod,
    passphrase: Option<&Plaintext>,
    session_bus: Option<&str>,
) -> Result<Identity> {
    check_new(directories)?;
    let successor = successor(agent, method, passphrase, session_bus)?;
    keep(directories, &successor.config(), successor.sealed.as_deref())?;
    Ok(successor.identity)
}

/// Refuses to make an identity where there is a vault, or one is lost.
///
/// # Errors
/// `vault_exists`, `key_exists` (Denied).
pub(crate) fn check_new(directories: &Directories) -> Result<()> {
    let vault = directories.vault_file();
    if files::exists(&vault) {
        let message = format!("{} is there already", vault.display());
        let hint = "`kin status` shows it; move it away to begin anew";
        return Err(Error::new(Class::Denied, "vault_exists", message).hint(hint));
    }
    let of_lost = left_of_a_lost_vault(directories);
    match of_lost.is_empty() {
        true => Ok(()),
        false => Err(key_exists(&of_lost)),
    }
}

/// What is there of a vault whose file is not: a backup of it opens with that key alone. Empty where there is a vault,
/// or never was one.
pub fn left_of_a_lost_vault(directories: &Directories) -> Vec<PathBuf> {
    let mut left = vec![directories.key_config(), directories.vault_anchor()];
    left.retain(|path| !files::exists(&directories.vault_file()) && files::exists(path));
    left
}

/// The refusal where a vault is lost, and this is left of it.
pub fn key_exists(left: &[PathBuf]) -> Error {
    let left = left.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and ");
    let message = format!("the vault's file is missing, and of the vault there is still {left}");
    let hint = format!("`kin restore BACKUP` brings the vault back; to begin anew, move {left} away");
    Error::new(Class::Denied, "key_exists", message).hint(hint)
}

/// The identity for a backup, on a machine that knows no vault, and how it is kept: the one that is `sealed` with
/// the passphrase that `secret` is, or `secret` itself.
///
/// # Errors
/// `passphrase_needed`, `wrong_passphrase`, `identity_needed` (Locked); `bad_identity` (Usage); `key_corrupt`.
pub(crate) fn brought(sealed: Option<&[u8]>, secret: Option<&Plaintext>) -> Result<(Identity, KeyMethod)> {
    match sealed {
        Some(sealed) => {
            let passphrase = secret.ok_or_else(passphrase_needed)?;
            Ok((passphrase::open(sealed, passphrase)?, KeyMethod::Passphrase))
        }
        None => Ok((parse_given(secret.ok_or_else(identity_needed)?)?, KeyMethod::Given)),
    }
}

/// Keeps such an identity as this machine's.
pub(crate) fn keep_brought(
    directories: &Directories,
    identity: &Identity,
    method: &KeyMethod,
    sealed: Option<&[u8]>,
) -> Result<()> {
    let recipient = identity.recipient().to_owned();
    keep(directories, &Config { format: FORMAT, method: method.clone(), recipient }, sealed)
}

/// Keeps an identity as that of the vault that is about to be made. An identity's file that is there stays, aside.
fn keep(directories: &Directories, config: &Config, sealed: Option<&[u8]>) -> Result<()> {
    if let Some(sealed) = sealed {
        let file = directories.identity_file();
        keep_aside(&RealDisk, &file)?;
        files::write_atomic(&file, sealed)?;
    }
    files::write_atomic(&directories.key_config(), &config.render()?)
}

/// An identity that is to be a vault's, kept where the method says unless that is a file of kin's.
pub(crate) struct Successor {
    pub(crate) identity: Identity,
    method: KeyMethod,
    /// What `identity.age` is to be, with a passphrase.
    pub(crate) sealed: Option<Vec<u8>>,
}

impl Successor {
    fn config(&self) -> Config {
        Config {
            format: FORMAT,
            method: self.method.clone(),
            recipient: self.identity.recipient().to_owned(),
        }
    }
}

/// Makes an identity, or takes the one that is in an existing key file or was given.
///
/// # Errors
/// `passphrase_needed`, `empty_passphrase`, `bad_key_file`, `identity_needed`; the errors of the place where it is
/// to be kept.
pub(crate) fn successor(
    agent: &Agent,
    method: &KeyMethod,
    secret: Option<&Plaintext>,
    session_bus: Option<&str>,
) -> Result<Successor> {
    let mut sealed = None;
    let identity = match method {
        KeyMethod::Keyring => {
            let identity = Identity::generate();
            agent.put(&identity, session_bus)?;
            identity
        }
        KeyMethod::Passphrase => {
            let identity = Identity::generate();
            sealed = Some(passphrase::seal(&identity, secret.ok_or_else(passphrase_needed)?)?);
            identity
        }
        KeyMethod::KeyFile { path } => key_file::create(path)?,
        KeyMethod::Given => parse_given(secret.ok_or_else(identity_needed)?)?,
    };
    Ok(Successor { identity, method: method.clone(), sealed })
}

/// Fetches the identity from where it is kept.
///
/// # Errors
/// Class Locked: `vault_absent`, `passphrase_needed`, `wrong_passphrase`, `key_file_missing`,
/// `identity_mismatch` and those of [`Agent::get`]; class Integrity: `key_corrupt`.
pub fn load(
    directories: &Directories,
    passphrase: Option<&Plaintext>,
    session_bus: Option<&str>,
) -> Result<Identity> {
    load_through(&Agent::own(), directories, passphrase, session_bus)
}

/// As [`load`], asking the keyring through `agent`.
///
/// # Errors
/// As [`load`].
pub fn load_through(
    agent: &Agent,
    directories: &Directories,
    passphrase: Option<&Plaintext>,
    session_bus: Option<&str>,
) -> Result<Identity> {
    let config = read_config(directories)?.ok_or_else(no_vault)?;
    let identity = match &config.method {
        KeyMethod::Keyring => agent.get(&config.recipient, session_bus)?,
        KeyMethod::Passphrase => {
            let passphrase = passphrase.ok_or_else(passphrase_needed)?;
            passphrase::open(&read_sealed(&directories.identity_file())?, passphrase)?
        }
        KeyMethod::KeyFile { path } => key_file::load(path)?,
        KeyMethod::Given => return Err(identity_needed()),
    };
    config.pinned(identity)
}

/// The vault's identity, which was given: by a descriptor, by a credential.
///
/// # Errors
/// `vault_absent`, `identity_mismatch` (Locked), `bad_identity` (Usage).
pub fn load_given(directories: &Directories, text: &Plaintext) -> Result<Identity> {
    read_config(directories)?.ok_or_else(no_vault)?.pinned(parse_given(text)?)
}

/// Reads an identity that was given, whatever vault it is of.
pub(crate) fn parse_given(text: &Plaintext) -> Result<Identity> {
    key_file::only_identity(text.bytes()).ok_or_else(|| {
        Error::new(Class::Usage, "bad_identity", "what was given is not one X25519 identity of age")
            .hint("it is a line AGE-SECRET-KEY-1…, as age-keygen prints it")
    })
}

/// Where the identity is kept; `None` where there is no vault yet.
///
/// # Errors
/// `key_config_invalid`, `unsafe_file`, or a storage error.
pub fn method(directories: &Directories) -> Result<Option<KeyMethod>> {
    Ok(read_config(directories)?.map(|config| config.method))
}

/// The recipient that the vault's identity must have; `None` where there is no vault yet.
///
/// # Errors
/// As [`method`].
pub fn pinned(directories: &Directories) -> Result<Option<String>> {
    Ok(read_config(directories)?.map(|config| config.recipient))
}

fn read_config(directories: &Directories) -> Result<Option<Config>> {
    let path = directories.key_config();
    let Some(bytes) = files::read_private(&path, LIMIT)? else { return Ok(None) };
    match serde_json::from_slice::<Config>(&bytes) {
        Ok(config) if config.format == FORMAT => Ok(Some(config)),
        _ => Err(invalid_config(&path)),
    }
}

fn invalid_config(path: &Path) -> Error {
    let message = format!("{} is damaged, or of a newer kin", path.display());
    Error::new(Class::Unsafe, "key_config_invalid", message).hint("put a copy of it back")
}

fn read_sealed(path: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>> {
    files::read_private(path, LIMIT)?.ok_or_else(|| {
        let message = format!("the identity's file {} is missing", path.display());
        Error::new(Class::Locked, "key_file_missing", message).hint("put a copy of it back")
    })
}

/// An identity without a vault is what an interrupted `init` left, or a lost vault's: it is never
/// overwritten, but kept under a name made from its content.
pub(crate) fn keep_aside(disk: &dyn Disk, path: &Path) -> Result<()> {
    match files::read_private(path, LIMIT)? {
        None => Ok(()),
        Some(old) => {
            files::move_file(disk, path, &files::beside(path, &format!(".{:.16x}", Sha256::digest(&*old))))
        }
    }
}

fn no_vault() -> Error {
    Error::new(Class::Locked, "vault_absent", "there is no vault yet")
        .hint("`kin init` makes one, `kin restore BACKUP` brings one back")
}

fn identity_needed() -> Error {
    Error::new(Class::Locked, "identity_needed", "the vault opens with an identity that is given to it")
        .hint("`kin unlock --identity-fd N`, or `kin daemon --identity-credential NAME`")
}

fn passphrase_needed() -> Error {
    Error::new(Class::Locked, "passphrase_needed", "the vault is locked with a passphrase").hint("kin unlock")
}

fn mismatch(message: &str) -> Error {
    let hint = "somebody replaced the key; put the right one back";
    Error::new(Class::Locked, "identity_mismatch", message).hint(hint)
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
