//! Is there a record of every delivery, and does a changed one show? The audit log.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use kin_tests::{Actor, Role, World, binary, eventually, in_user_namespace, is_root, record};
use nix::errno::Errno;
use serde_json::{Value, json};

use crate::{API, DATABASE, SOON, database};

#[test]
fn l00_records_are_made_while_the_vault_is_locked() {
    let world = World::ready();
    let member = world.member(&[]);
    world.kin(["lock"]).run().exits(0);
    assert!(member.cat(&world.file(DATABASE)).is_err());
    assert!(world.outsider().cat(&world.file(DATABASE)).is_err());
    world.kin(["audit", "verify"]).run().exits(0);
    let before = world.audit().len();
    world.kin(["stop"]).run().exits(0);
    world.kin(["daemon"]).run().exits(0);
    let records = world.audit();
    assert!(records.len() >= before + 2, "{records:#?}");
    assert_eq!(record::of(&records, "broker.start").len(), 2);
    world.kin(["audit", "verify"]).run().exits(0);
}

/// A world whose record is on a disk that is soon full.
fn on_a_small_disk() -> World {
    let world = World::new();
    let state = world.path("kin/state");
    std::fs::create_dir(&state).expect("a directory");
    world.mount_disk(&state, "256k");
    let world = world.initialised();
    world.secret("db/url");
    world.manifest("schema = 1\n[project]\nname = \"api\"\n[bindings]\nDATABASE_URL = \"db/url\"\n");
    world.trust();
    world
}

#[test]
fn l01_without_a_record_nothing_is_delivered() {
    let name = "attacks::l::l01_without_a_record_nothing_is_delivered";
    if !is_root() && in_user_namespace(name) == Role::Done {
        return;
    }
    let world = on_a_small_disk();
    let member = world.member(&[]);
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
    let ballast = world.path("kin/state/ballast");
    fill(&ballast);
    // What is left of the log's last page takes a few records more.
    let answers: Vec<_> = (0..40).map(|_| member.cat(&world.file(DATABASE))).collect();
    let first = answers.iter().position(Result::is_err).expect("a refusal on a full disk");
    assert!(answers[first..].iter().all(|answer| *answer == Err(Errno::EIO)), "{answers:?}");
    let refused = answers.len() - first;
    std::fs::remove_file(ballast).expect("room again");
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
    let records = world.audit();
    let allowed = record::of(&records, "open.allow").len();
    assert_eq!(allowed, 2 + first, "{records:#?}");
    let faults = record::of(&records, "audit.fault");
    assert_eq!(faults.len(), 1, "{records:#?}");
    assert_eq!(faults[0]["error"], "ENOSPC");
    assert!(faults[0]["refused"].as_u64().is_some_and(|count| count >= refused as u64), "{}", faults[0]);
    world.kin(["audit", "verify"]).run().exits(0);
}

fn fill(path: &Path) {
    let error = std::fs::write(path, vec![0; 1 << 20]).expect_err("a full disk");
    assert_eq!(error.raw_os_error(), Some(Errno::ENOSPC as i32));
}

/// A log with twenty opens, and its broker stopped.
fn finished_log() -> (World, Vec<String>) {
    let world = World::ready();
    let member = world.member(&[]);
    for _ in 0..10 {
        assert!(member.cat(&world.file(DATABASE)).is_ok() && member.cat(&world.file(API)).is_ok());
    }
    drop(member);
    world.kin(["stop"]).run().exits(0);
    let text = std::fs::read_to_string(world.log_file()).expect("the log");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert!(lines.len() > 20);
    (world, lines)
}

fn seq_of(line: &str) -> u64 {
    record::seq(&serde_json::from_str::<Value>(line).expect("a record"))
}

/// Puts `lines` in the log's place and expects the verdict to name one of `places`.
fn broken(world: &World, lines: &[String], places: &[u64], what: &str) {
    std::fs::write(world.log_file(), lines.join("\n") + "\n").expect("the log");
    let output = world.kin(["audit", "verify"]).run().exits(7);
    let said = format!("{}{}", output.text(), output.stderr);
    let numbers: Vec<u64> =
        said.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
    assert!(places.iter().any(|place| numbers.contains(place)), "{what}: none of {places:?} in {said}");
    let output = world.kin(["audit", "verify", "--json"]).run().exits(7);
    assert_eq!(output.json_error()["code"], "audit_broken", "{what}");
}

