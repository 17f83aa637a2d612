//! Tests of finding the first bad record.

use super::super::AuditLog;
use super::super::record::Event;
use super::super::testing::{self, Scene};
use super::*;

const RECORDS: usize = 200;

/// A log of 200 records of several kinds: its lines, newlines included.
struct Sample {
    dir: tempfile::TempDir,
    lines: Vec<Vec<u8>>,
}

impl Sample {
    fn new() -> Self {
        let (dir, scene) = (testing::dir(), Scene::new());
        let log = AuditLog::open(dir.path()).unwrap();
        for n in 0..RECORDS {
            let written = match n % 3 {
                0 => log.append(&Event::BrokerStart { version: "1", unclean: false, grants_lost: n as u64 }),
                1 => log.append(&scene.allow()),
                _ => log.append(&Event::MountLost),
            };
            written.unwrap();
        }
        let bytes = std::fs::read(storage::log_path(dir.path())).unwrap();
        let lines = bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        Self { dir, lines }
    }

    fn verify(&self, lines: &[Vec<u8>]) -> Result<Verified> {
        std::fs::write(storage::log_path(self.dir.path()), lines.concat()).unwrap();
        verify(self.dir.path())
    }

    /// The message for `lines`, which must be refused.
    fn refused(&self, lines: &[Vec<u8>]) -> String {
        let error = self.verify(lines).unwrap_err();
        assert_eq!((error.class, error.code.as_ref()), (Class::Integrity, "audit_broken"));
        error.message
    }
}

#[test]
fn a_whole_log_verifies() {
    let sample = Sample::new();
    let verified = sample.verify(&sample.lines).unwrap();
    assert_eq!((verified.records, verified.first_seq, verified.last_seq), (200, 1, 200));
    assert!(verified.last_time.is_some());
}

#[test]
fn no_log_and_an_empty_log_are_whole() {
    let dir = testing::dir();
    assert_eq!(verify(dir.path()).unwrap(), Verified::default());
    drop(AuditLog::open(dir.path()).unwrap());
    assert_eq!(verify(dir.path()).unwrap(), Verified::default());
}

#[test]
fn l06_a_flipped_byte_names_its_record() {
    let sample = Sample::new();
    for index in 0..RECORDS {
        let seq = index + 1;
        let len = sample.lines[index].len();
        // Every part of the line has its turn: head, number, fields, prev, mac, braces, newline.
        let places = [0, 5, 13, 20, 50, len / 2, len - 100, len - 80, len - 40, len - 3, len - 2, len - 1];
        for (at, bit) in places.into_iter().zip([1, 2, 4, 8, 16, 32, 64].into_iter().cycle()) {
            let mut lines = sample.lines.clone();
            lines[index][at] ^= bit;
            let message = sample.refused(&lines);
            assert!(message.starts_with(&format!("record {seq} (line {seq}) ")), "{seq} {at}: {message}");
        }
    }
}

#[test]
fn l06_every_flipped_bit_of_one_record_shows() {
    let sample = Sample::new();
    for at in 0..sample.lines[4].len() {
        for bit in 0..8 {
            let mut lines = sample.lines.clone();
            lines[4][at] ^= 1 << bit;
            let message = sample.refused(&lines);
            assert!(message.starts_with("record 5 (line 5) "), "byte {at} bit {bit}: {message}");
        }
    }
}

#[test]
fn l06_a_deleted_record_is_the_one_that_is_missing() {
    let sample = Sample::new();
    // The last one's absence is a shorter log, which shows by the broker's own number alone.
    for index in 0..RECORDS - 1 {
        let mut lines = sample.lines.clone();
        lines.remove(index);
        let (seq, next) = (index + 1, index + 2);
        let expected = format!("record {seq} (line {seq}) is missing: record {next} stands in its place");
        assert_eq!(sample.refused(&lines), expected);
    }
    let cut = sample.verify(&sample.lines[..RECORDS - 1]).unwrap();
    assert_eq!(cut.last_seq, 199);
}

#[test]
fn l06_reordered_records_are_named_from_the_first() {
    let sample = Sample::new();
    for index in 0..RECORDS - 1 {
        for other in [index + 1, RECORDS - 1] {
            let mut lines = sample.lines.clone();
            lines.swap(index, other);
            if other == index {
                continue;
            }
            let (seq, moved) = (index + 1, other + 1);
            let expected =
                format!("record {seq} (line {seq}) is missing: record {moved} stands in its place");
            assert_eq!(sample.refused(&lines), expected);
        }
    }
}

#[test]
fn l06_a_duplicated_record_is_named_where_it_stands_again() {
    let sample = Sample::new();
    for index in 0..RECORDS {
        let mut lines = sample.lines.clone();
        lines.insert(index + 1, lines[index].clone());
        let (seq, next) = (index + 1, index + 2);
        let expected = format!("record {seq} (line {next}) stands where record {next} should be");
        assert_eq!(sample.refused(&lines), expected);
    }
}

#[test]
fn l06_an_inserted_record_is_named() {
    let (sample, foreign) = (Sample::new(), Sample::new());
    for index in 0..RECORDS {
        let seq = index + 1;
        for (forged, why) in [
            (foreign.lines[index].clone(), "was changed: its mac is wrong"),
            (b"{\"v\":1}\n".to_vec(), "is not a record"),
            (b"hello\n".to_vec(), "is not JSON"),
            (b"\n".to_vec(), "is not JSON"),
            ([vec![b'x'; MAX_LINE], b"\n".to_vec()].concat(), "is longer than a record can be"),
        ] {
            let mut lines = sample.lines.clone();
            lines.insert(index, forged);
            assert_eq!(sample.refused(&lines), format!("record {seq} (line {seq}) {why}"));
        }
    }
}

#[test]
fn l06_a_log_from_another_key_is_refused_from_its_first_record() {
    let (sample, foreign) = (Sample::new(), Sample::new());
    assert_eq!(sample.refused(&foreign.lines), "record 1 (line 1) was changed: its mac is wrong");
}

#[test]
fn a_record_that_is_being_written_is_no_fault() {
    let sample = Sample::new();
    let last = sample.lines[RECORDS - 1].clone();
    for len in 1..last.len() {
        let mut lines = sample.lines.clone();
        lines[RECORDS - 1].truncate(len);
        let verified = sample.verify(&lines).unwrap();
        assert_eq!((verified.last_seq, verified.partial), (199, len as u64));
    }
    let mut lines = sample.lines.clone();
    lines[RECORDS - 1].pop();
    lines[RECORDS - 1].push(b'!');
    assert!(sample.refused(&lines).starts_with("record 200 (line 200) was changed"));
}
