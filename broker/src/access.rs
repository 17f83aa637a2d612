//! May this reader have this file, and what does it get? The way of one open, step by step.

use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use kin_policy::{
    Action, Decision, Denial, DirectoryName, Ending, FileName, GrantId, Permit, Reader, Request, Standing,
    Tid, Unidentified, decide,
};

use crate::audit::{Ancestry, Denied, Event, Logged, NotLogged, Op, ReaderFacts};
use crate::broker::Broker;
use crate::clock;
use crate::delivery::{Delivery, Reading};
use crate::grants::LiveGrant;
use crate::identity::{Known, Program};

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
    fn reaches(&self, live: &LiveGrant) -> bool {
        self.mount.is_none_or(|mount| live.is_within(mount))
    }
}

/// What a member may know of a file before it opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// The size of the current version, in bytes.
    pub size: u64,
    /// When the current version was made: seconds of Unix time.
    pub modified: i64,
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
    /// The value would not unseal.
    Broken,
}

/// One question with all that is known of the asker.
struct Judged {
    known: Result<Arc<Known>, Unidentified>,
    live: Option<Arc<LiveGrant>>,
    decision: Decision,
}

impl Broker {
    /// May the caller look at the project's directory?
    ///
    /// # Errors
    /// The denial, which is in the record then.
    pub fn look_at_project(&self, caller: Caller, project: &DirectoryName, op: Op) -> Result<(), Refusal> {
        self.permitted(caller, Action::Look, project, None, op).map(drop)
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
        let (live, _) = self.permitted(caller, Action::Look, project, Some(file), op)?;
        let binding = live.grant.bindings.get(file).ok_or(Refusal::Denied(Denial::NoBinding))?;
        let info = self.vault().and_then(|vault| vault.info(&binding.reference)).ok_or(Refusal::Missing)?;
        Ok(FileFacts { size: info.size, modified: info.created })
    }

    /// The names that the caller sees in the project's directory: those of its own grant.
    ///
    /// # Errors
    /// The denial, which is in the record then.
    pub fn names(&self, caller: Caller, project: &DirectoryName) -> Result<Vec<FileName>, Refusal> {
        let (live, _) = self.permitted(caller, Action::Look, project, None, Op::Opendir)?;
        Ok(live.grant.bindings.keys().cloned().collect())
    }

    /// Whether the caller is in the tree of any live grant.
    pub fn is_member(&self, caller: Caller) -> bool {
        let Ok(known) = self.identifier.identify(caller.tid, &self.grants) else { return false };
        self.grant_of(&known).is_some_and(|live| caller.reaches(&live) && live.is_live(clock::now()))
    }

    /// Delivers one version of the file: decided, recorded, unsealed, in this order.
    ///
    /// # Errors
    /// The denial, which is in the record then; `NotRecorded` where the record failed: then nothing was
    /// unsealed.
    pub fn open(
        &self,
        caller: Caller,
        project: &DirectoryName,
        file: &FileName,
    ) -> Result<Arc<Delivery>, Refusal> {
        let judged = self.judge(caller, Action::Open, project, Some(file));
        let permit = self.permit_of(&judged, caller, project, Some(file), Op::Open)?;
        let (Ok(known), Some(live)) = (judged.known, judged.live) else { return Err(Refusal::Broken) };
        let logged = self.log(permit, &known, &live, caller, file)?;
        let vault = self.vault().ok_or(Refusal::Missing)?;
        let value = vault.unseal(&logged).map_err(|error| match &*error.code {
            "secret_missing" => Refusal::Missing,
            _ => Refusal::Broken,
        })?;
        Ok(Delivery::new(live, project.clone(), file.clone(), value))
    }

    /// Writes the delivery down. The grant is asked once more under the log's own lock: what the record
    /// shows as allowed stands before the grant's end, or not at all.
    fn log(
        &self,
        permit: Permit,
        known: &Known,
        live: &LiveGrant,
        caller: Caller,
        file: &FileName,
    ) -> Result<Logged<Permit>, Refusal> {
        let reference = permit.reference().cloned().ok_or(Refusal::Broken)?;
        let program = known.program();
        let event = Event::Allow {
            grant: live.grant.id,
            project: &live.grant.project,
            file,
            reference: &reference,
            reader: facts(known, &program, caller),
        };
        self.audit.append_permit(permit, &event, || live.is_current(clock::now())).map_err(
            |error| match error {
                NotLogged::Withdrawn => {
                    Refusal::Denied(Denial::Ended(live.standing().ended.unwrap_or(Ending::TtlExpired)))
                }
                _ => Refusal::NotRecorded,
            },
        )
    }

