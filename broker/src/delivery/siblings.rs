//! May this process make, open, rename or remove a file beside one that it may write? What it holds is the grant's
//! alone, until it takes the place of a binding: then it is the next version. To be delivered what it holds is an open
//! of every file whose content may be in it, decided, counted and recorded as such.

use std::sync::Arc;

use kin_policy::{
    Action, Decision, Denial, DirectoryName, Exe, FileName, PageCache, Permit, Reference, Request, Standing,
    decide_together,
};

use super::judge::{Attempt, Judged};
use super::open::{Caller, FileFacts, Halt, Refusal, withheld};
use super::write::{Begin, Closed};
use crate::audit::{Event, Op, ReaderFacts};
use crate::broker::Broker;
use crate::delivery::open_file::{Delivery, Reading};
use crate::grants::live::LiveGrant;
use crate::grants::temp_file::{Origins, Scratch};
use crate::sys::clock;
use crate::sys::memory::Plaintext;

/// What one record can name: bytes of references, with so many beside each for its version.
const REFERENCES: usize = 3072;
const BESIDE_REFERENCE: usize = 14;

impl Broker {
    /// What bears this name beside the files of the caller's own grant.
    ///
    /// # Errors
    /// The denial, which is in the record then.
    pub fn beside(
        &self,
        caller: Caller,
        project: &DirectoryName,
        name: &FileName,
        op: Op,
    ) -> Result<Option<Arc<Scratch>>, Refusal> {
        let attempt = Attempt::look(caller, project, op);
        let judged = self.judge(&attempt, None);
        let _ = self.permit_of(&judged, &attempt.of(name))?;
        Ok(judged.subject.live.and_then(|live| live.scratches.get(name)))
    }

    /// All names of such files.
    ///
    /// # Errors
    /// As [`Self::beside`].
    pub fn names_beside(&self, caller: Caller, project: &DirectoryName) -> Result<Vec<FileName>, Refusal> {
        let (live, _) = self.permitted(&Attempt::look(caller, project, Op::Opendir))?;
        Ok(live.scratches.names())
    }

    /// What such a file looks like.
    ///
    /// # Errors
    /// As [`Self::beside`]; `OutsideTree` for another grant's.
    pub fn look_beside(
        &self,
        caller: Caller,
        project: &DirectoryName,
        scratch: &Scratch,
        op: Op,
    ) -> Result<FileFacts, Refusal> {
        // Of what was moved here its size is seen by whom it was seen by before; what a member wrote it knows.
        let origins = scratch.origins();
        let moved = origins.iter().filter(|(_, origin)| origin.moved).map(|(file, _)| file.clone()).collect();
        let attempt = Attempt::look(caller, project, op);
        let judged = self.judge_all(&attempt, moved, None);
        let _ = self.permit_of(&judged, &attempt.of(&scratch.name()))?;
        let live = judged.subject.live.ok_or(Refusal::Broken)?;
        own(&live, scratch)?;
        Ok(FileFacts { size: scratch.size(), modified: scratch.modified() })
    }

    /// Makes such a file, and opens it.
    ///
    /// # Errors
    /// The denial, which is in the record then: `ReadOnly` for the name of a file that the grant has; `Full` where
    /// there are too many.
    pub fn create_beside(
        &self,
        caller: Caller,
        project: &DirectoryName,
        name: &FileName,
    ) -> Result<(Arc<Scratch>, Arc<Delivery>), Refusal> {
        let live = self.may_change(caller, project, name, Op::Create)?;
        if live.is_crowded() {
            return Err(Refusal::Full);
        }
        let scratch = match live.scratches.make(name, live.grant.id, live.may_be_in(name)) {
            Ok(scratch) | Err(Some(scratch)) => scratch,
            Err(None) => return Err(Refusal::Full),
        };
        self.wipe_what_came_late(&live);
        let delivery = Delivery::of_scratch(live, name.clone(), scratch.clone());
        self.autolock.used(&delivery);
        Ok((scratch, delivery))
    }

