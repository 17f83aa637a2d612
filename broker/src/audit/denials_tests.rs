//! Tests of summing up.

use std::time::UNIX_EPOCH;

use proptest::prelude::*;

use super::super::record::Event;
use super::super::testing::{self, Fault, Faulty, Scene, denials, lines};
use super::super::{storage, verify};
use super::*;

/// A clock that tests move.
struct Clock {
    start: Instant,
    millis: u64,
}

impl Clock {
    fn new() -> Self {
        Self { start: Instant::now(), millis: 0 }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.millis)
    }

    fn time(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + self.millis)
    }
}

fn size(dir: &std::path::Path) -> u64 {
    std::fs::metadata(storage::log_path(dir)).unwrap().len()
}

#[test]
fn the_first_is_written_at_once_and_repeats_are_summed_up() {
    let (dir, scene, mut clock) = (testing::dir(), Scene::new(), Clock::new());
    let log = AuditLog::open(dir.path()).unwrap();
    for _ in 0..100 {
        log.deny_at(&scene.denied(300), clock.now(), clock.time());
        clock.millis += 1;
    }
    assert_eq!(lines(dir.path()).len(), 1);
    log.flush_at(false, clock.now());
    assert_eq!(lines(dir.path()).len(), 1, "the window is open still");
    clock.millis = 1000;
    log.flush_at(false, clock.now());
    let lines = lines(dir.path());
    assert_eq!((lines.len(), &lines[0]["count"], &lines[1]["count"]), (2, &1.into(), &99.into()));
    assert_eq!(lines[1]["first"], "2023-11-14T22:13:20.001000Z");
    assert_eq!(lines[1]["last"], "2023-11-14T22:13:20.099000Z");
    assert_eq!((&lines[1]["tgid"], &lines[1]["comm"]), (&300.into(), &"cat".into()));
    assert_eq!(denials(dir.path()), 100);
    verify(dir.path()).unwrap();
}

#[test]
fn a_reader_that_goes_on_gets_a_summary_a_second() {
    let (dir, scene, mut clock) = (testing::dir(), Scene::new(), Clock::new());
    let log = AuditLog::open(dir.path()).unwrap();
    for _ in 0..10_000 {
        log.deny_at(&scene.denied(300), clock.now(), clock.time());
        clock.millis += 1;
    }
    // Even without a ticker.
    assert_eq!(lines(dir.path()).len(), 10);
    log.flush_at(true, clock.now());
    assert_eq!(denials(dir.path()), 10_000);
}

#[test]
fn what_differs_is_not_summed_up_together() {
    let (dir, scene) = (testing::dir(), Scene::new());
    let log = AuditLog::open(dir.path()).unwrap();
    let base = scene.denied(300);
    let unproven = |tid| {
        let reader =
            super::super::ReaderFacts { process: None, tid: kin_policy::Tid::new(tid), ..base.reader };
        Denied { reader, ..base }
    };
    let kinds = [
        base,
        scene.denied(301),
        Denied { op: Op::Read, ..base },
        Denied { op: Op::Getattr, ..base },
        Denied { file: Some(b"OTHER"), ..base },
        Denied { file: None, ..base },
        Denied { project: b"web", ..base },
        Denied { reason: "revoked", ..base },
        Denied { grant: Some(scene.grant), ..base },
        unproven(300),
        unproven(301),
        unproven(0),
    ];
    for denied in kinds.iter().chain(&kinds) {
        log.deny(denied);
    }
    assert_eq!(lines(dir.path()).len(), kinds.len());
    assert_eq!(lines(dir.path())[2]["event"], "read.deny");
    log.flush(true);
    assert_eq!(lines(dir.path()).len(), 2 * kinds.len());
    assert_eq!(denials(dir.path()), 2 * kinds.len() as u64);
}

#[test]
fn a_series_that_is_evicted_is_written_out() {
    let (dir, scene, mut clock) = (testing::dir(), Scene::new(), Clock::new());
    let log = AuditLog::open(dir.path()).unwrap();
    for _ in 0..5 {
        log.deny_at(&scene.denied(1), clock.now(), clock.time());
    }
    for pid in 2..=SERIES.get() as u32 + 1 {
        clock.millis += 10;
        log.deny_at(&scene.denied(pid), clock.now(), clock.time());
    }
    let summary = lines(dir.path()).into_iter().find(|line| line["count"] == 4).unwrap();
    assert_eq!(summary["tgid"], 1);
    assert_eq!(denials(dir.path()), 5 + SERIES.get() as u64);
}

#[test]
fn l01_a_denial_that_cannot_be_written_stays_in_the_count() {
    let (dir, scene) = (testing::dir(), Scene::new());
    let (log, orders) = Faulty::open(dir.path());
    let fail = |times: usize| orders.lock().extend((0..times).map(|_| Fault::Errno(libc::ENOSPC)));
    fail(1);
    (0..7).for_each(|_| log.deny(&scene.denied(300)));
    fail(1);
    log.deny(&scene.denied(301));
    fail(2);
    log.flush(true);
    log.flush(true);
    assert_eq!(denials(dir.path()), 0);
    log.flush(true);
    assert_eq!(denials(dir.path()), 8);
    // What is tried again was not refused.
    let fault = &lines(dir.path())[0];
    assert_eq!((&fault["event"], &fault["refused"]), (&"audit.fault".into(), &0.into()));
    verify(dir.path()).unwrap();
}

