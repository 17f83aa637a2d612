//! Can a namespace be made to stand for membership? What an inner grant has stays in the outer one's place, and the
//! init of a pid namespace adopts whoever is orphaned in it.

use std::path::{Path, PathBuf};

use kin_broker::control::protocol::PROTOCOL;
use kin_tests::{Actor, Part, Probe, World, eventually, mount, process, record};
use serde_json::Value;

use crate::{API, DATABASE, REFUSED, SOON, database};

/// A process below `actor` that is the init of a pid namespace of its own, in a user namespace of its own.
fn init_below<'a>(actor: &'a Probe, world: &World) -> (Part<'a>, u32) {
    let probe = world.path("probe.py");
    let probe = probe.to_str().expect("a path in UTF-8");
    let line =
        ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--", "/usr/bin/python3", "-IS", probe];
    let init = actor.spawn(&line);
    assert_eq!(init.pid(), 1, "in its own namespace");
    let below = process::tree(init.started());
    let outside = below.last().expect("unshare's child").pid;
    assert_ne!(outside, init.started());
    (init, outside)
}

/// Has `actor` enter the namespaces of `init`, fork there twice and end: what runs `command` then is an orphan, and
/// that init's child. What it prints.
fn orphaned_below(world: &World, actor: &dyn Actor, init: u32, command: &str) -> String {
    let (out, done): (PathBuf, PathBuf) = (world.path("orphan.out"), world.path("orphan.done"));
    for file in [&out, &done] {
        let _ = std::fs::remove_file(file);
    }
    let shown = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
    let (out_path, done_path) = (shown(&out), shown(&done));
    let orphan = format!("sleep 0.5; {command} >{out_path} 2>&1 </dev/null; : >{done_path}");
    let script = format!("(setsid sh -c '{orphan}' &) ; exit 0");
    let init = init.to_string();
    let line = ["nsenter", "--preserve-credentials", "-U", "-p", "-t", &init, "sh", "-c", &script];
    let (code, _, errors) = actor.run(&line);
    assert_eq!(code, 0, "{errors}");
    eventually("the orphan has tried", SOON, || done.exists());
    std::fs::read_to_string(out).expect("what it printed")
}

fn reasons(world: &World) -> Vec<String> {
    let records = world.audit();
    let denied = records.iter().filter(|line| record::is_denial(line));
    let mut reasons: Vec<String> = denied.map(|line| record::reason(line).to_owned()).collect();
    reasons.sort();
    reasons.dedup();
    reasons
}

fn for_any_namespace(identity: kin_tests::Identity) -> World {
    let world = World::ready_with(identity);
    world.manifest(
        "schema = 1\n[project]\nname = \"api\"\n[bindings]\nAPI_KEY = \"api/key\"\n\
         DATABASE_URL = { ref = \"db/url\", namespaces = \"any\" }\n",
    );
    world.trust();
    world
}

