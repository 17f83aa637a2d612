//! Tests of what the vault remembers, and of whom that convicts.

use std::ffi::OsString;

use tempfile::TempDir;

use super::super::testing::{self, Scene, lines};
use super::super::{verify, verify_against};
use super::*;

/// A record, and what a vault remembers of it, elsewhere.
struct House {
    state: TempDir,
    data: TempDir,
    identity: Identity,
}

impl House {
    fn new() -> Self {
        Self { state: testing::dir(), data: testing::dir(), identity: Identity::generate() }
    }

    fn memory(&self) -> PathBuf {
        self.data.path().join("record.head")
    }

    /// A broker's life with an open vault, that writes so many records.
    fn live(&self, records: usize) -> AuditLog {
        let log = AuditLog::open(self.state.path()).unwrap();
        log.remember(&self.identity, &self.memory()).unwrap();
        append(&log, records);
        log
    }

    fn copy(&self) -> Vec<(OsString, Vec<u8>)> {
        let entries = std::fs::read_dir(self.state.path()).unwrap().map(Result::unwrap);
        entries.map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap())).collect()
    }

    fn put_back(&self, copy: &[(OsString, Vec<u8>)]) {
        for entry in std::fs::read_dir(self.state.path()).unwrap().map(Result::unwrap) {
            std::fs::remove_file(entry.path()).unwrap();
        }
        for (name, bytes) in copy {
            files::write_atomic(&self.state.path().join(name), bytes).unwrap();
        }
    }

    fn head(&self) -> Head {
        match read(&self.memory(), &self.identity.derive(PURPOSE)).unwrap() {
            Found::This { there, .. } => there.head,
            _ => panic!("nothing is remembered"),
        }
    }

    /// What was remembered, written at another time.
    fn written(&self, at: i64) {
        let key = self.identity.derive(PURPOSE);
        let Found::This { document, .. } = read(&self.memory(), &key).unwrap() else { panic!("nothing") };
        let document = Document { written: Some(at), ..document };
        files::write_atomic(&self.memory(), &document.signed(&key).unwrap()).unwrap();
    }

    /// What `kin audit verify` does with an open vault.
    fn verified(&self, log: &AuditLog) -> Result<()> {
        let known = log.remembered()?.unwrap();
        verify_against(self.state.path(), Some(&known.root), &[known.head]).map(drop)
    }
}

fn append(log: &AuditLog, records: usize) {
    (0..records).for_each(|_| _ = log.append(&Scene::new().allow()).unwrap());
    log.tend(false).unwrap();
}

fn last_reason(house: &House) -> String {
    let last = lines(house.state.path()).pop().unwrap();
    assert_eq!(last["event"], "audit.reject", "{last}");
    last["reason"].as_str().unwrap().to_owned()
}

#[test]
fn l20_a_copy_that_was_forged_on_lacks_what_the_vault_remembers() {
    // As many as there were, fewer, and more.
    for forged in [7, 2, 20] {
        let house = House::new();
        let log = house.live(3);
        let copy = house.copy();
        append(&log, 4);
        drop(log);
        let known = house.head();
        house.put_back(&copy);
        // All of that time's keys are in the copy: whoever has them writes as the broker did, seals too.
        let log = AuditLog::open(house.state.path()).unwrap();
        append(&log, forged);
        log.tend(true).unwrap();
        drop(log);
        verify(house.state.path()).unwrap();
        for _ in 0..2 {
            let log = house.live(1);
            assert_eq!(lines(house.state.path()).iter().rev().nth(1).unwrap()["reason"], "another_record");
            assert_eq!(house.verified(&log).unwrap_err().class, Class::Integrity, "{forged}");
            log.tend(true).unwrap();
            log.forget();
        }
        assert_eq!(house.head(), known, "what was remembered stays");
    }
}

#[test]
fn l20_with_an_open_vault_the_memory_is_a_second_old() {
    let house = House::new();
    let log = house.live(3);
    assert_eq!(house.head().seq, log.last_seq().unwrap());
    append(&log, 1);
    assert_eq!(house.head().seq, log.last_seq().unwrap());
    house.verified(&log).unwrap();
}

#[test]
fn l20_a_memory_that_is_put_back_with_its_record_is_as_old_as_it_says() {
    for (ago, reason) in [(10, None), (75, Some(PUT_BACK)), (600, Some(PUT_BACK)), (-600, Some(PUT_BACK))] {
        let house = House::new();
        house.live(3).forget();
        house.written(clock::unix_seconds() - ago);
        let log = AuditLog::open(house.state.path()).unwrap();
        log.remember(&house.identity, &house.memory()).unwrap();
        assert_eq!(log.is_refused(), reason.is_some(), "{ago} s");
        match reason {
            None => house.verified(&log).unwrap(),
            Some(reason) => {
                assert_eq!(last_reason(&house), reason);
                let error = house.verified(&log).unwrap_err();
                assert!(error.message.contains("put back") && error.class == Class::Integrity, "{error}");
            }
        }
    }
}

#[test]
fn l20_a_memory_that_was_taken_away_is_missed() {
    let house = House::new();
    house.live(3).forget();
    std::fs::remove_file(house.memory()).unwrap();
    let log = house.live(0);
    assert_eq!(last_reason(&house), FORGOTTEN);
    assert_eq!(house.verified(&log).unwrap_err().code, "audit_broken");
    // A person knows why, and says so.
    log.accept().unwrap();
    append(&log, 1);
    house.verified(&log).unwrap();
    log.forget();
    drop(log);
    house.verified(&house.live(1)).unwrap();
}
