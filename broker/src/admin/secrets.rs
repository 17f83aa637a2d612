//! Storing, finding and revealing secrets.

use kin_policy::{Permit, Reference, decide_reveal};

use crate::admin::requests::{NewVersion, confirmation};
use crate::admin::unlock::Asker;
use crate::audit::behalf::with_asker;
use crate::audit::{Event, Logged, VaultChange, version_event};
use crate::broker::Broker;
use crate::sys::clock;
use crate::sys::error::{Class, Error, Result};
use crate::sys::memory::Plaintext;
use crate::vault::info::{SecretInfo, VersionInfo};
use crate::vault::{Facts, generate};

impl Broker {
    /// One secret's metadata.
    ///
    /// # Errors
    /// `unknown_reference`; those of opening the vault.
    pub(crate) fn show_secret(&self, reference: &Reference, bus: Option<&str>) -> Result<SecretInfo> {
        self.unlock(Asker::Anybody, None, bus)?;
        self.info(reference)
    }

    /// Every version of a secret that is remembered, oldest first.
    ///
    /// # Errors
    /// `unknown_reference`; those of opening the vault.
    pub(crate) fn history(&self, reference: &Reference, bus: Option<&str>) -> Result<Vec<VersionInfo>> {
        let opened = self.unlock(Asker::Anybody, None, bus)?;
        self.info(reference)?;
        opened.vault.history(reference, clock::unix_seconds())
    }

    /// Writes down that a person is given a value; the record says who asked.
    ///
    /// # Errors
    /// Those of the record.
    pub(crate) fn log_for_a_person(&self, permit: Permit, event: &Event<'_>) -> Result<Logged<Permit>> {
        with_asker(|asker| self.audit.append_permit(permit, &event.asked_by(asker), || Ok(()), || ()))
            .map_err(Error::from)
    }

    pub(crate) fn set(
        &self,
        new: NewVersion,
        value: Option<Plaintext>,
        bus: Option<&str>,
    ) -> Result<SecretInfo> {
        let bad = |why: &str| Error::new(Class::Usage, "bad_request", why.to_owned());
        let NewVersion { reference, mut generate, note, expires_s, from_version, attributes, rotate } = new;
        let now = clock::unix_seconds();
        let asked = expires_s.map(|seconds| now.saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX)));
        let mut facts = Facts { note, due: asked, generated: None, grant: None, attributes };
        if rotate {
            self.unlock(Asker::Person, None, bus)?;
            let mut old = self.info(&reference)?;
            let made = old.generated.take().filter(|_| value.is_none() && from_version.is_none());
            generate = generate.or(made);
            let kept = Facts::kept(old, now);
            facts.note = facts.note.or(kept.note);
            facts.attributes = kept.attributes.into_iter().chain(facts.attributes).collect();
            facts.due = facts.due.or(kept.due);
        }
        if let Some(version) = from_version {
            if generate.is_some() || value.is_some() || !rotate {
                return Err(bad("an old version is another source than a value"));
            }
            return self.bring_back(&reference, version, facts);
        }
        let value = match (&generate, value) {
            (Some(spec), None) => generate::generate(spec)?,
            (None, Some(value)) => value,
            _ => return Err(bad("either a value or a way to make one")),
        };
        facts.generated = generate;
        self.set_secret(&reference, &value, facts, bus)
    }

    /// Some of the secrets whose names come after this one.
    pub(crate) fn secrets_after(&self, after: Option<&Reference>) -> Result<Vec<SecretInfo>> {
        /// They fit into a few parts of an answer.
        const PAGE: usize = 512;
        let vault =
            self.vault().ok_or_else(|| Error::internal("list the vault", "it was locked meanwhile"))?;
        Ok(vault.infos(after).take(PAGE).collect())
    }

    pub(crate) fn info(&self, reference: &Reference) -> Result<SecretInfo> {
        self.vault().and_then(|vault| vault.info(reference)).ok_or_else(|| unknown(reference))
    }

    /// The one way that a value leaves for a person: confirmed, outside every tree, and on the record.
    pub(crate) fn reveal(
        &self,
        reference: &Reference,
        version: Option<u64>,
        confirmed: bool,
        bus: Option<&str>,
    ) -> Result<(SecretInfo, Plaintext)> {
        let opened = self.unlock(Asker::Person, None, bus)?;
        let (info, now) = (self.info(reference)?, clock::unix_seconds());
        version.map(|version| opened.vault.check_version(reference, version, now)).transpose()?;
        let permit = decide_reveal(reference, false, confirmed).ok_or_else(|| confirmation("reveal"))?;
        let revealed = (reference, version.unwrap_or(info.version));
        let logged = self.log_for_a_person(permit, &version_event(VaultChange::Reveal, revealed, None))?;
        let value = match version {
            Some(version) => opened.vault.unseal_version(&logged, version, now)?,
            None => opened.vault.unseal(&logged)?,
        };
        Ok((info, value))
    }
}

fn unknown(reference: &Reference) -> Error {
    Error::new(Class::Usage, "unknown_reference", format!("the vault has no {reference}"))
        .hint("`kin list` shows what it has")
}
