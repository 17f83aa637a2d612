//! Every race between two steps of a walk, in a process table that does as it is told.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use kin_policy::{Process, Unidentified};

use super::fake::{Call, Fake, Grants};
use super::soak::{Chance, Tally, amount};
use super::{Identifier, walk};
use crate::process::ancestry::Ancestry;

const KEEPER: u32 = 100;
const SHELL: u32 = 200;
const MAKE: u32 = 300;
const READER: u32 = 400;

/// 1 → keeper → shell → make → reader, and an identifier over it.
fn house(inodes: bool) -> (Fake, Identifier, Grants) {
    let fake = Fake::new(inodes);
    let keeper = fake.chain(&[KEEPER, SHELL, MAKE, READER])[0];
    fake.with(|world| world.make_subreaper(KEEPER));
    let identifier = Identifier::with_table(Box::new(fake.clone()), 64);
    (fake, identifier, Grants::at(keeper))
}

fn numbers(ancestors: &[Process]) -> Vec<u32> {
    ancestors.iter().map(|process| process.pid.get()).collect()
}

fn ancestors(identifier: &Identifier, tid: u32, grants: &Grants) -> Result<Vec<u32>, Unidentified> {
    identifier.identify(tid, grants).map(|known| numbers(&known.lineage().ancestors))
}

#[test]
fn a02_a_member_descends_from_its_keeper_and_the_walk_ends_there() {
    for inodes in [true, false] {
        let (fake, identifier, grants) = house(inodes);
        let known = identifier.identify(READER, &grants).unwrap();
        assert_eq!(numbers(&known.lineage().ancestors), [MAKE, SHELL, KEEPER]);
        assert_eq!(known.root(), Some(fake.with(|world| world.process(KEEPER))));
        assert!(fake.with(|world| !world.calls.contains(&Call::Open(1))));
        assert_eq!(*known.ancestry(), Ancestry::of(&known.lineage().ancestors));
    }
}

#[test]
fn a01_an_outsider_is_followed_to_the_top_and_never_remembered() {
    let (fake, identifier, grants) = house(true);
    fake.with(|world| world.spawn(500, 1));
    fake.with(|world| world.spawn(501, 500));
    let known = identifier.identify(501, &grants).unwrap();
    assert_eq!((numbers(&known.lineage().ancestors), known.root()), (vec![500, 1], None));
    assert_eq!(identifier.known(), 0);
}

#[test]
fn the_keeper_is_no_member_of_its_own_grant() {
    let (_, identifier, grants) = house(true);
    assert_eq!(identifier.identify(KEEPER, &grants).unwrap().root(), None);
}

#[test]
fn the_innermost_root_ends_the_walk() {
    let (fake, identifier, grants) = house(true);
    let inner = fake.with(|world| world.process(MAKE));
    grants.0.lock().push(inner);
    assert_eq!(identifier.identify(READER, &grants).unwrap().root(), Some(inner));
    assert_eq!(ancestors(&identifier, MAKE, &grants), Ok(vec![SHELL, KEEPER]));
    // Now the inner keeper is known as a reader of the outer grant, and is still a root to those below.
    fake.with(|world| world.spawn(401, MAKE));
    assert_eq!(identifier.identify(401, &grants).unwrap().root(), Some(inner));
}

#[test]
fn thread_zero_and_a_dead_thread_are_nobody() {
    let (fake, identifier, grants) = house(true);
    assert_eq!(ancestors(&identifier, 0, &grants), Err(Unidentified::Invisible));
    fake.with(|world| world.kill(READER));
    assert_eq!(ancestors(&identifier, READER, &grants), Err(Unidentified::Gone));
    assert_eq!(ancestors(&identifier, u32::MAX, &grants), Err(Unidentified::Gone));
}

