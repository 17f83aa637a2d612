//! Where is the vault's identity kept, and is what came from there the right one?

pub(crate) mod age_file;
pub(crate) mod authenticate;
mod identity;
mod key_file;
pub mod keyring;
pub mod keyring_agent;
mod passphrase;

pub use identity::Identity;

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Plaintext;
use crate::control::protocol::KeyMethod;
use crate::error::{Class, Error, Result};
use crate::files;
use crate::paths::Directories;
use keyring::Agent;

const FORMAT: u32 = 1;
/// Bytes of `key.json`, and of an identity under a passphrase.
const LIMIT: u64 = 64 << 10;

/// What `key.json` says. The recipient is pinned: no other identity is accepted, wherever it comes from.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    format: u32,
    method: KeyMethod,
    recipient: String,
}

/// Makes an identity (or takes the one in an existing key file), keeps it, and pins it.
///
/// # Errors
/// `vault_exists` (Denied) where there is a vault; `passphrase_needed`, `empty_passphrase`, `bad_key_file`;
/// the errors of the place where it is to be kept.
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
    let vault = directories.vault_file();
    if files::exists(&vault) {
        let message = format!("{} is there already", vault.display());
        let hint = "`kin status` shows it; move it away to begin anew";
        return Err(Error::new(Class::Denied, "vault_exists", message).hint(hint));
    }
    let identity = match method {
        KeyMethod::Keyring => {
            let identity = Identity::generate();
            agent.put(&identity, session_bus)?;
            identity
        }
        KeyMethod::Passphrase => {
            let identity = Identity::generate();
            let sealed = passphrase::seal(&identity, passphrase.ok_or_else(passphrase_needed)?)?;
            let file = directories.identity_file();
            keep_aside(&file)?;
            files::write_atomic(&file, &sealed)?;
            identity
        }
        KeyMethod::KeyFile { path } => key_file::create(path)?,
    };
    let config =
        Config { format: FORMAT, method: method.clone(), recipient: identity.recipient().to_owned() };
    let json = serde_json::to_vec(&config).map_err(|error| Error::internal("write key.json", error))?;
    files::write_atomic(&directories.key_config(), &json)?;
    Ok(identity)
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
    let config = read_config(directories)?.ok_or_else(|| {
        Error::new(Class::Locked, "vault_absent", "there is no vault yet").hint("`kin init` makes one")
    })?;
    let identity = match &config.method {
        KeyMethod::Keyring => agent.get(&config.recipient, session_bus)?,
        KeyMethod::Passphrase => {
            let passphrase = passphrase.ok_or_else(passphrase_needed)?;
            passphrase::open(&read_sealed(&directories.identity_file())?, passphrase)?
        }
        KeyMethod::KeyFile { path } => key_file::load(path)?,
    };
    if identity.recipient() == config.recipient {
        Ok(identity)
    } else {
        Err(mismatch("the identity is not the one that the vault was made with"))
    }
}

/// Where the identity is kept; `None` where there is no vault yet.
///
/// # Errors
/// `key_config_invalid`, `unsafe_file`, or a storage error.
pub fn method(directories: &Directories) -> Result<Option<KeyMethod>> {
    Ok(read_config(directories)?.map(|config| config.method))
}

fn read_config(directories: &Directories) -> Result<Option<Config>> {
    let path = directories.key_config();
    let Some(bytes) = files::read_private(&path, LIMIT)? else { return Ok(None) };
    match serde_json::from_slice::<Config>(&bytes) {
        Ok(config) if config.format == FORMAT => Ok(Some(config)),
        _ => {
            let message = format!("{} is damaged, or of a newer kin", path.display());
            Err(Error::new(Class::Unsafe, "key_config_invalid", message).hint("put a copy of it back"))
        }
    }
}

fn read_sealed(path: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>> {
    files::read_private(path, LIMIT)?.ok_or_else(|| {
        let message = format!("the identity's file {} is missing", path.display());
        Error::new(Class::Locked, "key_file_missing", message).hint("put a copy of it back")
    })
}

/// An identity without a vault is what an interrupted `init` left, or a lost vault's: it is never
/// overwritten, but kept under a name made from its content.
fn keep_aside(path: &Path) -> Result<()> {
    match files::read_private(path, LIMIT)? {
        None => Ok(()),
        Some(old) => files::move_aside(path, &format!(".{:.16x}", Sha256::digest(&*old))),
    }
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
