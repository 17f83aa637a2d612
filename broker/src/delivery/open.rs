//! May this reader have this file, and what does it get? The way of one open, step by step.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::SystemTime;

use kin_policy::{
    Action, Decision, Denial, DirectoryName, Ending, Exe, FileName, GrantId, PageCache, Permit, Reach,
    Reference,
};

use super::judge::{Attempt, Judged, Subject};
use crate::audit::{Event, Logged, NotLogged, Op, ReaderFacts};
use crate::broker::Broker;
use crate::delivery::open_file::{Delivery, Reading};
use crate::grants::live::LiveGrant;
use crate::process::executables::Unhashed;
use crate::sys::clock;
use crate::sys::error::Error;
use crate::vault::{self, Vault};

/// Who asks, as the FUSE request header says it: a thread id (0 where it is invisible) and a uid.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The thread.
    pub tid: u32,
    /// Its file system uid.
    pub uid: u32,
    /// The grant whose private mount it asks through, where it is one.
    pub mount: Option<GrantId>,
}

impl Caller {
    pub(super) fn reaches(&self, live: &LiveGrant) -> bool {
        self.mount.is_none_or(|mount| live.is_within(mount))
    }
}

/// What a member may know of a file before it opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// The size of the current version, in bytes.
    pub size: u64,
    /// When the current version was made; no two versions have the same.
    pub modified: SystemTime,
}

/// Why there is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The decision.
    Denied(Denial),
    /// The record could not be written, so nothing was delivered.
    NotRecorded,
    /// The vault no longer has what the binding names.
    Missing,
    /// The value would not unseal; or the vault did not take one, for a reason of its own.
    Broken,
    /// There would be more bytes than a value may have.
    TooLarge,
    /// The vault is full, or its disk.
    Full,
}

/// Why there is nothing yet, or nothing at all.
#[derive(Debug)]
pub enum Halt {
    /// There is nothing.
    Refused(Refusal),
    /// The binding is for certain programs, and what the reader runs was not hashed yet: after
    /// [`Broker::hash`], off this thread, the same is asked again with the outcome.
    Unhashed(Unhashed),
}

impl From<Refusal> for Halt {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Broker {
    /// May the caller look at the project's directory?
    ///
    /// # Errors
    /// The denial, which is in the record then.
    pub fn look_at_project(&self, caller: Caller, project: &DirectoryName, op: Op) -> Result<(), Refusal> {
        self.permitted(&Attempt::look(caller, project, op)).map(drop)
    }

    /// May the caller look at the file, and what would it see?
    ///
    /// # Errors
    /// The denial, which is in the record then; `Missing` where the vault has lost the secret.
    pub fn look_at_file(
        &self,
        caller: Caller,
        project: &DirectoryName,
        file: &FileName,
        op: Op,
    ) -> Result<FileFacts, Refusal> {
        let (live, _) = self.permitted(&Attempt::look(caller, project, op).of(file))?;
        self.facts_of(&live, file)
    }

    pub(super) fn facts_of(&self, live: &Arc<LiveGrant>, file: &FileName) -> Result<FileFacts, Refusal> {
        let vault = self.vault().ok_or_else(|| withheld(live))?;
        if live.grant.files.contains_key(file) {
            return self.look_at_rendered(live, file, &vault);
        }
        let binding = live.grant.bindings.get(file).ok_or(Refusal::Denied(Denial::NoBinding))?;
        let info = vault.info(&binding.reference).ok_or(Refusal::Missing)?;
        Ok(FileFacts { size: info.size, modified: vault::modified([&info]) })
    }

    /// The names that the caller sees in the project's directory: those of its own grant.
    ///
    /// # Errors
    /// The denial, which is in the record then.
    pub fn names(&self, caller: Caller, project: &DirectoryName) -> Result<Vec<FileName>, Refusal> {
        self.names_that(caller, project, |_, _| true)
    }

    /// As [`Self::names`], of what may be written.
    ///
    /// # Errors
    /// As there.
    pub fn writable_names(&self, caller: Caller, project: &DirectoryName) -> Result<Vec<FileName>, Refusal> {
        self.names_that(caller, project, shows_to_write)
    }