    /// Opens such a file. Who can read by the descriptor is delivered what it holds; who cannot, or empties it first,
    /// is delivered nothing yet.
    ///
    /// # Errors
    /// As [`Self::look_beside`] and [`Broker::open`].
    pub fn open_beside(
        &self,
        caller: Caller,
        project: &DirectoryName,
        scratch: &Arc<Scratch>,
        by: By,
        exe: Option<Exe>,
    ) -> Result<Arc<Delivery>, Halt> {
        let (live, _) = self.permitted(&Attempt::look(caller, project, Op::Open).to(Action::OpenToWrite))?;
        own(&live, scratch)?;
        if live.is_crowded() {
            return Err(Refusal::Denied(Denial::TooManyOpen).into());
        }
        let recorded = match by {
            By::Reading => Some(self.record_beside(caller, (&live, scratch), Op::Open, exe)?),
            By::Writing | By::Emptying => None,
        };
        let delivery = Delivery::of_scratch(live, scratch.name(), scratch.clone());
        recorded.into_iter().for_each(|origins| delivery.recorded_of(origins));
        self.autolock.used(&delivery);
        if by == By::Emptying {
            delivery.resize(0).map_err(|_| Refusal::Denied(Denial::ReadOnly))?;
        }
        Ok(delivery)
    }