#[test]
fn l06_every_change_of_a_record_shows_and_is_named() {
    let (world, lines) = finished_log();
    world.record_was_damaged();
    let middle = lines.len() / 2;
    let seq = seq_of(&lines[middle]);
    let changed = |change: &dyn Fn(&mut Vec<String>)| {
        let mut copy = lines.clone();
        change(&mut copy);
        copy
    };
    for (from, to) in [("\"event\":\"", "\"event\":\"x"), ("\"time\":\"2", "\"time\":\"3"), ("}", " }")] {
        let edit = changed(&|log| log[middle] = log[middle].replacen(from, to, 1));
        broken(&world, &edit, &[seq], "a changed record");
    }
    let flip = changed(&|log| log[middle] = flipped(&log[middle]));
    broken(&world, &flip, &[seq], "a flipped bit");
    let near = [seq, seq + 1];
    broken(&world, &changed(&|log| drop(log.remove(middle))), &near, "a deleted record");
    broken(&world, &changed(&|log| log.swap(middle, middle + 1)), &near, "two records swapped");
    broken(&world, &changed(&|log| log.insert(middle, log[middle].clone())), &near, "a record twice");
    let forged = lines[middle].replacen(&format!("\"seq\":{seq}"), &format!("\"seq\":{}", seq + 1), 1);
    broken(&world, &changed(&|log| log.insert(middle + 1, forged.clone())), &near, "an inserted record");
    broken(&world, &changed(&|log| drop(log.remove(0))), &[1, 2, 0], "the first record deleted");
    std::fs::write(world.log_file(), lines.join("\n") + "\n").expect("the log");
    world.kin(["audit", "verify"]).run().exits(0);
}

/// One bit of one letter of the program's path, or of any letter, turned.
fn flipped(line: &str) -> String {
    let mut bytes = line.as_bytes().to_vec();
    let at = line.find("\"comm\":\"").or(line.find("\"event\":\"")).expect("a field") + 9;
    bytes[at] ^= 1;
    String::from_utf8(bytes).expect("ASCII")
}

#[test]
fn the_record_says_who_was_delivered_what() {
    let world = World::ready();
    let member = world.member(&[]);
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
    let grant = world.grants()[0]["id"].clone();
    drop(member);
    let records = world.audit();
    let created = record::of(&records, "grant.create");
    assert_eq!((created.len(), &created[0]["grant"], &created[0]["project"]), (1, &grant, &"api".into()));
    let allowed = record::of(&records, "open.allow");
    assert_eq!(allowed.len(), 1, "{records:#?}");
    for (field, expected) in [("project", "api"), ("file", DATABASE), ("reference", "db/url")] {
        assert_eq!(allowed[0][field], expected, "{}", allowed[0]);
    }
    assert_eq!(allowed[0]["grant"], grant);
    assert_eq!(allowed[0]["uid"], nix::unistd::getuid().as_raw());
    let numbers: Vec<u64> = records.iter().map(record::seq).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
}

#[test]
fn the_record_can_be_asked_for_a_part() {
    let world = World::ready();
    let member = world.member(&[]);
    assert!(member.cat(&world.file(DATABASE)).is_ok() && member.cat(&world.file(API)).is_ok());
    assert!(world.outsider().cat(&world.file(API)).is_err());
    let grant = world.grants()[0]["id"].as_str().expect("an id").to_owned();
    let asked = |options: &[&str]| -> Vec<Value> {
        let text = world.kin(["audit", "--json"]).args(options).run().exits(0).text();
        text.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
    };
    let by_reference = asked(&["--ref", "db/url"]);
    assert!(!by_reference.is_empty() && by_reference.iter().all(|line| line["reference"] == "db/url"));
    let by_grant = asked(&["--grant", &grant]);
    assert!(by_grant.len() >= 3 && by_grant.iter().all(|line| line["grant"] == *grant), "{by_grant:#?}");
    let denied = asked(&["--denied"]);
    assert!(
        !denied.is_empty() && denied.iter().all(|line| record::event(line).ends_with(".deny")),
        "{denied:#?}"
    );
    assert!(asked(&["--project", "api"]).iter().all(|line| line["project"] == "api"));
    assert!(asked(&["--project", "another"]).is_empty());
    assert!(asked(&["--until", "2001-01-01"]).is_empty());
    assert!(!asked(&["--since", "1h"]).is_empty());
}

