//! What is a vault about to become? A plan, which changes nothing before the record has it.

use std::path::Path;
use std::sync::Arc;

use kin_policy::{Permit, Reference};

use super::container::Content;
use super::{Facts, Place, StoreMark, Vault, anchor, history, missing};
use crate::Plaintext;
use crate::audit::{Change, Event, Logged, VaultChange};
use crate::sys::error::{Error, Result};
use crate::vault::info::{RecipientInfo, SecretInfo};

/// What a vault is to become, and what the record says of that. Only a vault makes one, and
/// [`Vault::commit`] takes it once it is logged.
#[must_use]
pub struct Planned {
    from: Arc<Content>,
    next: Content,
    said: Vec<Said>,
}

/// One record of a change of the vault.
#[derive(Debug)]
struct Said {
    change: VaultChange,
    secret: Option<(Reference, u64)>,
    reason: Option<String>,
}

impl Change for Planned {
    fn events(&self) -> Vec<Event<'_>> {
        self.said.iter().map(Said::event).collect()
    }
}

impl Said {
    fn event(&self) -> Event<'_> {
        Event::Vault {
            change: self.change,
            reference: self.secret.as_ref().map(|(reference, _)| reference),
            version: self.secret.as_ref().map(|(_, version)| *version),
            reason: self.reason.as_deref(),
            asker: None,
        }
    }
}

/// A vault that is about to be made.
#[must_use]
pub struct Making {
    place: Place,
}

impl Making {
    /// Of a vault in this place.
    pub fn at(place: &Place) -> Self {
        Self { place: place.clone() }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }
}

impl Change for Making {
    fn events(&self) -> Vec<Event<'_>> {
        let (change, reference, version, reason) = (VaultChange::Init, None, None, None);
        vec![Event::Vault { change, reference, version, reason, asker: None }]
    }
}

/// A change of something that the vault acknowledges: its new mark, in one write with nothing else.
pub(crate) trait Acknowledged {
    /// What it will be.
    fn mark(&self) -> &StoreMark;
}

impl Vault {
    /// Stores new versions, which become the current ones: all of them, or none. `created` is in seconds of Unix
    /// time, `reason` what the record says beside. Older versions can be read for a while.
    ///
    /// # Errors
    /// `value_too_large`, `note_too_long`, `bad_attribute` (Usage).
    pub fn plan_set_all<'v>(
        &self,
        new: impl IntoIterator<Item = (Reference, &'v Plaintext, Facts)>,
        created: i64,
        reason: Option<&str>,
    ) -> Result<Planned> {
        let (mut next, mut said) = (Content::clone(&self.content), Vec::new());
        for (reference, value, facts) in new {
            let record = next.secrets.entry(reference.clone()).or_default();
            let version = self.seal_version(&reference, record, value, facts, created)?;
            let secret = Some((reference, version.version));
            record.versions.push(version);
            said.push(Said { change: VaultChange::Write, secret, reason: reason.map(str::to_owned) });
        }
        next.secrets.values_mut().for_each(|record| history::forget(record, created));
        Ok(self.planned(next, said))
    }

    /// As [`Self::plan_set_all`], of one.
    ///
    /// # Errors
    /// As there.
    pub fn plan_set(
        &self,
        reference: &Reference,
        value: &Plaintext,
        facts: Facts,
        created: i64,
    ) -> Result<Planned> {
        self.plan_set_all([(reference.clone(), value, facts)], created, None)
    }

    /// Makes an old version the current one: the same value once more, under the next number, with what is kept
    /// beside the version that it replaces. Nobody is delivered it.
    ///
    /// # Errors
    /// `version_missing` and `version_destroyed` (Usage); as [`Self::plan_set`].
    pub fn plan_bring_back(
        &self,
        reference: &Reference,
        version: u64,
        facts: Facts,
        created: i64,
    ) -> Result<Planned> {
        self.check_version(reference, version, created)?;
        let found = self.versions(reference).iter().find(|found| found.version == version);
        let value = self.open_version(reference, found.ok_or_else(|| missing(reference))?)?;
        let from = format!("from version {version}");
        self.plan_set_all([(reference.clone(), &value, facts)], created, Some(&from))
    }

