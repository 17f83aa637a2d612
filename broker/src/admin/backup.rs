//! How is the vault kept elsewhere, and put back? As the file that it is: encrypted to its own identity.

use std::path::Path;
use std::sync::Arc;

use crate::admin::rekey_files;
use crate::admin::requests::{BackupMade, Restored, Unlock};
use crate::admin::unlock::Asker;
use crate::audit::vault_event;
use crate::audit::{Change, Event, Logged, VaultChange};
use crate::broker::Broker;
use crate::keys;
use crate::keys::KeyMethod;
use crate::sys::error::{Class, Error, Result};
use crate::sys::files;
use crate::sys::memory::Plaintext;
use crate::vault::{Place, Vault};

/// A copy of the vault is about to be made.
#[must_use]
struct Copying(String);

impl Change for Copying {
    fn events(&self) -> Vec<Event<'_>> {
        vec![vault_event(VaultChange::Backup, None, Some(&self.0))]
    }
}

/// Writes it, and the sealed identity beside it where there is one.
fn write(_copying: Logged<Copying>, path: &Path, vault: &[u8], beside: Option<(&Path, &[u8])>) -> Result<()> {
    if let Some((path, identity)) = beside {
        files::write_atomic(path, identity)?;
    }
    files::write_atomic(path, vault).inspect_err(|_| {
        // An identity without its vault would stand in the way of the next try.
        let _ = beside.map(|(path, _)| std::fs::remove_file(path));
    })
}

/// Bytes of a backup, at most: those of a vault.
const LIMIT: u64 = 64 << 20;

impl Broker {
    /// Writes the vault to `path`, where nothing may be, and reads it back. Where a passphrase guards the
    /// identity, that goes beside it: both open with the passphrase alone.
    ///
    /// # Errors
    /// `backup_exists` (Denied), `bad_path` (Usage); those of an unlock; a storage error.
    pub(crate) fn backup(&self, path: &Path, session_bus: Option<&str>) -> Result<BackupMade> {
        let opened = self.unlock(Asker::Person, None, session_bus)?;
        let method = keys::method(&self.directories)?;
        let beside = matches!(method, Some(KeyMethod::Passphrase)).then(|| files::beside(path, ".identity"));
        for path in [Some(path), beside.as_deref()].into_iter().flatten() {
            files::check_vacant(path, "backup_exists")?;
        }
        let (vault, file) = Vault::copy(&Place::of(&self.directories), &opened.identity)?;
        let identity = match beside {
            Some(_) => files::read_private(&self.directories.identity_file(), LIMIT)?
                .map(Some)
                .ok_or_else(|| Error::internal("back up the identity", "it is missing"))?,
            None => None,
        };
        let pair = beside.as_deref().zip(identity.as_deref().map(Vec::as_slice));
        let again = self.perform(Copying(path.to_string_lossy().into_owned()), |logged| {
            write(logged, path, &file, pair)?;
            let again = files::read_private(path, LIMIT)?.unwrap_or_default();
            Vault::of_backup(&Place::of(&self.directories), path, &again, &opened.identity)
        })?;
        let (secrets, generation) = (again.list().len(), vault.generation());
        Ok(BackupMade { path: path.to_owned(), identity: beside, secrets, generation })
    }

    /// Puts the vault of a backup in the place of the one that is there, which may be lost or damaged; or,
    /// not `confirmed`, says what that would do. Where no vault is known, the identity comes with it: one that was
    /// `given`, or the one beside the backup.
    ///
    /// # Errors
    /// `backup_missing` (Usage); `backup_without_key`, `vault_absent` (Locked); what refuses an unsafe file, and a
    /// vault that does not authenticate; the key's.
    pub(crate) fn restore(
        &self,
        path: &Path,
        confirmed: bool,
        (given, secret): (bool, Option<&Plaintext>),
        session_bus: Option<&str>,
    ) -> Result<Restored> {
        let changing = self.change()?;
        let open = self.custody.read().opened();
        let place = Place::of(&self.directories);
        let bytes = files::read_shared(path, LIMIT)?.ok_or_else(|| {
            let message = format!("there is no backup at {}", path.display());
            Error::new(Class::Usage, "backup_missing", message).hint("`kin backup FILE` makes one")
        })?;
        rekey_files::settle(&place, &self.directories)?;
        let unknown = open.is_none() && keys::method(&self.directories)?.is_none();
        let sealed = if unknown && !given { Some(identity_beside(path)?) } else { None };
        let (identity, key) = match &open {
            Some(opened) => (opened.identity.clone(), opened.key.clone()),
            None if unknown => {
                let (identity, key) = keys::brought(sealed.as_deref(), secret)?;
                (Arc::new(identity), key)
            }
            None => {
                let how = Unlock { identity: given, ..Unlock::default() };
                let (identity, key) = self.fetch(how, secret, session_bus)?;
                (Arc::new(identity), key)
            }
        };
        let mut vault = Vault::of_backup(&place, path, &bytes, &identity).map_err(of_another)?;
        let replaces = open.as_ref().map(|opened| opened.vault.list().len());
        let restored = Restored { secrets: vault.list().len(), generation: vault.generation(), replaces };
        if !confirmed {
            return Ok(restored);
        }
        let trust = open.map(|opened| opened.trust.clone());
        self.perform(vault.plan_restore(path), |logged| {
            let receipt = logged.receipt();
            // The key first: a restore that is cut short is repeated, with the key that is there then.
            if unknown {
                keys::keep_brought(&self.directories, &identity, &key, sealed.as_deref())?;
            }
            vault.commit(logged)?;
            self.open_up((&changing, receipt), identity, vault, key, trust)
        })?;
        Ok(restored)
    }
}

/// The identity that `kin backup` put beside a backup.
fn identity_beside(path: &Path) -> Result<Vec<u8>> {
    let beside = files::beside(path, ".identity");
    files::read_shared(&beside, LIMIT)?.ok_or_else(|| {
        let message =
            format!("no vault is known here, and no {} says what opens the backup", beside.display());
        Error::new(Class::Locked, "backup_without_key", message).hint(
            "`kin restore BACKUP --identity-fd 3 3< KEY` takes its key, `kin recovery restore --from BACKUP` a recovery key",
        )
    })
}

/// A backup that this vault's key does not open may be whole all the same.
fn of_another(error: Error) -> Error {
    match &*error.code {
        "vault_corrupt" | "vault_unauthenticated" => error.hint(
            "take another copy; a backup of another vault, or from before a `kin rekey`, opens apart, with its own \
             key: `KIN_HOME=DIR kin restore FILE`; `kin import` reads what `kin export` wrote",
        ),
        _ => error,
    }
}