#[test]
fn a_reader_that_dies_under_the_walk_is_gone() {
    for nth in 1..=2 {
        let (fake, identifier, grants) = house(true);
        fake.before(Call::Parent(READER), nth, |world| world.kill(READER));
        assert_eq!(ancestors(&identifier, READER, &grants), Err(Unidentified::Gone));
        assert_eq!(identifier.known(), 0);
    }
    let (fake, identifier, grants) = house(true);
    fake.before(Call::Open(MAKE), 1, |world| {
        world.kill(READER);
        world.spawn(READER, SHELL);
    });
    assert_eq!(ancestors(&identifier, READER, &grants), Err(Unidentified::Gone));
}

#[test]
fn honest_opens_survive_parents_that_exit_between_any_two_steps() {
    for dies in [SHELL, MAKE] {
        let steps = 8;
        for step in 1..=steps {
            let (fake, identifier, grants) = house(true);
            let mut asked = 0;
            fake.before_each(move |world, _| {
                asked += 1;
                if asked == step {
                    world.kill(dies);
                }
            });
            let root = identifier.identify(READER, &grants).unwrap().root();
            assert_eq!(root.map(|root| root.pid.get()), Some(KEEPER), "{dies} at {step}");
            assert!(fake.with(|world| !world.lives(dies)), "step {step} was never reached");
        }
    }
}

#[test]
fn a24_a_child_of_an_init_below_the_brokers_namespace_is_unverifiable() {
    // keeper → shell → init (1 there) → child → grandchild, and beside them one that entered by setns(2).
    let (fake, identifier, grants) = house(true);
    const INIT: u32 = 500;
    for (pid, parent, number) in
        [(INIT, SHELL, 1), (501, INIT, 2), (502, 501, 3), (503, SHELL, 4), (504, 503, 5)]
    {
        fake.with(|world| {
            world.spawn(pid, parent);
            world.number_below(pid, &[number]);
        });
    }
    let again = |tid| {
        let known = identifier.identify(tid, &grants).unwrap();
        identifier.walk_again(&known, &grants).map(|lineage| numbers(&lineage.ancestors))
    };
    assert_eq!(again(READER), Ok(vec![MAKE, SHELL, KEEPER]));
    assert_eq!(again(INIT), Ok(vec![SHELL, KEEPER]));
    assert_eq!(again(501), Err(Unidentified::Unverifiable));
    assert_eq!(again(502), Err(Unidentified::Unverifiable));
    assert_eq!(again(503), Ok(vec![SHELL, KEEPER]));
    assert_eq!(again(504), Ok(vec![503, SHELL, KEEPER]));
    // A namespace in that one: its init has a parent outside of it, and descends from a child of the first init.
    fake.with(|world| {
        world.spawn(505, 504);
        world.number_below(505, &[6, 1]);
        world.spawn(506, 501);
        world.number_below(506, &[7, 1]);
    });
    assert_eq!(again(505), Ok(vec![504, 503, SHELL, KEEPER]));
    assert_eq!(again(506), Err(Unidentified::Unverifiable));
}

#[test]
fn a_parent_that_is_reaped_while_its_number_is_read_is_no_top() {
    for (child, dies) in [(READER, MAKE), (MAKE, SHELL)] {
        for nth in 1..=2 {
            let (fake, identifier, grants) = house(true);
            fake.before(Call::Parent(child), nth, move |world| world.reap_under(dies, child));
            let root = identifier.identify(READER, &grants).unwrap().root();
            assert_eq!(root.map(|root| root.pid.get()), Some(KEEPER), "{dies}, at reading {nth} of {child}");
        }
    }
}

#[test]
fn a_parent_whose_number_is_reused_inside_the_tree_admits_nobody() {
    // The outsider 600 → 601; 600 exits after 601's parent was read, and a member takes the number 600.
    for call in [Call::Open(600), Call::Parent(600)] {
        let (fake, identifier, grants) = house(false);
        fake.with(|world| world.spawn(600, 1));
        fake.with(|world| world.spawn(601, 600));
        fake.before(call, 1, |world| {
            world.kill(600);
            world.spawn(600, SHELL);
        });
        assert_eq!(ancestors(&identifier, 601, &grants), Ok(vec![1]), "{call:?}");
    }
}