    pub(super) fn names_that(
        &self,
        caller: Caller,
        project: &DirectoryName,
        shown: impl Fn(&LiveGrant, &FileName) -> bool,
    ) -> Result<Vec<FileName>, Refusal> {
        let attempt = Attempt::look(caller, project, Op::Opendir);
        let judged = self.judge(&attempt, None);
        let _ = self.permit_of(&judged, &attempt)?;
        let elsewhere = judged.subject.elsewhere();
        let Some(live) = judged.subject.live else { return Err(Refusal::Broken) };
        let anywhere = |file: &FileName| live.grant.behind(file).all(|b| b.namespaces == Reach::Any);
        let seen = |file: &&FileName| (!elsewhere || anywhere(file)) && shown(&live, file);
        Ok(live.grant.names().filter(seen).cloned().collect())
    }

    /// As [`Self::look_at_file`], where the file may be written: another is none.
    ///
    /// # Errors
    /// As there; `NoBinding`.
    pub fn look_at_writable(
        &self,
        caller: Caller,
        project: &DirectoryName,
        file: &FileName,
        op: Op,
    ) -> Result<FileFacts, Refusal> {
        let attempt = Attempt::look(caller, project, op).of(file);
        let judged = self.judge(&attempt, None);
        let _ = self.permit_of(&judged, &attempt)?;
        let process = judged.process();
        let live = judged.subject.live.ok_or(Refusal::Broken)?;
        if !shows_to_write(&live, file) {
            return Err(Refusal::Denied(Denial::NoBinding));
        }
        let facts = self.facts_of(&live, file)?;
        // Who writes sees what it has written.
        let written = process.and_then(|process| live.draft_of(file, process));
        Ok(FileFacts { size: written.unwrap_or(facts.size), ..facts })
    }

    /// The refusal of a directory that this mount does not show, whatever it is called: `NoBinding` for a member of
    /// a live grant. For everybody else it is one that the record has, the same for each name.
    pub fn refuse_project(&self, caller: Caller, name: &OsStr, op: Op) -> Refusal {
        let known = self.identifier.identify(caller.tid, &self.grants);
        let live =
            known.as_ref().ok().and_then(|known| self.grant_of(known)).filter(|live| caller.reaches(live));
        let denial = match (&known, &live) {
            (Err(why), _) => Denial::Unidentified(*why),
            (Ok(_), None) => Denial::OutsideTree,
            (Ok(_), Some(live)) if live.is_live(clock::now()) => return Refusal::Denied(Denial::NoBinding),
            (Ok(_), Some(live)) => Denial::Ended(live.ended().unwrap_or(Ending::TtlExpired)),
        };
        let subject = Subject { known, again: None, live, namespaces: None, exe: None, origins: Vec::new() };
        self.record_refused(&subject, denial.reason(), caller, (name.as_bytes(), None, None), op);
        Refusal::Denied(denial)
    }

    /// Delivers one version of the file: decided, recorded, unsealed, in this order. `exe` is what
    /// [`Broker::hash`] found for this very request, where it was asked.
    ///
    /// # Errors
    /// The denial, which is in the record then; `NotRecorded` where the record failed: then nothing was
    /// unsealed; `Unhashed`.
    pub fn open(
        &self,
        caller: Caller,
        project: &DirectoryName,
        file: &FileName,
        exe: Option<Exe>,
    ) -> Result<Arc<Delivery>, Halt> {
        self.deliver(caller, (project, file), exe, Op::Open)
    }

    /// As [`Self::open`], and the record says how it is delivered.
    pub(crate) fn deliver(
        &self,
        caller: Caller,
        (project, file): (&DirectoryName, &FileName),
        exe: Option<Exe>,
        op: Op,
    ) -> Result<Arc<Delivery>, Halt> {
        let attempt = Attempt { caller, project, file: Some(file), action: Action::Open, op };
        let (judged, permit) = self.permitted_content(&attempt, exe)?;
        // One snapshot of the vault, so that the versions in the record are those that are unsealed.
        let vault = self.vault().ok_or_else(|| judged.subject.withheld())?;
        let versions = versions(&permit, &vault)?;
        let logged = self.log(permit, &versions, &judged, &attempt)?;
        let live = judged.subject.live.ok_or(Refusal::Broken)?;
        let value = match live.rendered(file) {
            Some(rendered) => rendered.render(&live.grant, file, &vault, &logged)?,
            None => vault.unseal(&logged).map_err(|error| unsealing(&error))?,
        };
        let delivery = Delivery::new(live, file.clone(), versions, value);
        self.autolock.used(&delivery);
        Ok(delivery)
    }

