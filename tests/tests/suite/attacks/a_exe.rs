//! Can a process say that it runs another program than it does?

use std::path::{Path, PathBuf};
use std::process::Command;

use kin_tests::{Actor, Role, World, as_nobody, is_root, record};
use serde_json::{Value, json};

use super::pin;
use crate::{API, DATABASE, REFUSED, database};

const CAT: &str = "/bin/cat";

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// `fixtures/forge.c`, compiled.
fn forge(world: &World) -> PathBuf {
    let (source, program) = (world.path("forge.c"), world.path("forge"));
    std::fs::write(&source, include_str!("../../../fixtures/forge.c")).expect("a source");
    let compiled = Command::new("cc").args(["-O1", "-o"]).args([&program, &source]).output().expect("cc");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    program
}

/// Where `cat` really is.
fn cat() -> PathBuf {
    std::fs::canonicalize(CAT).expect("cat")
}

/// What a process says of its filters and privileges: those of these lines of its status.
fn status(reader: &dyn Actor) -> [u32; 2] {
    let status = reader.cat(Path::new("/proc/self/status")).expect("its status");
    let status = String::from_utf8_lossy(&status).into_owned();
    ["NoNewPrivs:", "Seccomp_filters:"].map(|key| {
        let line =
            status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("{status}"));
        line.trim().parse().expect("a number")
    })
}

both! {
    fn a21_an_executable_cannot_be_forged_in_a_tree_with_pins(identity) {
        let world = World::ready_with(identity);
        let forge = forge(&world);
        pin(&world, Path::new(CAT));
        let file = world.file(DATABASE);
        for options in [&[][..], &["--private"], &["--only", DATABASE]] {
            let member = world.member(options);
            let (code, out, errors) = member.run(&[text(&forge), CAT, text(&file)]);
            assert_eq!((code, out), (1, Vec::new()), "{options:?}: {errors}");
            // EPERM, and the link says what it is.
            assert!(errors.starts_with(&format!("1 {}\n", text(&forge))), "{options:?}: {errors}");
            let (code, out, errors) = member.run(&[CAT, text(&file)]);
            assert_eq!((code, out), (0, database(&world)), "{options:?}: {errors}");
        }
        let records = world.audit();
        let read: Vec<&Value> = records.iter().filter(|line| line["file"] == DATABASE).collect();
        let by = |exe: &Path| read.iter().filter(|line| line["exe"] == text(exe)).collect::<Vec<_>>();
        let (honest, forged) = (by(&cat()), by(&forge));
        assert!(honest.len() == 3 && honest.iter().all(|line| line["event"] == "open.allow"), "{read:#?}");
        assert!(forged.len() == 3 && forged.iter().all(|line| record::reason(line) == "exe_hash_mismatch"), "{read:#?}");
        assert!(read.iter().all(|line| line["exe_proven"] == true), "{read:#?}");
    }

    fn a21_an_executable_that_the_process_may_have_said_itself_is_marked(identity) {
        let world = World::ready_with(identity);
        let forge = forge(&world);
        let (member, file) = (world.member(&[]), world.file(API));
        let (code, out, errors) = member.run(&[text(&forge), CAT, text(&file)]);
        // Nothing keeps it from that here, and what it reads is every member's.
        assert_eq!((code, out), (0, world.value("api/key")), "{errors}");
        assert!(errors.starts_with(&format!("0 {}\n", text(&cat()))), "{errors}");
        let records = world.audit();
        let opened = record::of(&records, "open.allow");
        assert_eq!((&opened[0]["exe"], &opened[0]["exe_proven"]), (&json!(text(&cat())), &json!(false)));
        let exposed = world.kin(["audit", "--exposed", "api/key", "--json"]).run().exits(0).json();
        assert_eq!(exposed["exposed"][0]["program_proven"], false, "{exposed:#}");
        let shown = world.kin(["audit", "--exposed", "api/key"]).run().exits(0);
        assert!(shown.text().contains(&format!("{} ?", text(&cat()))), "{shown}");
    }

    fn a21_a_keeper_that_lays_no_filter_opens_no_pin(identity) {
        let world = World::ready_with(identity);
        pin(&world, Path::new(CAT));
        let keeper = world.path("keeper.py");
        std::fs::write(&keeper, include_str!("../../../fixtures/keeper_without_filter.py")).expect("a program");
        let protocol = kin_broker::control::protocol::PROTOCOL.to_string();
        let outsider = world.outsider();
        let (api, pinned) = (world.file(API), world.file(DATABASE));
        for named in ["1", "0"] {
            let own = ["/usr/bin/python3", "-IS", text(&keeper), &protocol, text(&world.project()), named, CAT]
                .map(str::to_owned);
            let run = |file: &Path| {
                let line: Vec<&str> = own.iter().map(String::as_str).chain([text(file)]).collect();
                outsider.run(&line)
            };
            let (code, out, errors) = run(&api);
            assert_eq!((code, out), (0, world.value("api/key")), "{named}: {errors}");
            let (code, out, errors) = run(&pinned);
            assert_eq!((code, out), (1, Vec::new()), "{named}: {errors}");
            assert!(errors.contains("Permission denied"), "{named}: {errors}");
        }
        let records = world.audit();
        let denied: Vec<_> = records.iter().filter(|line| record::is_denial(line)).collect();
        assert!(denied.len() == 2 && denied.iter().all(|line| record::reason(line) == "exe_unproven"), "{denied:#?}");
        assert!(denied.iter().all(|line| line["exe_proven"] == false), "{denied:#?}");
    }
}

