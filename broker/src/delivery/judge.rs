//! Who asks, what is decided, and where is a refusal written down?

use std::sync::Arc;

use kin_policy::{
    Action, Binding, Decision, Denial, DirectoryName, Exe, FileName, Lineage, Namespaces, Permit, Process,
    Reach, Reader, Reference, Request, Standing, Tid, Unidentified, decide,
};

use super::open::{Caller, Halt, Refusal, withheld};
use crate::audit::{Denied, Op, ReaderFacts};
use crate::broker::Broker;
use crate::grants::live::LiveGrant;
use crate::process::Known;
use crate::process::ancestry::Ancestry;
use crate::process::executables::{Looked, Unhashed};
use crate::sys::clock;

/// One question: who asks to do what, with which file of a project or with its directory, and by which request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt<'a> {
    pub(super) caller: Caller,
    pub(super) project: &'a DirectoryName,
    pub(super) file: Option<&'a FileName>,
    pub(super) action: Action,
    pub(super) op: Op,
}

impl<'a> Attempt<'a> {
    /// To look at a project's directory.
    pub(super) fn look(caller: Caller, project: &'a DirectoryName, op: Op) -> Self {
        Self { caller, project, file: None, action: Action::Look, op }
    }

    /// The same, of a file.
    pub(super) fn of(self, file: &'a FileName) -> Self {
        Self { file: Some(file), ..self }
    }

    /// The same, to do something else.
    pub(super) fn to(self, action: Action) -> Self {
        Self { action, ..self }
    }
}

/// One question, answered.
pub(super) struct Judged {
    pub(super) subject: Subject,
    pub(super) unhashed: Option<Unhashed>,
    pub(super) decision: Decision,
}

impl Judged {
    /// The process that asks, where that was proven.
    pub(super) fn process(&self) -> Option<Process> {
        self.subject.known.as_ref().ok().map(|known| known.lineage().process)
    }
}

/// All that is known of who asks.
pub(super) struct Subject {
    pub(super) known: Result<Arc<Known>, Unidentified>,
    /// Its way up as it is now, where what was proven once is not enough.
    pub(super) again: Option<Result<Lineage, Unidentified>>,
    pub(super) live: Option<Arc<LiveGrant>>,
    pub(super) namespaces: Option<Namespaces>,
    /// What it runs, where the file is for certain programs.
    pub(super) exe: Option<Exe>,
    /// The files whose content may be in what it asks for, where that is one beside them.
    pub(super) origins: Vec<FileName>,
}

impl Subject {
    fn reader(&self) -> Reader<'_> {
        let (again, known) = (self.again.as_ref(), self.known.as_ref());
        let lineage = again.map_or(known.map(|known| known.lineage()), Result::as_ref);
        lineage.map_or_else(|why| Reader::Unproven(*why), Reader::Proven)
    }

    /// What is decided at this moment; `suspended` says whether the vault has locked itself.
    pub(super) fn decided(
        &self,
        &Attempt { action, project, file, .. }: &Attempt<'_>,
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
    pub(super) fn withheld(&self) -> Refusal {
        self.live.as_deref().map_or(Refusal::Missing, withheld)
    }

    /// Whether the reader is in other namespaces than its grant, or one around it.
    pub(super) fn elsewhere(&self) -> bool {
        !self.live.as_ref().is_some_and(|live| live.is_place_of(self.namespaces))
    }
}

impl Broker {
    pub(super) fn permitted(&self, attempt: &Attempt<'_>) -> Result<(Arc<LiveGrant>, Permit), Refusal> {
        let judged = self.judge(attempt, None);
        let permit = self.permit_of(&judged, attempt)?;
        judged.subject.live.map(|live| (live, permit)).ok_or(Refusal::Broken)
    }

    /// As [`Self::permitted`], for what a file holds: what the reader runs may have to be hashed first.
    pub(super) fn permitted_content(
        &self,
        attempt: &Attempt<'_>,
        exe: Option<Exe>,
    ) -> Result<(Judged, Permit), Halt> {
        self.permitted_as(self.judge(attempt, exe), attempt)
    }

    /// The permit of what was judged; or that the reader's program is to be hashed first.
    pub(super) fn permitted_as(
        &self,
        mut judged: Judged,
        attempt: &Attempt<'_>,
    ) -> Result<(Judged, Permit), Halt> {
        if let Some(unhashed) = judged.unhashed.take() {
            return Err(Halt::Unhashed(unhashed));
        }
        let permit = self.permit_of(&judged, attempt)?;
        Ok((judged, permit))
    }

    pub(super) fn judge(&self, attempt: &Attempt<'_>, exe: Option<Exe>) -> Judged {
        self.judge_all(attempt, Vec::new(), exe)
    }

    /// As [`Self::judge`]; where there are `origins`, for all of them together and for no other file.
    pub(super) fn judge_all(
        &self,
        attempt: &Attempt<'_>,
        origins: Vec<FileName>,
        exe: Option<Exe>,
    ) -> Judged {
        let &Attempt { caller, file, action, .. } = attempt;
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
        Judged { decision: subject.decided(attempt, self.autolock.has_locked()), subject, unhashed }
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
    pub(super) fn permit_of(&self, judged: &Judged, attempt: &Attempt<'_>) -> Result<Permit, Refusal> {
        let denial = match &judged.decision {
            Decision::Permit(permit) => return Ok(permit.clone()),
            Decision::Deny(denial) => *denial,
        };
        if denial != Denial::NoBinding {
            self.record_denial(judged, denial, attempt);
        }
        Err(Refusal::Denied(denial))
    }

    pub(super) fn record_denial(&self, judged: &Judged, denial: Denial, attempt: &Attempt<'_>) {
        self.record_refusal(judged, denial.reason(), attempt);
    }

    pub(super) fn record_refusal(&self, judged: &Judged, reason: &'static str, attempt: &Attempt<'_>) {
        let &Attempt { caller, project, file, op, .. } = attempt;
        let named = judged.subject.origins.first().or(file);
        let reference = named.and_then(|file| self.projects.read().get(project)?.get(file).cloned());
        let file = file.map(|file| file.as_str().as_bytes());
        let place = (project.as_str().as_bytes(), file, reference.as_ref());
        self.record_refused(&judged.subject, reason, caller, place, op);
    }

    /// As there, of names as the reader said them, and the secret behind them.
    pub(super) fn record_refused(
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
            Ok(known) => ReaderFacts::of(known, &program, caller.uid),
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
    pub(super) fn grant_of(&self, known: &Known) -> Option<Arc<LiveGrant>> {
        self.grants.at(known.root()?)
    }
}

/// Whether the decision will ask what the reader runs.
fn is_pinned(live: &LiveGrant, action: Action, file: &FileName) -> bool {
    action.is_for_content() && live.grant.behind(file).any(|binding| !binding.exe.is_empty())
}
