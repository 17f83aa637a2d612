//! Does the real mount answer as a short model says, whatever happens before? Grants, nesting, forks, passed
//! descriptors, exits, expiry, revocation, rotation, locking: in random order, by real processes.
//!
//! `KIN_MODEL_SEED` runs one seed again, `KIN_MODEL_CASES` says how many sequences there are.

mod machine;
mod reference;
mod steps;

use std::cell::RefCell;
use std::time::{Duration, Instant};

use kin_tests::World;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use crate::machine::Machine;
use crate::reference::Fault;
use crate::steps::{Step, sequences};

/// How long new sequences are begun.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one world serves: its watchdog ends it after a minute.
const WORLD: Duration = Duration::from_secs(20);

/// Holds sequences to the model until one differs: what differed, and the shortest such sequence.
fn check(fault: Option<Fault>, seed: u64, cases: u32) -> Result<(), (String, Vec<Step>)> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases, max_shrink_iters: 60, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let (began, place) = (Instant::now(), RefCell::new(None));
    let outcome = runner.run(&sequences(), |steps| {
        if began.elapsed() > PATIENCE {
            return Ok(());
        }
        let mut place = place.borrow_mut();
        if place.as_ref().is_none_or(|(_, since): &(World, Instant)| since.elapsed() > WORLD) {
            *place = None;
            *place = Some((World::ready(), Instant::now()));
        }
        let (world, _) = place.as_ref().expect("made just now");
        Machine::run(world, fault, &steps).map_err(TestCaseError::fail)
    });
    match outcome {
        Ok(()) => Ok(()),
        Err(TestError::Fail(why, steps)) => Err((why.to_string(), steps)),
        Err(TestError::Abort(why)) => panic!("aborted: {why}"),
    }
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

#[test]
fn nobody_reads_outside_a_live_grants_tree_and_nobody_inside_is_refused() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let seed = variable("KIN_MODEL_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    let cases = variable("KIN_MODEL_CASES").map_or(24, |cases| u32::try_from(cases).expect("a few"));
    if let Err((why, steps)) = check(None, seed, cases) {
        let list: String = steps.iter().map(|step| format!("  {step:?}\n")).collect();
        panic!("{why}\nKIN_MODEL_SEED={seed}, shortest sequence:\n{list}");
    }
}

#[test]
fn the_machine_finds_every_planted_fault() {
    for (fault, steps) in steps::telling() {
        let world = World::ready();
        assert_eq!(Machine::run(&world, None, &steps), Ok(()), "{steps:?} is right without a fault");
        let told = Machine::run(&world, Some(fault), &steps);
        assert!(told.is_err(), "{fault:?} was not found by {steps:?}");
    }
}

#[test]
fn a_difference_is_shown_by_a_short_sequence() {
    let (why, steps) = check(Some(Fault::RevokedGrantsLive), 7, 200).expect_err("a difference");
    assert!(steps.len() <= 6, "{why}: {steps:#?}");
}
