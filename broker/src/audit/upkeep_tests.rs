//! Tests of seals, anchors, segments, and what each of them shows.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::testing::{self, Fault, Faulty, Scene, lines};
use super::super::{Filter, Settings, Verified, query, verify, verify_against};
use super::*;
use crate::keys::Identity;
use crate::sys::error::Class;
use crate::sys::files;

const SMALL: Settings = Settings { sync: crate::sys::config::Sync::Group, segment: 20_000 };

fn append(log: &AuditLog, count: usize) {
    (0..count).for_each(|_| _ = log.append(&Scene::new().allow()).unwrap());
}

/// A log of three segments, sealed, anchored and closed.
fn segmented() -> tempfile::TempDir {
    let dir = testing::dir();
    let log = AuditLog::open_with(dir.path(), SMALL).unwrap();
    for _ in 0..2 {
        append(&log, 60);
        log.tend(true).unwrap();
    }
    append(&log, 10);
    log.tend(true).unwrap();
    assert_eq!(verify(dir.path()).unwrap().segments, 3);
    dir
}

/// All files of a directory.
fn contents(dir: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap())).collect()
}

/// A directory with these files.
fn with_files(files: &BTreeMap<OsString, Vec<u8>>) -> tempfile::TempDir {
    let dir = testing::dir();
    for (name, bytes) in files {
        files::write_atomic(&dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn refused(dir: &Path) -> (String, String) {
    let error = verify(dir).unwrap_err();
    assert_eq!(error.class, Class::Integrity, "{error}");
    (error.code.into_owned(), error.message)
}

fn current(dir: &Path) -> PathBuf {
    storage::log_path(dir)
}

#[test]
fn l07_a_cut_tail_shows_with_both_numbers() {
    let dir = testing::dir();
    let log = AuditLog::open(dir.path()).unwrap();
    append(&log, 20);
    log.tend(false).unwrap();
    drop(log);
    let whole = std::fs::read(current(dir.path())).unwrap();
    let ends: Vec<usize> = memchr::memchr_iter(b'\n', &whole).map(|at| at + 1).collect();
    for cut in 1..=20 {
        let have = 20 - cut;
        let end = if have == 0 { 0 } else { ends[have - 1] };
        std::fs::write(current(dir.path()), &whole[..end]).unwrap();
        let expected = ("audit_truncated".to_owned(), format!("the record was cut: have {have}, want 20"));
        assert_eq!(refused(dir.path()), expected);
        let error = AuditLog::open(dir.path()).unwrap_err();
        assert_eq!((error.class, error.code.as_ref()), (Class::Integrity, "audit_truncated"));
        assert_eq!(std::fs::metadata(current(dir.path())).unwrap().len(), end as u64, "nothing was written");
    }
}

#[test]
fn l07_a_log_that_is_gone_shows() {
    let dir = segmented();
    let all = contents(dir.path());
    let is_log = |name: &OsString| name.to_str().is_some_and(|name| name.ends_with(".jsonl"));
    for also in [None, Some("audit.anchor")] {
        let mut left = all.clone();
        left.retain(|name, _| !is_log(name) && Some(name.to_str().unwrap()) != also);
        let dir = with_files(&left);
        assert_eq!(refused(dir.path()).0, "audit_truncated");
        assert_eq!(AuditLog::open(dir.path()).unwrap_err().code, "audit_truncated");
    }
    let mut first = all.clone();
    first.remove(&OsString::from("audit.000001.jsonl")).unwrap();
    let dir = with_files(&first);
    let (code, message) = refused(dir.path());
    assert_eq!(code, "audit_broken");
    assert!(message.starts_with("record 1 (line 1 of audit.000002.jsonl) is missing"), "{message}");
    let mut last = all;
    last.remove(&OsString::from("audit.jsonl")).unwrap();
    assert_eq!(refused(with_files(&last).path()).0, "audit_truncated");
}

#[test]
fn l07_without_its_anchor_a_log_is_no_record() {
    let dir = testing::dir();
    append(&AuditLog::open(dir.path()).unwrap(), 3);
    for name in ["audit.anchor", "audit.root"] {
        let mut left = contents(dir.path());
        left.remove(&OsString::from(name)).unwrap();
        let dir = with_files(&left);
        assert_eq!(
            refused(dir.path()),
            ("audit_broken".into(), format!("{name} is missing, but there is a log"))
        );
        assert_eq!(AuditLog::open(dir.path()).unwrap_err().code, "audit_broken");
    }
}

#[test]
fn l07_the_log_is_never_behind_its_anchor() {
    let dir = testing::dir();
    let log = AuditLog::open_with(dir.path(), SMALL).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (log, done) = (&log, &done);
        scope.spawn(move || {
            append(log, 2000);
            done.store(true, Ordering::SeqCst);
        });
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                log.tend(false).unwrap();
            }
        });
        // What a broker that is killed at any instant would leave behind.
        while !done.load(Ordering::SeqCst) {
            let verified = verify(dir.path()).unwrap();
            assert!(verified.last_seq >= verified.sealed_seq);
        }
    });
    log.tend(true).unwrap();
    let verified = verify(dir.path()).unwrap();
    assert_eq!(verified.sealed_seq, verified.last_seq);
}

