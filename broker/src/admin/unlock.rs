//! Is the vault open, and who may change it?

use std::sync::Arc;

use kin_policy::{Ending, GrantId, Reference};
use parking_lot::{Mutex, MutexGuard};

use crate::admin::rekey_files;
use crate::admin::requests::{Unlock, VaultMade};
use crate::audit::{Change, Event, PolicyChange, Receipt, VaultChange, vault_event};
use crate::broker::Broker;
use crate::keys::KeyMethod;
use crate::keys::{self, Identity, session};
use crate::project::trust_store::TrustStore;
use crate::sys::clock;
use crate::sys::error::{Class, Error, Result};
use crate::sys::memory::Plaintext;
use crate::vault::info::SecretInfo;
use crate::vault::{Facts, Making, Place, Planned, Vault};

/// The vault's state.
#[derive(Default)]
pub(crate) enum Custody {
    /// Nobody has asked for it yet.
    #[default]
    Closed,
    /// A person locked it: only `kin unlock` opens it again.
    Locked,
    /// It locked itself: a person opens it again, and grants wait for that.
    Suspended,
    /// It is open.
    Open(Arc<Opened>),
}

/// What an open vault consists of.
pub(crate) struct Opened {
    pub(crate) vault: Arc<Vault>,
    pub(crate) trust: Arc<Mutex<TrustStore>>,
    /// Where its key came from.
    pub(crate) key: KeyMethod,
    pub(crate) identity: Arc<Identity>,
}

/// Who wants the vault open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// `kin unlock`: any vault.
    Unlock,
    /// A person outside every tree, for what members may not do: not one that a person locked.
    Person,
    /// Whoever asks: only one that nobody has opened yet.
    Anybody,
}

impl Custody {
    pub(crate) fn vault(&self) -> Option<Arc<Vault>> {
        match self {
            Self::Open(opened) => Some(opened.vault.clone()),
            _ => None,
        }
    }

    pub(crate) fn opened(&self) -> Option<Arc<Opened>> {
        match self {
            Self::Open(opened) => Some(opened.clone()),
            _ => None,
        }
    }
}

/// The vault is about to be opened, or its identity to be remembered by the kernel.
#[must_use]
struct Opening {
    reason: Option<&'static str>,
}

impl Change for Opening {
    fn events(&self) -> Vec<Event<'_>> {
        vec![vault_event(VaultChange::Unlock, None, self.reason)]
    }
}

/// What a vault is opened under: the lock of all changes, and a record.
pub(crate) type Admitted<'a> = (&'a MutexGuard<'a, ()>, Receipt);

impl Broker {
    /// Makes the vault and its identity.
    ///
    /// # Errors
    /// `vault_exists`; what the keeping place of the identity refuses; storage errors.
    pub(crate) fn init(
        &self,
        method: &KeyMethod,
        passphrase: Option<&Plaintext>,
        session_bus: Option<&str>,
    ) -> Result<VaultMade> {
        let changing = self.change()?;
        let path = self.directories.vault_file();
        keys::check_new(&self.directories)?;
        self.perform(Making::at(&Place::of(&self.directories)), |making| {
            let receipt = making.receipt();
            let identity = keys::create(&self.directories, method, passphrase, session_bus)?;
            let recipient = identity.recipient().to_owned();
            let vault = Vault::create(making, &identity)?;
            self.open_up((&changing, receipt), Arc::new(identity), vault, method.clone(), None)?;
            // A vault that was just made has nothing to remember.
            if self.audit.is_refused() {
                self.audit.accept()?;
            }
            Ok(VaultMade { recipient, vault: path })
        })
    }

    /// Opens the vault, where it is not open and the asker is enough.
    ///
    /// # Errors
    /// Class `Locked` where the key cannot be had, `Integrity` where vault or key do not authenticate.
    pub(crate) fn unlock(
        &self,
        asker: Asker,
        passphrase: Option<&Plaintext>,
        session_bus: Option<&str>,
    ) -> Result<Arc<Opened>> {
        self.unlock_by(asker, Unlock::default(), passphrase, session_bus)
    }

