//! May this reader have this file, and what does it get? The way of one open, step by step.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::SystemTime;

use kin_policy::{
    Action, Binding, Decision, Denial, DirectoryName, Ending, Exe, FileName, GrantId, Lineage, Namespaces,
    PageCache, Permit, Process, Reach, Reader, Reference, Request, Standing, Tid, Unidentified, decide,
};

use crate::audit::{Ancestry, Denied, Event, Logged, NotLogged, Op, ReaderFacts};
use crate::broker::Broker;
use crate::clock;
use crate::delivery::{Delivery, Reading};
use crate::error::Error;
use crate::executables::{Looked, Unhashed};
use crate::grants::LiveGrant;
use crate::identity::{Known, Program};
use crate::vault::{self, Vault};

mod beside;
mod writing;

pub use beside::By;
pub(crate) use writing::Closed;
pub use writing::{Begin, ServeWritable};

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

/// One question, answered.
struct Judged {
    subject: Subject,
    unhashed: Option<Unhashed>,
    decision: Decision,
}

impl Judged {
    /// The process that asks, where that was proven.
    fn process(&self) -> Option<Process> {
        self.subject.known.as_ref().ok().map(|known| known.lineage().process)
    }
}

/// All that is known of who asks.
struct Subject {
    known: Result<Arc<Known>, Unidentified>,
    /// Its way up as it is now, where what was proven once is not enough.
    again: Option<Result<Lineage, Unidentified>>,
    live: Option<Arc<LiveGrant>>,
    namespaces: Option<Namespaces>,
    /// What it runs, where the file is for certain programs.
    exe: Option<Exe>,
    /// The files whose content may be in what it asks for, where that is one beside them.
    origins: Vec<FileName>,
}