#[test]
fn l16_segments_link_and_nothing_is_lost_under_load() {
    let dir = testing::dir();
    let log = AuditLog::open_with(dir.path(), SMALL).unwrap();
    let done = AtomicBool::new(false);
    let third = storage::ended_path(dir.path(), 3);
    let write = || {
        let mut written = 0;
        while written < 500 || !third.exists() {
            append(&log, 10);
            written += 10;
        }
        written
    };
    let written = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4).map(|_| scope.spawn(write)).collect();
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                log.tend(false).unwrap();
            }
        });
        let written: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::SeqCst);
        written.into_iter().map(|written| written.unwrap() as u64).sum::<u64>()
    });
    log.tend(true).unwrap();
    let verified = verify(dir.path()).unwrap();
    assert!(verified.segments >= 4, "{verified:?}");
    assert_eq!(verified.records, written + verified.seals);
    let (mut numbers, mut allowed) = (Vec::new(), 0);
    query(dir.path(), &Filter::default(), |record| {
        numbers.push(record.seq());
        allowed += u64::from(record.event() == "open.allow");
    })
    .unwrap();
    assert!(numbers.into_iter().eq(1..=verified.records));
    assert_eq!(allowed, written);
    let head = verified.head();
    drop(log);
    let log = AuditLog::open_with(dir.path(), SMALL).unwrap();
    append(&log, 1);
    assert_eq!(verify_against(dir.path(), None, &[head]).unwrap().last_seq, head.seq + 1);
}

#[test]
fn l06_a_change_in_a_segment_that_ended_is_named_with_its_file() {
    let dir = segmented();
    let name = OsString::from("audit.000002.jsonl");
    let mut all = contents(dir.path());
    let text = String::from_utf8(all[&name].clone()).unwrap();
    all.insert(name, text.replacen("\"comm\":\"cat\"", "\"comm\":\"dog\"", 1).into_bytes());
    let (code, message) = refused(with_files(&all).path());
    assert_eq!(code, "audit_broken");
    assert_eq!(message, "record 62 (line 1 of audit.000002.jsonl) was changed: its mac is wrong");
}

/// Writes the log in `dir` again, with a key that was read from it, changed by `change`: what somebody can
/// do who has all of today's keys.
fn rewritten(dir: &Path, change: impl Fn(u64, &str) -> Option<String>) {
    let key = storage::load_key(dir).unwrap().unwrap();
    let mut previous = super::super::chain::GENESIS;
    for segment in storage::segments(dir).unwrap() {
        let mut out = Vec::new();
        for line in super::super::blocks::lines(&segment.read().unwrap()) {
            let shape = super::super::chain::Shape::read(line).unwrap();
            let text = std::str::from_utf8(line).unwrap();
            let text = change(shape.seq, text).unwrap_or_else(|| text.to_owned());
            let start = out.len();
            out.extend_from_slice(text.split(",\"prev\":").next().unwrap().as_bytes());
            previous = key.seal(&mut out, start, &previous);
        }
        std::fs::write(segment.path, out).unwrap();
    }
}

#[test]
fn todays_key_does_not_rewrite_what_is_sealed() {
    let dir = segmented();
    rewritten(dir.path(), |_, _| None);
    verify(dir.path()).unwrap();
    let hide = |wanted| move |seq, line: &str| (seq == wanted).then(|| line.replace("db/url", "no/url"));
    rewritten(dir.path(), hide(5));
    let (code, message) = refused(dir.path());
    assert_eq!(code, "audit_broken");
    assert_eq!(
        message,
        "record 61 (line 61 of audit.000001.jsonl) is not signed by the key of its time: \
         it, or what it seals, was rewritten"
    );
}