/// 1e5 denials in ten seconds of the test's clock, `readers` new processes each with `repeats`.
fn flood(readers: u32, repeats: u32) {
    let (dir, scene, mut clock) = (testing::dir(), Scene::new(), Clock::new());
    let log = AuditLog::open(dir.path()).unwrap();
    assert_eq!(readers * repeats, 100_000);
    let mut allowed = 0;
    for n in 0..100_000 {
        log.deny_at(&scene.denied(1000 + n / repeats), clock.now(), clock.time());
        if n % 10 == 9 {
            clock.millis += 1;
        }
        if n % 10_000 == 9_999 {
            log.flush_at(false, clock.now());
            log.append(&scene.allow()).unwrap();
            allowed += 1;
        }
    }
    log.flush_at(true, clock.now());
    assert!(size(dir.path()) <= 5 << 20, "{} bytes", size(dir.path()));
    assert_eq!(denials(dir.path()), 100_000);
    let lines = lines(dir.path());
    assert_eq!(lines.iter().filter(|line| line["event"] == "open.allow").count(), allowed);
    verify(dir.path()).unwrap();
}

#[test]
fn l18_a_flood_by_one_reader_stays_small_and_adds_up() {
    flood(1, 100_000);
}

#[test]
fn l18_a_flood_by_many_readers_stays_small_and_adds_up() {
    flood(500, 200);
    flood(20_000, 5);
}

#[test]
fn l18_a_flood_by_short_lived_readers_is_summed_up_as_a_crowd() {
    flood(100_000, 1);
    let (dir, scene, clock) = (testing::dir(), Scene::new(), Clock::new());
    let log = AuditLog::open(dir.path()).unwrap();
    (1..=3000).for_each(|pid| log.deny_at(&scene.denied(pid), clock.now(), clock.time()));
    log.flush_at(true, clock.now());
    let lines = lines(dir.path());
    let crowd = lines.last().unwrap();
    let alone = lines.len() as u64 - 1;
    assert_eq!((&crowd["readers"], &crowd["count"]), (&(3000 - alone).into(), &(3000 - alone).into()));
    assert!(crowd["tgid"].is_null() && crowd["exe"].is_null());
    assert_eq!((&crowd["comm"], &crowd["project"]), (&"cat".into(), &"api".into()));
}

#[test]
fn made_up_projects_make_no_more_crowds_than_there_is_room_for() {
    let (dir, scene, clock) = (testing::dir(), Scene::new(), Clock::new());
    let log = AuditLog::open(dir.path()).unwrap();
    for n in 0..5000_u32 {
        let project = format!("p{n}");
        let denied = Denied { project: project.as_bytes(), ..scene.denied(1) };
        log.deny_at(&denied, clock.now(), clock.time());
    }
    let before = lines(dir.path()).len();
    log.flush_at(true, clock.now());
    let crowds = &lines(dir.path())[before..];
    assert!(crowds.len() <= CROWDS + 1, "{}", crowds.len());
    assert!(crowds.iter().any(|crowd| crowd["project"].is_null()));
    assert_eq!(denials(dir.path()), 5000);
}

#[derive(Clone, Debug)]
enum Step {
    Deny(u32, u8),
    Allow,
    Flush(bool),
    Wait(u64),
    Fail(usize, i32),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1u32..40, 0u8..4).prop_map(|(pid, kind)| Step::Deny(pid, kind)),
        2 => Just(Step::Allow),
        1 => any::<bool>().prop_map(Step::Flush),
        2 => (0u64..1500).prop_map(Step::Wait),
        1 => (1usize..400, prop_oneof![Just(libc::ENOSPC), Just(libc::EIO)])
            .prop_map(|(short, errno)| Step::Fail(short, errno)),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_order_of_events_keeps_the_counts_and_the_chain(steps in prop::collection::vec(step(), 1..300)) {
        let (dir, scene, mut clock) = (testing::dir(), Scene::new(), Clock::new());
        let (mut log, mut orders) = Faulty::open(dir.path());
        let (mut denied, mut allowed, mut refused) = (0, 0, 0);
        for step in steps {
            match step {
                Step::Deny(pid, kind) => {
                    let file = [b'a' + kind];
                    let denial = Denied { file: Some(&file), ..scene.denied(pid) };
                    log.deny_at(&denial, clock.now(), clock.time());
                    denied += 1;
                }
                Step::Allow => match log.append(&scene.allow()) {
                    Ok(_) => allowed += 1,
                    Err(_) => refused += 1,
                },
                Step::Flush(all) => log.flush_at(all, clock.now()),
                Step::Wait(millis) => clock.millis += millis,
                Step::Fail(short, errno) => orders.lock().extend([Fault::Short(short), Fault::Errno(errno)]),
                Step::Restart => {
                    orders.lock().clear();
                    log.flush_at(true, clock.now());
                    log.append(&Event::MountLost).unwrap();
                    drop(log);
                    (log, orders) = Faulty::open(dir.path());
                }
            }
        }
        orders.lock().clear();
        log.flush_at(true, clock.now());
        log.append(&Event::MountLost).unwrap();
        let lines = lines(dir.path());
        let sum = |event: &str, key: &str| -> u64 {
            lines.iter().filter(|line| line["event"] == event).map(|line| line[key].as_u64().unwrap_or(1)).sum()
        };
        prop_assert_eq!(sum("open.deny", "count"), denied);
        prop_assert_eq!(sum("open.allow", "count"), allowed);
        prop_assert_eq!(sum("audit.fault", "refused"), refused);
        prop_assert_eq!(verify(dir.path()).unwrap().records, lines.len() as u64);
    }
}