    /// Opens the vault with an identity that was given to the broker's own process.
    ///
    /// # Errors
    /// `vault_absent`, `identity_mismatch`, `bad_identity`; those of a vault that does not authenticate.
    pub fn unlock_with(&self, identity: &Plaintext) -> Result<()> {
        let how = Unlock { identity: true, ..Unlock::default() };
        self.unlock_by(Asker::Unlock, how, Some(identity), None).map(drop)
    }

    /// Unlocks for a person, also a vault that is older than the newest where that is said.
    ///
    /// # Errors
    /// Those of [`Self::unlock_by`] and [`Self::accept_rollback`].
    pub(crate) fn unlock_as(&self, how: Unlock, secret: Option<&Plaintext>, bus: Option<&str>) -> Result<()> {
        match how.accept_rollback {
            false => self.unlock_by(Asker::Unlock, how, secret, bus).map(drop),
            true => self.accept_rollback(how, secret, bus).map(drop),
        }
    }

    /// As [`Self::unlock`], with what is given and is to be remembered.
    ///
    /// # Errors
    /// As there; `kernel_keyring_unavailable`.
    pub(crate) fn unlock_by(
        &self,
        asker: Asker,
        how: Unlock,
        secret: Option<&Plaintext>,
        session_bus: Option<&str>,
    ) -> Result<Arc<Opened>> {
        if let Some(opened) = self.custody.read().opened() {
            if asker != Asker::Anybody {
                self.autolock.touch();
            }
            if how.remember {
                self.perform(Opening { reason: Some("session_keyring") }, |_| {
                    self.remember_in_session(how, &opened.identity, &opened.key)
                })?;
            }
            return Ok(opened);
        }
        let changing = self.change()?;
        match &*self.custody.read() {
            Custody::Open(opened) => return Ok(opened.clone()),
            Custody::Locked if asker != Asker::Unlock => return Err(locked()),
            Custody::Suspended if asker == Asker::Anybody => return Err(locked()),
            _ => {}
        }
        let (identity, key) = self.fetch(how, secret, session_bus)?;
        let vault = Vault::open(&Place::of(&self.directories), &identity);
        let vault = vault.inspect_err(|error| self.rejected(error))?;
        self.perform(Opening { reason: None }, |logged| {
            self.remember_in_session(how, &identity, &key)?;
            self.compare_settings(&identity, &key)?;
            self.open_up((&changing, logged.receipt()), Arc::new(identity), vault, key, None)
        })
    }

    /// The identity, and where it came from. A change of it that was cut short is brought to its end first.
    pub(crate) fn fetch(
        &self,
        how: Unlock,
        secret: Option<&Plaintext>,
        session_bus: Option<&str>,
    ) -> Result<(Identity, KeyMethod)> {
        let directories = &self.directories;
        rekey_files::settle(&Place::of(directories), directories)?;
        if let Some(text) = secret.filter(|_| how.identity) {
            return Ok((keys::load_given(directories, text)?, KeyMethod::Given));
        }
        let key = keys::method(directories)?;
        let asks = matches!(key, Some(KeyMethod::Passphrase | KeyMethod::Given)) && secret.is_none();
        let recalled = match keys::pinned(directories)?.filter(|_| asks) {
            Some(recipient) => session::recall(&recipient),
            None => None,
        };
        let identity = recalled.map_or_else(|| keys::load(directories, secret, session_bus), Ok)?;
        Ok((identity, key.ok_or_else(locked)?))
    }

    /// The kernel remembers what somebody had to give, where that is configured or asked for.
    fn remember_in_session(&self, how: Unlock, identity: &Identity, key: &KeyMethod) -> Result<()> {
        let given = matches!(key, KeyMethod::Passphrase | KeyMethod::Given);
        if how.remember || (self.autolock.remembers() && given) {
            session::remember(identity, self.autolock.after(key))?;
        }
        Ok(())
    }