#[test]
fn what_was_anchored_and_not_sealed_is_rewritten_only_with_the_sealing_key() {
    let dir = testing::dir();
    let log = AuditLog::open(dir.path()).unwrap();
    append(&log, 10);
    log.tend(false).unwrap();
    let before = contents(dir.path());
    drop(log);
    rewritten(dir.path(), |seq, line| (seq == 5).then(|| line.replace("db/url", "no/url")));
    assert_eq!(
        refused(dir.path()).1,
        "record 10 (line 10) was rewritten: it is not the one that was anchored"
    );
    assert_eq!(AuditLog::open(dir.path()).unwrap_err().code, "audit_broken");
    // The anchor of another moment does not help, nor does one that is signed by nobody.
    let anchor = String::from_utf8(before[&OsString::from("audit.anchor")].clone()).unwrap();
    let lower = anchor.replace("\"seq\":10", "\"seq\":4");
    let dir = with_files(&before);
    files::write_atomic(&anchor::path(dir.path()), lower.as_bytes()).unwrap();
    assert_eq!(refused(dir.path()).0, "audit_broken");
}

#[test]
fn an_older_anchor_does_not_hide_a_cut_behind_a_seal() {
    let dir = testing::dir();
    let log = AuditLog::open(dir.path()).unwrap();
    append(&log, 5);
    log.tend(false).unwrap();
    let early = contents(dir.path());
    append(&log, 5);
    log.tend(true).unwrap();
    drop(log);
    for name in ["audit.anchor", "audit.jsonl"] {
        files::write_atomic(&dir.path().join(name), &early[&OsString::from(name)]).unwrap();
    }
    assert_eq!(refused(dir.path()), ("audit_truncated".into(), "the record was cut: have 5, want 6".into()));
    assert_eq!(AuditLog::open(dir.path()).unwrap_err().code, "audit_broken");
}

#[test]
fn each_seal_destroys_the_key_that_made_it() {
    let dir = testing::dir();
    let log = AuditLog::open(dir.path()).unwrap();
    let mut keys = Vec::new();
    for _ in 0..3 {
        keys.push(std::fs::read(seals::key_path(dir.path())).unwrap());
        append(&log, 1);
        log.tend(true).unwrap();
    }
    for key in &keys {
        let secret = &key[8..];
        for (name, bytes) in contents(dir.path()) {
            assert!(memchr::memmem::find(&bytes, secret).is_none(), "an old key is in {name:?}");
        }
    }
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 3);
    // Nothing new, nothing to seal.
    let before = verify(dir.path()).unwrap();
    log.tend(true).unwrap();
    assert_eq!(verify(dir.path()).unwrap(), before);
}

#[test]
fn a_crash_between_a_seal_and_the_end_of_its_key_is_survived() {
    let dir = testing::dir();
    let log = AuditLog::open(dir.path()).unwrap();
    append(&log, 3);
    let key = std::fs::read(seals::key_path(dir.path())).unwrap();
    log.tend(true).unwrap();
    let next = std::fs::read(seals::key_path(dir.path())).unwrap();
    drop(log);
    files::write_atomic(&seals::key_path(dir.path()), &key).unwrap();
    files::write_atomic(&dir.path().join("audit.seal.next"), &next).unwrap();
    let log = AuditLog::open(dir.path()).unwrap();
    assert_eq!(std::fs::read(seals::key_path(dir.path())).unwrap(), next);
    append(&log, 1);
    log.tend(true).unwrap();
    assert_eq!(verify(dir.path()).unwrap().seals, 2);
    // Another key than the one that was named does not go on.
    drop(log);
    files::write_atomic(&seals::key_path(dir.path()), &key).unwrap();
    assert_eq!(AuditLog::open(dir.path()).unwrap_err().code, "audit_broken");
}

#[test]
fn a_crash_between_two_segments_is_survived() {
    let dir = segmented();
    let records = verify(dir.path()).unwrap().records;
    // The old one has its new name, the new one has none yet.
    std::fs::rename(current(dir.path()), storage::ended_path(dir.path(), 3)).unwrap();
    std::fs::write(dir.path().join("audit.jsonl.new"), b"").unwrap();
    assert_eq!(verify(dir.path()).unwrap().records, records);
    let log = AuditLog::open_with(dir.path(), SMALL).unwrap();
    append(&log, 100);
    log.tend(true).unwrap();
    let verified = verify(dir.path()).unwrap();
    assert_eq!((verified.records, verified.segments), (records + 101, 4));
}