#[test]
fn a21_only_a_tree_with_pins_has_a_filter() {
    let world = World::ready();
    let outside = status(&world.outsider());
    assert_eq!(status(&world.member(&[])), outside);
    pin(&world, Path::new(CAT));
    let filters = outside[1] + 1;
    // Root, and a command in a user namespace of its own, may have it without giving up anything.
    for (options, no_new_privs) in [
        (&[][..], if is_root() { outside[0] } else { 1 }),
        (&["--private"], outside[0]),
        (&["--redact"], if is_root() { outside[0] } else { 1 }),
    ] {
        let member = world.member(options);
        assert_eq!(status(&member), [no_new_privs, filters], "{options:?}");
        assert_eq!(status(&member.child("orphan")), [no_new_privs, filters], "{options:?}");
    }
    assert_eq!(status(&world.member(&["--only", API])), outside);
}

#[test]
fn a21_a_grant_inside_one_with_pins_opens_them_too() {
    let world = World::ready();
    pin(&world, Path::new(CAT));
    let member = world.member(&[]);
    let (pinned, api) = (world.file(DATABASE), world.file(API));
    for options in [&[][..], &["--only", DATABASE]] {
        let mut line = world.run_line(options);
        line.truncate(2 + options.len());
        line.extend(["--".into(), CAT.into(), text(&pinned).into()]);
        let (code, out, errors) = member.run(&line.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!((code, out), (0, database(&world)), "{options:?}: {errors}");
    }
    // One without pins has the outer one's filter, and so are its programs proven.
    let line = world.run_line(&["--only", API]);
    let inner = member.spawn(&line.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(inner.cat(&api), Ok(world.value("api/key")));
    assert_eq!(inner.cat(&pinned), Err(nix::errno::Errno::ENOENT));
    let records = world.audit();
    let opened = record::of(&records, "open.allow");
    assert!(opened.len() == 3 && opened.iter().all(|line| line["exe_proven"] == true), "{opened:#?}");
    assert_eq!(member.cat(&pinned), Err(REFUSED));
}

#[test]
fn a21_a_command_that_would_gain_privileges_is_warned_of() {
    if as_nobody("attacks::a_exe::a21_a_command_that_would_gain_privileges_is_warned_of") == Role::Done {
        return;
    }
    let world = World::ready();
    let run = |program: &str| world.kin(["run", "--", program, "--version"]).run().exits(0).stderr;
    assert!(!run("fusermount3").contains("warning"));
    pin(&world, Path::new(CAT));
    assert!(run("fusermount3").contains("fusermount3 gains no privileges in this run"));
    assert!(!run(CAT).contains("warning"));
    let trusted = world.kin(["trust", "--yes"]).run().exits(0);
    assert!(trusted.text().contains("sudo and setuid programs gain nothing"), "{trusted}");
}
