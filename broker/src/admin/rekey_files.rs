//! How does a vault follow another identity, so that a kill at any moment leaves one that opens?
//!
//! All that is to change is written beside what is there, under names that end in `.next`; last of them
//! `key.json.next`, which says what the vault's file will be. Then that file is put in its place: this is the
//! one moment at which everything changes. Whoever comes afterwards, also after a kill, compares: where the vault is
//! the one that was announced, the rest takes its place, and else it goes.

use std::path::{Path, PathBuf};

use crate::Plaintext;
use crate::audit::{self, Change, Event, Logged, VaultChange};
use crate::keys::KeyMethod;
use crate::keys::keyring::Agent;
use crate::keys::{self, Identity, Next, Root, Successor};
use crate::project::trust_store;
use crate::sys::error::{Class, Error, Result};
use crate::sys::files::{self, Prepared};
use crate::sys::paths::Directories;
use crate::vault::{self, Place, Rekeyed, Vault};

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Nothing was about to follow.
    Nothing,
    /// The old one stayed.
    Old,
    /// The new one is there.
    New,
}

fn next(path: &Path) -> PathBuf {
    files::beside(path, ".next")
}

/// What follows the vault; `key.json` is the last.
fn followers(directories: &Directories) -> [PathBuf; 4] {
    [
        directories.identity_file(),
        directories.trust_file(),
        directories.vault_anchor(),
        directories.record_head(),
    ]
}

/// A vault that is about to get another identity.
#[must_use]
pub struct Succession {
    vault: Vault,
    change: VaultChange,
    /// Whose key opened it, where that was not its owner's.
    reader: Option<String>,
}

impl Succession {
    /// Of the vault that is there.
    pub fn rekey(vault: Vault) -> Self {
        Self { vault, change: VaultChange::Rekey, reader: None }
    }

    /// Of a vault that the recovery key of `reader` opened. It may be that of a backup: it comes to stand there.
    pub(crate) fn recover(vault: Vault, reader: &str) -> Self {
        Self { vault, change: VaultChange::Recover, reader: Some(reader.to_owned()) }
    }
}

impl Change for Succession {
    fn events(&self) -> Vec<Event<'_>> {
        let (change, reason) = (self.change, self.reader.as_deref());
        vec![Event::Vault { change, reference: None, version: None, reason, asker: None }]
    }
}

/// Gives the vault in `place` another identity, with all that hangs off the one it has.
///
/// # Errors
/// Those of making an identity; `same_identity` (Usage); `vault_corrupt`; a storage error. [`settle`] tells which
/// vault there is then.
pub fn succeed(
    agent: &Agent,
    (place, directories): (&Place, &Directories),
    succession: Logged<Succession>,
    (method, secret): (&KeyMethod, Option<&Plaintext>),
    session_bus: Option<&str>,
) -> Result<(Identity, Vault)> {
    let vault = succession.into_inner().vault;
    settle(place, directories)?;
    let successor = keys::successor(agent, method, secret, session_bus)?;
    if vault.is_of(&successor.identity) {
        let message = "the vault has this identity already, so nothing would change";
        return Err(Error::new(Class::Usage, "same_identity", message)
            .hint("name a key file that is not there, or that holds another identity"));
    }
    let rekeyed = vault.rekeyed(&successor.identity)?;
    announce(place, directories, vault.root(), &successor, &rekeyed)?;
    settle(place, directories)?;
    Ok((successor.identity, rekeyed.vault))
}

/// Everything but the end: the vault of the successor is in its place afterwards.
fn announce(
    place: &Place,
    directories: &Directories,
    old: &Root,
    successor: &Successor,
    rekeyed: &Rekeyed,
) -> Result<()> {
    let (disk, root) = (place.disk(), successor.identity.root());
    let mark = rekeyed.vault.store_mark();
    let trust = trust_store::signed_again(&directories.trust_file(), mark, (old, &root))?;
    let remembered = audit::signed_again(&directories.record_head(), old, &root)?;
    let contents = [successor.sealed.clone(), trust, Some(rekeyed.anchor.clone()), remembered];
    for (path, content) in followers(directories).iter().zip(contents) {
        match content {
            Some(content) => Prepared::new(disk, &next(path), &content)?.put_in_place()?,
            None => files::remove(disk, &next(path))?,
        }
    }
    let announced = Next::render(successor, vault::digest_of(&rekeyed.file))?;
    let vault = Prepared::new(disk, place.file(), &rekeyed.file)?;
    Prepared::new(disk, &next(&directories.key_config()), &announced)?.put_in_place()?;
    vault.put_in_place()
}

/// Brings to its end what was begun, one way or the other. Nobody else may write meanwhile.
///
/// # Errors
/// `key_config_invalid`, `unsafe_file`, or a storage error: it can be repeated.
pub fn settle(place: &Place, directories: &Directories) -> Result<Settled> {
    let (disk, announcement) = (place.disk(), next(&directories.key_config()));
    let Some(announced) = Next::read(&announcement)? else { return Ok(Settled::Nothing) };
    let is_new = vault::digest(place)?.is_some_and(|digest| digest == announced.vault);
    for path in followers(directories).iter().filter(|path| files::exists(&next(path))) {
        // No identity is ever lost: there may be a backup that only the old one opens.
        let is_identity = *path == directories.identity_file();
        match is_new {
            true => {
                if is_identity {
                    keys::keep_aside(disk, path)?;
                }
                files::move_file(disk, &next(path), path)?;
            }
            false if is_identity => keys::keep_aside(disk, &next(path))?,
            false => files::remove(disk, &next(path))?,
        }
    }
    if is_new {
        Prepared::new(disk, &directories.key_config(), &announced.config()?)?.put_in_place()?;
    }
    files::remove(disk, &announcement)?;
    Ok(if is_new { Settled::New } else { Settled::Old })
}