#[test]
fn a_window_around_now_has_what_was_just_recorded() {
    let world = World::ready();
    // A zone in which it is past noon, whenever this runs.
    let hour = UNIX_EPOCH.elapsed().expect("a clock").as_secs() / 3600 % 24;
    let zone = format!("<here>{}", i64::try_from(hour).expect("an hour") - 13);
    let kin = |options: &[&str]| world.kin(["audit"]).env("TZ", &zone).args(options).run();
    for (since, until) in [
        ("12pm", "4pm"),
        ("12pm", "11pm"),
        ("12:00", "16:00"),
        ("1h", "23:59"),
        ("10m", "today"),
        ("today", "today"),
        ("yesterday", "today 23:00"),
    ] {
        let records = kin(&["--json", "--since", since, "--until", until]).exits(0).text();
        assert!(records.lines().count() > 1, "{since} to {until}: {records}");
        let exported = world.kin(["audit", "export"]).env("TZ", &zone);
        let exported = exported.args(["--since", since, "--until", until]).run().exits(0).text();
        assert_eq!(exported, records, "{since} to {until}");
    }
    let day = Command::new("date").arg("+%F").env("TZ", &zone).output().expect("a date").stdout;
    let day = String::from_utf8(day).expect("text").trim().to_owned();
    assert!(!kin(&["--json", "--since", &day, "--until", &day]).exits(0).text().is_empty());
    kin(&["--since", "1h", "--until", "2h"]).refuses(2, &["before"]);
    kin(&["--since", "1h", "--until", "11am"]).refuses(2, &["not 11:00:00 yet"]);
    let none = kin(&["--since", "yesterday", "--until", "yesterday"]).exits(0);
    assert!(none.stderr.contains("no such records from") && none.stderr.contains("23:59:59"), "{none}");
}

#[test]
fn l02_after_each_fault_opens_are_refused_and_status_says_why() {
    let name = "attacks::l::l02_after_each_fault_opens_are_refused_and_status_says_why";
    if !is_root() && in_user_namespace(name) == Role::Done {
        return;
    }
    let world = on_a_small_disk();
    let member = world.member(&[]);
    assert_eq!(world.status()["audit"]["state"], "recording");
    fill(&world.path("kin/state/ballast"));
    while member.cat(&world.file(DATABASE)).is_ok() {}
    let status = world.status();
    let audit = &status["audit"];
    assert_eq!((&audit["state"], &audit["reason"]), (&json!("refusing"), &json!("ENOSPC")), "{audit}");
    assert!(
        audit["refused"].as_u64().is_some_and(|refused| refused > 0) && audit["since"].is_i64(),
        "{audit}"
    );
    let said = world.kin(["status"]).run().exits(0).text();
    assert!(said.contains("refusing: ") && said.contains("ENOSPC"), "{said}");
    std::fs::remove_file(world.path("kin/state/ballast")).expect("room again");
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
    assert_eq!(world.status()["audit"]["state"], "recording");
}

#[test]
fn l02_an_end_that_could_not_be_recorded_is_recorded_later() {
    let name = "attacks::l::l02_an_end_that_could_not_be_recorded_is_recorded_later";
    if !is_root() && in_user_namespace(name) == Role::Done {
        return;
    }
    let world = on_a_small_disk();
    let member = world.member(&[]);
    fill(&world.path("kin/state/ballast"));
    while member.cat(&world.file(DATABASE)).is_ok() {}
    world.kin(["lock"]).run().exits(0);
    let said = || -> Vec<String> {
        let records = world.audit();
        let ends = ["grant.expire", "vault.lock"];
        records
            .iter()
            .map(|line| record::event(line).to_owned())
            .filter(|event| ends.contains(&&**event))
            .collect()
    };
    assert!(said().is_empty());
    std::fs::remove_file(world.path("kin/state/ballast")).expect("room again");
    eventually("both are in the record", Duration::from_secs(5), || said() == ["grant.expire", "vault.lock"]);
    let records = world.audit();
    assert_eq!(record::reason(record::of(&records, "grant.expire")[0]), "locked");
    world.kin(["audit", "verify"]).run().exits(0);
}