    /// Destroys every version of a secret; tells what it is.
    ///
    /// # Errors
    /// `secret_missing`.
    pub fn plan_remove(&self, reference: &Reference) -> Result<(Planned, SecretInfo)> {
        let info = self.info(reference).ok_or_else(|| missing(reference))?;
        let mut next = Content::clone(&self.content);
        next.secrets.remove(reference);
        let secret = Some((reference.clone(), info.version));
        Ok((self.planned(next, vec![Said { change: VaultChange::Remove, secret, reason: None }]), info))
    }

    /// Puts this vault, which is that of the backup `from`, in the place of the one that is there, as the newest.
    pub fn plan_restore(&self, from: &Path) -> Planned {
        self.planned_anew(VaultChange::Restore, &from.to_string_lossy())
    }

    /// Takes this vault, which is an old one, for the newest, under a generation that no other has had; `refused`
    /// says why it was not accepted.
    pub(crate) fn plan_accept(&self, refused: &str) -> Planned {
        self.planned_anew(VaultChange::AcceptRollback, refused)
    }

    /// What the vault says of other files than itself is not rolled back with it.
    fn planned_anew(&self, change: VaultChange, reason: &str) -> Planned {
        let mut next = Content::clone(&self.content);
        next.trust = self.newest_mark();
        self.planned(next, vec![Said { change, secret: None, reason: Some(reason.to_owned()) }])
    }

    pub(super) fn plan_recipients(
        &self,
        change: VaultChange,
        (next, info): (Content, RecipientInfo),
    ) -> (Planned, RecipientInfo) {
        let said = Said { change, secret: None, reason: Some(info.recipient.clone()) };
        (self.planned(next, vec![said]), info)
    }

    fn planned(&self, next: Content, said: Vec<Said>) -> Planned {
        Planned { from: self.content.clone(), next, said }
    }

    /// Does what was planned: the file first, then memory, so what was acknowledged is on the disk.
    ///
    /// # Errors
    /// `vault_full`, or another storage error. Nothing has changed then, except where only the last step failed,
    /// making it durable.
    pub fn commit(&mut self, planned: Logged<Planned>) -> Result<()> {
        self.carry_out(planned.into_inner())
    }

    /// As [`Self::commit`], of a version that a reader stores, under the permit that the record has of its write.
    pub(crate) fn commit_written(&mut self, planned: Planned, permit: &Logged<Permit>) -> Result<()> {
        match (&planned.said[..], permit.get().reference()) {
            ([Said { secret: Some((reference, _)), .. }], Some(permitted)) if reference == permitted => {
                self.carry_out(planned)
            }
            _ => Err(Error::internal("store a version", "the permit is for another secret")),
        }
    }

    /// Remembers the mark of another file, whose change is on the record.
    pub(crate) fn acknowledge<C: Acknowledged>(&mut self, change: &Logged<C>) -> Result<()> {
        let mut next = Content::clone(&self.content);
        next.trust = Some(change.get().mark().clone());
        self.write_next(next)
    }

    fn carry_out(&mut self, planned: Planned) -> Result<()> {
        if !Arc::ptr_eq(&planned.from, &self.content) {
            return Err(Error::internal("change the vault", "it was planned for another state of it"));
        }
        self.write_next(planned.next)
    }

    pub(super) fn write_next(&mut self, mut next: Content) -> Result<()> {
        let marked = anchor::generation(&self.place.anchor, self.keys.anchor());
        next.generation = next.generation.max(marked) + 1;
        self.write(&next)?;
        self.content = Arc::new(next);
        Ok(())
    }
}
