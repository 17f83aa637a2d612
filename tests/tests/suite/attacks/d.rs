//! Does a grant end when it should, and for everybody? Withdrawal.

use std::time::Duration;

use kin_tests::{Actor, Identity, World, binary, eventually, mount, process, record};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{DATABASE, REFUSED, SOON, database};

fn ending<'r>(records: &'r [Value], event: &str, grant: &Value) -> Vec<&'r Value> {
    record::of(records, event).into_iter().filter(|line| line["grant"] == *grant).collect()
}

#[test]
fn d01_after_a_revocation_no_open_is_allowed() {
    let world = World::ready();
    let member = world.member(&[]);
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
    let grant = world.grants()[0]["id"].clone();
    world.kin(["revoke", grant.as_str().expect("an id")]).run().exits(0);
    assert_eq!(member.cat(&world.file(DATABASE)), Err(REFUSED));
    assert_eq!(member.child("fork").cat(&world.file(DATABASE)), Err(REFUSED));
    assert!(world.grants().is_empty());
    let records = world.audit();
    let revoked = ending(&records, "grant.revoke", &grant);
    assert_eq!(revoked.len(), 1, "{records:#?}");
    let late = |line: &&Value| line["grant"] == grant && record::seq(line) > record::seq(revoked[0]);
    assert!(!record::of(&records, "open.allow").iter().any(late), "{records:#?}");
}

#[test]
fn d02_an_open_handle_stops_reading_when_its_grant_is_revoked() {
    let world = World::ready();
    let member = world.member(&[]);
    let fd = member.open(&world.file(DATABASE)).expect("open");
    assert_eq!(member.pread(fd, 5, 0), Ok(database(&world)[..5].to_vec()));
    world.kin(["revoke", "--all"]).run().exits(0);
    assert_eq!(member.pread(fd, 100, 5), Err(REFUSED));
    let records = world.audit();
    let denied = record::by(&records, member.pid().into());
    let revoked = |line: &&Value| record::event(line) == "read.deny" && record::reason(line) == "revoked";
    assert!(denied.iter().any(revoked), "{denied:#?}");
}

#[test]
fn d04_a_grant_lasts_until_its_last_descendant_is_gone() {
    let world = World::ready();
    let member = world.member(&[]);
    let grant = world.grants()[0]["id"].clone();
    let left = world.left_by(&member);
    assert!(member.finish().success(), "the prompt returns at once");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(left.cat(&world.file(DATABASE)), Ok(database(&world)));
    assert_eq!(world.grants().len(), 1);
    left.finish();
    eventually("the grant ends with its last process", SOON, || world.grants().is_empty());
    let records = world.audit();
    let ended = ending(&records, "grant.expire", &grant);
    assert_eq!(
        ended.iter().map(|line| record::reason(line)).collect::<Vec<_>>(),
        ["tree_exit"],
        "{records:#?}"
    );
}

#[test]
fn d04_with_end_with_child_a_grant_ends_with_its_command() {
    let world = World::ready();
    let member = world.member(&["--end-with-child"]);
    let left = world.left_by(&member);
    assert_eq!(left.cat(&world.file(DATABASE)), Ok(database(&world)));
    assert!(member.finish().success());
    eventually("the grant ends", SOON, || left.cat(&world.file(DATABASE)) == Err(REFUSED));
    let records = world.audit();
    let ended = record::of(&records, "grant.expire");
    assert_eq!(ended.iter().map(|line| record::reason(line)).collect::<Vec<_>>(), ["command_exit"]);
}