#[test]
fn a_parent_whose_number_is_reused_outside_the_tree_refuses_nobody() {
    for call in [Call::Open(MAKE), Call::Parent(MAKE)] {
        let (fake, identifier, grants) = house(false);
        fake.before(call, 1, |world| {
            world.kill(MAKE);
            world.spawn(MAKE, 1);
        });
        assert_eq!(ancestors(&identifier, READER, &grants), Ok(vec![KEEPER]), "{call:?}");
    }
}

#[test]
fn a07_a_keeper_whose_number_is_reused_is_no_root() {
    for inodes in [true, false] {
        let (fake, identifier, grants) = house(inodes);
        fake.with(|world| {
            world.kill(KEEPER);
            world.spawn(KEEPER, 1);
            world.spawn(700, KEEPER);
        });
        assert_eq!(ancestors(&identifier, 700, &grants), Ok(vec![KEEPER, 1]));
        assert_eq!(identifier.identify(700, &grants).unwrap().root(), None);
        assert_eq!(ancestors(&identifier, READER, &grants), Ok(vec![MAKE, SHELL, 1]), "orphans go to 1");
    }
}

#[test]
fn a_way_that_never_stops_changing_is_unstable() {
    let (fake, identifier, grants) = house(true);
    for (pid, parent) in (2000..2200).zip(1999..) {
        fake.with(|world| world.spawn(pid, if parent == 1999 { KEEPER } else { parent }));
    }
    fake.with(|world| world.spawn(3000, 2199));
    let mut dies = 2199;
    fake.before_each(move |world, call| {
        if call == Call::Parent(3000) && dies > 2000 {
            world.make_subreaper(dies - 1);
            world.kill(dies);
            dies -= 1;
        }
    });
    assert_eq!(ancestors(&identifier, 3000, &grants), Err(Unidentified::Unstable));
}

#[test]
fn a20_more_ancestors_than_the_walk_follows_are_too_deep() {
    let fake = Fake::new(true);
    let pids: Vec<u32> = (2..u32::try_from(walk::DEPTH).unwrap() + 4).collect();
    let processes = fake.chain(&pids);
    let grants = Grants::at(processes[0]);
    let identifier = Identifier::with_table(Box::new(fake), 64);
    assert_eq!(ancestors(&identifier, *pids.last().unwrap(), &grants), Err(Unidentified::TooDeep));
    let deepest = pids[walk::DEPTH];
    assert_eq!(identifier.identify(deepest, &grants).unwrap().root(), Some(processes[0]));
    // By way of a known ancestor it is as deep.
    assert_eq!(ancestors(&identifier, deepest + 1, &grants), Err(Unidentified::TooDeep));
}

#[test]
fn a18_a_hidden_ancestor_is_unverifiable() {
    let (fake, identifier, grants) = house(true);
    fake.with(|world| world.hide(SHELL));
    assert_eq!(ancestors(&identifier, READER, &grants), Err(Unidentified::Unverifiable));
    let (fake, identifier, grants) = house(true);
    fake.with(|world| world.hide(MAKE));
    // It hid, but it was not the parent any more.
    fake.before(Call::Parent(READER), 2, |world| world.kill(MAKE));
    assert_eq!(ancestors(&identifier, READER, &grants), Ok(vec![KEEPER]));
}

#[test]
fn a03_a_thread_that_leads_nothing_is_its_groups() {
    let (fake, identifier, grants) = house(true);
    fake.with(|world| world.add_thread(READER, 4321));
    let known = identifier.identify(4321, &grants).unwrap();
    assert_eq!((known.lineage().tid.get(), known.lineage().process.pid.get()), (4321, READER));
    fake.with(|world| world.calls.clear());
    assert!(Arc::ptr_eq(&known, &identifier.identify(4321, &grants).unwrap()));
    assert_eq!(fake.with(|world| world.calls.clone()), [Call::HasThread(READER, 4321)]);
}