    /// No session knows the identity any longer.
    pub(crate) fn forget_in_session(&self) {
        if let Ok(Some(recipient)) = keys::pinned(&self.directories) {
            session::forget(&recipient);
        }
    }

    /// Opens a vault that is not open and is older than the newest: a person put it there.
    ///
    /// # Errors
    /// As [`Self::unlock`], without those about its age.
    pub(crate) fn accept_rollback(
        &self,
        how: Unlock,
        secret: Option<&Plaintext>,
        session_bus: Option<&str>,
    ) -> Result<Arc<Opened>> {
        let refused = match self.unlock_by(Asker::Unlock, how, secret, session_bus) {
            Err(error) if ["vault_rollback", "vault_unanchored"].contains(&&*error.code) => error,
            opened => return opened.and_then(|opened| self.accept_record().map(|()| opened)),
        };
        let changing = self.change()?;
        let (identity, key) = self.fetch(how, secret, session_bus)?;
        let vault = Vault::open_old(&Place::of(&self.directories), &identity);
        let mut vault = vault.inspect_err(|error| self.rejected(error))?;
        self.perform(vault.plan_accept(&refused.message), |logged| {
            let receipt = logged.receipt();
            vault.commit(logged)?;
            self.compare_settings(&identity, &key)?;
            self.remember_in_session(how, &identity, &key)?;
            let opened = self.open_up((&changing, receipt), Arc::new(identity), vault, key, None)?;
            self.accept_record().map(|()| opened)
        })
    }

    /// A record that is not the one that the open vault remembers is, from now on: a person knows why.
    fn accept_record(&self) -> Result<()> {
        if !self.audit.is_refused() {
            return Ok(());
        }
        self.record(&vault_event(VaultChange::AcceptRollback, None, Some("the record")))?;
        self.audit.accept()
    }

    /// A vault that is refused is refused, whether that can be recorded now or later.
    pub(crate) fn rejected(&self, error: &Error) {
        self.record_or_owe(&vault_event(VaultChange::Reject, None, Some(&error.code)));
    }

    /// `trust` is the store of a vault that was open, which goes on.
    pub(crate) fn open_up(
        &self,
        _admitted: Admitted<'_>,
        identity: Arc<Identity>,
        mut vault: Vault,
        key: KeyMethod,
        trust: Option<Arc<Mutex<TrustStore>>>,
    ) -> Result<Arc<Opened>> {
        let trust = match trust {
            Some(trust) => trust,
            None => Arc::new(Mutex::new(self.read_trust(&identity, &vault)?)),
        };
        self.adopt(&trust.lock(), &mut vault);
        // The vault opens whatever became of the record: what it remembers is compared, and recorded.
        let _ = self.audit.remember(&identity, &self.directories.record_head());
        self.remember_settings(&identity, &key);
        self.hand_ahead(&vault);
        let opened = Arc::new(Opened { key, vault: Arc::new(vault), trust, identity });
        *self.custody.write() = Custody::Open(opened.clone());
        self.rotation.publish(&opened.vault);
        self.autolock.is_over();
        Ok(opened)
    }

    fn read_trust(&self, identity: &Identity, vault: &Vault) -> Result<TrustStore> {
        let path = self.directories.trust_file();
        let trust = TrustStore::open(&path, identity, vault.store_mark())?;
        if let Some(refused) = trust.refused() {
            self.record(&Event::Policy {
                change: PolicyChange::Reject,
                project: None,
                directory: &self.directories.data,
                hash: None,
                reason: Some(refused.as_str()),
                asker: None,
            })?;
        }
        Ok(trust)
    }

    /// A store that the vault does not know goes on: from now on the vault knows it. Where that fails, the next
    /// unlock tries again: a full disk keeps nobody out of a vault.
    fn adopt(&self, store: &TrustStore, vault: &mut Vault) {
        if let Some(adoption) = store.to_adopt(vault) {
            let _ = self.perform(adoption, |logged| vault.acknowledge(&logged));
        }
    }

