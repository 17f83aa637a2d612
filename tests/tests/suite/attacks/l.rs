//! Is there a record of every delivery, and does a changed one show? The audit log.

use std::path::Path;

use kin_tests::{Actor, Role, World, in_user_namespace, is_root, record};
use nix::errno::Errno;
use serde_json::Value;

use crate::{API, DATABASE, database};

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

#[test]
fn l01_without_a_record_nothing_is_delivered() {
    let name = "attacks::l::l01_without_a_record_nothing_is_delivered";
    if !is_root() && in_user_namespace(name) == Role::Done {
        return;
    }
    let world = World::new();
    let state = world.path("kin/state");
    std::fs::create_dir(&state).expect("a directory");
    world.mount_disk(&state, "256k");
    let world = world.initialised();
    world.secret("db/url");
    world.manifest("schema = 1\n[project]\nname = \"api\"\n[bindings]\nDATABASE_URL = \"db/url\"\n");
    world.trust();
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
