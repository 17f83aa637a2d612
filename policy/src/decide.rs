//! The decision.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::grant::{Around, Binding, Ending, Grant, GrantId, Orphans, Reach, Standing};
use crate::limits;
use crate::names::{DirectoryName, FileName, Reference};
use crate::process::{Lineage, Namespaces};
use crate::program::Exe;
use crate::time::Timestamp;

/// What a reader wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// GETATTR, ACCESS, LOOKUP, OPENDIR: to learn that something is there, and how large it is.
    Look,
    /// OPEN: to be delivered a value.
    Open,
    /// READ through a handle that was opened under `opened_under`.
    Read {
        /// The grant that the open was permitted by.
        opened_under: GrantId,
        /// Whether the kernel fills its page cache (a READ without a lock owner).
        page_cache: PageCache,
    },
    /// OPEN to write, or to put another file in its place: to be let store a new version. The directory is asked
    /// for by who makes a file beside it.
    OpenToWrite,
    /// WRITE, and what stores it, through a handle that was opened under `opened_under`.
    Write {
        /// The grant that the open was permitted by.
        opened_under: GrantId,
    },
}

impl Action {
    /// Whether a value is delivered, or takes another's place.
    pub fn is_for_content(self) -> bool {
        self != Self::Look
    }

    /// Whether it is one of the opens that limits count.
    pub fn is_an_open(self) -> bool {
        matches!(self, Self::Open | Self::OpenToWrite)
    }

    /// Whether a binding has to be writable for it.
    pub fn is_to_write(self) -> bool {
        matches!(self, Self::OpenToWrite | Self::Write { .. })
    }
}

/// What the kernel does with the answer to a READ: what is in its page cache, the next reader gets without a
/// question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PageCache {
    /// It hands it to the reader.
    Unused,
    /// It keeps it, in the mount that every process of the user can reach.
    Shared,
    /// It keeps it, in a mount that one grant's tree has for itself.
    Private,
}

/// Who asks, as far as that could be proven.
#[derive(Clone, Copy, Debug)]
pub enum Reader<'a> {
    /// Every step from the reader upwards was proven.
    Proven(&'a Lineage),
    /// It could not be; that is a denial.
    Unproven(Unidentified),
}

/// Why a reader's identity could not be proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unidentified {
    /// The request carried pid 0: the thread is invisible from the mount's pid namespace.
    Invisible,
    /// The thread was gone before it could be looked at.
    Gone,
    /// Ancestors kept changing under the walk.
    Unstable,
    /// There are more ancestors than the walk will follow.
    TooDeep,
    /// The kernel would not say (hidepid, an unexpected error).
    Unverifiable,
}

/// One question.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What for.
    pub action: Action,
    /// Who.
    pub reader: Reader<'a>,
    /// The reader's namespaces at this moment; `None` where the kernel would not say.
    pub namespaces: Option<Namespaces>,
    /// What the reader runs at this moment; asked for where the binding names its programs.
    pub exe: Option<Exe>,
    /// In which project's directory.
    pub project: &'a DirectoryName,
    /// Which file; `None` is the directory itself.
    pub file: Option<&'a FileName>,
    /// The file that this one is a part of, where it is asked for as such: [`decide_together`].
    pub through: Option<&'a FileName>,
}

/// The answer.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Permit(Permit),
    /// No, and the first reason why.
    Deny(Denial),
}

/// Proof that [`decide`] or one of its kin said yes; there is no other way to come by one.
///
/// ```compile_fail
/// let permit = kin_policy::Permit { grant: None, references: References::None };
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    grant: Option<GrantId>,
    references: References,
}

/// What a permit is for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum References {
    None,
    One(Reference),
    Several(Arc<[Reference]>),
}

impl Permit {
    /// The grant that permits; `None` where a person reveals a value at a terminal.
    pub fn grant(&self) -> Option<GrantId> {
        self.grant
    }

    /// The one secret that may be unsealed; `None` where the permit is only to look, or is for several.
    pub fn reference(&self) -> Option<&Reference> {
        match &self.references {
            References::One(reference) => Some(reference),
            _ => None,
        }
    }