#[test]
fn a_thread_number_that_moves_to_another_group_under_the_lookup_is_the_other_groups() {
    let (fake, identifier, grants) = house(true);
    fake.with(|world| world.spawn(800, 1));
    fake.with(|world| world.add_thread(READER, 4321));
    fake.before(Call::HasThread(READER, 4321), 1, |world| {
        world.end_thread(READER, 4321);
        world.add_thread(800, 4321);
    });
    let known = identifier.identify(4321, &grants).unwrap();
    assert_eq!((known.lineage().process.pid.get(), known.root()), (800, None));
}

#[test]
fn a_hit_asks_nothing_of_the_table() {
    let (fake, identifier, grants) = house(true);
    let first = identifier.identify(READER, &grants).unwrap();
    fake.with(|world| world.calls.clear());
    assert!(Arc::ptr_eq(&first, &identifier.identify(READER, &grants).unwrap()));
    assert_eq!(fake.with(|world| world.calls.len()), 0);
}

#[test]
fn a_reused_thread_or_process_number_cannot_hit() {
    let (fake, identifier, grants) = house(true);
    fake.with(|world| world.add_thread(READER, 4321));
    identifier.identify(READER, &grants).unwrap();
    identifier.identify(4321, &grants).unwrap();
    fake.with(|world| {
        world.kill(READER);
        world.spawn(READER, 1);
        world.add_thread(READER, 4321);
    });
    for tid in [READER, 4321] {
        assert_eq!(identifier.identify(tid, &grants).unwrap().root(), None, "{tid}");
    }
    assert!(identifier.identify(READER, &grants).unwrap().lineage().ancestors.len() == 1);
}

#[test]
fn a_thread_number_that_becomes_a_process_is_not_taken_for_its_old_group() {
    let (fake, identifier, grants) = house(true);
    fake.with(|world| world.add_thread(READER, 4321));
    identifier.identify(4321, &grants).unwrap();
    fake.with(|world| {
        world.end_thread(READER, 4321);
        world.spawn(4321, 1);
        world.spawn(900, 4321);
    });
    assert_eq!(ancestors(&identifier, 900, &grants), Ok(vec![4321, 1]));
}

#[test]
fn an_outsiders_ancestors_are_pinned_once() {
    let (fake, identifier, grants) = house(true);
    fake.chain(&[500, 501, 502]);
    let opened =
        || fake.with(|world| world.calls.drain(..).filter(|call| matches!(call, Call::Open(_))).count());
    assert_eq!(ancestors(&identifier, 502, &grants), Ok(vec![501, 500, 1]));
    assert_eq!(opened(), 4);
    assert_eq!(ancestors(&identifier, 502, &grants), Ok(vec![501, 500, 1]));
    assert_eq!(opened(), 1, "the reader alone");
    fake.with(|world| {
        world.kill(501);
        world.spawn(501, SHELL);
        world.spawn(503, 501);
    });
    assert_eq!(ancestors(&identifier, 503, &grants), Ok(vec![501, SHELL, KEEPER]));
    assert_eq!(ancestors(&identifier, 502, &grants), Ok(vec![1]));
}

#[test]
fn a_fresh_process_below_a_known_shell_costs_two_questions_more_than_itself() {
    let (fake, identifier, grants) = house(true);
    identifier.identify(READER, &grants).unwrap();
    fake.with(|world| world.spawn(402, MAKE));
    fake.with(|world| world.calls.clear());
    assert_eq!(ancestors(&identifier, 402, &grants), Ok(vec![MAKE, SHELL, KEEPER]));
    let calls = fake.with(|world| world.calls.clone());
    assert_eq!(calls, [Call::Open(402), Call::Parent(402), Call::Parent(402)]);
}

