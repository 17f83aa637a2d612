//! Tests of what records say.

use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use kin_policy::{ExeDigest, ExePin, Reach};
use proptest::prelude::*;

use super::super::chain::{self, GENESIS, Key, MAX_LINE};
use super::super::json::Members;
use super::super::testing::{Scene, process};
use super::super::written::write_crowd;
use super::*;

fn sealed(name: &str, fields: impl Fn(&mut Members<'_>)) -> serde_json::Value {
    let mut line = Vec::new();
    chain::begin(&mut line, u64::MAX, std::time::SystemTime::now(), name);
    fields(&mut Members(&mut line));
    Key::new(&[1; 32]).seal(&mut line, 0, &GENESIS);
    assert!(line.len() <= MAX_LINE, "{} bytes", line.len());
    let (last, text) = line.split_last().unwrap();
    assert_eq!(*last, b'\n');
    assert!(text.iter().all(|byte| (b' '..=b'~').contains(byte)), "{}", String::from_utf8_lossy(text));
    assert!(chain::Shape::read(text).is_some());
    serde_json::from_slice(text).unwrap()
}

fn said(event: &Event<'_>) -> serde_json::Value {
    sealed(event.name(), |out| event.write(out))
}

#[test]
fn a01_an_access_names_the_reader_in_full() {
    let scene = Scene::new();
    let line = said(&scene.allow());
    for (key, expected) in [
        ("v", serde_json::json!(1)),
        ("event", "open.allow".into()),
        ("op", "open".into()),
        ("project", "api".into()),
        ("file", "DATABASE_URL".into()),
        ("reference", "db/url".into()),
        ("grant", "ab".repeat(16).into()),
        ("tid", 203.into()),
        ("tgid", 203.into()),
        ("start", 77.into()),
        ("uid", 1000.into()),
        ("exe", "/usr/bin/cat".into()),
        ("comm", "cat".into()),
        ("chain", serde_json::json!([[200, 10], [100, 9]])),
    ] {
        assert_eq!(line[key], expected, "{key}");
    }
}

#[test]
fn an_open_of_several_secrets_names_each_of_them() {
    let scene = Scene::new();
    let references = [(scene.reference.clone(), 3), (Reference::new("api/key").unwrap(), 12)];
    let (grant, project, file) = (scene.grant, &scene.project, &scene.file);
    let reader = scene.reader(203);
    let allow = said(&Event::AllowRendered {
        grant,
        project,
        file,
        references: &references,
        elsewhere: false,
        reader,
    });
    let render = said(&Event::Render { grant, project, file, references: &references });
    for line in [&allow, &render] {
        assert_eq!(line["references"], serde_json::json!(["db/url@3", "api/key@12"]));
        assert_eq!((&line["file"], &line["grant"]), (&"DATABASE_URL".into(), &"ab".repeat(16).into()));
        assert!(line.get("reference").is_none() && line.get("version").is_none());
    }
    assert_eq!(
        (&allow["event"], &allow["op"], &allow["tid"]),
        (&"open.allow".into(), &"open".into(), &203.into())
    );
    assert_eq!((&render["event"], render.get("tid")), (&"file.render".into(), None));
}

#[test]
fn what_is_not_known_is_null() {
    let scene = Scene::new();
    let nobody = ReaderFacts {
        tid: None,
        process: None,
        uid: None,
        exe: None,
        proven: false,
        comm: b"",
        chain: &Ancestry::default(),
    };
    let denied = Denied { file: None, reader: nobody, ..scene.denied(1) };
    let line = sealed(denied.op.denial(), |out| denied.write(out));
    for key in ["file", "reference", "grant", "tid", "tgid", "start", "uid", "exe"] {
        assert!(line.get(key).unwrap().is_null(), "{key}");
    }
    assert_eq!(line["chain"], serde_json::json!([]));
}

#[test]
fn a_long_chain_keeps_its_nearest_64() {
    let ancestors: Vec<_> = (1..=100).map(|pid| process(pid, u64::from(pid) + 1000)).collect();
    let scene = Scene { chain: Ancestry::of(&ancestors), ..Scene::new() };
    let line = said(&scene.allow());
    let chain = line["chain"].as_array().unwrap();
    assert_eq!((chain.len(), &chain[0]), (64, &serde_json::json!([1, 1001])));
    assert_eq!(line["elided"], 36);
}

#[test]
fn a_grant_lists_its_bindings_and_counts_those_that_do_not_fit() {
    let binding = |name: &str| Binding::plain(Reference::new(name).unwrap());
    let mut bindings: BTreeMap<_, _> = [(FileName::new("A").unwrap(), binding("a/b"))].into_iter().collect();
    let project = DirectoryName::new("api").unwrap();
    let create = |bindings: &BTreeMap<FileName, Binding>| {
        said(&Event::GrantCreate {
            grant: GrantId::from_bytes([1; 16]),
            project: &project,
            directory: Path::new("/home/me/api"),
            bindings,
            root: process(5, 6),
            program: OsStr::new("./deploy.sh"),
            ttl_ms: Some(1500),
            limits: Limits { max_opens: Some(7), for_first: Some(Duration::from_secs(2)) },
        })
    };
    let line = create(&bindings);
    assert_eq!(line["bindings"], serde_json::json!({"A": "a/b"}));
    assert_eq!((&line["program"], &line["ttl_ms"]), (&"./deploy.sh".into(), &1500.into()));
    assert_eq!((&line["max_opens"], &line["for_first_ms"]), (&7.into(), &2000.into()));
    assert!(line.get("bindings_elided").is_none());
    bindings.extend((0..100).map(|n| (FileName::new(format!("B{n:0200}")).unwrap(), binding("x"))));
    let line = create(&bindings);
    let shown = line["bindings"].as_object().unwrap().len() as u64;
    assert_eq!(shown + line["bindings_elided"].as_u64().unwrap(), 101);
    assert!(shown > 10);
}

#[test]
fn a_person_revokes_and_all_else_expires() {
    let project = DirectoryName::new("api").unwrap();
    let end = |ending| {
        said(&Event::GrantEnd { grant: GrantId::from_bytes([1; 16]), project: &project, ending, asker: None })
    };
    assert_eq!(end(Ending::Revoked)["event"], "grant.revoke");
    for ending in [
        Ending::TreeExit,
        Ending::OwnerKilled,
        Ending::RedactorFailed,
        Ending::CalledOff,
        Ending::NotStarted,
        Ending::TtlExpired,
        Ending::Locked,
    ] {
        let line = end(ending);
        assert_eq!((&line["event"], &line["reason"]), (&"grant.expire".into(), &ending.as_str().into()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn l11_hostile_text_is_one_short_plain_line(
        seed: Vec<u8>,
        piece in "[\\n\\x1b\u{9b}\u{202e}\u{200b}\u{2066}\u{feff}\"\\\\x]{1,4}",
        depth in 0u32..200,
    ) {
        let hostile = [&seed[..], &piece.as_bytes().repeat(2_000)].concat();
        let ancestors: Vec<_> = (0..depth).map(|n| process(u32::MAX - n, u64::MAX)).collect();
        let scene = Scene { chain: Ancestry::of(&ancestors), ..Scene::new() };
        let project = DirectoryName::new(format!("{}~0123abcd", "p".repeat(64))).unwrap();
        let file = FileName::new("ж".repeat(127)).unwrap();
        let reference = Reference::new("r".repeat(255)).unwrap();
        let reader = ReaderFacts {
            tid: Tid::new(u32::MAX),
            process: Some(process(u32::MAX, u64::MAX)),
            uid: Some(u32::MAX),
            exe: Some(&hostile),
            proven: false,
            comm: &hostile,
            chain: &scene.chain,
        };
        let text = String::from_utf8_lossy(&hostile);
        let (path, grant) = (Path::new(OsStr::from_bytes(&hostile)), scene.grant);
        let pin = ExePin { path: text.clone().into_owned(), sha256: ExeDigest::from_bytes([0xff; 32]) };
        let exe = vec![pin; 3];
        let binding = Binding { namespaces: Reach::Any, exe, writable: true, ..Binding::plain(reference.clone()) };
        let bindings = (0..40).map(|n| {
            let name = format!("{}{n:02}", "\u{3000}".repeat(84));
            (FileName::new(name).unwrap(), binding.clone())
        }).collect();
        // As much as a manifest may bind in one file: 3072 bytes, 14 beside each.
        let fullest: Vec<_> = (0..11).map(|_| (reference.clone(), 9_999_999_999)).collect();
        for event in [
            Event::Allow {
            op: Op::Open,
                grant,
                project: &project,
                file: &file,
                reference: &reference,
                version: u64::MAX,
                elsewhere: true,
                reader,
            },
            Event::Write {
                op: Op::Rename,
                grant,
                project: &project,
                file: &file,
                reference: &reference,
                version: u64::MAX,
                elsewhere: true,
                reader,
            },
            Event::WriteFail {
                grant,
                project: &project,
                file: &file,
                reference: &reference,
                version: u64::MAX,
                reason: &text,
            },
            Event::AllowRendered {
                grant,
                project: &project,
                file: &file,
                references: &fullest,
                elsewhere: true,
                reader,
            },
            Event::Render { grant, project: &project, file: &file, references: &fullest },
            Event::GrantCreate {
                grant,
                project: &project,
                directory: path,
                bindings: &bindings,
                root: process(u32::MAX, u64::MAX),
                program: path.as_os_str(),
                ttl_ms: Some(u64::MAX),
                limits: Limits { max_opens: Some(u64::MAX), for_first: Some(Duration::MAX) },
            },
            Event::Redact { grant, project: &project, file: &file, reference: &reference, version: u64::MAX },
            Event::GrantRestart { grant, project: &project, command: process(u32::MAX, u64::MAX) },
            Event::BrokerStart { version: &text, unclean: true, grants_lost: u64::MAX },
            Event::BrokerStop { reason: &text },
            Event::Vault {
                change: VaultChange::Reject,
                reference: Some(&reference),
                version: Some(u64::MAX),
                reason: Some(&text),
                asker: None,
            },
            Event::Policy {
                change: PolicyChange::Reject,
                project: None,
                directory: path,
                hash: Some(&text),
                reason: Some(&text),
                asker: None,
            },
            Event::ChangeFail {
                change: "vault.accept_rollback",
                span: Span { first: u64::MAX - 1, last: u64::MAX },
                reference: Some(&reference),
                version: Some(u64::MAX),
                directory: Some(path),
                reason: &text,
                asker: None,
            },
            Event::GrantEnd { grant, project: &project, ending: Ending::OwnerKilled, asker: None },
            Event::SockDeny { verb: &text, reason: &text, peer: Pid::new(u32::MAX), asker: None },
            Event::AuditFault { error: &text, refused: u64::MAX },
        ] {
            let event = event.asked_by(Some(reader));
            said(&event);
            // Also where it is written later.
            sealed(event.name(), |out| {
                event.write(out);
                out.time("happened", std::time::SystemTime::now());
            });
        }
        let denied = Denied {
            op: Op::Opendir,
            project: &hostile,
            file: Some(&hostile),
            reference: Some(&reference),
            grant: Some(grant),
            reason: "identity_unverifiable",
            reader,
        };
        sealed("open.deny", |out| {
            denied.write(out);
            for key in ["count", "readers", "first_and_last_together_are_shorter"] {
                out.number(key, u64::MAX);
            }
            out.time("first", std::time::SystemTime::now());
            out.time("last", std::time::SystemTime::now());
        });
        sealed("open.deny", |out| write_crowd(out, Op::Lookup, Some(&hostile), "no_grant", &hostile));
    }
}
