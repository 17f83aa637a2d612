//! Tests of records that wait too long for their seal.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::super::testing::{self, Fault, Faulty, Scene, events};
use super::super::{chain, storage, verify};
use super::*;
use crate::sys::error::Class;
use crate::sys::files;

fn append(log: &AuditLog, records: usize) {
    (0..records).for_each(|_| _ = log.append(&Scene::new().allow()).unwrap());
}

/// A log with a seal, and one record behind it.
fn sealed() -> tempfile::TempDir {
    let dir = testing::dir();
    let log = AuditLog::open(dir.path()).unwrap();
    append(&log, 3);
    log.tend(true).unwrap();
    append(&log, 1);
    log.tend(false).unwrap();
    dir
}

/// Appends a record as who has the key can, so many seconds after the last one.
fn forge(dir: &Path, after: u64) {
    let mut log = std::fs::read(storage::log_path(dir)).unwrap();
    let line = log[..log.len() - 1].rsplit(|byte| *byte == b'\n').next().unwrap();
    let last = chain::Shape::read(line).unwrap();
    let (seq, tag) = (last.seq + 1, last.tag().unwrap());
    let start = log.len();
    chain::begin(&mut log, seq, SystemTime::now() + Duration::from_secs(after), "mount.lost");
    storage::load_key(dir).unwrap().unwrap().seal(&mut log, start, &tag);
    std::fs::write(storage::log_path(dir), log).unwrap();
}

#[test]
fn l20_records_that_no_seal_covers_in_time_show() {
    for (after, shows) in [(10, false), (75, true), (600, true), (24 * 3600, true)] {
        let dir = sealed();
        forge(dir.path(), after);
        match verify(dir.path()) {
            Ok(verified) => assert!(!shows && verified.records == 6, "{after} s"),
            Err(error) => {
                assert!(shows && error.class == Class::Integrity, "{after} s: {error}");
                assert!(error.message.starts_with("record 6 "), "{error}");
            }
        }
    }
}

#[test]
fn l20_a_log_is_ahead_of_its_anchor_by_one_seal_at_most() {
    let dir = sealed();
    let anchor = dir.path().join("audit.anchor");
    for (seals, stands) in [(1, true), (2, false)] {
        let log = AuditLog::open(dir.path()).unwrap();
        let before = std::fs::read(&anchor).unwrap();
        for _ in 0..seals {
            append(&log, 1);
            log.tend(true).unwrap();
        }
        drop(log);
        let after = std::fs::read(&anchor).unwrap();
        files::write_atomic(&anchor, &before).unwrap();
        assert_eq!(verify(dir.path()).is_ok(), stands);
        assert_eq!(AuditLog::open(dir.path()).is_ok(), stands);
        files::write_atomic(&anchor, &after).unwrap();
    }
}

#[test]
fn l20_a_broker_that_was_asleep_seals_before_it_records() {
    let dir = testing::dir();
    let log = AuditLog::open(dir.path()).unwrap();
    append(&log, 1);
    log.age_unsealed(600);
    append(&log, 2);
    assert_eq!(events(dir.path()), ["open.allow", "audit.seal", "open.allow", "open.allow"]);
    log.age_unsealed(600);
    log.deny(&Scene::new().denied(300));
    assert_eq!(events(dir.path())[4..], ["audit.seal", "open.deny"]);
    log.tend(true).unwrap();
    assert_eq!(verify(dir.path()).unwrap().seals, 3);
}

#[test]
fn l20_what_cannot_be_sealed_in_time_is_not_delivered() {
    let dir = testing::dir();
    let (log, orders) = Faulty::open(dir.path());
    append(&log, 1);
    log.age_unsealed(600);
    orders.lock().push_back(Fault::Errno(libc::EIO));
    let permit = log.append_permit(testing::permit(), &Scene::new().allow(), || Ok(()), || ());
    assert!(matches!(permit, Err(NotLogged::Failed { errno: libc::EIO })), "{permit:?}");
    assert_eq!(events(dir.path()), ["open.allow"]);
    append(&log, 1);
    let expected = ["open.allow", "audit.fault", "audit.seal", "open.allow"];
    assert_eq!(events(dir.path()), expected);
    log.tend(true).unwrap();
    verify(dir.path()).unwrap();
}