#[test]
fn a_known_parent_that_dies_under_the_walk_proves_nothing() {
    let (fake, identifier, grants) = house(true);
    identifier.identify(READER, &grants).unwrap();
    fake.with(|world| world.spawn(402, MAKE));
    // Dead before it is asked for, and dead after, with the number reused outside.
    for nth in [1, 2] {
        fake.before(Call::Parent(402), nth, |world| {
            if world.lives(MAKE) {
                world.kill(MAKE);
                world.spawn(MAKE, 1);
            }
        });
        assert_eq!(ancestors(&identifier, 402, &grants), Ok(vec![KEEPER]));
    }
}

#[test]
fn a_dead_ancestor_of_a_known_parent_is_history() {
    let (fake, identifier, grants) = house(true);
    identifier.identify(READER, &grants).unwrap();
    fake.with(|world| world.kill(SHELL));
    fake.with(|world| world.spawn(402, MAKE));
    assert_eq!(ancestors(&identifier, 402, &grants), Ok(vec![MAKE, SHELL, KEEPER]));
}

#[test]
fn a_dead_root_ends_what_is_known_below_it_at_once() {
    let (fake, identifier, grants) = house(true);
    assert!(identifier.identify(READER, &grants).unwrap().root().is_some());
    fake.with(|world| world.kill(KEEPER));
    assert_eq!(identifier.identify(READER, &grants).unwrap().root(), None);
}

#[test]
fn e08_a_grant_made_below_is_found_by_readers_that_are_known() {
    let (fake, identifier, grants) = house(true);
    for tid in [READER, SHELL] {
        identifier.identify(tid, &grants).unwrap();
    }
    let (outer, inner) = fake.with(|world| (world.process(KEEPER), world.process(MAKE)));
    grants.0.lock().push(inner);
    identifier.forget_below(inner);
    assert_eq!(identifier.identify(READER, &grants).unwrap().root(), Some(inner));
    assert_eq!(identifier.identify(SHELL, &grants).unwrap().root(), Some(outer));
    grants.0.lock().pop();
    identifier.forget_below(inner);
    assert_eq!(identifier.identify(READER, &grants).unwrap().root(), Some(outer));
}

#[test]
fn forgetting_spares_the_readers_beside() {
    let (fake, identifier, grants) = house(true);
    identifier.identify(READER, &grants).unwrap();
    let make = fake.with(|world| world.process(MAKE));
    assert_eq!(identifier.known(), 3, "reader, make, shell");
    identifier.forget_below(make);
    assert_eq!(identifier.known(), 1, "the shell");
    identifier.forget_all();
    assert_eq!(identifier.known(), 0);
}

#[test]
fn a_walk_that_began_before_a_grant_was_made_is_not_remembered() {
    for forget_all in [true, false] {
        let (fake, identifier, grants) = house(true);
        let (identifier, grants) = (Arc::new(identifier), Arc::new(grants));
        let inner = fake.with(|world| world.process(MAKE));
        let (forgetter, giver) = (Arc::clone(&identifier), Arc::clone(&grants));
        // The walk has passed the new root by now, not knowing it for one.
        fake.before(Call::Parent(SHELL), 2, move |_| {
            giver.0.lock().push(inner);
            if forget_all { forgetter.forget_all() } else { forgetter.forget_below(inner) }
        });
        identifier.identify(READER, &*grants).unwrap();
        assert_eq!(identifier.known(), 0);
        assert_eq!(identifier.identify(READER, &*grants).unwrap().root(), Some(inner));
        assert_eq!(identifier.known(), 1);
    }
}

