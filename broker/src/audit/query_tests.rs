//! Tests of picking records out.

use proptest::prelude::*;

use super::super::record::{Event, VaultChange};
use super::super::testing::{self, Scene};
use super::super::{AuditLog, Denied};
use super::*;

fn seqs(dir: &Path, filter: &Filter) -> Vec<u64> {
    let mut seqs = Vec::new();
    let queried = query(dir, filter, |record| seqs.push(record.seq())).unwrap();
    assert_eq!(queried, Queried { matched: seqs.len() as u64, skipped: 0 });
    seqs
}

/// 1 start, 2 allow, 3 denial, 4 denial elsewhere, 5 vault.write, 6 sock.deny, 7 grant.revoke
fn sample() -> tempfile::TempDir {
    let (dir, scene) = (testing::dir(), Scene::new());
    let log = AuditLog::open(dir.path()).unwrap();
    let other = Reference::new("db/url2").unwrap();
    log.append(&Event::BrokerStart { version: "0.1.0", unclean: false, grants_lost: 0 }).unwrap();
    log.append(&scene.allow()).unwrap();
    // A reader that quotes what a filter looks for.
    let hostile = b"\"reference\":\"db/url\",\"project\":\"api\",\"grant\":\"abab";
    log.deny(&Denied { project: b"web", file: Some(hostile), ..scene.denied(301) });
    log.deny(&Denied { project: b"ap", op: super::super::Op::Read, ..scene.denied(302) });
    log.append(&Event::Vault {
        change: VaultChange::Write,
        reference: Some(&other),
        version: Some(1),
        reason: None,
        asker: None,
    })
    .unwrap();
    log.append(&Event::SockDeny {
        verb: "reveal",
        reason: "inside_tree",
        peer: kin_policy::Pid::new(9),
        asker: None,
    })
    .unwrap();
    let (grant, ending) = (scene.grant, kin_policy::Ending::Revoked);
    log.append(&Event::GrantEnd { grant, project: &scene.project, ending, asker: None }).unwrap();
    dir
}

#[test]
fn filters_pick_what_they_name_and_nothing_that_looks_like_it() {
    let dir = sample();
    let all = Filter::default();
    assert_eq!(seqs(dir.path(), &all), [1, 2, 3, 4, 5, 6, 7]);
    let reference = Reference::new("db/url").ok();
    assert_eq!(seqs(dir.path(), &Filter { reference, ..all.clone() }), [2]);
    let project = DirectoryName::new("api").ok();
    assert_eq!(seqs(dir.path(), &Filter { project, ..all.clone() }), [2, 7]);
    for prefix in ["", "a", "abab", "ABAB", &"ab".repeat(16)] {
        let grant = Some(prefix.to_owned());
        assert_eq!(seqs(dir.path(), &Filter { grant, ..all.clone() }), [2, 7], "{prefix}");
    }
    let grant = Some("abac".to_owned());
    assert!(seqs(dir.path(), &Filter { grant, ..all.clone() }).is_empty());
    assert_eq!(seqs(dir.path(), &Filter { denied: true, ..all }), [3, 4, 6]);
}

#[test]
fn since_and_until_include_their_moment() {
    let dir = sample();
    let mut times = Vec::new();
    query(dir.path(), &Filter::default(), |record| times.push(record.time())).unwrap();
    assert!(times.is_sorted());
    let exact = |since, until| seqs(dir.path(), &Filter { since, until, ..Filter::default() });
    assert!(exact(Some(times[2]), None).contains(&3));
    assert!(exact(None, Some(times[2])).contains(&3));
    let tick = jiff::SignedDuration::from_micros(1);
    assert!(!exact(Some(times[2] + tick), None).contains(&3));
    assert!(!exact(None, Some(times[2] - tick)).contains(&3));
    assert!(exact(None, Some(Timestamp::MIN)).is_empty());
    assert!(exact(Some(Timestamp::MAX), None).is_empty());
    assert_eq!(exact(Some(Timestamp::MIN), Some(Timestamp::MAX)).len(), 7);
}

#[test]
fn what_comes_after_a_number_is_neither_lost_nor_repeated() {
    let dir = sample();
    let after = |after| seqs(dir.path(), &Filter { after: Some(after), ..Filter::default() });
    for read in 0..=9 {
        assert_eq!(after(read), (read + 1..=7).collect::<Vec<_>>());
    }
}

#[test]
fn a_record_tells_a_table_what_it_needs() {
    let dir = sample();
    let mut rows = Vec::new();
    query(dir.path(), &Filter::default(), |record| {
        let text = |field: Option<Cow<'_, str>>| field.unwrap_or_default().into_owned();
        rows.push((
            record.event().to_owned(),
            text(record.reference()),
            text(record.file()),
            record.pid(),
            text(record.comm()),
            text(record.reason()),
        ));
        assert_eq!((record.count(), record.readers()), (1, None));
    })
    .unwrap();
    let row = |event: &str, reference: &str, file: &str, pid, comm: &str, reason: &str| {
        (event.to_owned(), reference.to_owned(), file.to_owned(), pid, comm.to_owned(), reason.to_owned())
    };
    assert_eq!(rows[1], row("open.allow", "db/url", "DATABASE_URL", Some(203), "cat", ""));
    assert_eq!(rows[3], row("read.deny", "", "DATABASE_URL", Some(302), "cat", "no_grant"));
    assert_eq!(rows[5], row("sock.deny", "", "", Some(9), "", "inside_tree"));
}