    /// Writes the delivery down. It is decided once more under the log's own lock: what the record shows as
    /// allowed stands before the grant's end and within its limits, or not at all.
    pub(super) fn log(
        &self,
        permit: Permit,
        versions: &[(Reference, u64)],
        judged: &Judged,
        attempt: &Attempt<'_>,
    ) -> Result<Logged<Permit>, Refusal> {
        let (Ok(known), Some(live), Some(file)) = (&judged.subject.known, &judged.subject.live, attempt.file)
        else {
            return Err(Refusal::Broken);
        };
        let (program, project, op) = (known.program(), &live.grant.project, attempt.op);
        let reader = ReaderFacts::of(known, &program, attempt.caller.uid);
        let (grant, elsewhere) = (live.grant.id, judged.subject.elsewhere());
        let event = match versions {
            [(reference, version)] if live.rendered(file).is_none() => {
                let version = *version;
                Event::Allow { op, grant, project, file, reference, version, elsewhere, reader }
            }
            references => Event::AllowRendered { grant, project, file, references, elsewhere, reader },
        };
        self.append(permit, &event, judged, attempt, || {
            live.opened(file);
            live.passed_on(file, versions);
        })
    }

    /// Writes down what a permit is used for, where it still holds under the log's own lock.
    pub(super) fn append(
        &self,
        permit: Permit,
        event: &Event<'_>,
        judged: &Judged,
        attempt: &Attempt<'_>,
        written: impl FnOnce(),
    ) -> Result<Logged<Permit>, Refusal> {
        let still_valid = || match judged.subject.decided(attempt, self.autolock.has_locked()) {
            Decision::Permit(_) => Ok(()),
            Decision::Deny(denial) => Err(denial),
        };
        self.audit.append_permit(permit, event, still_valid, written).map_err(|error| match error {
            NotLogged::Denied(denial) => {
                self.record_denial(judged, denial, attempt);
                Refusal::Denied(denial)
            }
            _ => Refusal::NotRecorded,
        })
    }

    /// Serves a read of an open handle, to a reader that belongs to the same live grant. `exe` as in
    /// [`Self::open`].
    ///
    /// # Errors
    /// The denial, which is in the record then; `Unhashed`.
    pub fn read<'d>(
        &self,
        caller: Caller,
        delivery: &'d Delivery,
        page_cache: PageCache,
        exe: Option<Exe>,
    ) -> Result<Reading<'d>, Halt> {
        if let Some(scratch) = delivery.scratch() {
            return self.read_beside(caller, (delivery, scratch), page_cache, exe);
        }
        // All handles of a file fill one cache: what is in it is of one version, the newest.
        let page_cache = match page_cache {
            PageCache::Private if !self.is_newest(delivery) => PageCache::Shared,
            page_cache => page_cache,
        };
        let action = Action::Read { opened_under: delivery.live.grant.id, page_cache };
        let attempt =
            Attempt::look(caller, &delivery.live.grant.project, Op::Read).of(&delivery.file).to(action);
        let _ = self.permitted_content(&attempt, exe)?;
        delivery.reading().ok_or_else(|| withheld(&delivery.live).into())
    }

    pub(super) fn is_newest(&self, delivery: &Delivery) -> bool {
        let newest = |vault: Arc<Vault>| {
            delivery.versions.iter().all(|(reference, version)| vault.version(reference) == Some(*version))
        };
        self.vault().is_some_and(newest)
    }
}

/// Whether the file is there for who may write it: none is whose content the grant has moved away.
pub(super) fn shows_to_write(live: &LiveGrant, file: &FileName) -> bool {
    live.is_writable(file) && !live.scratches.is_vacated(file)
}

/// What a permit is for, as the vault has it now.
pub(crate) fn versions(permit: &Permit, vault: &Vault) -> Result<Vec<(Reference, u64)>, Refusal> {
    let version = |reference: &Reference| Some((reference.clone(), vault.version(reference)?));
    permit.references().iter().map(version).collect::<Option<_>>().ok_or(Refusal::Missing)
}

/// What a reader sees of a value that does not unseal.
pub(crate) fn unsealing(error: &Error) -> Refusal {
    match &*error.code {
        "secret_missing" => Refusal::Missing,
        _ => Refusal::Broken,
    }
}

/// The vault was locked under a grant: by a person, which ended the grant, or by itself. A handle that was
/// wiped then has no value any more, also after an unlock: it is for a new open to get one.
pub(super) fn withheld(live: &LiveGrant) -> Refusal {
    Refusal::Denied(live.ended().map_or(Denial::Suspended, Denial::Ended))
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