    /// Every secret that may be unsealed, each once.
    pub fn references(&self) -> &[Reference] {
        match &self.references {
            References::None => &[],
            References::One(reference) => core::slice::from_ref(reference),
            References::Several(references) => references,
        }
    }

    fn one(grant: Option<GrantId>, reference: Option<Reference>) -> Self {
        Self { grant, references: reference.map_or(References::None, References::One) }
    }

    fn several<'a>(grant: GrantId, references: impl Iterator<Item = &'a Reference>) -> Self {
        let references: BTreeSet<&Reference> = references.collect();
        let references = References::Several(references.into_iter().cloned().collect());
        Self { grant: Some(grant), references }
    }
}

/// The first dimension that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Denial {
    /// It is not for writing.
    ReadOnly,
    /// The reader could not be identified.
    Unidentified(Unidentified),
    /// No grant's root is among the reader's ancestors.
    OutsideTree,
    /// The reader hangs on the root as an orphan, after an inner keeper was killed.
    Orphan,
    /// The innermost grant has ended.
    Ended(Ending),
    /// The innermost grant is for another project.
    OtherProject,
    /// The handle was opened under a grant that the reader does not belong to.
    ForeignReader,
    /// The read would have filled the page cache.
    PageCacheFill,
    /// The reader is in another user or pid namespace than its grant, and the binding is for that one.
    NamespaceMismatch,
    /// The binding is for certain programs, and the reader runs none of them.
    ExeMismatch,
    /// It is for certain programs, and what the reader runs is no file that a digest holds for.
    ExeUnpinnable,
    /// It is for certain programs, and nothing keeps the reader from saying that it runs one of them.
    ExeUnproven,
    /// The innermost grant has no such binding.
    NoBinding,
    /// The binding does not reach so far below the command.
    TooFar,
    /// The time after the start in which it may be opened is over.
    WindowClosed,
    /// It was opened as often as it may be.
    MaxOpens,
    /// As many files are open as values are held for.
    TooManyOpen,
    /// Everything would be well, but the vault locked itself and waits for a person.
    Suspended,
}

impl Denial {
    /// The word that records and messages use.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::ReadOnly => "read_only",
            Self::Unidentified(Unidentified::Invisible) => "identity_invisible",
            Self::Unidentified(Unidentified::Gone) => "identity_gone",
            Self::Unidentified(Unidentified::Unstable) => "identity_unstable",
            Self::Unidentified(Unidentified::TooDeep) => "ancestry_too_deep",
            Self::Unidentified(Unidentified::Unverifiable) => "identity_unverifiable",
            Self::OutsideTree => "no_grant",
            Self::Orphan => "orphan",
            Self::Ended(ending) => ending.as_str(),
            Self::OtherProject => "other_project",
            Self::ForeignReader => "foreign_reader",
            Self::PageCacheFill => "page_cache",
            Self::NamespaceMismatch => "ns_mismatch",
            Self::ExeMismatch => "exe_hash_mismatch",
            Self::ExeUnpinnable => "exe_unpinnable",
            Self::ExeUnproven => "exe_unproven",
            Self::NoBinding => "no_binding",
            Self::TooFar => "too_far",
            Self::WindowClosed => "window_closed",
            Self::MaxOpens => "max_opens",
            Self::TooManyOpen => "too_many_open",
            Self::Suspended => "vault_locked",
        }
    }
}

/// Decides one request. `grants` are those whose root is among the reader's ancestors, in any order;
/// others do no harm. The innermost decides, whatever the outer ones would say, and it never gives more than
/// is left of those around it: nesting narrows.
pub fn decide(request: &Request<'_>, grants: &[Standing<'_>], now: Timestamp) -> Decision {
    match judge(request, grants, now) {
        Ok((grant, binding)) => Decision::Permit(Permit::one(
            Some(grant.id),
            binding
                .filter(|_| request.action.is_an_open() || request.action.is_to_write())
                .map(|b| b.reference.clone()),
        )),
        Err(denial) => Decision::Deny(denial),
    }
}