#[test]
fn l11_what_a_reader_calls_itself_reaches_a_terminal_escaped() {
    let (dir, scene) = (testing::dir(), Scene::new());
    let log = AuditLog::open(dir.path()).unwrap();
    let mut denied = scene.denied(1);
    denied.reader.comm = "\u{1b}[2J\n\u{9b}\u{202e}\u{200b}ж".as_bytes();
    denied.reader.exe = Some(b"/tmp/\xff\r");
    log.deny(&denied);
    let mut seen = 0;
    query(dir.path(), &Filter::default(), |record| {
        seen += 1;
        assert_eq!(record.comm().unwrap(), "\\u{1b}[2J\\n\\u{9b}\\u{202e}\\u{200b}\\u{436}");
        assert_eq!(record.exe().unwrap(), "/tmp/\\xff\\r");
        assert!(record.json().bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    })
    .unwrap();
    assert_eq!(seen, 1);
}

#[test]
fn a_broken_line_is_passed_over_and_counted() {
    let dir = sample();
    let path = storage::log_path(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let first = bytes.split_inclusive(|byte| *byte == b'\n').next().unwrap().to_vec();
    let raw = String::from_utf8(first).unwrap().replace("0.1.0", "\u{9b}31m");
    for junk in
        [b"hello\n".to_vec(), b"\n".to_vec(), raw.into_bytes(), [vec![b'x'; 99_999], b"\n".to_vec()].concat()]
    {
        bytes.splice(0..0, junk);
    }
    bytes.extend_from_slice(b"{\"v\":1,\"seq\":8,\"ti");
    std::fs::write(&path, bytes).unwrap();
    let queried = query(dir.path(), &Filter::default(), |_| {}).unwrap();
    assert_eq!(queried, Queried { matched: 7, skipped: 4 });
}

#[test]
fn no_log_has_no_records_and_a_bad_grant_is_a_usage_error() {
    let dir = testing::dir();
    assert_eq!(query(dir.path(), &Filter::default(), |_| {}).unwrap(), Queried::default());
    let filter = Filter { grant: Some("xyz".into()), ..Filter::default() };
    let error = query(dir.path(), &filter, |_| {}).unwrap_err();
    assert_eq!((error.class, error.code.as_ref()), (Class::Usage, "bad_grant"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_damage_stops_a_query_or_a_verification(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<Vec<u8>>()), 1..8),
    ) {
        let dir = sample();
        let path = storage::log_path(dir.path());
        let mut bytes = std::fs::read(&path).unwrap();
        for (at, junk) in cuts {
            let at = at.index(bytes.len());
            bytes.splice(at..(at + junk.len() / 2).min(bytes.len()), junk);
        }
        std::fs::write(&path, bytes).unwrap();
        let queried = query(dir.path(), &Filter::default(), |record| {
            assert!(record.json().is_ascii());
        });
        prop_assert!(queried.unwrap().matched <= 8);
        let _ = super::super::verify(dir.path());
    }
}

#[test]
fn a_consumer_is_found_by_its_name_its_program_or_its_command() {
    let dir = sample();
    for name in ["cat", "/usr/bin/cat"] {
        let consumer = Some(name.to_owned());
        assert_eq!(seqs(dir.path(), &Filter { consumer, ..Filter::default() }), [2, 3, 4], "{name}");
    }
    for name in ["ca", "bin", "usr/bin/cat", "api", "\u{1b}\"", ""] {
        let consumer = Some(name.to_owned());
        assert!(seqs(dir.path(), &Filter { consumer, ..Filter::default() }).is_empty(), "{name}");
    }
}

#[test]
fn versions_and_events_are_filters_too() {
    let dir = sample();
    let version = |version| Filter { version: Some(version), ..Filter::default() };
    assert_eq!(seqs(dir.path(), &version(3)), [2]);
    assert!(seqs(dir.path(), &version(30)).is_empty());
    let event = |name: &str| Filter { event: Some(name.into()), ..Filter::default() };
    assert_eq!(seqs(dir.path(), &event("vault.write")), [5]);
    assert!(seqs(dir.path(), &event("vault")).is_empty());
}

#[test]
fn every_secret_of_a_file_is_found_by_its_name_and_version() {
    let (dir, scene) = (testing::dir(), Scene::new());
    let log = AuditLog::open(dir.path()).unwrap();
    let name = |name: &str| kin_policy::Reference::new(name).unwrap();
    log.append(&scene.allow()).unwrap();
    let references = [(name("api/key"), 3), (name("db/url"), 12), (name("db/url_other"), 1)];
    log.append(&Event::AllowRendered {
        grant: scene.grant,
        project: &scene.project,
        file: &scene.file,
        references: &references,
        elsewhere: false,
        reader: scene.reader(204),
    })
    .unwrap();
    let found = |text: &str, version| {
        seqs(dir.path(), &Filter { reference: Some(name(text)), version, ..Filter::default() })
    };
    assert_eq!(found("db/url", None), [1, 2]);
    assert_eq!((found("api/key", None), found("db/url_other", None)), (vec![2], vec![2]));
    assert_eq!((found("db/url", Some(3)), found("db/url", Some(12))), (vec![1], vec![2]));
    for (text, version) in [("db/url", Some(1)), ("api/key", Some(12)), ("db", None), ("url", None)] {
        assert!(found(text, version).is_empty(), "{text} {version:?}");
    }
    assert_eq!(seqs(dir.path(), &Filter { version: Some(3), ..Filter::default() }), [1]);
    query(dir.path(), &Filter { reference: Some(name("api/key")), ..Filter::default() }, |record| {
        let delivered = record.delivered();
        let delivered: Vec<_> = delivered.iter().map(|(name, version)| (&**name, *version)).collect();
        assert_eq!(delivered, [("api/key", Some(3)), ("db/url", Some(12)), ("db/url_other", Some(1))]);
    })
    .unwrap();
}

#[test]
fn a_reveal_of_a_version_is_found_as_older_records_have_it_too() {
    let (dir, reference) = (testing::dir(), Reference::new("db/url").unwrap());
    drop(AuditLog::open(dir.path()).unwrap());
    let (mut log, prev, mac) = (String::new(), "0".repeat(16), "0".repeat(64));
    for (at, told) in [
        "vault.reveal\",\"reference\":\"db/url\",\"version\":2",
        "vault.reveal\",\"reference\":\"db/url\",\"reason\":\"version 2\"",
        "vault.reveal\",\"reference\":\"db/url\",\"reason\":\"restore\"",
        "vault.reveal\",\"reference\":\"db/url\"",
        "vault.write\",\"reference\":\"db/url\",\"reason\":\"version 2\"",
    ]
    .iter()
    .enumerate()
    {
        let head = format!("{{\"v\":1,\"seq\":{},\"time\":\"2026-11-23T05:46:48.000000Z\"", at + 1);
        log += &format!("{head},\"event\":\"{told},\"prev\":\"{prev}\",\"mac\":\"{mac}\"}}\n");
    }
    std::fs::write(storage::log_path(dir.path()), log).unwrap();
    let found = |version| {
        let filter = Filter { reference: Some(reference.clone()), version, ..Filter::default() };
        seqs(dir.path(), &filter)
    };
    assert_eq!((found(Some(2)), found(Some(1)), found(None)), (vec![1, 2], vec![], vec![1, 2, 3, 4, 5]));
}

#[test]
fn a_grants_bindings_are_no_fields_of_its_record() {
    let (dir, scene) = (testing::dir(), Scene::new());
    let log = AuditLog::open(dir.path()).unwrap();
    let binding = kin_policy::Binding::plain(scene.reference.clone());
    let names = ["A", "project", "reference", "version"];
    let bindings = names.map(|name| (kin_policy::FileName::new(name).unwrap(), binding.clone()));
    log.append(&Event::GrantCreate {
        grant: scene.grant,
        project: &scene.project,
        directory: Path::new("/p"),
        bindings: &bindings.into_iter().collect(),
        root: testing::process(100, 9),
        program: std::ffi::OsStr::new("./server"),
        ttl_ms: None,
        limits: kin_policy::Limits::default(),
    })
    .unwrap();
    let reference = Some(scene.reference.clone());
    assert!(seqs(dir.path(), &Filter { reference, ..Filter::default() }).is_empty());
    let consumer = Some("server".to_owned());
    assert_eq!(seqs(dir.path(), &Filter { consumer, ..Filter::default() }), [1]);
    query(dir.path(), &Filter::default(), |record| {
        assert_eq!((record.root(), record.pid(), record.version()), (Some((100, 9)), Some(100), None));
    })
    .unwrap();
}

#[test]
fn the_last_run_begins_with_the_last_start_whatever_segments_came_since() {
    let (dir, scene) = (testing::dir(), Scene::new());
    let settings = super::super::Settings { segment: 2000, ..Default::default() };
    let log = AuditLog::open_with(dir.path(), settings).unwrap();
    let start = Event::BrokerStart { version: "1", unclean: false, grants_lost: 0 };
    for _ in 0..2 {
        log.append(&start).unwrap();
        for _ in 0..10 {
            log.append(&scene.allow()).unwrap();
            log.tend(false).unwrap();
        }
    }
    assert!(super::super::verify(dir.path()).unwrap().segments >= 4);
    let mut seen = Vec::new();
    query_last_run(dir.path(), |record| seen.push(record.seq())).unwrap();
    assert_eq!(seen, (12..=22).collect::<Vec<_>>());
}