    /// Locks the vault: every grant ends, and no key stays in memory.
    pub(crate) fn lock(&self) -> Vec<GrantId> {
        let _changing = self.changing.lock();
        let ended = self.withdraw_all(Ending::Locked);
        self.forget_in_session();
        *self.custody.write() = Custody::Locked;
        self.autolock.is_over();
        self.record_or_owe(&vault_event(VaultChange::Lock, None, None));
        self.audit.forget();
        ended
    }

    /// Stores a new version of a secret.
    pub(crate) fn set_secret(
        &self,
        reference: &Reference,
        value: &Plaintext,
        facts: Facts,
        session_bus: Option<&str>,
    ) -> Result<SecretInfo> {
        self.unlock(Asker::Person, None, session_bus)?;
        let now = clock::unix_seconds();
        let (vault, ()) =
            self.change_vault(|vault| Ok((vault.plan_set(reference, value, facts, now)?, ())))?;
        vault.info(reference).ok_or_else(|| crate::vault::missing(reference))
    }

    /// Makes an old version of an open vault's secret the current one.
    pub(crate) fn bring_back(&self, reference: &Reference, version: u64, facts: Facts) -> Result<SecretInfo> {
        let now = clock::unix_seconds();
        let plan = |vault: &Vault| vault.plan_bring_back(reference, version, facts, now);
        let (vault, ()) = self.change_vault(|vault| Ok((plan(vault)?, ())))?;
        vault.info(reference).ok_or_else(|| crate::vault::missing(reference))
    }

    /// Destroys every version of a secret.
    pub(crate) fn remove_secret(
        &self,
        reference: &Reference,
        session_bus: Option<&str>,
    ) -> Result<SecretInfo> {
        self.unlock(Asker::Person, None, session_bus)?;
        self.change_vault(|vault| vault.plan_remove(reference)).map(|(_, info)| info)
    }

    /// Changes the vault as `plan` says, once that is on the record; the vault that there is then, and what the
    /// plan tells beside.
    pub(crate) fn change_vault<T>(
        &self,
        plan: impl FnOnce(&Vault) -> Result<(Planned, T)>,
    ) -> Result<(Arc<Vault>, T)> {
        let changing = self.change()?;
        self.replace_vault(&changing, |vault| {
            let (planned, told) = plan(vault)?;
            self.perform(planned, |logged| vault.commit(logged)).map(|()| told)
        })
    }

    /// Has a copy changed and puts it in the vault's place once it is on the disk: readers never wait for a
    /// write.
    pub(crate) fn replace_vault<T>(
        &self,
        _changing: &MutexGuard<'_, ()>,
        change: impl FnOnce(&mut Vault) -> Result<T>,
    ) -> Result<(Arc<Vault>, T)> {
        let opened = self.custody.read().opened().ok_or_else(locked)?;
        let mut vault = (*opened.vault).clone();
        let done = change(&mut vault)?;
        self.hand_ahead(&vault);
        let vault = Arc::new(vault);
        let next = Opened {
            vault: vault.clone(),
            trust: opened.trust.clone(),
            key: opened.key.clone(),
            identity: opened.identity.clone(),
        };
        *self.custody.write() = Custody::Open(Arc::new(next));
        self.rotation.publish(&vault);
        Ok((vault, done))
    }

    pub(crate) fn change(&self) -> Result<MutexGuard<'_, ()>> {
        self.changing.try_lock_for(std::time::Duration::from_secs(10)).ok_or_else(|| {
            Error::new(Class::Timeout, "timeout", "another change of the vault takes too long")
                .hint("try again")
        })
    }
}

pub(crate) fn locked() -> Error {
    Error::new(Class::Locked, "vault_locked", "the vault is locked").hint("run `kin unlock`")
}
