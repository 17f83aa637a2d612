//! Who can open the vault when its identity is lost? A key on paper, or somebody else's.

use std::path::Path;

use crate::admin::rekey_files::{self, Succession};
use crate::admin::requests::{Recovery, Rekeyed, confirmation};
use crate::admin::unlock::Asker;
use crate::broker::Broker;
use crate::keys::{self, Identity};
use crate::sys::clock;
use crate::sys::error::{Class, Error, Result};
use crate::sys::files;
use crate::sys::memory::Plaintext;
use crate::vault::info::RecipientInfo;
use crate::vault::{Place, Vault};

/// Bytes of a backup, at most: those of a vault.
const LIMIT: u64 = 64 << 20;

impl Broker {
    /// Makes a recovery key. It is in the answer and nowhere else: what stays is its recipient.
    ///
    /// # Errors
    /// `confirmation_needed`; those of an unlock, and of a write of the vault.
    pub(crate) fn recovery_new(
        &self,
        confirmed: bool,
        session_bus: Option<&str>,
    ) -> Result<(RecipientInfo, Plaintext)> {
        if !confirmed {
            return Err(confirmation("recovery"));
        }
        let key = Identity::generate();
        let info = self.add_recipient(key.recipient(), true, session_bus)?;
        Ok((info, Plaintext::copy_of(key.text().bytes())))
    }

    /// Makes the vault one for `recipient` too, whose identity the broker never sees.
    ///
    /// # Errors
    /// `confirmation_needed`; `bad_recipient`, `recipient_exists` (Usage); those of an unlock, and of a write of the
    /// vault.
    pub(crate) fn recovery_add(
        &self,
        recipient: &str,
        confirmed: bool,
        session_bus: Option<&str>,
    ) -> Result<RecipientInfo> {
        if !confirmed {
            return Err(confirmation("recovery"));
        }
        self.add_recipient(recipient, false, session_bus)
    }

    fn add_recipient(&self, recipient: &str, paper: bool, bus: Option<&str>) -> Result<RecipientInfo> {
        let opened = self.unlock(Asker::Person, None, bus)?;
        let now = clock::unix_seconds();
        let changed =
            self.change_vault(|vault| vault.plan_add_recipient(&opened.identity, recipient, now, paper))?;
        Ok(changed.1)
    }

    /// Makes the vault no longer one for whom `beginning` names.
    ///
    /// # Errors
    /// `unknown_recipient`, `ambiguous_recipient` (Usage); those of an unlock, and of a write of the vault.
    pub(crate) fn recovery_remove(
        &self,
        beginning: &str,
        session_bus: Option<&str>,
    ) -> Result<RecipientInfo> {
        self.unlock(Asker::Person, None, session_bus)?;
        self.change_vault(|vault| vault.plan_remove_recipient(beginning)).map(|(_, gone)| gone)
    }

    /// Opens the vault, or a backup of one, with the key of somebody that it is for, and puts it in its place under
    /// an identity of its own; or, not confirmed, says what that would do.
    ///
    /// # Errors
    /// `bad_recovery_key`, `owner_needed` (Usage); what refuses a vault that does not authenticate; those of
    /// making an identity, and of a write of the vault.
    pub(crate) fn recover(
        &self,
        asked: &Recovery,
        value: Option<&Plaintext>,
        session_bus: Option<&str>,
    ) -> Result<Rekeyed> {
        let changing = self.change()?;
        let place = Place::of(&self.directories);
        rekey_files::settle(&place, &self.directories)?;
        let (reader, secret) = keys_in(value.ok_or_else(bad_key)?)?;
        let owner = asked.owner.clone().or(keys::pinned(&self.directories)?).ok_or_else(owner_needed)?;
        let vault = match &asked.from {
            Some(path) => Vault::of_backup_as(&place, path, &backup(path)?, &reader, &owner),
            None if asked.accept_rollback => {
                let path = self.directories.vault_file();
                Vault::of_backup_as(&place, &path, &backup(&path)?, &reader, &owner)
            }
            None => Vault::open_as(&place, &reader, &owner),
        }
        .inspect_err(|error| self.rejected(error))?;
        if !asked.confirmed {
            let (secrets, generation) = (vault.list().len(), vault.generation());
            return Ok(Rekeyed { recipient: None, key: asked.method.clone(), secrets, generation });
        }
        let (succession, how) =
            (Succession::recover(vault, reader.recipient()), (&asked.method, secret.as_ref()));
        self.perform(succession, |logged| self.follow(&changing, logged, how, session_bus))
    }
}

/// The key, and what comes after the first line.
fn keys_in(value: &Plaintext) -> Result<(Identity, Option<Plaintext>)> {
    let end = value.bytes().iter().position(|byte| *byte == b'\n');
    let (key, rest) = value.bytes().split_at(end.unwrap_or(value.len()));
    // As it is copied from paper: in groups, in small letters.
    let mut text = Plaintext::zeroed(key.len());
    let mut length = 0;
    for byte in key.iter().filter(|byte| !byte.is_ascii_whitespace()) {
        text.bytes_mut()[length] = byte.to_ascii_uppercase();
        length += 1;
    }
    text.truncate(length);
    let reader = Identity::parse(text.bytes()).ok_or_else(bad_key)?;
    Ok((reader, rest.get(1..).map(Plaintext::copy_of)))
}

fn backup(path: &Path) -> Result<Vec<u8>> {
    files::read_shared(path, LIMIT)?.ok_or_else(|| {
        let message = format!("there is no vault at {}", path.display());
        Error::new(Class::Usage, "backup_missing", message).hint("`--from FILE` names a backup")
    })
}

fn bad_key() -> Error {
    Error::new(Class::Usage, "bad_recovery_key", "this is no recovery key: its letters do not add up")
        .hint("it is AGE-SECRET-KEY-1 and 58 letters and digits more; white space and case do not matter")
}

fn owner_needed() -> Error {
    let message = "nothing here says whose vault it is, so a forged one could not be told";
    Error::new(Class::Usage, "owner_needed", message)
        .hint("`--owner age1…` says it; it stands beside the recovery key, and `kin rekey` names a new one")
}