fn owner_killed(whose: fn(&World, u32) -> u32) {
    let world = World::ready();
    let member = world.member(&[]);
    let child = member.child("fork");
    let fd = member.open(&world.file(DATABASE)).expect("open");
    assert_eq!(child.cat(&world.file(DATABASE)), Ok(database(&world)));
    process::signal(whose(&world, member.started()), Signal::SIGKILL);
    eventually("survivors are refused", SOON, || member.cat(&world.file(DATABASE)) == Err(REFUSED));
    assert_eq!(child.cat(&world.file(DATABASE)), Err(REFUSED));
    assert_eq!(member.pread(fd, 100, 0), Err(REFUSED));
    let records = world.audit();
    let ended = record::of(&records, "grant.expire");
    assert_eq!(
        ended.iter().map(|line| record::reason(line)).collect::<Vec<_>>(),
        ["owner_killed"],
        "{records:#?}"
    );
}

#[test]
fn d05_a_killed_keeper_ends_its_grant() {
    owner_killed(|world, _| world.keeper(0));
}

#[test]
fn d05_a_front_killed_before_its_command_ends_the_grant() {
    owner_killed(|_, front| front);
}

#[test]
fn a_front_that_returned_does_not_end_the_grant() {
    let world = World::ready();
    let member = world.member(&[]);
    let left = world.left_by(&member);
    member.finish();
    for _ in 0..20 {
        assert_eq!(left.cat(&world.file(DATABASE)), Ok(database(&world)));
        std::thread::sleep(Duration::from_millis(20));
    }
    left.finish();
}

#[test]
fn d07_lock_ends_every_grant_and_runs_wait_for_unlock() {
    let world = World::ready();
    let (first, second) = (world.member(&[]), world.member(&[]));
    let fd = first.open(&world.file(DATABASE)).expect("open");
    world.kin(["lock"]).run().exits(0);
    for member in [&first, &second] {
        assert_eq!(member.cat(&world.file(DATABASE)), Err(REFUSED));
    }
    assert_eq!(first.pread(fd, 100, 0), Err(REFUSED));
    assert!(world.grants().is_empty());
    assert_eq!(world.status()["vault"]["state"], "locked");
    world.kin(["run", "--", "true"]).run().refuses(4, &["locked"]);
    world.kin(["unlock"]).run().exits(0);
    assert_eq!(first.cat(&world.file(DATABASE)), Err(REFUSED), "a grant that ended stays ended");
    assert_eq!(world.member(&[]).cat(&world.file(DATABASE)), Ok(database(&world)));
}

/// As systemd-logind does it: the user's runtime directory is unmounted and removed (user@.service(5)).
#[test]
fn d07_the_end_of_the_session_ends_the_broker_and_every_grant() {
    let world = World::ready();
    let (broker, member) = (world.broker(), world.member(&[]));
    let fd = member.open(&world.file(DATABASE)).expect("open");
    assert_eq!(member.pread(fd, 100, 0), Ok(database(&world)));
    mount::clear(&world.mountpoint());
    // Whatever the broker puts up again meanwhile cannot be removed; all else is.
    for entry in std::fs::read_dir(world.path("kin/run")).expect("the runtime directory").flatten() {
        let path = entry.path();
        let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path));
    }
    eventually("the broker ends", Duration::from_secs(5), || !broker.is_alive());
    assert!(member.cat(&world.file(DATABASE)).is_err() && member.pread(fd, 100, 0).is_err());
    let records = world.audit();
    let ended: Vec<_> = record::of(&records, "grant.expire").into_iter().map(record::reason).collect();
    assert_eq!(ended, ["stopped"], "{records:#?}");
    assert_eq!(record::of(&records, "broker.stop").len(), 1, "{records:#?}");
}