both! {
    fn a24_a_stranger_that_an_init_inside_the_tree_adopted_reads_nothing(identity) {
        let world = for_any_namespace(identity);
        let (member, stranger) = (world.member(&[]), world.outsider());
        let (init, number) = init_below(&member, &world);
        assert_eq!(init.cat(&world.file(DATABASE)), Ok(database(&world)));
        let file = world.file(DATABASE);
        let file = file.to_str().expect("a path in UTF-8");
        let said = orphaned_below(&world, &stranger, number, &format!("cat {file}; ls {file}"));
        assert!(said.contains("Permission denied"), "{said}");
        let value = String::from_utf8(database(&world)).expect("text");
        assert!(!said.contains(&value), "{said}");
        assert_eq!(reasons(&world), ["identity_unverifiable"]);
    }

    fn a24_nothing_tells_a_child_of_such_an_init_from_an_orphan(identity) {
        let world = for_any_namespace(identity);
        let member = world.member(&[]);
        let (init, _) = init_below(&member, &world);
        let child = init.child("fork");
        assert_eq!(child.cat(&world.file(DATABASE)), Err(REFUSED));
        assert_eq!(child.stat(&world.file(DATABASE)), Err(REFUSED));
        assert_eq!(child.list(&world.mountpoint().join("api")), Err(REFUSED));
        // What is for the grant's own namespaces is refused for being elsewhere, as ever.
        assert_eq!(child.cat(&world.file(API)), Err(REFUSED));
        assert_eq!(reasons(&world), ["identity_unverifiable", "ns_mismatch"]);
        assert_eq!(init.cat(&world.file(DATABASE)), Ok(database(&world)));
    }

    fn a24_who_leaves_a_tree_through_a_pid_namespace_is_no_person(identity) {
        let world = World::ready_with(identity);
        let (member, outside) = (world.member(&[]), world.outsider());
        let (_init, number) = init_below(&outside, &world);
        let kin = kin_tests::binary();
        let reveal = format!("{} reveal db/url --yes", kin.to_str().expect("a path in UTF-8"));
        let said = orphaned_below(&world, &member, number, &reveal);
        assert!(said.contains("another pid namespace") && said.contains("hint: "), "{said}");
        assert!(!said.contains(&String::from_utf8(database(&world)).expect("text")), "{said}");
        assert_eq!(world.grants().len(), 1, "its tree lives");
        let records = world.audit();
        assert!(record::of(&records, "vault.reveal").is_empty(), "{records:#?}");
        let refused: Vec<_> = record::of(&records, "sock.deny");
        assert!(refused.iter().any(|line| record::reason(line) == "other_pid_namespace"), "{refused:#?}");
    }

    fn a22_a_device_that_somebody_mounted_elsewhere_is_not_served(identity) {
        let world = World::ready_with(identity);
        let point = world.path("elsewhere");
        std::fs::create_dir(&point).expect("a mountpoint");
        let said = keeper_of_ones_own(&world, &world.outsider(), DEVICE, &point);
        let served = said.lines().find_map(|line| line.strip_prefix("served ")).expect("an answer");
        let served: Value = serde_json::from_str(served).expect("JSON");
        assert!(served["failed"]["code"].is_string(), "{said}");
        // Nobody has the device, so the kernel ends the connection.
        let gone = format!("refused {}", nix::errno::Errno::ENOTCONN as i32);
        assert!(said.lines().any(|line| line == gone), "{said}");
        assert!(record::of(&world.audit(), "open.allow").is_empty());
        assert_eq!(mount::mounts_on(&world.mountpoint()).len(), 1, "and nothing covers the user's mount");
    }

    fn a23_what_a_nested_grant_has_stays_in_the_place_of_the_outer_one(identity) {
        let world = World::ready_with(identity);
        let member = world.member(&[]);
        let said = keeper_of_ones_own(&world, &member, KEEPER, &world.file(DATABASE));
        let refused = nix::errno::Errno::EACCES as i32;
        for who in ["command", "child"] {
            assert!(said.lines().any(|line| line == format!("{who} {refused}")), "{said}");
        }
        let records = world.audit();
        assert!(record::of(&records, "open.allow").is_empty(), "{records:#?}");
        assert_eq!(reasons(&world), ["ns_mismatch"]);
        assert_eq!(record::of(&records, "grant.create").len(), 2, "the nested grant was made: {records:#?}");
    }
}

const KEEPER: &str = include_str!("../../../fixtures/keeper.py");
const DEVICE: &str = include_str!("../../../fixtures/device.py");

/// What a keeper that is not kin's says: `script` speaks the protocol itself.
fn keeper_of_ones_own(world: &World, parent: &dyn Actor, script: &str, path: &Path) -> String {
    let copy = world.path("keeper.py");
    std::fs::write(&copy, script).expect("written");
    let shown = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
    let (socket, protocol) = (shown(&world.home().join("run/socket")), PROTOCOL.to_string());
    let (copy, project, path) = (shown(&copy), shown(&world.project()), shown(path));
    let line = ["/usr/bin/python3", "-IS", &copy, &socket, &protocol, &project, DATABASE, &path];
    let (code, out, errors) = parent.run(&line);
    let said = String::from_utf8_lossy(&out).into_owned();
    assert_eq!(code, 0, "{errors}{said}");
    said
}
