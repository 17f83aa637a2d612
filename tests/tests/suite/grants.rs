//! What may a process inside a tree do with `kin`, and what becomes of nested grants?

use std::thread::sleep;
use std::time::Duration;

use kin_tests::{Actor, Part, World, binary, eventually, process, record};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::{API, DATABASE, REFUSED, SOON, database};

/// Runs kin inside a tree, and gives code and stderr.
fn inside(member: &dyn Actor, args: &[&str]) -> (i64, String) {
    let kin = binary();
    let mut line = vec![kin.to_str().expect("a path in UTF-8")];
    line.extend(args);
    let (code, _, errors) = member.run(&line);
    (code, errors)
}

fn nested<'p>(world: &World, outer: &'p kin_tests::Probe, options: &[&str]) -> Part<'p> {
    let line = world.run_line(options);
    outer.spawn(&line.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn inside_a_tree_the_users_own_authority_ends() {
    let world = World::ready();
    let member = world.member(&[]);
    let orphan = member.child("orphan");
    let mut wrong = Vec::new();
    for args in [
        &["reveal", "db/url", "--yes"][..],
        &["trust", "--yes"],
        &["untrust"],
        &["set", "db/url", "--generate", "hex:32"],
        &["rm", "db/url", "--yes"],
        &["unlock"],
        &["init", "--key-file", "/tmp/no-such-place"],
    ] {
        for asker in [&member as &dyn Actor, &orphan] {
            let (code, errors) = inside(asker, args);
            if code != 5 || !errors.starts_with("error: ") || !errors.contains("\nhint: ") {
                wrong.push(format!("{args:?}: {code}: {errors}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Looking and withdrawing are allowed.
    assert_eq!(inside(&member, &["status"]).0, 0);
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
    assert_eq!(inside(&member, &["revoke", "--all"]).0, 0);
    assert_eq!(member.cat(&world.file(DATABASE)), Err(REFUSED));
    // A grant that ended is no way out of its tree.
    assert_eq!(inside(&member, &["reveal", "db/url", "--yes"]).0, 5);
    assert_eq!(inside(&member, &["run", "--", "true"]).0, 5);
}

#[test]
fn what_outlives_a_grant_that_ended_with_its_command_is_still_inside_a_tree() {
    let world = World::ready();
    let member = world.member(&["--end-with-child"]);
    let left = world.left_by(&member);
    assert!(member.finish().success());
    eventually("the grant ends", SOON, || left.cat(&world.file(DATABASE)) == Err(REFUSED));
    // Whatever was to follow on the command's end has had its time.
    sleep(Duration::from_secs(1));
    for args in [&["reveal", "db/url", "--yes"][..], &["run", "--", "true"], &["trust", "--yes"]] {
        assert_eq!(inside(&left, args).0, 5, "{args:?}");
    }
    let records = world.audit();
    let ended = record::of(&records, "grant.expire");
    assert_eq!(ended.iter().map(|line| record::reason(line)).collect::<Vec<_>>(), ["command_exit"]);
}

#[test]
fn a_nested_run_narrows_and_never_widens() {
    let world = World::ready();
    let narrow = world.member(&["--only", API]);
    assert_eq!(inside(&narrow, &["run", "--only", DATABASE, "--", "true"]).0, 5);
    let inner = nested(&world, &narrow, &["--only", API]);
    assert_eq!(inner.cat(&world.file(API)), Ok(world.value("api/key")));
    assert_eq!(inner.cat(&world.file(DATABASE)), Err(Errno::ENOENT));
    let bindings = |index: usize| world.grants()[index]["bindings"].clone();
    assert_eq!((bindings(0), bindings(1)), (json!([API]), json!([API])));
}

#[test]
fn a_nested_run_of_another_project_is_refused() {
    let world = World::ready();
    let other = world.path("other");
    std::fs::create_dir(&other).expect("a directory");
    std::fs::write(
        other.join("kin.toml"),
        "schema = 1\n[project]\nname = \"other\"\n[bindings]\nX = \"db/url\"\n",
    )
    .expect("kin.toml");
    world.kin(["trust", "--yes"]).cwd(&other).run().exits(0);
    let member = world.member(&[]);
    member.ask("chdir", json!({ "path": other })).expect("the other project");
    let (code, errors) = inside(&member, &["run", "--", "true"]);
    assert_eq!(code, 5, "{errors}");
    // Nor does a member of one project see the other's files.
    let foreign = world.member_in(&other, &[]);
    let place = world.mountpoint().join("other/X");
    assert_eq!(foreign.cat(&place), Ok(database(&world)));
    assert_eq!(member.cat(&place), Err(REFUSED));
    assert_eq!(foreign.cat(&world.file(DATABASE)), Err(REFUSED));
}

#[test]
fn survivors_of_a_killed_inner_keeper_do_not_fall_to_the_outer_grant() {
    let world = World::ready();
    let outer = world.member(&[]);
    let own = outer.child("fork");
    let inner = nested(&world, &outer, &["--only", DATABASE]);
    let below = inner.child("fork");
    assert_eq!(below.cat(&world.file(DATABASE)), Ok(database(&world)));
    process::signal(world.keeper(1), Signal::SIGKILL);
    eventually("survivors are refused", SOON, || inner.cat(&world.file(DATABASE)) == Err(REFUSED));
    for _ in 0..50 {
        for survivor in [&inner, &below] {
            assert_eq!(survivor.cat(&world.file(DATABASE)), Err(REFUSED));
            assert_eq!(survivor.cat(&world.file(API)), Err(REFUSED));
        }
    }
    for member in [&outer as &dyn Actor, &own] {
        assert_eq!(member.cat(&world.file(API)), Ok(world.value("api/key")));
    }
    assert_eq!(outer.child("fork").cat(&world.file(API)), Ok(world.value("api/key")));
}

/// Kills its keeper and, in the same breath, opens what only the outer grant has.
const REGICIDE: &str = "
import os, sys, time
path, keeper = sys.argv[1], int(sys.argv[2])
os.kill(keeper, 9)
won, end = 0, time.monotonic() + 0.3
while time.monotonic() < end:
    try:
        os.close(os.open(path, os.O_RDONLY))
        won += 1
    except OSError:
        pass
print(won)
";

#[test]
fn a_member_that_kills_its_inner_keeper_gains_nothing() {
    let world = World::ready();
    for _ in 0..5 {
        let outer = world.member(&[]);
        let inner = nested(&world, &outer, &["--only", DATABASE]);
        let (path, keeper) = (world.file(API), world.keeper(1).to_string());
        let line = ["/usr/bin/python3", "-c", REGICIDE, path.to_str().expect("a path in UTF-8"), &keeper];
        let (code, won, errors) = inner.run(&line);
        assert_eq!((code, String::from_utf8_lossy(&won).trim()), (0, "0"), "{errors}");
        assert_eq!(outer.cat(&world.file(API)), Ok(world.value("api/key")));
        drop(inner);
        drop(outer);
        eventually("the outer grant ends", SOON, || world.grants().is_empty());
    }
}

#[test]
fn a_tree_whose_broker_died_is_still_no_place_of_a_persons() {
    let world = World::ready();
    let member = world.member(&[]);
    world.crash();
    world.kin(["list"]).run().exits(0);
    assert_eq!(member.cat(&world.file(DATABASE)), Err(REFUSED));
    for args in [&["reveal", "db/url", "--yes"][..], &["unlock"], &["run", "--", "true"]] {
        let (code, errors) = inside(&member, args);
        assert!(code == 5 && errors.contains("ended with its broker"), "{args:?}: {code}: {errors}");
    }
}

#[test]
fn a_nested_run_without_a_broker_starts_none() {
    let world = World::ready();
    let member = world.member(&[]);
    world.kin(["stop"]).run().exits(0);
    let (code, errors) = inside(&member, &["run", "--", "true"]);
    assert_eq!(code, 6, "{errors}");
    assert!(!world.is_broker_running());
}

#[test]
fn two_checkouts_of_one_name_do_not_collide() {
    let world = World::ready();
    let second = world.path("second");
    std::fs::create_dir(&second).expect("a directory");
    std::fs::write(
        second.join("kin.toml"),
        "schema = 1\n[project]\nname = \"api\"\n[bindings]\nDATABASE_URL = \"other/url\"\n",
    )
    .expect("kin.toml");
    let value = world.secret("other/url");
    world.kin(["trust", "--yes"]).cwd(&second).run().exits(0);
    let (first_member, second_member) = (world.member(&[]), world.member_in(&second, &[]));
    let directory = second_member.ask("environ", json!({})).expect("its environment")["KIN_DIR"].clone();
    let directory = std::path::PathBuf::from(directory.as_str().expect("KIN_DIR"));
    let name = directory.file_name().and_then(|name| name.to_str()).expect("a name");
    let tag = name.strip_prefix("api~").unwrap_or_else(|| panic!("{name} is no second api"));
    assert!(tag.len() == 8 && tag.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}");
    assert_eq!(directory.parent(), Some(&*world.mountpoint()));
    assert_eq!(first_member.cat(&world.file(DATABASE)), Ok(database(&world)));
    assert_eq!(second_member.cat(&directory.join(DATABASE)), Ok(value.into_bytes()));
    assert_eq!(first_member.cat(&directory.join(DATABASE)), Err(REFUSED));
    assert_eq!(second_member.cat(&world.file(DATABASE)), Err(REFUSED));
    // The names stay theirs when broker and order change.
    drop((first_member, second_member));
    world.kin(["stop"]).run().exits(0);
    let again = world.member_in(&second, &[]);
    assert_eq!(again.ask("environ", json!({})).expect("its environment")["KIN_DIR"], json!(directory));
}

#[test]
fn status_shows_a_grant_and_its_tree() {
    let world = World::ready();
    let member = world.member(&["--ttl", "1h"]);
    let child = member.child("fork");
    assert!(child.cat(&world.file(DATABASE)).is_ok() && member.cat(&world.file(API)).is_ok());
    let status = world.status();
    assert_eq!(status["vault"]["state"], "unlocked");
    assert_eq!(
        (&status["mount"]["path"], &status["mount"]["mounted"]),
        (&json!(world.mountpoint()), &json!(true))
    );
    let grant = &status["grants"][0];
    assert_eq!((&grant["project"], &grant["opens"]), (&json!("api"), &json!(2)), "{grant:#}");
    assert_eq!(grant["bindings"], json!([API, DATABASE]));
    let left = grant["ttl_left_ms"].as_u64().expect("time left");
    assert!((3_500_000..=3_600_000).contains(&left), "{left}");
    let tree: Vec<(u64, u64)> = grant["tree"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|process| Some((process["pid"].as_u64()?, process["depth"].as_u64()?)))
        .collect();
    assert!(tree.contains(&(member.pid().into(), 1)) && tree.contains(&(child.pid().into(), 2)), "{tree:?}");
    let text = world.kin(["status"]).run().exits(0).text();
    assert!(text.contains("api") && text.contains(&member.pid().to_string()), "{text}");
}
