//! What is left of a grant's limits? For people to look at, never for a decision.

use kin_policy::{Around, FileName, Limits, Timestamp, Uses};

use crate::grants::live::LiveGrant;
use crate::grants::messages::{FileEdges, Left};

impl LiveGrant {
    /// What is left of the limits of the whole grant, and of those around it.
    pub(crate) fn left(&self, now: Timestamp) -> Left {
        self.least(None, now, |grant| (grant.grant.limits, grant.uses.opens))
    }

    /// The files that have edges of their own, here or in a grant around.
    pub(crate) fn edges(&self, now: Timestamp) -> Vec<FileEdges> {
        let edges = self.grant.bindings.iter().map(|(file, binding)| {
            let of_file = |grant: &Around<'_>| {
                let limits = grant.grant.bindings.get(file).map_or(Limits::default(), |own| own.limits);
                (limits, grant.uses.of_file)
            };
            let levels = binding.descend.levels();
            FileEdges { file: file.clone(), left: self.least(Some(file), now, of_file), levels }
        });
        edges.filter(|edges| edges.left != Left::default() || edges.levels.is_some()).collect()
    }

    /// The least that this grant and those around it leave of the limits that `of` names.
    fn least(
        &self,
        file: Option<&FileName>,
        now: Timestamp,
        of: impl Fn(&Around<'_>) -> (Limits, u64),
    ) -> Left {
        let left = self.and_around(file).map(|grant| {
            let (limits, opens) = of(&grant);
            left(limits, Uses { opens, ..grant.uses }, grant.grant.created, now)
        });
        left.fold(Left::default(), |one, other| Left {
            opens_left: one.opens_left.into_iter().chain(other.opens_left).min(),
            window_left_ms: one.window_left_ms.into_iter().chain(other.window_left_ms).min(),
        })
    }
}

fn left(limits: Limits, uses: Uses, created: Timestamp, now: Timestamp) -> Left {
    let since = uses.started.unwrap_or(created);
    let window = limits.for_first.map(|window| since.after(window).since(now).as_millis());
    Left {
        opens_left: limits.max_opens.map(|most| most.saturating_sub(uses.opens)),
        window_left_ms: window.map(|left| u64::try_from(left).unwrap_or(u64::MAX)),
    }
}
