//! What can happen? Steps name processes, grants and handles by number, modulo how many there are.

use proptest::prelude::*;

use crate::reference::Fault;

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// `kin run`, by a process.
    Run { by: usize, only: Option<[bool; 2]>, how: How },
    /// A child, an orphan in a session of its own, or a child that execs.
    Bear { by: usize, how: &'static str },
    /// Opens, reads and closes.
    Cat { by: usize, file: usize },
    /// Opens and keeps the handle.
    Open { by: usize, file: usize },
    /// Reads what it or another opened.
    Read { handle: usize },
    /// Passes an open descriptor to another process.
    Pass { handle: usize, to: usize },
    /// Dies.
    Exit { process: usize },
    /// `kin revoke ID`.
    Revoke { grant: usize },
    /// `kin revoke --all`.
    RevokeAll,
    /// `kin set`.
    Rotate { file: usize },
    /// Time passes, until a grant that has one is over its time.
    Expire { grant: usize },
    /// `kin lock`, then `kin unlock`.
    Lock,
}

/// How long a grant lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// As its tree.
    Tree,
    /// A time.
    Ttl,
    /// As its command.
    EndWithChild,
}

fn run() -> impl Strategy<Value = Step> {
    let only = prop_oneof![2 => Just(None), 1 => Just(Some([true, false])), 1 => Just(Some([false, true]))];
    let how = prop_oneof![4 => Just(How::Tree), 1 => Just(How::Ttl), 1 => Just(How::EndWithChild)];
    (0..8_usize, only, how).prop_map(|(by, only, how)| Step::Run { by, only, how })
}

fn step() -> impl Strategy<Value = Step> {
    let file = || 0..2_usize;
    let any = || 0..8_usize;
    prop_oneof![
        4 => run(),
        3 => (any(), prop_oneof![Just("fork"), Just("orphan"), Just("program")])
            .prop_map(|(by, how)| Step::Bear { by, how }),
        6 => (any(), file()).prop_map(|(by, file)| Step::Cat { by, file }),
        4 => (any(), file()).prop_map(|(by, file)| Step::Open { by, file }),
        6 => any().prop_map(|handle| Step::Read { handle }),
        3 => (any(), any()).prop_map(|(handle, to)| Step::Pass { handle, to }),
        1 => any().prop_map(|process| Step::Exit { process }),
        2 => any().prop_map(|grant| Step::Revoke { grant }),
        1 => Just(Step::RevokeAll),
        2 => file().prop_map(|file| Step::Rotate { file }),
        1 => any().prop_map(|grant| Step::Expire { grant }),
        1 => Just(Step::Lock),
    ]
}

/// Sequences that begin with a grant, since nothing happens without one.
pub(crate) fn sequences() -> impl Strategy<Value = Vec<Step>> {
    (run(), proptest::collection::vec(step(), 1..24)).prop_map(|(first, rest)| {
        let mut all = vec![first];
        all.extend(rest);
        all
    })
}

/// For each fault of the model a sequence that shows it. Process 0 is an outsider; the first run makes 1.
pub(crate) fn telling() -> Vec<(Fault, Vec<Step>)> {
    let run = |by, only, how| Step::Run { by, only, how };
    let (whole, database) = (run(0, None, How::Tree), run(0, Some([true, false]), How::Tree));
    vec![
        (
            Fault::RevokedGrantsLive,
            vec![whole.clone(), Step::Revoke { grant: 0 }, Step::Cat { by: 1, file: 0 }],
        ),
        (
            Fault::HandlesFollowVersions,
            vec![
                whole.clone(),
                Step::Open { by: 1, file: 0 },
                Step::Rotate { file: 0 },
                Step::Read { handle: 0 },
            ],
        ),
        (
            Fault::DescriptorsAreAuthority,
            vec![
                whole.clone(),
                Step::Open { by: 1, file: 0 },
                Step::Pass { handle: 0, to: 0 },
                Step::Read { handle: 1 },
            ],
        ),
        (Fault::NestingDoesNotNarrow, vec![database, run(1, None, How::Tree), Step::Cat { by: 2, file: 1 }]),
        (
            Fault::OrphansAreOutsiders,
            vec![whole, Step::Bear { by: 1, how: "orphan" }, Step::Cat { by: 2, file: 0 }],
        ),
        (
            Fault::TimeDoesNotPass,
            vec![run(0, None, How::Ttl), Step::Expire { grant: 0 }, Step::Cat { by: 1, file: 0 }],
        ),
    ]
}
