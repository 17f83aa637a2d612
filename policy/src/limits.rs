//! How often, for how long and how far below its command may a value be opened?

use core::num::NonZeroU32;
use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decide::Denial;
use crate::grant::Grant;
use crate::names::FileName;
use crate::process::{Lineage, Process};
use crate::time::Timestamp;

/// Edges of a grant, or of one of its bindings. They bound OPEN alone: what is open can be read on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Opens in all, by everybody in the tree together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_opens: Option<u64>,
    /// Opens only for so long after the command was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_first: Option<Duration>,
}

impl Limits {
    /// The narrower of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            max_opens: self.max_opens.into_iter().chain(other.max_opens).min(),
            for_first: self.for_first.into_iter().chain(other.for_first).min(),
        }
    }
}

/// How far below the root's command a binding reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Descend {
    /// To every descendant of the root.
    #[default]
    All,
    /// To so many levels, of which the command itself is the first. What hangs on the root as an orphan is
    /// on none of them.
    Levels(NonZeroU32),
}

impl Descend {
    /// The command alone.
    pub const CHILD: Self = Self::Levels(NonZeroU32::MIN);

    /// How many levels it reaches, of which the command is the first; `None` is all.
    pub fn levels(self) -> Option<u32> {
        match self {
            Self::All => None,
            Self::Levels(levels) => Some(levels.get()),
        }
    }

    /// Whether it reaches a reader that descends from `root`, whose command is `command` where that is known.
    pub fn reaches(self, lineage: &Lineage, root: Process, command: Option<Process>) -> bool {
        let Self::Levels(levels) = self else { return true };
        let level = lineage.depth_of(root).and_then(|depth| u32::try_from(depth).ok());
        level.is_some_and(|level| level <= levels.get())
            && command.is_some()
            && lineage.branch_below(root) == command
    }

    /// Whether exits between `lineage` and now can change the answer for it. The command's parent is the
    /// root for as long as both live; what is below may have come to hang on another.
    pub fn wants_a_fresh_lineage(self, lineage: &Lineage, command: Option<Process>) -> bool {
        self != Self::All && self != Self::CHILD && Some(lineage.process) != command
    }
}

/// What has been used of a grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// When its command was started, where it was.
    pub started: Option<Timestamp>,
    /// Opens that were permitted under it, and under grants made inside it.
    pub opens: u64,
    /// How many of them were of the file that is asked for.
    pub of_file: u64,
}

/// Whether one more open of `file` is within the limits of `grant` and of its binding.
pub(crate) fn one_more(grant: &Grant, file: &FileName, uses: Uses, now: Timestamp) -> Result<(), Denial> {
    let since = uses.started.unwrap_or(grant.created);
    let of_file = grant.limits_of(file).map(|limits| (limits, uses.of_file));
    for (limits, opens) in [(grant.limits, uses.opens)].into_iter().chain(of_file) {
        if limits.for_first.is_some_and(|window| now >= since.after(window)) {
            return Err(Denial::WindowClosed);
        }
        if limits.max_opens.is_some_and(|most| opens >= most) {
            return Err(Denial::MaxOpens);
        }
    }
    Ok(())
}
