//! Tests of the book of grants.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kin_policy::{DirectoryName, Limits};

use super::*;
use crate::process::{Choice, Identifier};

/// A grant rooted at a made-up process, which ends by itself at this time.
fn live(root: u32, expires: Option<u64>) -> Arc<LiveGrant> {
    let identifier = Identifier::new(Choice::Procfs, 1).unwrap();
    let own = || identifier.hold(Pid::new(std::process::id()).unwrap(), None).unwrap();
    let grant = Grant {
        id: GrantId::from_bytes([root as u8; 16]),
        root: Process { pid: Pid::new(root).unwrap(), start: 1 },
        project: DirectoryName::new("api").unwrap(),
        bindings: BTreeMap::new(),
        files: BTreeMap::new(),
        created: Timestamp::from_nanos(u64::from(root)),
        expires: expires.map(Timestamp::from_nanos),
        limits: Limits::default(),
    };
    Arc::new(LiveGrant::new(grant, None, PathBuf::new(), Vec::new(), own(), None))
}

#[test]
fn deadlines_are_taken_in_their_order_and_once() {
    let grants = Grants::default();
    let all = [live(1, Some(30)), live(2, None), live(3, Some(10)), live(4, Some(10)), live(5, Some(20))];
    all.iter().for_each(|live| grants.enter(live.clone()));
    grants.forget_deadline(&all[3].grant);
    grants.strike(all[4].grant.root);
    let taken = |now| grants.take_expired(Timestamp::from_nanos(now)).map(|live| live.grant.root.pid.get());
    assert_eq!(grants.next_expiry(), Some(Timestamp::from_nanos(10)));
    assert_eq!(
        [taken(9), taken(10), taken(10), taken(29), taken(30), taken(99)],
        [None, Some(3), None, None, Some(1), None]
    );
    assert_eq!((grants.next_expiry(), grants.len()), (None, 4));
}

#[test]
fn a_number_that_roots_a_grant_again_has_the_new_one_alone() {
    let grants = Grants::default();
    let (old, new) = (live(7, Some(10)), live(7, None));
    let new = match Arc::try_unwrap(new) {
        Ok(mut live) => {
            (live.grant.id, live.grant.root.start) = (GrantId::from_bytes([9; 16]), 2);
            Arc::new(live)
        }
        Err(_) => unreachable!("nobody else has it"),
    };
    grants.enter(old.clone());
    grants.enter(new.clone());
    assert!(grants.at(old.grant.root).is_none() && grants.at(new.grant.root).is_some());
    grants.strike(old.grant.root);
    assert_eq!((grants.len(), grants.next_expiry()), (1, None));
    assert_eq!(grants.all()[0].grant.id, new.grant.id);
}

#[test]
fn e12_grants_leave_descriptors_for_everybody_else() {
    for (descriptors, grants) in
        [(0, 0), (1024, 512), (8192, 4096), (20_000, 10_000), (65_536, 10_000), (usize::MAX, 10_000)]
    {
        assert_eq!(affordable(descriptors), grants, "{descriptors}");
    }
}
