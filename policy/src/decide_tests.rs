//! Every denial has a row; every permit too; and random forests agree with a reference model.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::process::{Pid, Process, Tid};

fn process(pid: u32) -> Process {
    Process { pid: Pid::new(pid).unwrap(), start: u64::from(pid) * 10 }
}

/// `reader = [leaf, parent, …]`.
fn lineage(pids: &[u32]) -> Lineage {
    Lineage {
        tid: Tid::new(pids[0]).unwrap(),
        process: process(pids[0]),
        ancestors: pids[1..].iter().map(|pid| process(*pid)).collect(),
    }
}

fn id(root: u32) -> GrantId {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&root.to_be_bytes());
    GrantId::from_bytes(bytes)
}

fn file(name: &str) -> FileName {
    FileName::new(name).unwrap()
}

fn directory(name: &str) -> DirectoryName {
    DirectoryName::new(name).unwrap()
}

fn grant(root: u32) -> Grant {
    let binding = Binding { reference: Reference::new("db/url").unwrap(), env_path: None, path: None };
    Grant {
        id: id(root),
        root: process(root),
        project: directory("api"),
        bindings: BTreeMap::from([(file("DB"), binding)]),
        created: Timestamp::from_nanos(0),
        expires: None,
    }
}

fn standing(grant: &Grant) -> Standing<'_> {
    Standing { grant, ended: None, orphans: Orphans::Admitted }
}

fn ask(action: Action, reader: Reader<'_>, name: &str, grants: &[Standing<'_>], now: u64) -> Decision {
    let (project, file) = (directory("api"), file(name));
    decide(
        &Request { action, reader, project: &project, file: Some(&file) },
        grants,
        Timestamp::from_nanos(now),
    )
}

macro_rules! deny {
    ($name:ident: $action:expr, $reader:expr, $file:literal, [$($grant:expr),*], $now:literal => $denial:expr) => {
        #[test]
        fn $name() {
            assert_eq!(ask($action, $reader, $file, &[$($grant),*], $now), Decision::Deny($denial));
        }
    };
}

fn read(root: u32, page_cache: bool) -> Action {
    Action::Read { opened_under: id(root), page_cache }
}

deny!(writes_are_refused: Action::Write, Reader::Proven(&lineage(&[3, 100])), "DB", [standing(&grant(100))], 0
    => Denial::ReadOnly);
deny!(pid_0_is_nobody: Action::Open, Reader::Unproven(Unidentified::Invisible), "DB", [standing(&grant(100))], 0
    => Denial::Unidentified(Unidentified::Invisible));
deny!(a_stranger_is_outside: Action::Open, Reader::Proven(&lineage(&[203, 200, 1])), "DB", [standing(&grant(100))], 0
    => Denial::OutsideTree);
deny!(the_root_itself_is_outside: Action::Open, Reader::Proven(&lineage(&[100, 1])), "DB", [standing(&grant(100))], 0
    => Denial::OutsideTree);
deny!(a_number_reused_is_outside: Action::Open,
    Reader::Proven(&Lineage { ancestors: vec![Process { pid: Pid::new(100).unwrap(), start: 1 }], ..lineage(&[3]) }),
    "DB", [standing(&grant(100))], 0 => Denial::OutsideTree);
deny!(a_revoked_grant_is_over: Action::Open, Reader::Proven(&lineage(&[3, 100])), "DB",
    [Standing { ended: Some(Ending::Revoked), ..standing(&grant(100)) }], 0 => Denial::Ended(Ending::Revoked));
deny!(a_revoked_inner_grant_does_not_fall_through: Action::Open, Reader::Proven(&lineage(&[5, 200, 3, 100])), "DB",
    [standing(&grant(100)), Standing { ended: Some(Ending::Revoked), ..standing(&grant(200)) }], 0
    => Denial::Ended(Ending::Revoked));
deny!(time_is_up_at_the_deadline: Action::Open, Reader::Proven(&lineage(&[3, 100])), "DB",
    [standing(&Grant { expires: Some(Timestamp::from_nanos(50)), ..grant(100) })], 50
    => Denial::Ended(Ending::TtlExpired));
deny!(another_project_is_refused: Action::Look, Reader::Proven(&lineage(&[3, 100])), "DB",
    [standing(&Grant { project: directory("web"), ..grant(100) })], 0 => Denial::OtherProject);
deny!(a_handle_of_another_grant_is_refused: read(200, false), Reader::Proven(&lineage(&[3, 100])), "DB",
    [standing(&grant(100))], 0 => Denial::ForeignReader);
deny!(b01_a_handle_that_was_passed_out_of_the_tree_is_refused: read(100, false),
    Reader::Proven(&lineage(&[203, 200, 1])), "DB", [standing(&grant(100))], 0 => Denial::ForeignReader);
deny!(a_page_cache_fill_is_refused: read(100, true), Reader::Proven(&lineage(&[3, 100])), "DB",
    [standing(&grant(100))], 0 => Denial::PageCacheFill);