#[test]
fn a_seal_that_fails_is_made_later_and_holds_up_nothing() {
    let dir = testing::dir();
    let (log, orders) = Faulty::open(dir.path());
    append(&log, 3);
    orders.lock().push_back(Fault::Errno(libc::ENOSPC));
    log.tend(true).unwrap_err();
    assert_eq!(anchor::read(dir.path()).unwrap().unwrap().head.seq, 3, "the anchor is there all the same");
    append(&log, 1);
    log.tend(true).unwrap();
    let verified = verify(dir.path()).unwrap();
    assert_eq!((verified.seals, verified.sealed_seq), (1, verified.last_seq));
    assert_eq!(lines(dir.path())[3]["event"], "audit.fault");
}

#[test]
fn the_vault_convicts_who_begins_the_record_anew() {
    let (dir, identity, data) = (testing::dir(), Identity::generate(), testing::dir());
    let memory = data.path().join("record.head");
    let log = AuditLog::open(dir.path()).unwrap();
    append(&log, 3);
    log.remember(&identity, &memory).unwrap();
    assert_eq!(lines(dir.path())[3]["event"], "audit.anchor");
    append(&log, 3);
    log.tend(true).unwrap();
    let known = log.remembered().unwrap().unwrap();
    assert_eq!(known.head.seq, 8);
    verify_against(dir.path(), Some(&known.root), &[known.head]).unwrap();
    log.forget();
    assert_eq!(log.remembered().unwrap(), None);
    drop(log);
    // Somebody makes a record of his own, all keys included, and leaves what he cannot forge.
    let forged = testing::dir();
    let log = AuditLog::open(forged.path()).unwrap();
    append(&log, 20);
    log.tend(true).unwrap();
    verify(forged.path()).unwrap();
    let error = verify_against(forged.path(), Some(&known.root), &[known.head]).unwrap_err();
    assert_eq!(error.code, "audit_broken");
    log.remember(&identity, &memory).unwrap();
    let last = lines(forged.path()).pop().unwrap();
    assert_eq!((&last["event"], &last["reason"]), (&"audit.reject".into(), &"another_record".into()));
    assert_eq!(log.remembered().unwrap().unwrap(), known, "what the vault remembers stays");
    log.remember(&Identity::generate(), &memory).unwrap();
    assert_eq!(lines(forged.path()).pop().unwrap()["reason"], "unauthenticated");
    assert_eq!(log.remembered().unwrap_err().code, "audit_broken");
}

#[test]
fn a_head_kept_elsewhere_convicts_a_record_that_was_rolled_back() {
    let dir = segmented();
    let head = verify(dir.path()).unwrap().head();
    assert_eq!(head.to_string().parse::<Head>().unwrap(), head);
    verify_against(dir.path(), None, &[head]).unwrap();
    let later = Head { seq: head.seq + 1, ..head };
    assert_eq!(verify_against(dir.path(), None, &[later]).unwrap_err().code, "audit_truncated");
    let other = Head { seq: 7, ..head };
    let error = verify_against(dir.path(), None, &[other]).unwrap_err();
    assert_eq!(
        error.message,
        "record 7 (line 7 of audit.000001.jsonl) was rewritten: it is not the one that was anchored"
    );
    for bad in ["", "7", "7:", "x:00", "7:zz"] {
        assert_eq!(bad.parse::<Head>().unwrap_err().code, "bad_head", "{bad}");
    }
    assert_eq!(verify(testing::dir().path()).unwrap(), Verified::default());
}

#[test]
fn blocks_that_were_never_written_are_cut_and_recorded() {
    let dir = testing::dir();
    let log = AuditLog::open(dir.path()).unwrap();
    append(&log, 4);
    log.tend(false).unwrap();
    append(&log, 4);
    drop(log);
    let whole = std::fs::read(current(dir.path())).unwrap();
    let ends: Vec<usize> = memchr::memchr_iter(b'\n', &whole).map(|at| at + 1).collect();
    let mut holed = whole.clone();
    holed[ends[4] + 10..ends[5] + 10].fill(0);
    std::fs::write(current(dir.path()), &holed).unwrap();
    drop(AuditLog::open(dir.path()).unwrap());
    let records = lines(dir.path());
    assert_eq!((records.len(), &records[5]["event"]), (6, &"audit.recover".into()));
    assert_eq!(records[5]["cut_bytes"], (whole.len() - ends[4]) as u64);
    verify(dir.path()).unwrap();
    // What was anchored was on the disk: there a hole is no power cut.
    let mut holed = whole;
    holed[ends[1] + 10..ends[2] + 10].fill(0);
    std::fs::write(current(dir.path()), &holed).unwrap();
    assert_eq!(refused(dir.path()).0, "audit_broken");
}