    /// Serves a read of such a handle. What came into the file since it was opened is an open of its own.
    pub(super) fn read_beside<'d>(
        &self,
        caller: Caller,
        (delivery, scratch): (&'d Delivery, &Arc<Scratch>),
        page_cache: PageCache,
        exe: Option<Exe>,
    ) -> Result<Reading<'d>, Halt> {
        let live = &delivery.live;
        loop {
            let origins = scratch.origins();
            let action = Action::Read { opened_under: live.grant.id, page_cache };
            let attempt = Attempt::look(caller, &live.grant.project, Op::Read).to(action);
            let judged = self.judge_all(&attempt, origins.keys().cloned().collect(), exe);
            let _ = self.permitted_as(judged, &attempt.of(&delivery.file))?;
            if !delivery.is_recorded_of(&origins) {
                delivery.recorded_of(self.record_beside(caller, (live, scratch), Op::Read, exe)?);
            }
            let reading = delivery.reading().ok_or_else(|| withheld(live))?;
            // Whose content is in it was said before the first byte of it was.
            if delivery.is_recorded_of(&scratch.origins()) {
                return Ok(reading);
            }
        }
    }

    /// Writes down that what the file holds is delivered, as one open of all whose content may be in it: those.
    fn record_beside(
        &self,
        caller: Caller,
        (live, scratch): (&LiveGrant, &Scratch),
        op: Op,
        exe: Option<Exe>,
    ) -> Result<Origins, Halt> {
        let (origins, name, project) = (scratch.origins(), scratch.name(), &live.grant.project);
        let attempt = Attempt::look(caller, project, op).to(Action::Open);
        let judged = self.judge_all(&attempt, origins.keys().cloned().collect(), exe);
        let attempt = attempt.of(&name);
        let (judged, permit) = self.permitted_as(judged, &attempt)?;
        let versions = self.versions_in(&permit, &origins, &judged)?;
        let Ok(known) = &judged.subject.known else { return Err(Refusal::Broken.into()) };
        let (program, elsewhere) = (known.program(), judged.subject.elsewhere());
        let (reader, grant, file) = (ReaderFacts::of(known, &program, caller.uid), live.grant.id, &name);
        let mut counted = false;
        for references in recordable(&versions) {
            let event = match references {
                [(reference, version)] => {
                    let (op, version) = (Op::Open, *version);
                    Event::Allow { op, grant, project, file, reference, version, elsewhere, reader }
                }
                references => Event::AllowRendered { grant, project, file, references, elsewhere, reader },
            };
            let written = || {
                if !std::mem::replace(&mut counted, true) {
                    live.opened_together(origins.keys());
                }
            };
            self.append(permit.clone(), &event, &judged, &attempt, written)?;
        }
        Ok(origins)
    }

    /// The versions that may be in it: those that were delivered, and what the vault has of the others.
    fn versions_in(
        &self,
        permit: &Permit,
        origins: &Origins,
        judged: &Judged,
    ) -> Result<Vec<(Reference, u64)>, Refusal> {
        let vault = self.vault().ok_or_else(|| judged.subject.withheld())?;
        let passed = || origins.values().flat_map(|origin| &origin.versions);
        let mut versions: Vec<_> = passed().cloned().collect();
        for reference in permit.references().iter().filter(|own| passed().all(|(known, _)| known != *own)) {
            versions.push((reference.clone(), vault.version(reference).ok_or(Refusal::Missing)?));
        }
        versions.sort();
        versions.dedup();
        Ok(versions)
    }

    /// Removes such a file.
    ///
    /// # Errors
    /// As [`Self::create_beside`]; `NoBinding` where nothing bears the name.
    pub fn remove_beside(
        &self,
        caller: Caller,
        project: &DirectoryName,
        name: &FileName,
    ) -> Result<(), Refusal> {
        let live = self.may_change(caller, project, name, Op::Unlink)?;
        live.scratches.remove(name).then_some(()).ok_or(Refusal::Denied(Denial::NoBinding))
    }

    /// Gives such a file another name. Where a binding that may be written has that, its content is the next version,
    /// and the file is gone. Waits for the vault.
    ///
    /// # Errors
    /// As [`Self::create_beside`], [`Self::remove_beside`] and [`Broker::store`]; `Unhashed`.
    pub fn rename_beside(
        &self,
        caller: Caller,
        project: &DirectoryName,
        (old, new): (&FileName, &FileName),
        exe: Option<Exe>,
    ) -> Result<(), Halt> {
        if let Some(live) = self.writer_of(caller, old) {
            return self.move_away(caller, (&live, old), new, exe);
        }
        let live = self.may_change(caller, project, old, Op::Rename)?;
        let scratch = live.scratches.get(old).ok_or(Refusal::Denied(Denial::NoBinding))?;
        if !live.is_writable(new) {
            let live = self.may_change(caller, project, new, Op::Rename)?;
            scratch.may_hold(&live.may_be_in(new));
            let renamed = live.scratches.rename(old, new);
            return renamed.then_some(()).ok_or(Refusal::Denied(Denial::NoBinding).into());
        }
        let action = Action::OpenToWrite;
        let attempt = Attempt { caller, project, file: Some(new), action, op: Op::Rename };
        let (judged, permit) = self.permitted_content(&attempt, exe)?;
        // Under another binding's name it would be read by whom that one is for.
        if scratch.origins().iter().any(|(file, origin)| origin.moved && file != new) {
            self.record_beside(caller, (&live, &scratch), Op::Rename, exe)?;
        }
        scratch.place(true);
        let value = scratch.value.read().0.as_ref().map(|value| Plaintext::copy_of(value.bytes()));
        let stored = match value {
            Some(value) => {
                let by = Closed::now(judged, permit, caller);
                self.store_version(&by, new, &value, (action, Op::Rename))
            }
            None => Err(super::open::withheld(&live)),
        };
        match stored {
            Ok(()) => {
                live.scratches.taken(new);
                live.scratches.remove(old)
            }
            Err(_) => {
                scratch.place(false);
                false
            }
        };
        Ok(stored?)
    }

    /// Moves what a binding has to another name, for the caller's grant alone: the vault keeps it. That is an open.
    fn move_away(
        &self,
        caller: Caller,
        (live, old): (&LiveGrant, &FileName),
        new: &FileName,
        exe: Option<Exe>,
    ) -> Result<(), Halt> {
        let project = &live.grant.project;
        if live.scratches.is_vacated(old) {
            return Err(Refusal::Denied(Denial::NoBinding).into());
        }
        self.may_change(caller, project, new, Op::Rename)?;
        let opened = self.open_to_write(caller, project, old, Begin::Content, exe)?;
        let value = opened.reading().map(|reading| Plaintext::copy_of(reading.whole()));
        let value = value.ok_or_else(|| super::open::withheld(live))?;
        let moved = (live.grant.id, &opened.versions[..]);
        if LiveGrant::is_memory_full() || !live.scratches.vacate(old, new, moved, value) {
            return Err(Refusal::Full.into());
        }
        self.wipe_what_came_late(live);
        Ok(())
    }

    /// A withdrawal, or a lock, that came before a file was made has not found it.
    fn wipe_what_came_late(&self, live: &LiveGrant) {
        if live.ended().is_some() || self.autolock.has_locked() {
            live.scratches.wipe();
        }
    }

    /// Whether the name is a binding's of the caller's grant whose content was moved away: who makes a file of that
    /// name opens the binding to write, empty.
    pub fn is_vacated(&self, caller: Caller, name: &FileName) -> bool {
        self.writer_of(caller, name).is_some_and(|live| live.scratches.is_vacated(name))
    }

    /// That file was made, and is there again.
    pub fn is_taken(&self, delivery: &Delivery) {
        delivery.live.scratches.taken(&delivery.file);
    }

    /// The caller's grant, where this is a binding that it may write.
    fn writer_of(&self, caller: Caller, name: &FileName) -> Option<Arc<LiveGrant>> {
        let known = self.identifier.identify(caller.tid, &self.grants).ok()?;
        self.grant_of(&known).filter(|live| caller.reaches(live) && live.is_writable(name))
    }

    /// The caller's grant, where it may change the directory under this name: no file of its own bears it.
    fn may_change(
        &self,
        caller: Caller,
        project: &DirectoryName,
        name: &FileName,
        op: Op,
    ) -> Result<Arc<LiveGrant>, Refusal> {
        let attempt = Attempt::look(caller, project, op).to(Action::OpenToWrite);
        let mut judged = self.judge(&attempt, None);
        let taken =
            judged.subject.live.as_ref().is_some_and(|live| live.grant.names().any(|own| own == name));
        if taken && matches!(judged.decision, Decision::Permit(_)) {
            judged.decision = Decision::Deny(Denial::ReadOnly);
        }
        let _ = self.permit_of(&judged, &attempt.of(name))?;
        judged.subject.live.ok_or(Refusal::Broken)
    }
}