fn suspends(identity: Identity) {
    let world = World::with(identity);
    world.configure("[vault]\nauto_lock = \"2s\"\n");
    let world = world.initialised().with_secrets();
    let member = world.member(&[]);
    let fd = member.open(&world.file(DATABASE)).expect("open");
    assert_eq!(member.pread(fd, 100, 0), Ok(database(&world)));
    let suspended = || world.status()["vault"]["state"] == "suspended";
    eventually("the vault locks itself", Duration::from_secs(10), suspended);

    assert_eq!(member.cat(&world.file(DATABASE)), Err(Errno::ENOKEY));
    assert_eq!(member.pread(fd, 100, 0), Err(Errno::ENOKEY));
    assert_eq!(member.child("fork").cat(&world.file(DATABASE)), Err(Errno::ENOKEY));
    assert_eq!(world.outsider().cat(&world.file(DATABASE)), Err(REFUSED));
    assert_eq!(world.grants().len(), 1, "the grant stands");
    // Looking, from wherever, opens nothing; nor does a member.
    world.kin(["list"]).run().refuses(4, &["locked"]);
    for verb in [&["unlock"][..], &["run", "--", "true"]] {
        let kin = binary();
        let line = [&[kin.to_str().expect("UTF-8")], verb].concat();
        assert_ne!(member.run(&line).0, 0, "{verb:?}");
    }
    assert_eq!(member.cat(&world.file(DATABASE)), Err(Errno::ENOKEY));
    world.kin(["unlock"]).run().exits(0);
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)), "a running tree goes on");
    eventually("the vault locks itself again", Duration::from_secs(10), suspended);
    // A run of the user's own is a person too, where the key opens by itself.
    assert_eq!(world.member(&[]).cat(&world.file(DATABASE)), Ok(database(&world)));
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));

    let records = world.audit();
    assert_eq!(record::of(&records, "vault.autolock").len(), 2, "{records:#?}");
    let denied = record::by(&records, member.pid().into());
    let waited = |event: &str| {
        denied.iter().any(|line| record::event(line) == event && record::reason(line) == "vault_locked")
    };
    assert!(waited("open.deny") && waited("read.deny"), "{denied:#?}");
    eventually("it locks itself once more", Duration::from_secs(10), suspended);
    world.kin(["lock"]).run().exits(0);
    assert_eq!(member.cat(&world.file(DATABASE)), Err(REFUSED), "a person's lock ends grants");
}

#[test]
fn d07_an_unused_vault_suspends_its_grants_until_unlock_natively() {
    suspends(Identity::Native);
}

#[test]
fn d07_an_unused_vault_suspends_its_grants_until_unlock_by_procfs() {
    suspends(Identity::Procfs);
}

#[test]
fn revoke_all_ends_all_and_a_beginning_of_an_id_ends_one() {
    let world = World::ready();
    let members = [world.member(&[]), world.member(&[]), world.member(&[])];
    let ids: Vec<String> =
        world.grants().iter().map(|grant| grant["id"].as_str().expect("an id").into()).collect();
    assert_eq!(ids.len(), 3);
    assert!(ids.iter().all(|id| id.len() == 32));
    world.kin(["revoke", &ids[1][..12]]).run().exits(0);
    let reads = |index: usize| members[index].cat(&world.file(DATABASE)).is_ok();
    assert_eq!([reads(0), reads(1), reads(2)], [true, false, true]);
    world.kin(["revoke", "--all"]).run().exits(0);
    assert_eq!([reads(0), reads(1), reads(2)], [false, false, false]);
    let records = world.audit();
    assert_eq!(record::of(&records, "grant.revoke").len(), 3);
    world.kin(["revoke", "ffffffffffff"]).run().refuses(2, &["ffffffffffff"]);
}

#[test]
fn stop_ends_grants_and_says_so_in_the_record() {
    let world = World::ready();
    let member = world.member(&[]);
    let fd = member.open(&world.file(DATABASE)).expect("open");
    world.kin(["stop"]).run().exits(0);
    assert!(!world.is_broker_running());
    assert!(member.pread(fd, 100, 0).is_err());
    assert!(member.cat(&world.file(DATABASE)).is_err());
    let records = world.audit();
    let reasons: Vec<&str> = record::of(&records, "grant.expire").into_iter().map(record::reason).collect();
    assert_eq!(reasons, ["stopped"]);
    assert_eq!(record::of(&records, "broker.stop").len(), 1, "{records:#?}");
}