#[test]
fn the_cache_is_bounded_in_entries_and_in_ancestors() {
    let fake = Fake::new(true);
    let keeper = fake.chain(&[KEEPER])[0];
    let grants = Grants::at(keeper);
    let identifier = Identifier::with_table(Box::new(fake.clone()), 8);
    for tid in 1000..1100 {
        fake.with(|world| world.spawn(tid, KEEPER));
        identifier.identify(tid, &grants).unwrap();
    }
    assert_eq!(identifier.known(), 8);
    let identifier = Identifier::with_table(Box::new(fake.clone()), 1024);
    let deep: Vec<u32> = (10_000..10_000 + 2000).collect();
    fake.with(|world| world.spawn(deep[0], KEEPER));
    for pair in deep.windows(2) {
        fake.with(|world| world.spawn(pair[1], pair[0]));
    }
    for tid in deep.iter().rev().step_by(20).take(10) {
        identifier.identify(*tid, &grants).unwrap();
    }
    // Of 170 readers with 1,800 to 2,000 ancestors each.
    assert!((65..=73).contains(&identifier.known()), "{}", identifier.known());
    identifier.forget_all();
    identifier.identify(1000, &grants).unwrap();
    assert_eq!(identifier.known(), 1);
}

#[test]
fn a_peer_is_walked_without_being_remembered() {
    let (fake, identifier, grants) = house(true);
    let reader = fake.with(|world| world.process(READER));
    let held = identifier.hold(reader.pid, None).unwrap();
    let lineage = identifier.walk_up(&held, &grants).unwrap();
    assert_eq!((lineage.process, numbers(&lineage.ancestors)), (reader, vec![MAKE, SHELL, KEEPER]));
    assert_eq!(identifier.known(), 0);
    assert_eq!(identifier.parent_of(&held).map(|pid| pid.get()), Some(MAKE));
    fake.with(|world| world.kill(READER));
    assert!(!held.is_alive());
    assert_eq!(identifier.parent_of(&held), None);
    assert_eq!(identifier.walk_up(&held, &grants).err(), Some(Unidentified::Gone));
}

/// Twenty numbers for all processes, so that most new ones reuse one; exits and births come between any two
/// questions; the world knows who is a member and the identifier must say the same.
#[test]
fn y04_no_churn_of_numbers_admits_or_refuses_anybody_wrongly() {
    let first = amount("KIN_SOAK_SEED", 1);
    // Fifty rounds each, with two answers at most.
    let worlds = amount("KIN_SOAK", 20_000).div_ceil(50);
    let mut tally = Tally::default();
    for seed in first..first + worlds {
        let (fake, identifier, grants) = house(seed % 2 == 0);
        let keeper = fake.with(|world| world.process(KEEPER));
        let mut chance = Chance::of(seed);
        fake.before_each(move |world, _| {
            let reader = world.process(READER);
            let churned = |pid: &u32| (2..22).contains(pid) || *pid == SHELL || *pid == MAKE;
            if chance.below(3) == 0 {
                let mortal: Vec<u32> = world.pids().into_iter().filter(churned).collect();
                chance.pick(&mortal).into_iter().for_each(|pid| world.kill(pid));
            }
            let free: Vec<u32> = (2..22).filter(|pid| !world.lives(*pid)).collect();
            let parents: Vec<u32> = world.pids().into_iter().filter(|pid| *pid != READER).collect();
            if chance.below(2) == 0
                && let (Some(pid), Some(parent)) = (chance.pick(&free), chance.pick(&parents))
            {
                world.spawn(pid, parent);
            }
            assert_eq!(reader, world.process(READER));
        });
        for round in 0..50 {
            let at = || format!("seed {seed}, round {round}");
            let said = identifier.identify(READER, &grants).map(|known| known.root());
            tally.count(said, Some(keeper), at);
            let tid = 2 + round % 20;
            let before = fake.with(|world| world.lives(tid).then(|| world.process(tid)));
            let Ok(known) = identifier.identify(tid, &grants) else { continue };
            let truth = fake
                .with(|world| world.lives(tid).then(|| (world.process(tid), world.descends(tid, keeper))));
            if let Some((process, inside)) = truth
                && before == Some(process)
            {
                assert_eq!(known.lineage().process, process, "{}", at());
                tally.count(Ok(known.root()), inside.then_some(keeper), at);
            }
        }
    }
    tally.hold(first);
}