deny!(what_is_not_bound_is_not_there: Action::Open, Reader::Proven(&lineage(&[3, 100])), "OTHER",
    [standing(&grant(100))], 0 => Denial::NoBinding);
deny!(an_orphan_after_a_killed_inner_keeper: Action::Open, Reader::Proven(&lineage(&[9, 8, 100])), "DB",
    [Standing { orphans: Orphans::Refused { command: Some(process(3)) }, ..standing(&grant(100)) }], 0
    => Denial::Orphan);
deny!(orphans_without_a_known_command: Action::Open, Reader::Proven(&lineage(&[9, 100])), "DB",
    [Standing { orphans: Orphans::Refused { command: None }, ..standing(&grant(100)) }], 0 => Denial::Orphan);

fn permit(decision: Decision) -> Permit {
    match decision {
        Decision::Permit(permit) => permit,
        Decision::Deny(denial) => panic!("{denial:?}"),
    }
}

#[test]
fn an_open_permit_names_the_secret_and_a_look_does_not() {
    let grant = grant(100);
    let reader = lineage(&[7, 3, 100]);
    let open = permit(ask(Action::Open, Reader::Proven(&reader), "DB", &[standing(&grant)], 0));
    assert_eq!((open.grant(), open.reference().map(Reference::as_str)), (Some(id(100)), Some("db/url")));
    let look = permit(ask(Action::Look, Reader::Proven(&reader), "DB", &[standing(&grant)], 0));
    assert_eq!(look.reference(), None);
    let read = permit(ask(read(100, false), Reader::Proven(&reader), "DB", &[standing(&grant)], 0));
    assert_eq!(read.reference(), None);
}

#[test]
fn descendants_of_the_command_stay_members_after_an_inner_keeper_was_killed() {
    let grant = grant(100);
    let standing = Standing { orphans: Orphans::Refused { command: Some(process(3)) }, ..standing(&grant) };
    for reader in [lineage(&[3, 100]), lineage(&[7, 3, 100])] {
        let _ = permit(ask(Action::Open, Reader::Proven(&reader), "DB", &[standing], 0));
    }
}

#[test]
fn a_reveal_needs_a_person_outside_every_tree() {
    let reference = Reference::new("db/url").unwrap();
    assert!(decide_reveal(&reference, false, true).is_some());
    for (inside, confirmed) in [(true, true), (false, false), (true, false)] {
        assert!(decide_reveal(&reference, inside, confirmed).is_none());
    }
}

/// A random forest: process n+2 is a child of a random earlier one (1 is init).
fn forest() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(any::<prop::sample::Index>(), 1..40)
        .prop_map(|parents| parents.iter().enumerate().map(|(n, index)| index.index(n + 1)).collect())
}

fn chain(parents: &[usize], leaf: usize) -> Vec<u32> {
    let mut chain = vec![leaf as u32 + 1];
    let mut at = leaf;
    while at > 0 {
        at = parents[at - 1];
        chain.push(at as u32 + 1);
    }
    chain
}

proptest! {
    /// The model: walk up by hand; the first process that roots a grant decides, alone.
    #[test]
    fn the_innermost_grant_decides_and_nobody_else(
        parents in forest(),
        leaf in any::<prop::sample::Index>(),
        rooted in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), prop::option::of(0u64..100)), 0..8),
        now in 0u64..100,
    ) {
        let leaf = leaf.index(parents.len()) + 1;
        let mut made: BTreeMap<u32, (Grant, bool)> = BTreeMap::new();
        for (at, revoked, expires) in rooted {
            let root = at.index(parents.len()) as u32 + 2;
            made.insert(root, (Grant { expires: expires.map(Timestamp::from_nanos), ..grant(root) }, revoked));
        }
        let standings: Vec<_> = made
            .values()
            .map(|(grant, revoked)| Standing { ended: revoked.then_some(Ending::Revoked), ..standing(grant) })
            .collect();
        let pids = chain(&parents, leaf);
        let reader = lineage(&pids);
        let expected = pids[1..].iter().find_map(|pid| made.get(pid));
        match ask(Action::Open, Reader::Proven(&reader), "DB", &standings, now) {
            Decision::Permit(permit) => {
                let (grant, revoked) = expected.expect("permitted outside every tree");
                prop_assert_eq!(permit.grant(), Some(grant.id));
                prop_assert!(!revoked);
                prop_assert!(grant.expires.is_none_or(|at| Timestamp::from_nanos(now) < at));
            }
            Decision::Deny(Denial::OutsideTree) => prop_assert!(expected.is_none()),
            Decision::Deny(Denial::Ended(Ending::Revoked)) => prop_assert!(expected.unwrap().1),
            Decision::Deny(Denial::Ended(Ending::TtlExpired)) => {
                prop_assert!(expected.unwrap().0.expires.unwrap() <= Timestamp::from_nanos(now));
            }
            Decision::Deny(other) => prop_assert!(false, "{:?}", other),
        }
    }
}
