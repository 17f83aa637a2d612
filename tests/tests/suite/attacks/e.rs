//! Do time and nesting only ever narrow? Grants and time.

use std::time::{Duration, Instant};

use kin_tests::{Actor, World, record};
use nix::errno::Errno;
use serde_json::json;

use crate::{API, DATABASE, REFUSED, database};

#[test]
fn e01_a_grant_lives_for_its_time_and_no_longer() {
    let world = World::ready();
    let before = Instant::now();
    let member = world.member(&["--ttl", "3s"]);
    let after = Instant::now();
    let fd = member.open(&world.file(DATABASE)).expect("open");
    std::thread::sleep((before + Duration::from_millis(2500)).saturating_duration_since(Instant::now()));
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)), "half a second before its end");
    assert!(Instant::now() < before + Duration::from_secs(3), "the machine was too slow to tell");
    std::thread::sleep((after + Duration::from_millis(3500)).saturating_duration_since(Instant::now()));
    assert_eq!(member.cat(&world.file(DATABASE)), Err(REFUSED), "half a second after");
    assert_eq!(member.pread(fd, 100, 0), Err(REFUSED));
    let records = world.audit();
    let ended = record::of(&records, "grant.expire");
    assert_eq!(ended.iter().map(|line| record::reason(line)).collect::<Vec<_>>(), ["ttl_expired"]);
}

#[test]
fn e04_a_time_that_is_none_is_refused() {
    let world = World::ready();
    for bad in ["0", "0s", "-1", "1ns", "10m5", "NaN", "18446744073709551616", "18446744073709551616s", ""] {
        world.kin(["run", &format!("--ttl={bad}"), "--", "true"]).run().exits(2);
    }
    assert!(world.grants().is_empty());
}

both! {
    fn e08_the_innermost_grant_decides(identity) {
        let world = World::ready_with(identity);
        let outer = world.member(&[]);
        let line = world.run_line(&["--only", DATABASE]);
        let inner = outer.spawn(&line.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(inner.cat(&world.file(DATABASE)), Ok(database(&world)));
        assert_eq!(inner.cat(&world.file(API)), Err(Errno::ENOENT));
        assert_eq!(inner.list(&world.mountpoint().join("api")), Ok(vec![DATABASE.into()]));
        assert_eq!(outer.cat(&world.file(API)), Ok(world.value("api/key")));
        assert_eq!(world.grants().len(), 2);
        let started = inner.started();
        inner.dismiss();
        assert_eq!(outer.ask("wait", json!({ "pid": started })), Ok(json!(0)));
        kin_tests::eventually("the inner grant ends", crate::SOON, || world.grants().len() == 1);
        assert_eq!(outer.cat(&world.file(API)), Ok(world.value("api/key")));
    }
}

#[test]
fn a_revoked_inner_grant_does_not_fall_through_to_the_outer_one() {
    let world = World::ready();
    let outer = world.member(&[]);
    let line = world.run_line(&["--only", DATABASE]);
    let inner = outer.spawn(&line.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(inner.cat(&world.file(DATABASE)), Ok(database(&world)));
    let id = world.grants()[1]["id"].as_str().expect("an id").to_owned();
    world.kin(["revoke", &id]).run().exits(0);
    assert_eq!(inner.cat(&world.file(DATABASE)), Err(REFUSED));
    assert_eq!(outer.cat(&world.file(DATABASE)), Ok(database(&world)));
}

#[test]
fn revoking_the_outer_grant_ends_the_inner_one() {
    let world = World::ready();
    let outer = world.member(&[]);
    let line = world.run_line(&["--only", DATABASE]);
    let inner = outer.spawn(&line.iter().map(String::as_str).collect::<Vec<_>>());
    let id = world.grants()[0]["id"].as_str().expect("an id").to_owned();
    world.kin(["revoke", &id]).run().exits(0);
    assert_eq!(inner.cat(&world.file(DATABASE)), Err(REFUSED));
    assert_eq!(outer.cat(&world.file(DATABASE)), Err(REFUSED));
    assert!(world.grants().is_empty());
}