/// In as many parts as records are needed to name all of it: one names [`REFERENCES`] bytes.
fn recordable(versions: &[(Reference, u64)]) -> impl Iterator<Item = &[(Reference, u64)]> {
    let mut rest = versions;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |(reference, _): &&(Reference, u64)| {
            bytes += reference.as_str().len() + BESIDE_REFERENCE;
            bytes <= REFERENCES
        };
        let most = rest.iter().take_while(fits).count().clamp(1, rest.len().max(1));
        let (part, others) = rest.split_at_checked(most)?;
        rest = others;
        Some(part)
    })
}

/// What for a file beside others is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// To read, and perhaps to write.
    Reading,
    /// To write alone.
    Writing,
    /// To write, from nothing on (O_TRUNC).
    Emptying,
}

impl LiveGrant {
    /// Decides for every file whose content may be in one beside them.
    pub(super) fn decided_beside(
        &self,
        request: &Request<'_>,
        origins: &[FileName],
        suspended: bool,
    ) -> Decision {
        let parts = origins.iter().flat_map(|file| match self.grant.files.get(file) {
            Some(rendered) => rendered.bindings.keys().map(|part| (part, Some(file))).collect(),
            None => vec![(file, None)],
        });
        let parts: Vec<_> = parts.map(|part| (part, self.around(Some(part.0)))).collect();
        let crowded = request.action.is_an_open() && self.is_crowded();
        let parts: Vec<_> = parts
            .iter()
            .map(|((file, through), around)| {
                let standing = Standing { suspended, crowded, ..self.standing(Some(file), around) };
                (Request { file: Some(file), through: *through, ..*request }, standing)
            })
            .collect();
        decide_together(&parts, clock::now())
    }
}

fn own(live: &LiveGrant, scratch: &Scratch) -> Result<(), Refusal> {
    match live.grant.id == scratch.grant {
        true => Ok(()),
        false => Err(Refusal::Denied(Denial::OutsideTree)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_for_one_record_is_named_in_several() {
        let named = |count: usize| -> Vec<_> {
            let names = (0..count).map(|n| Reference::new(format!("{}/{n:03}", "r".repeat(60))).unwrap());
            names.map(|name| (name, 1)).collect()
        };
        for (count, records) in [(0, 0), (1, 1), (39, 1), (40, 2), (200, 6)] {
            let versions = named(count);
            let parts: Vec<_> = recordable(&versions).collect();
            assert_eq!((parts.len(), parts.concat() == versions), (records, true), "{count}");
            assert!(parts.iter().all(|part| part.len() <= 39));
        }
    }
}
