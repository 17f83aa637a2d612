//! What should be answered? The whole of kin's promise about reads, without any of its machinery.

use std::time::Instant;

/// The two files that the project binds.
pub(crate) const FILES: [&str; 2] = ["DATABASE_URL", "API_KEY"];

/// What a read must give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// EACCES.
    Refused,
    /// ENOENT.
    Absent,
    /// This version, whole.
    Version(usize),
}

/// Mistakes that the model can be made with, to see that the machine finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A grant that was revoked goes on.
    RevokedGrantsLive,
    /// An open handle shows the newest version.
    HandlesFollowVersions,
    /// A passed descriptor reads for whoever has it.
    DescriptorsAreAuthority,
    /// A nested grant has all that the outer one has.
    NestingDoesNotNarrow,
    /// An orphan leaves the tree.
    OrphansAreOutsiders,
    /// A grant's time does not end it.
    TimeDoesNotPass,
}

/// A grant: what it has, and whether it goes on.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) outer: Option<usize>,
    pub(crate) files: [bool; 2],
    pub(crate) ended: bool,
    /// Between these instants it ends by itself.
    pub(crate) expires: Option<(Instant, Instant)>,
}

/// What was opened: it keeps its version, and is its grant's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handle {
    pub(crate) file: usize,
    pub(crate) version: usize,
    pub(crate) grant: usize,
}

/// All there is to know.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) fault: Option<Fault>,
    pub(crate) grants: Vec<Grant>,
    /// The innermost grant whose tree each process is in.
    pub(crate) processes: Vec<Option<usize>>,
    pub(crate) versions: [usize; 2],
}

impl Model {
    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// Whether a grant goes on, between two instants; `None` where it ended somewhere around them.
    pub(crate) fn lives(&self, grant: usize, from: Instant, to: Instant) -> Option<bool> {
        let own = &self.grants[grant];
        let outer = own.outer.map_or(Some(true), |outer| self.lives(outer, from, to));
        let time = match own.expires.filter(|_| !self.has(Fault::TimeDoesNotPass)) {
            Some((_, latest)) if from > latest => Some(false),
            Some((earliest, _)) if to >= earliest => None,
            _ => Some(true),
        };
        match (own.ended, outer, time) {
            (true, ..) | (_, Some(false), _) | (.., Some(false)) => Some(false),
            (_, None, _) | (.., None) => None,
            _ => Some(true),
        }
    }

    /// What `process` gets when it opens a file: its innermost grant decides, and no other.
    pub(crate) fn open(&self, process: usize, file: usize, from: Instant, to: Instant) -> Option<Answer> {
        let Some(grant) = self.processes[process] else { return Some(Answer::Refused) };
        match self.lives(grant, from, to)? {
            false => Some(Answer::Refused),
            true if !self.grants[grant].files[file] => Some(Answer::Absent),
            true => Some(Answer::Version(self.versions[file])),
        }
    }

    /// What `process` gets from a handle that it has, however it came by it.
    pub(crate) fn read(&self, process: usize, handle: Handle, from: Instant, to: Instant) -> Option<Answer> {
        if self.processes[process] != Some(handle.grant) && !self.has(Fault::DescriptorsAreAuthority) {
            return Some(Answer::Refused);
        }
        let follows = self.has(Fault::HandlesFollowVersions);
        let version = if follows { self.versions[handle.file] } else { handle.version };
        Some(if self.lives(handle.grant, from, to)? { Answer::Version(version) } else { Answer::Refused })
    }

    /// Which files a run gets: of those it asks for, or all; `None` where it asks for more than there is.
    pub(crate) fn narrowed(&self, outer: Option<usize>, only: Option<[bool; 2]>) -> Option<[bool; 2]> {
        let outer = outer.filter(|_| !self.has(Fault::NestingDoesNotNarrow));
        let within = outer.map_or([true; 2], |outer| self.grants[outer].files);
        let wider = |only: [bool; 2]| (0..2).any(|file| only[file] && !within[file]);
        match only {
            Some(only) if wider(only) => None,
            Some(only) => Some(only),
            None => Some(within),
        }
    }

    /// A process that another made.
    pub(crate) fn descends(&mut self, parent: usize, orphan: bool) {
        let lost = orphan && self.has(Fault::OrphansAreOutsiders);
        self.processes.push(self.processes[parent].filter(|_| !lost));
    }

    /// A person ends a grant.
    pub(crate) fn revoke(&mut self, grant: usize) {
        self.grants[grant].ended |= !self.has(Fault::RevokedGrantsLive);
    }
}