/// Reads a file again and again; each byte on standard output is one delivery.
const READER: &str = "
import os, sys, time
for _ in range(200):
    try:
        with open(sys.argv[1], 'rb') as file:
            file.read()
    except OSError:
        break
    os.write(1, b'.')
    time.sleep(0.007)
";

/// A system call of the broker, and the how manieth of a thread it is killed at.
type Point = (&'static str, usize);

/// The first `count` of all points, in turns: records, answers to the kernel, syncs, anchors and keys.
fn points(count: usize) -> Vec<Point> {
    let calls = ["write", "writev", "fdatasync", "rename", "fsync"];
    (1..).flat_map(|n| calls.iter().map(move |call| (*call, n))).take(count).collect()
}

/// Opens under a broker that is killed at `point`; how many values were delivered.
fn killed_at(world: &World, (call, when): Point) -> usize {
    let mut strace = world.program("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e"]).arg(format!("inject={call}:signal=KILL:when={when}"));
    strace.arg("-e").arg(format!("trace={call}")).arg(binary()).args(["daemon", "--foreground"]);
    let strace = strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut strace = strace.spawn().expect("strace");
    let socket = world.path("kin/run/socket");
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !(world.is_broker_running() && socket.exists())
        && strace.try_wait().expect("wait").is_none()
        && std::time::Instant::now() < deadline
    {
        std::thread::sleep(Duration::from_millis(5));
    }
    let file = world.file(DATABASE);
    let reader = world.kin(["run", "--", "/usr/bin/python3", "-IS", "-c", READER]).args([file]).run();
    if world.is_broker_running() {
        // It was not reached there, or the run started another.
        world.kin(["status", "--json"]).run();
        if let Some(pid) = broker_pid(world) {
            kin_tests::process::signal(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
    eventually("the broker is gone", Duration::from_secs(5), || !world.is_broker_running());
    let _ = strace.wait();
    reader.stdout.iter().filter(|byte| **byte == b'.').count()
}

fn broker_pid(world: &World) -> Option<u32> {
    let output = world.kin(["status", "--json"]).run();
    let status: Value = serde_json::from_slice(&output.stdout).ok()?;
    status["broker"]["pid"].as_u64().map(|pid| pid as u32)
}

#[test]
fn l05_a_broker_killed_at_any_system_call_has_recorded_what_it_delivered() {
    let name = "attacks::l::l05_a_broker_killed_at_any_system_call_has_recorded_what_it_delivered";
    if !is_root() && in_user_namespace(name) == Role::Done {
        return;
    }
    // scripts/soak audit says how many points; each merge takes a few.
    let wanted = std::env::var("KIN_SOAK").ok().and_then(|text| text.parse().ok());
    let mut points = points(wanted.unwrap_or(60));
    if wanted.is_none() {
        points = [0, 1, 2, 3, 4, 5, 7, 8, 14, 36, 55].into_iter().map(|at| points[at]).collect();
    }
    let killed: usize = points.chunks(4).map(killed_in_one_world).sum();
    assert!(killed > 0, "no broker was killed while it delivered");
}

/// How many brokers died before their reader was done.
fn killed_in_one_world(points: &[Point]) -> usize {
    let world = World::ready();
    world.kin(["stop"]).run().exits(0);
    let (mut delivered, mut killed) = (0, 0);
    for point in points {
        let now = killed_at(&world, *point);
        delivered += now;
        killed += usize::from(now < 200);
        // Before the next broker, and after it has cut off what was torn.
        world.kin(["audit", "verify"]).run().exits(0);
        world.kin(["daemon"]).run().exits(0);
        world.kin(["audit", "verify"]).run().exits(0);
        let recorded = record::of(&world.audit(), "open.allow").len();
        assert!(delivered <= recorded, "{point:?}: {delivered} were delivered, {recorded} recorded");
        world.kin(["stop"]).run().exits(0);
    }
    killed
}

#[test]
fn l07_a_cut_tail_shows_also_while_the_broker_runs() {
    let (world, lines) = finished_log();
    world.record_was_damaged();
    let want = lines.len();
    for have in [want - 1, want - 7, 1, 0] {
        let text = lines[..have].iter().fold(String::new(), |text, line| text + line + "\n");
        std::fs::write(world.log_file(), text).expect("the log");
        let said = world.kin(["audit", "verify"]).run().exits(7).stderr;
        assert!(said.contains(&format!("the record was cut: have {have}, want {want}")), "{said}");
        let output = world.kin(["audit", "verify", "--json"]).run().exits(7);
        assert_eq!(output.json_error()["code"], "audit_truncated");
        // Nothing goes on from there.
        world.kin(["daemon"]).run().refuses(7, &["cut"]);
    }
    std::fs::remove_file(world.log_file()).expect("the log");
    world.kin(["audit", "verify"]).run().exits(7);
    std::fs::write(world.log_file(), lines.join("\n") + "\n").expect("the log");
    std::fs::set_permissions(world.log_file(), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("its mode");
    world.kin(["audit", "verify"]).run().exits(0);
    world.kin(["daemon"]).run().exits(0);
    world.kin(["audit", "verify"]).run().exits(0);
    let log = std::fs::read_to_string(world.log_file()).expect("the log");
    let log: Vec<_> = log.lines().collect();
    std::fs::write(world.log_file(), log[..log.len() - 2].join("\n") + "\n").expect("the log");
    let said = world.kin(["audit", "verify"]).run().exits(7).stderr;
    assert!(said.contains("the record was cut"), "{said}");
}

#[test]
fn l12_what_a_reader_carries_is_not_in_the_log() {
    let world = World::ready();
    let canary = world.canary();
    let member = world.member(&[]);
    let script = "import sys\nfor path in sys.argv[2:]:\n try: open(path).read()\n except OSError: pass";
    let files = [world.file(DATABASE), world.file("none")];
    let mut argv = vec!["/usr/bin/python3", "-IS", "-c", script, canary.as_str()];
    argv.extend(files.iter().map(|path| path.to_str().expect("UTF-8")));
    member.ask("run", json!({ "argv": argv, "env": { "TOKEN": canary } })).expect("a run");
    world.kin(["run", "--", "/usr/bin/python3", "-IS", "-c", script, &canary]).run();
    world.other("/usr/bin/python3", ["-IS", "-c", script, &canary]).args(&files).run();
    assert!(world.audit().len() > 5);
    let log = std::fs::read_to_string(world.log_file()).expect("the log");
    assert!(!log.contains(&canary), "arguments or variables are in the log");
}

#[test]
fn l13_four_processes_share_one_row_of_numbers() {
    let world = World::ready();
    let members: Vec<_> = (0..4).map(|_| world.member(&[])).collect();
    let before = world.audit().len();
    let file = world.file(DATABASE);
    let bursts = members.into_iter().map(|member| {
        let file = file.clone();
        std::thread::spawn(move || (member.ask("burst", json!({ "path": file, "times": 5000 })), member))
    });
    for burst in bursts.collect::<Vec<_>>() {
        let (counts, _member) = burst.join().expect("no panic");
        assert_eq!(counts, Ok(json!({ "0": 5000 })));
    }
    let records = world.audit();
    let allowed = record::of(&records, "open.allow");
    let tgids: BTreeSet<_> = allowed.iter().filter_map(|line| record::tgid(line)).collect();
    assert_eq!((allowed.len(), tgids.len()), (20_000, 4));
    let numbers: Vec<u64> = records.iter().map(record::seq).collect();
    assert!(numbers.into_iter().eq(1..=records.len() as u64));
    assert!(records.len() >= before + 20_000);
}

#[test]
fn l14_an_unsafe_log_is_refused_by_all_commands() {
    let world = World::ready();
    world.record_was_damaged();
    world.kin(["stop"]).run().exits(0);
    let (log, aside) = (world.log_file(), world.path("kin/state/aside"));
    std::fs::rename(&log, &aside).expect("aside");
    let target = world.path("target");
    std::fs::write(&target, b"").expect("a target");
    let refuse = |what: &str| {
        for verb in [&["audit"][..], &["audit", "verify"], &["daemon"], &["run", "--", "true"]] {
            let output = world.kin(verb).run().refuses(3, &["audit.jsonl"]);
            assert!(output.stderr.contains(what), "{output}");
        }
        std::fs::remove_file(&log).expect("the log");
    };
    std::os::unix::fs::symlink(&target, &log).expect("a symlink");
    refuse("symlink");
    assert_eq!(std::fs::metadata(&target).expect("the target").len(), 0);
    nix::unistd::mkfifo(&log, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("a FIFO");
    refuse("regular file");
    std::os::unix::fs::symlink("/dev/full", &log).expect("a symlink");
    refuse("symlink");
    std::fs::copy(&aside, &log).expect("a copy");
    std::fs::set_permissions(&log, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("a mode");
    refuse("0644");
}

#[test]
fn e10_a_restart_tells_what_was_lost() {
    let world = World::ready();
    let members = [world.member(&[]), world.member(&[])];
    assert!(members[0].cat(&world.file(DATABASE)).is_ok());
    world.crash();
    // Its threads end one by one: a call that meets the last of them is aborted.
    let dead = || members[0].cat(&world.file(DATABASE)) == Err(Errno::ENOTCONN);
    eventually("the mount of a dead broker", SOON, dead);
    world.kin(["daemon"]).run().exits(0);
    assert_eq!(members[1].cat(&world.file(DATABASE)), Err(Errno::EACCES));
    let records = world.audit();
    let start = record::of(&records, "broker.start")[1].clone();
    assert_eq!((&start["unclean"], &start["grants_lost"]), (&json!(true), &json!(2)));
}

#[test]
fn after_a_leak_the_record_says_who_was_delivered_the_value() {
    let world = World::ready();
    let member = world.member(&[]);
    assert!(member.cat(&world.file(DATABASE)).is_ok());
    world.secret("db/url");
    for _ in 0..2 {
        assert!(member.cat(&world.file(DATABASE)).is_ok());
    }
    world.kin(["reveal", "api/key", "--yes"]).run();
    let exposed = |what: &str| world.kin(["audit", "--json", "--exposed", what]).run().exits(0).json();
    let all = exposed("db/url")["exposed"].as_array().cloned().expect("a list");
    let versions: Vec<_> = all.iter().map(|row| (row["version"].as_u64(), row["opens"].as_u64())).collect();
    assert_eq!(versions, [(Some(1), Some(1)), (Some(2), Some(2))]);
    assert_eq!(all[0]["processes"][0][0], member.pid());
    assert_eq!(exposed("db/url@2")["exposed"].as_array().map(Vec::len), Some(1));
    assert_eq!(exposed("db/url@3")["exposed"], json!([]));
    let revealed = exposed("api/key");
    assert_eq!(revealed["exposed"][0]["name"], "kin reveal");
    let said = world.kin(["audit", "--exposed", "db/url@2"]).run().exits(0).text();
    assert!(said.contains("python3") && said.contains("PROCESSES"), "{said}");
    let versions = world.kin(["audit", "--json", "--ref", "db/url@2"]).run().exits(0).text();
    assert_eq!(versions.lines().count(), 3, "{versions}");
}

#[test]
fn who_was_delivered_a_secret_is_not_mixed_with_who_was_delivered_the_next_of_its_name() {
    let world = World::ready();
    let member = world.member(&[]);
    world.secret("db/url");
    assert!(member.cat(&world.file(DATABASE)).is_ok());
    world.kin(["reveal", "db/url@1", "--yes"]).run().exits(0);
    world.kin(["rm", "db/url", "--yes"]).run().exits(0);
    world.secret("db/url");
    assert!(member.cat(&world.file(DATABASE)).is_ok());
    let exposed = |what: &str| {
        let said = world.kin(["audit", "--json", "--exposed", what]).run().exits(0).json();
        let rows = said["exposed"].as_array().cloned().expect("a list");
        let row = |row: &Value| {
            (
                row["version"].as_u64(),
                row["removed"].is_string(),
                row["name"].as_str().expect("a name").to_owned(),
            )
        };
        (said["known"].as_bool().expect("known"), rows.iter().map(row).collect::<Vec<_>>())
    };
    let reader = "python3".to_owned();
    let revealed = (Some(1), true, "kin reveal".to_owned());
    assert_eq!(exposed("db/url@2"), (true, vec![(Some(2), true, reader.clone())]));
    assert_eq!(exposed("db/url@1"), (true, vec![(Some(1), false, reader), revealed]));
    assert_eq!(exposed("db/url@3"), (false, vec![]));
    let said = world.kin(["audit", "--exposed", "db/url@2"]).run().exits(0);
    assert!(said.text().contains("REMOVED") && said.stderr.contains("not on this record"), "{said}");
    let none = world.kin(["audit", "--exposed", "db/url@3"]).run().exits(0);
    assert!(none.stdout.is_empty() && none.stderr.contains("the record shows no version 3"), "{none}");
    // What was restored from a backup may have had any version.
    let backup = world.path("backup.age");
    let backup = backup.to_str().expect("UTF-8");
    world.kin(["backup", backup]).run().exits(0);
    world.kin(["restore", backup, "--yes"]).run().exits(0);
    let said = world.kin(["audit", "--json", "--exposed", "db/url@3"]).run().exits(0).json();
    assert!(said["restored"].is_string() && said["known"] == true, "{said}");
    let said = world.kin(["audit", "--exposed", "db/url@3"]).run().exits(0);
    assert!(said.stderr.contains("may have been given twice"), "{said}");
    for besides in [&["--denied"][..], &["--ref", "api/key"], &["--limit", "3"]] {
        let refused = world.kin(["audit", "--exposed", "db/url"]).args(besides).run().exits(2);
        assert!(refused.stderr.contains(&format!("does not go with {}", besides[0])), "{refused}");
    }
}

#[test]
fn a_grants_tree_says_who_in_it_opened_what() {
    let world = World::ready();
    let member = world.member(&[]);
    assert!(member.cat(&world.file(DATABASE)).is_ok());
    let file = world.file(API);
    let child = member.ask("run", json!({ "argv": ["/usr/bin/cat", file] })).expect("a run");
    assert!(!child.is_null());
    let grant = world.grants()[0]["id"].as_str().expect("an id").to_owned();
    let tree = world.kin(["audit", "--json", "--tree", &grant[..8]]).run().exits(0).json();
    assert_eq!((&tree["grant"], &tree["project"]), (&json!(grant), &json!("api")));
    let keeper = &tree["processes"][0];
    assert_eq!(keeper["pid"], world.keeper(0));
    let reader = &keeper["children"][0];
    assert_eq!((&reader["pid"], &reader["files"][0]["file"]), (&json!(member.pid()), &json!(DATABASE)));
    let cat = &reader["children"][0];
    assert_eq!(
        (&cat["name"], &cat["files"][0]),
        (&json!("cat"), &json!({ "file": API, "opens": 1, "writes": 0, "denials": 0 }))
    );
    let said = world.kin(["audit", "--tree", &grant]).run().exits(0).text();
    assert!(said.contains("kin-keeper") && said.contains("└─ ") && said.contains(" cat  "), "{said}");
    world.kin(["audit", "--tree", "ffffffffffff"]).run().refuses(2, &["grant"]);
}

#[test]
fn the_record_leaves_for_collectors_and_for_people() {
    let world = World::ready();
    let member = world.member(&[]);
    assert!(member.cat(&world.file(DATABASE)).is_ok());
    assert!(world.outsider().cat(&world.file(DATABASE)).is_err());
    let export = |format: &str| world.kin(["audit", "export", "--format", format]).run().exits(0).text();
    let (lines, syslog, otlp) = (export("jsonl"), export("syslog"), export("otlp"));
    assert!(lines.lines().count() <= syslog.lines().count());
    assert!(syslog.lines().all(|line| line.starts_with('<') && line.contains(" kin - ")), "{syslog}");
    assert!(syslog.contains("open.deny [kin@32473 seq="), "{syslog}");
    let batch: Value = serde_json::from_str(otlp.lines().next().expect("a batch")).expect("JSON");
    let records = &batch["resourceLogs"][0]["scopeLogs"][0]["logRecords"];
    assert!(records.as_array().is_some_and(|records| records.len() > 5), "{batch}");
    let journal = export("journald");
    assert_eq!(journal.matches("\nSYSLOG_IDENTIFIER=kin\n").count(), journal.matches("\n\n").count());
    assert!(journal.contains("\nKIN_EVENT=open.deny\n") && journal.contains("\nKIN_REFERENCE=db/url\n"));
    let page = world.path("timeline.html");
    let write = || world.kin(["audit", "--html", page.to_str().expect("UTF-8")]).run();
    assert!(write().exits(0).text().contains("timeline.html"));
    let _ = write().refuses(5, &["is there already"]);
    let page = std::fs::read_to_string(&page).expect("a page");
    assert!(page.starts_with("<!doctype html>") && page.contains("open.allow") && page.contains("db/url@1"));
    let consumer = |name: &str| world.kin(["audit", "--json", "--consumer", name]).run().exits(0).text();
    assert!(consumer("python3").lines().count() >= 2 && consumer("nobody-of-this-name").is_empty());
}

#[test]
fn a_collector_that_goes_on_after_a_number_neither_loses_nor_repeats() {
    let world = World::ready();
    let member = world.member(&[]);
    let export = |after: u64| {
        let told = world.kin(["audit", "export", "--after", &after.to_string()]).run().exits(0).text();
        told.lines()
            .map(|line| record::seq(&serde_json::from_str(line).expect("a record")))
            .collect::<Vec<_>>()
    };
    let mut collected = Vec::new();
    for _ in 0..3 {
        collected.extend(export(collected.last().copied().unwrap_or(0)));
        assert!(member.cat(&world.file(DATABASE)).is_ok());
        assert!(world.outsider().cat(&world.file(DATABASE)).is_err());
    }
    collected.extend(export(collected.last().copied().expect("a record")));
    let last = *collected.last().expect("a record");
    assert_eq!(collected, (1..=last).collect::<Vec<_>>());
    assert!(export(last).is_empty());
    let beyond = (last + 1000).to_string();
    world.kin(["audit", "export", "--after", &beyond]).run().refuses(7, &[&beyond]);
}

#[test]
fn the_vault_knows_its_record_and_a_kept_head_convicts() {
    let world = World::ready();
    let verified = world.kin(["audit", "verify", "--json"]).run().exits(0).json();
    assert_eq!(verified["vault"], true);
    let head = verified["head"].as_str().expect("a head").to_owned();
    world.kin(["audit", "verify", "--head", &head]).run().exits(0);
    world.kin(["lock"]).run().exits(0);
    assert_eq!(world.kin(["audit", "verify", "--json"]).run().exits(0).json()["vault"], false);
    // Somebody begins anew, with keys of his own.
    world.kin(["stop"]).run().exits(0);
    world.record_was_damaged();
    for entry in std::fs::read_dir(world.path("kin/state")).expect("a directory").flatten() {
        let name = entry.file_name().into_string().expect("UTF-8");
        if name.starts_with("audit.") {
            std::fs::remove_file(entry.path()).expect("removed");
        }
    }
    world.kin(["daemon"]).run().exits(0);
    world.kin(["audit", "verify"]).run().exits(0);
    world.kin(["audit", "verify", "--head", &head]).run().exits(7);
    world.kin(["unlock"]).run().exits(0);
    assert_eq!(record::of(&world.audit(), "audit.reject").len(), 1);
    let said = world.kin(["audit", "verify"]).run().exits(7).stderr;
    assert!(said.contains("not the record that the vault knows"), "{said}");
}

#[test]
fn with_sync_each_records_are_synced_one_by_one_and_a_bad_configuration_is_refused() {
    let world = World::ready();
    world.kin(["stop"]).run().exits(0);
    let config = world.path("kin/config/config.toml");
    std::fs::write(&config, "[audit]\nsync = \"each\"\n").expect("a configuration");
    let member = world.member(&[]);
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
    drop(member);
    world.kin(["stop"]).run().exits(0);
    std::fs::write(&config, "[audit]\nsink = \"each\"\n").expect("a configuration");
    world.kin(["daemon"]).run().refuses(3, &["config.toml", "sink"]);
    std::fs::remove_file(&config).expect("removed");
}
