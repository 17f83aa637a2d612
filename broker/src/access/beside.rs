//! May this process make, open, rename or remove a file beside one that it may write? What it holds is the grant's
//! alone, until it takes the place of a binding: then it is the next version.

use std::sync::Arc;

use kin_policy::{Action, Decision, Denial, DirectoryName, Exe, FileName};

use super::writing::{Begin, Closed};
use super::{Broker, Caller, FileFacts, Halt, Refusal};
use crate::audit::Op;
use crate::delivery::Delivery;
use crate::grants::LiveGrant;
use crate::scratch::Scratch;
use crate::sys::memory::Plaintext;

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
        let judged = self.judge(caller, Action::Look, project, None, None);
        let _ = self.permit_of(&judged, caller, project, Some(name), op)?;
        Ok(judged.subject.live.and_then(|live| live.scratches.get(name)))
    }

    /// All names of such files.
    ///
    /// # Errors
    /// As [`Self::beside`].
    pub fn names_beside(&self, caller: Caller, project: &DirectoryName) -> Result<Vec<FileName>, Refusal> {
        let (live, _) = self.permitted(caller, Action::Look, project, None, Op::Opendir)?;
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
        let (live, _) = self.permitted(caller, Action::Look, project, None, op)?;
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
        let scratch = match live.scratches.make(name, live.grant.id) {
            Ok(scratch) | Err(Some(scratch)) => scratch,
            Err(None) => return Err(Refusal::Full),
        };
        self.wipe_what_came_late(&live);
        let delivery = Delivery::of_scratch(live, name.clone(), scratch.clone());
        self.autolock.used(&delivery);
        Ok((scratch, delivery))
    }

    /// Opens such a file.
    ///
    /// # Errors
    /// As [`Self::look_beside`].
    pub fn open_beside(
        &self,
        caller: Caller,
        project: &DirectoryName,
        scratch: &Arc<Scratch>,
        truncate: bool,
    ) -> Result<Arc<Delivery>, Refusal> {
        let (live, _) = self.permitted(caller, Action::OpenToWrite, project, None, Op::Open)?;
        own(&live, scratch)?;
        if live.is_crowded() {
            return Err(Refusal::Denied(Denial::TooManyOpen));
        }
        let name = FileName::new(scratch.number.to_string()).map_err(|_| Refusal::Broken)?;
        let delivery = Delivery::of_scratch(live, name, scratch.clone());
        self.autolock.used(&delivery);
        if truncate {
            delivery.resize(0).map_err(|_| Refusal::Denied(Denial::ReadOnly))?;
        }
        Ok(delivery)
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
            let renamed = live.scratches.rename(old, new);
            return renamed.then_some(()).ok_or(Refusal::Denied(Denial::NoBinding).into());
        }
        let action = Action::OpenToWrite;
        let (judged, permit) =
            self.permitted_content(caller, (project, Some(new)), (action, Op::Rename), exe)?;
        scratch.place(true);
        let value = scratch.value.read().0.as_ref().map(|value| Plaintext::copy_of(value.bytes()));
        let stored = match value {
            Some(value) => {
                let by = Closed::now(judged, permit, caller);
                self.store_version(&by, new, &value, (action, Op::Rename))
            }
            None => Err(super::withheld(&live)),
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
        let value = value.ok_or_else(|| super::withheld(live))?;
        if LiveGrant::is_memory_full() || !live.scratches.vacate(old, new, live.grant.id, value) {
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
        let mut judged = self.judge(caller, Action::OpenToWrite, project, None, None);
        let taken =
            judged.subject.live.as_ref().is_some_and(|live| live.grant.names().any(|own| own == name));
        if taken && matches!(judged.decision, Decision::Permit(_)) {
            judged.decision = Decision::Deny(Denial::ReadOnly);
        }
        let _ = self.permit_of(&judged, caller, project, Some(name), op)?;
        judged.subject.live.ok_or(Refusal::Broken)
    }
}

fn own(live: &LiveGrant, scratch: &Scratch) -> Result<(), Refusal> {
    match live.grant.id == scratch.grant {
        true => Ok(()),
        false => Err(Refusal::Denied(Denial::OutsideTree)),
    }
}