impl Subject {
    fn reader(&self) -> Reader<'_> {
        let (again, known) = (self.again.as_ref(), self.known.as_ref());
        let lineage = again.map_or(known.map(|known| known.lineage()), Result::as_ref);
        lineage.map_or_else(|why| Reader::Unproven(*why), Reader::Proven)
    }

    /// What is decided at this moment; `suspended` says whether the vault has locked itself.
    fn decided(
        &self,
        action: Action,
        project: &DirectoryName,
        file: Option<&FileName>,
        suspended: bool,
    ) -> Decision {
        let (reader, namespaces, exe) = (self.reader(), self.namespaces, self.exe);
        let request = Request { action, reader, namespaces, exe, project, file, through: None };
        let Some(live) = &self.live else { return decide(&request, &[], clock::now()) };
        if !self.origins.is_empty() {
            let request = Request { file: None, ..request };
            return live.decided_beside(&request, &self.origins, suspended);
        }
        if let Some((file, rendered)) = file.and_then(|file| live.grant.files.get_key_value(file)) {
            return live.decided_together(&request, file, rendered, suspended);
        }
        let (around, crowded) = (live.around(file), action.is_an_open() && live.is_crowded());
        let standing = Standing { suspended, crowded, ..live.standing(file, &around) };
        decide(&request, &[standing], clock::now())
    }

    /// Why there is no vault to open from.
    fn withheld(&self) -> Refusal {
        self.live.as_deref().map_or(Refusal::Missing, withheld)
    }

    /// Whether the reader is in other namespaces than its grant, or one around it.
    fn elsewhere(&self) -> bool {
        !self.live.as_ref().is_some_and(|live| live.is_place_of(self.namespaces))
    }
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
        self.facts_of(&live, file)
    }

    fn facts_of(&self, live: &Arc<LiveGrant>, file: &FileName) -> Result<FileFacts, Refusal> {
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

    fn names_that(
        &self,
        caller: Caller,
        project: &DirectoryName,
        shown: impl Fn(&LiveGrant, &FileName) -> bool,
    ) -> Result<Vec<FileName>, Refusal> {
        let judged = self.judge(caller, Action::Look, project, None, None);
        let _ = self.permit_of(&judged, caller, project, None, Op::Opendir)?;
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
        let judged = self.judge(caller, Action::Look, project, Some(file), None);
        let _ = self.permit_of(&judged, caller, project, Some(file), op)?;
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
        let (judged, permit) =
            self.permitted_content(caller, (project, Some(file)), (Action::Open, op), exe)?;
        // One snapshot of the vault, so that the versions in the record are those that are unsealed.
        let vault = self.vault().ok_or_else(|| judged.subject.withheld())?;
        let versions = versions(&permit, &vault)?;
        let logged = self.log(permit, &versions, &judged, caller, file, (Action::Open, op))?;
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
    fn log(
        &self,
        permit: Permit,
        versions: &[(Reference, u64)],
        judged: &Judged,
        caller: Caller,
        file: &FileName,
        (action, op): (Action, Op),
    ) -> Result<Logged<Permit>, Refusal> {
        let (Ok(known), Some(live)) = (&judged.subject.known, &judged.subject.live) else {
            return Err(Refusal::Broken);
        };
        let (program, project) = (known.program(), &live.grant.project);
        let reader = known.facts(&program, caller.uid);
        let (grant, elsewhere) = (live.grant.id, judged.subject.elsewhere());
        let event = match versions {
            [(reference, version)] if live.rendered(file).is_none() => {
                let version = *version;
                Event::Allow { op, grant, project, file, reference, version, elsewhere, reader }
            }
            references => Event::AllowRendered { grant, project, file, references, elsewhere, reader },
        };
        let place = (project, file);
        self.append((permit, &event), (judged, caller), place, (action, op), || {
            live.opened(file);
            live.passed_on(file, versions);
        })
    }

    /// Writes down what a permit is used for, where it still holds under the log's own lock.
    fn append(
        &self,
        (permit, event): (Permit, &Event<'_>),
        (judged, caller): (&Judged, Caller),
        (project, file): (&DirectoryName, &FileName),
        (action, op): (Action, Op),
        written: impl FnOnce(),
    ) -> Result<Logged<Permit>, Refusal> {
        let still_valid =
            || match judged.subject.decided(action, project, Some(file), self.autolock.has_locked()) {
                Decision::Permit(_) => Ok(()),
                Decision::Deny(denial) => Err(denial),
            };
        self.audit.append_permit(permit, event, still_valid, written).map_err(|error| match error {
            NotLogged::Denied(denial) => {
                self.record_denial(judged, denial, caller, project, Some(file), op);
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
        let (project, file) = (&delivery.live.grant.project, Some(&delivery.file));
        // All handles of a file fill one cache: what is in it is of one version, the newest.
        let page_cache = match page_cache {
            PageCache::Private if !self.is_newest(delivery) => PageCache::Shared,
            page_cache => page_cache,
        };
        let action = Action::Read { opened_under: delivery.live.grant.id, page_cache };
        let _ = self.permitted_content(caller, (project, file), (action, Op::Read), exe)?;
        delivery.reading().ok_or_else(|| withheld(&delivery.live).into())
    }

    fn is_newest(&self, delivery: &Delivery) -> bool {
        let newest = |vault: Arc<Vault>| {
            delivery.versions.iter().all(|(reference, version)| vault.version(reference) == Some(*version))
        };
        self.vault().is_some_and(newest)
    }

    fn permitted(
        &self,
        caller: Caller,
        action: Action,
        project: &DirectoryName,
        file: Option<&FileName>,
        op: Op,
    ) -> Result<(Arc<LiveGrant>, Permit), Refusal> {
        let judged = self.judge(caller, action, project, file, None);
        let permit = self.permit_of(&judged, caller, project, file, op)?;
        judged.subject.live.map(|live| (live, permit)).ok_or(Refusal::Broken)
    }

    /// As [`Self::permitted`], for what a file holds: what the reader runs may have to be hashed first.
    fn permitted_content(
        &self,
        caller: Caller,
        (project, file): (&DirectoryName, Option<&FileName>),
        (action, op): (Action, Op),
        exe: Option<Exe>,
    ) -> Result<(Judged, Permit), Halt> {
        let judged = self.judge(caller, action, project, file, exe);
        self.permitted_as(judged, caller, (project, file), op)
    }

    /// The permit of what was judged; or that the reader's program is to be hashed first.
    fn permitted_as(
        &self,
        mut judged: Judged,
        caller: Caller,
        (project, file): (&DirectoryName, Option<&FileName>),
        op: Op,
    ) -> Result<(Judged, Permit), Halt> {
        if let Some(unhashed) = judged.unhashed.take() {
            return Err(Halt::Unhashed(unhashed));
        }
        let permit = self.permit_of(&judged, caller, project, file, op)?;
        Ok((judged, permit))
    }

    fn judge(
        &self,
        caller: Caller,
        action: Action,
        project: &DirectoryName,
        file: Option<&FileName>,
        exe: Option<Exe>,
    ) -> Judged {
        self.judge_all(caller, action, (project, file), Vec::new(), exe)
    }

    /// As [`Self::judge`]; where there are `origins`, for all of them together and for no other file.
    fn judge_all(
        &self,
        caller: Caller,
        action: Action,
        (project, file): (&DirectoryName, Option<&FileName>),
        origins: Vec<FileName>,
        exe: Option<Exe>,
    ) -> Judged {
        let mut asked = file.into_iter().chain(&origins);
        let known = self.identifier.identify(caller.tid, &self.grants);
        // A private mount is for the grants of its own tree: another grant is none there.
        let live =
            known.as_ref().ok().and_then(|known| self.grant_of(known)).filter(|live| caller.reaches(live));
        let inside = known.as_ref().ok().zip(live.as_ref());
        if let Some((known, least)) = inside.and_then(|(known, live)| Some((known, live.filters()?))) {
            known.has_filters(least);
        }
        let namespaces = inside.and_then(|(known, _)| known.namespaces());
        let again = inside.and_then(|(known, live)| {
            let again = |file| self.seen_again((known, namespaces), live, file);
            if origins.is_empty() { again(file) } else { origins.iter().find_map(|own| again(Some(own))) }
        });
        let (exe, unhashed) = match (exe, inside) {
            (None, Some((known, live))) if asked.any(|file| is_pinned(live, action, file)) => {
                match known.is_filtered().then(|| self.executables.look(known)) {
                    None => (Some(Exe::Unproven), None),
                    Some(Looked::Done(exe)) => (Some(exe), None),
                    Some(Looked::Unhashed(unhashed)) => (None, Some(unhashed)),
                }
            }
            (exe, _) => (exe, None),
        };
        let subject = Subject { known, again, live, namespaces, exe, origins };
        Judged {
            decision: subject.decided(action, project, file, self.autolock.has_locked()),
            subject,
            unhashed,
        }
    }

    /// The reader's way up as it is now, where what was proven once is not enough:
    /// [`kin_policy::Descend::wants_a_fresh_lineage`], and a reader in another pid namespace that a binding is for.
    fn seen_again(
        &self,
        (known, namespaces): (&Known, Option<Namespaces>),
        live: &LiveGrant,
        file: Option<&FileName>,
    ) -> Option<Result<Lineage, Unidentified>> {
        let wants = |b: &Binding| b.descend.wants_a_fresh_lineage(known.lineage(), live.command());
        let anywhere = |b: &Binding| b.namespaces == Reach::Any;
        let wanted = match (file, self.identifier.is_own_pid_namespace(namespaces)) {
            (Some(file), true) => live.grant.behind(file).any(wants),
            (Some(file), false) => live.grant.behind(file).any(|b| wants(b) || anywhere(b)),
            (None, own) => !own && live.grant.every_binding().any(|(_, b)| anywhere(b)),
        };
        wanted.then(|| self.identifier.walk_again(known, &self.grants))
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
        self.record_refusal(judged, denial.reason(), caller, (project, file), op);
    }

    fn record_refusal(
        &self,
        judged: &Judged,
        reason: &'static str,
        caller: Caller,
        (project, file): (&DirectoryName, Option<&FileName>),
        op: Op,
    ) {
        let named = judged.subject.origins.first().or(file);
        let reference = named.and_then(|file| self.projects.read().get(project)?.get(file).cloned());
        let file = file.map(|file| file.as_str().as_bytes());
        let place = (project.as_str().as_bytes(), file, reference.as_ref());
        self.record_refused(&judged.subject, reason, caller, place, op);
    }

    /// As there, of names as the reader said them, and the secret behind them.
    fn record_refused(
        &self,
        subject: &Subject,
        reason: &'static str,
        caller: Caller,
        (project, file, reference): (&[u8], Option<&[u8]>, Option<&Reference>),
        op: Op,
    ) {
        let (program, nobody) =
            (subject.known.as_ref().map(|known| known.program()).unwrap_or_default(), Ancestry::default());
        let reader = match &subject.known {
            Ok(known) => known.facts(&program, caller.uid),
            Err(_) => ReaderFacts {
                tid: Tid::new(caller.tid),
                process: None,
                uid: Some(caller.uid),
                exe: None,
                proven: false,
                comm: b"",
                chain: &nobody,
            },
        };
        let grant = subject.live.as_ref().map(|live| live.grant.id);
        self.audit.deny(&Denied { op, project, file, reference, grant, reason, reader });
    }

    /// The innermost grant that the reader is in the tree of: the walk ends at the first root.
    fn grant_of(&self, known: &Known) -> Option<Arc<LiveGrant>> {
        self.grants.at(known.root()?)
    }
}

/// Whether the file is there for who may write it: none is whose content the grant has moved away.
fn shows_to_write(live: &LiveGrant, file: &FileName) -> bool {
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

/// Whether the decision will ask what the reader runs.
fn is_pinned(live: &LiveGrant, action: Action, file: &FileName) -> bool {
    action.is_for_content() && live.grant.behind(file).any(|binding| !binding.exe.is_empty())
}

/// The vault was locked under a grant: by a person, which ended the grant, or by itself. A handle that was
/// wiped then has no value any more, also after an unlock: it is for a new open to get one.
fn withheld(live: &LiveGrant) -> Refusal {
    Refusal::Denied(live.ended().map_or(Denial::Suspended, Denial::Ended))
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