/// Decides a request for a file that is made of several bindings: all that each of them asks for has to hold,
/// and the first denial is the answer. `parts` are the same request for one binding after the other, each
/// through that file, with the grant that decides.
pub fn decide_together(parts: &[(Request<'_>, Standing<'_>)], now: Timestamp) -> Decision {
    let mut permits = Vec::with_capacity(parts.len());
    for (request, standing) in parts {
        match decide(request, core::slice::from_ref(standing), now) {
            Decision::Permit(permit) => permits.push(permit),
            Decision::Deny(denial) => return Decision::Deny(denial),
        }
    }
    match permits.first().and_then(Permit::grant) {
        Some(grant) => {
            Decision::Permit(Permit::several(grant, permits.iter().flat_map(|permit| permit.references())))
        }
        None => Decision::Deny(Denial::NoBinding),
    }
}

/// Decides whether the broker may make a file of several bindings for itself alone, to know its size: where
/// the grant has that file.
pub fn decide_sizing(grant: &Grant, file: &FileName) -> Option<Permit> {
    let rendered = grant.files.get(file)?;
    Some(Permit::several(grant.id, rendered.bindings.values().map(|binding| &binding.reference)))
}

/// Decides whether a person may be shown `reference` on a terminal: never from inside a grant's tree,
/// and only when it was confirmed.
pub fn decide_reveal(reference: &Reference, inside_a_tree: bool, confirmed: bool) -> Option<Permit> {
    (!inside_a_tree && confirmed).then(|| Permit::one(None, Some(reference.clone())))
}

/// Decides whether the redactor of a grant's own output may be handed the value of `file`, to mask it: while the
/// grant lives, and only what it binds. That is no open: nobody in the tree is delivered anything, so edges of the
/// binding and programs that it is for do not bound it.
pub fn decide_redaction(standing: &Standing<'_>, file: &FileName, now: Timestamp) -> Decision {
    let binding = standing.grant.every_binding().find(|(name, _)| *name == file);
    match alive(standing, now).and(binding.ok_or(Denial::NoBinding)) {
        Ok(_) if standing.suspended => Decision::Deny(Denial::Suspended),
        Ok((_, binding)) => {
            Decision::Permit(Permit::one(Some(standing.grant.id), Some(binding.reference.clone())))
        }
        Err(denial) => Decision::Deny(denial),
    }
}

fn judge<'a>(
    request: &Request<'_>,
    grants: &[Standing<'a>],
    now: Timestamp,
) -> Result<(&'a Grant, Option<&'a Binding>), Denial> {
    let lineage = match request.reader {
        Reader::Proven(lineage) => lineage,
        Reader::Unproven(why) => return Err(Denial::Unidentified(why)),
    };
    let standing = innermost(lineage, grants).ok_or(match request.action {
        Action::Read { .. } | Action::Write { .. } => Denial::ForeignReader,
        _ => Denial::OutsideTree,
    })?;
    let grant = standing.grant;
    admitted(lineage, standing)?;
    alive(standing, now)?;
    if grant.project != *request.project {
        return Err(Denial::OtherProject);
    }
    let page_cache = match request.action {
        Action::Read { opened_under, .. } | Action::Write { opened_under } if opened_under != grant.id => {
            return Err(Denial::ForeignReader);
        }
        Action::Read { page_cache: PageCache::Shared, .. } => return Err(Denial::PageCacheFill),
        Action::Read { page_cache, .. } => page_cache,
        _ => PageCache::Unused,
    };
    // The names are the grant's own; what stands behind one is the vault's.
    let Some(file) = request.file else {
        reaches(every(grant), request, standing)?;
        return match request.action.is_to_write() {
            true if grant.writable().next().is_none() => Err(Denial::ReadOnly),
            true if standing.suspended => Err(Denial::Suspended),
            _ => Ok((grant, None)),
        };
    };
    let Some(binding) = grant.binding(file, request.through) else {
        // From where nothing is seen, what is not bound looks like what is.
        return reaches(every(grant), request, standing).and(Err(Denial::NoBinding));
    };
    reaches([binding], request, standing)?;
    if !binding.descend.reaches(lineage, grant.root, standing.command) {
        return Err(Denial::TooFar);
    }
    if request.action.is_to_write() && !(binding.writable && request.through.is_none()) {
        return Err(Denial::ReadOnly);
    }
    runs_pinned(binding, request)?;
    if page_cache == PageCache::Private && !(binding.mmap && request.through.is_none()) {
        return Err(Denial::PageCacheFill);
    }
    has_room(request.action, file, standing, now)?;
    Ok((grant, Some(binding)))
}