    /// Serves a read of an open handle, to a reader that belongs to the same live grant.
    ///
    /// # Errors
    /// The denial, which is in the record then.
    pub fn read<'d>(
        &self,
        caller: Caller,
        delivery: &'d Delivery,
        page_cache: bool,
    ) -> Result<Reading<'d>, Refusal> {
        let action = Action::Read { opened_under: delivery.live.grant.id, page_cache };
        self.permitted(caller, action, &delivery.project, Some(&delivery.file), Op::Read)?;
        let ended = || Refusal::Denied(Denial::Ended(delivery.live.ended().unwrap_or(Ending::Revoked)));
        delivery.reading().ok_or_else(ended)
    }

    fn permitted(
        &self,
        caller: Caller,
        action: Action,
        project: &DirectoryName,
        file: Option<&FileName>,
        op: Op,
    ) -> Result<(Arc<LiveGrant>, Permit), Refusal> {
        let judged = self.judge(caller, action, project, file);
        let permit = self.permit_of(&judged, caller, project, file, op)?;
        judged.live.map(|live| (live, permit)).ok_or(Refusal::Broken)
    }

    fn judge(
        &self,
        caller: Caller,
        action: Action,
        project: &DirectoryName,
        file: Option<&FileName>,
    ) -> Judged {
        let known = self.identifier.identify(caller.tid, &self.grants);
        // A private mount is for the grants of its own tree: another grant is none there.
        let live =
            known.as_ref().ok().and_then(|known| self.grant_of(known)).filter(|live| caller.reaches(live));
        let standing: Option<Standing<'_>> = live.as_ref().map(|live| live.standing());
        let reader = match &known {
            Ok(known) => Reader::Proven(known.lineage()),
            Err(why) => Reader::Unproven(*why),
        };
        let request = Request { action, reader, project, file };
        let decision = decide(&request, standing.as_slice(), clock::now());
        Judged { decision, known, live }
    }

    /// The permit, or the denial after it was recorded. What a member asks for and has no binding for is
    /// no denial worth a record: `ssh` looks for `KEY.pub` beside every KEY.
    fn permit_of(
        &self,
        judged: &Judged,
        caller: Caller,
        project: &DirectoryName,
        file: Option<&FileName>,
        op: Op,
    ) -> Result<Permit, Refusal> {
        let denial = match &judged.decision {
            Decision::Permit(permit) => return Ok(permit.clone()),
            Decision::Deny(denial) => *denial,
        };
        if denial != Denial::NoBinding {
            self.record_denial(judged, denial, caller, project, file, op);
        }
        Err(Refusal::Denied(denial))
    }

    fn record_denial(
        &self,
        judged: &Judged,
        denial: Denial,
        caller: Caller,
        project: &DirectoryName,
        file: Option<&FileName>,
        op: Op,
    ) {
        let (program, nobody) =
            (judged.known.as_ref().map(|known| known.program()).unwrap_or_default(), Ancestry::default());
        let reader = match &judged.known {
            Ok(known) => facts(known, &program, caller),
            Err(_) => ReaderFacts {
                tid: Tid::new(caller.tid),
                process: None,
                uid: Some(caller.uid),
                exe: None,
                comm: b"",
                chain: &nobody,
            },
        };
        let reference = file.and_then(|file| self.projects.read().get(project)?.get(file).cloned());
        self.audit.deny(&Denied {
            op,
            project: project.as_str().as_bytes(),
            file: file.map(|file| file.as_str().as_bytes()),
            reference: reference.as_ref(),
            grant: judged.live.as_ref().map(|live| live.grant.id),
            reason: denial.reason(),
            reader,
        });
    }

    /// The innermost grant that the reader is in the tree of: the walk ends at the first root.
    fn grant_of(&self, known: &Known) -> Option<Arc<LiveGrant>> {
        self.grants.at(known.root()?)
    }
}

fn facts<'a>(known: &'a Known, program: &'a Program, caller: Caller) -> ReaderFacts<'a> {
    ReaderFacts {
        tid: Some(known.lineage().tid),
        process: Some(known.lineage().process),
        uid: Some(caller.uid),
        exe: program.exe.as_ref().map(|exe| exe.as_os_str().as_bytes()),
        comm: &program.comm,
        chain: known.ancestry(),
    }
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
