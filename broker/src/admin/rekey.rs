//! How does the user's vault get another identity, while it is in use?

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::admin::rekey_files::{self, Settled, Succession};
use crate::admin::requests::Rekeyed;
use crate::admin::unlock::{Asker, locked};
use crate::audit::Logged;
use crate::broker::Broker;
use crate::keys::KeyMethod;
use crate::keys::keyring::Agent;
use crate::keys::{self, session};
use crate::project::trust_store::TrustStore;
use crate::sys::error::Result;
use crate::sys::memory::Plaintext;
use crate::vault::{Place, Vault};

impl Broker {
    /// Gives the open vault another identity; grants go on.
    ///
    /// # Errors
    /// Those of an unlock, of making an identity, and of a write of the vault.
    pub(crate) fn rekey(
        &self,
        method: Option<KeyMethod>,
        secret: Option<&Plaintext>,
        session_bus: Option<&str>,
    ) -> Result<Rekeyed> {
        self.unlock(Asker::Person, None, session_bus)?;
        let changing = self.change()?;
        let opened = self.custody.read().opened().ok_or_else(locked)?;
        let method = method.or(keys::method(&self.directories)?).ok_or_else(locked)?;
        let succession = Succession::rekey(Vault::clone(&opened.vault));
        self.perform(succession, |logged| self.follow(&changing, logged, (&method, secret), session_bus))
    }

    /// Puts the vault, under an identity of its own, in the place of what is there, and opens it.
    ///
    /// # Errors
    /// As [`rekey_files::succeed`]. A vault of which it cannot be said which it is then is closed.
    pub(crate) fn follow(
        &self,
        changing: &MutexGuard<'_, ()>,
        succession: Logged<Succession>,
        (method, secret): (&KeyMethod, Option<&Plaintext>),
        session_bus: Option<&str>,
    ) -> Result<Rekeyed> {
        let receipt = succession.receipt();
        let (place, open) = (Place::of(&self.directories), self.custody.read().opened());
        // Nobody writes with the old keys meanwhile: neither what is trusted, nor what is remembered of the record.
        let trust: Option<Arc<Mutex<TrustStore>>> = open.as_ref().map(|opened| opened.trust.clone());
        let mut writing = trust.as_ref().map(|store| store.lock());
        self.audit.forget();
        let at = (&place, &self.directories);
        let followed = rekey_files::succeed(&Agent::own(), at, succession, (method, secret), session_bus);
        let (identity, vault) = match followed {
            Ok(followed) => followed,
            Err(error) => {
                match (rekey_files::settle(&place, &self.directories), open) {
                    (Ok(Settled::Nothing | Settled::Old), Some(opened)) => {
                        let _ = self.audit.remember(&opened.identity, &self.directories.record_head());
                    }
                    (_, open) if open.is_some() => self.close(changing, "rekey"),
                    _ => {}
                }
                return Err(error);
            }
        };
        if let Some(store) = writing.as_deref_mut() {
            store.follow(&identity.root());
        }
        drop(writing);
        if let Some(opened) = open {
            session::forget(opened.identity.recipient());
        }
        let recipient = Some(identity.recipient().to_owned());
        let (key, secrets, generation) = (method.clone(), vault.list().len(), vault.generation());
        self.open_up((changing, receipt), Arc::new(identity), vault, key.clone(), trust)?;
        Ok(Rekeyed { recipient, key, secrets, generation })
    }
}