/// Whether there is one more open for this file, in the grant and those around it, and a vault to open it from.
fn has_room(action: Action, file: &FileName, standing: &Standing<'_>, now: Timestamp) -> Result<(), Denial> {
    if action.is_an_open() {
        and_around(standing)
            .try_for_each(|Around { grant, uses, .. }| limits::one_more(grant, file, uses, now))?;
    }
    match standing {
        Standing { suspended: true, .. } => Err(Denial::Suspended),
        Standing { crowded: true, .. } if action.is_an_open() => Err(Denial::TooManyOpen),
        _ => Ok(()),
    }
}

fn every(grant: &Grant) -> impl Iterator<Item = &Binding> {
    grant.every_binding().map(|(_, binding)| binding)
}

/// Whether one of the bindings may be seen from the namespaces that the reader is in. What an inner grant has
/// of an outer one keeps the outer one's place: an inner keeper chooses where its command lives, and would
/// take the binding there.
fn reaches<'b>(
    bindings: impl IntoIterator<Item = &'b Binding>,
    request: &Request<'_>,
    standing: &Standing<'_>,
) -> Result<(), Denial> {
    match and_around(standing).try_for_each(|around| is_in(around.namespaces, request.namespaces)) {
        Err(_) if bindings.into_iter().any(|binding| binding.namespaces == Reach::Any) => Ok(()),
        place => place,
    }
}

fn is_in(own: Option<Namespaces>, readers: Option<Namespaces>) -> Result<(), Denial> {
    match own.zip(readers) {
        Some((own, readers)) if own == readers => Ok(()),
        Some(_) => Err(Denial::NamespaceMismatch),
        None => Err(Denial::Unidentified(Unidentified::Unverifiable)),
    }
}

/// Whether the reader runs a program that the binding is for. To see that the file is there and how large
/// it is, any member may.
fn runs_pinned(binding: &Binding, request: &Request<'_>) -> Result<(), Denial> {
    if binding.exe.is_empty() || !request.action.is_for_content() {
        return Ok(());
    }
    match request.exe {
        Some(Exe::File(digest)) if binding.exe.iter().any(|pin| pin.sha256 == digest) => Ok(()),
        Some(Exe::File(_)) => Err(Denial::ExeMismatch),
        Some(Exe::Unpinnable) => Err(Denial::ExeUnpinnable),
        Some(Exe::Unproven) => Err(Denial::ExeUnproven),
        Some(Exe::Unreadable) | None => Err(Denial::Unidentified(Unidentified::Unverifiable)),
    }
}

fn innermost<'s, 'a>(lineage: &Lineage, grants: &'s [Standing<'a>]) -> Option<&'s Standing<'a>> {
    grants
        .iter()
        .filter_map(|standing| Some((lineage.depth_of(standing.grant.root)?, standing)))
        .min_by_key(|(depth, _)| *depth)
        .map(|(_, standing)| standing)
}

fn admitted(lineage: &Lineage, standing: &Standing<'_>) -> Result<(), Denial> {
    let branch = lineage.branch_below(standing.grant.root);
    match standing.orphans {
        Orphans::Admitted => Ok(()),
        Orphans::Refused if standing.command.is_some() && branch == standing.command => Ok(()),
        Orphans::Refused => Err(Denial::Orphan),
    }
}

/// The grant itself first, then those around it.
fn and_around<'a>(standing: &Standing<'a>) -> impl Iterator<Item = Around<'a>> {
    let Standing { grant, ended, namespaces, uses, around, .. } = *standing;
    core::iter::once(Around { grant, ended, namespaces, uses }).chain(around.iter().copied())
}

fn alive(standing: &Standing<'_>, now: Timestamp) -> Result<(), Denial> {
    and_around(standing).try_for_each(|around| match (around.ended, around.grant.expires) {
        (Some(ending), _) => Err(Denial::Ended(ending)),
        (None, Some(expires)) if now >= expires => Err(Denial::Ended(Ending::TtlExpired)),
        _ => Ok(()),
    })
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
