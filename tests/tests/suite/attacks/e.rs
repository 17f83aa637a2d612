//! Do time and nesting only ever narrow? Grants and time.

use std::process::Command;
use std::time::{Duration, Instant};

use kin_tests::{Actor, World, binary, eventually, record};
use nix::errno::Errno;
use serde_json::json;

use super::jk::exchange;
use crate::{API, DATABASE, REFUSED, SOON, database};

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

/// What stands between a broker and the wall clock: a library that adds the seconds in a file to it.
const WALL_CLOCK: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int done = syscall(SYS_clock_gettime, clock, time), fd;
    char seconds[32] = "";
    if (clock == CLOCK_REALTIME && (fd = open(SECONDS, O_RDONLY | O_CLOEXEC)) >= 0) {
        if (read(fd, seconds, sizeof seconds - 1) > 0)
            time->tv_sec += atoll(seconds);
        close(fd);
    }
    return done;
}
"#;

/// A broker whose wall clock the test can set.
fn broker_with_a_wall_clock(world: &World) -> (kin_tests::Daemon, std::path::PathBuf) {
    let [source, library, seconds] = ["wall.c", "wall.so", "seconds"].map(|name| world.path(name));
    std::fs::write(&source, WALL_CLOCK).expect("a source");
    std::fs::write(&seconds, "0").expect("no offset");
    let mut compiler = world.program("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source);
    compiler.arg(format!("-DSECONDS={seconds:?}"));
    assert!(compiler.status().is_ok_and(|status| status.success()), "a library: {compiler:?}");
    // A broker starts again without what it could not have made itself, LD_PRELOAD included. Where its environment is
    // that already it does not, and the loader takes the library as an argument (ld.so(8)).
    let said = world.program(binary());
    let variables: Vec<_> =
        said.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
    let get = |name: &str| variables.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone());
    let mut command = Command::new(loader());
    command.arg("--preload").arg(&library).arg(binary());
    command.env_clear().envs(kin_broker::children::programs::environment(&get));
    (world.foreground_by(command), seconds)
}

/// The program that loads this one's libraries.
fn loader() -> std::path::PathBuf {
    let directories = ["/lib64", "/lib"]
        .into_iter()
        .flat_map(|directory| std::fs::read_dir(directory).into_iter().flatten());
    let mut files = directories.flatten().map(|entry| entry.path());
    let is_loader = |path: &std::path::PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-linux"))
    };
    files.find(is_loader).expect("a loader")
}

#[test]
fn e02_a_wall_clock_moved_by_a_year_moves_no_deadline() {
    const YEAR: i64 = 366 * 24 * 60 * 60;
    let world = World::ready();
    world.kin(["stop"]).run().exits(0);
    let (_broker, seconds) = broker_with_a_wall_clock(&world);
    let before = Instant::now();
    let member = world.member(&["--ttl", "4s", "--for-first", "4s"]);
    let after = Instant::now();
    let wait_until = |time: Instant| std::thread::sleep(time.saturating_duration_since(Instant::now()));
    for (offset, millis) in [(0, 500), (YEAR, 1500), (-YEAR, 2500), (YEAR, 3500)] {
        std::fs::write(&seconds, offset.to_string()).expect("the wall clock is set");
        wait_until(before + Duration::from_millis(millis));
        assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)), "at {millis} ms");
    }
    assert!(Instant::now() < before + Duration::from_secs(4), "the machine was too slow to tell");
    std::fs::write(&seconds, (-YEAR).to_string()).expect("the wall clock is set");
    wait_until(after + Duration::from_millis(4500));
    assert_eq!(member.cat(&world.file(DATABASE)), Err(REFUSED));
    let records = world.audit();
    let year = |line: &&serde_json::Value| record::text(line, "time")[..4].to_owned();
    let years: std::collections::BTreeSet<String> =
        record::of(&records, "open.allow").iter().map(year).collect();
    assert_eq!(years.len(), 3, "the record shows each wall clock: {years:?}");
    assert_eq!(record::reason(record::of(&records, "grant.expire")[0]), "ttl_expired");
}

#[test]
fn e04_a_time_that_is_none_is_refused() {
    let world = World::ready();
    for bad in
        ["0", "0s", "-1", "1ns", "10m5", "NaN", "18446744073709551616", "18446744073709551616s", "31d", ""]
    {
        let said = world.kin(["run", &format!("--ttl={bad}"), "--", "true"]).run();
        said.refuses(2, &["is not a time from 1s to 30d"]);
    }
    assert!(record::of(&world.audit(), "grant.create").is_empty());
}

#[test]
fn e05_an_id_is_random_and_authorises_nothing() {
    let world = World::ready();
    let member = world.member(&[]);
    for _ in 0..40 {
        world.kin(["run", "--", "true"]).run().exits(0);
    }
    let id = world.grants()[0]["id"].as_str().expect("an id").to_owned();
    let known = [("KIN_GRANT".to_owned(), id.clone()), ("KIN_GRANT_ID".to_owned(), id.clone())];
    let outsider = world.outsider_with(&known);
    assert_eq!(outsider.cat(&world.file(DATABASE)), Err(REFUSED));
    for path in [world.file(DATABASE).join(&id), world.mountpoint().join(&id).join(DATABASE)] {
        assert!(outsider.cat(&path).is_err(), "{}", path.display());
    }
    assert!(member.cat(&world.file(DATABASE)).is_ok());
    let records = world.audit();
    let ids: Vec<u128> = record::of(&records, "grant.create")
        .iter()
        .map(|line| u128::from_str_radix(record::text(line, "grant"), 16).expect("32 digits"))
        .collect();
    assert_eq!(ids.len(), 41);
    // That one of 128 random bits is the same 41 times happens once in 10^10 runs.
    let (all, any) = ids.iter().fold((u128::MAX, 0), |(all, any), id| (all & id, any | id));
    assert_eq!((all, any), (0, u128::MAX), "no bit is fixed");
}

#[test]
fn e06_nobody_extends_or_widens_a_grant_and_everybody_of_the_user_may_revoke_it() {
    let world = World::ready();
    let member = world.member(&["--ttl", "1m", "--only", API, "--max-opens", "9"]);
    let shape = || {
        let grant = world.grants()[0].clone();
        assert!(grant["ttl_left_ms"].as_u64().expect("a time") <= 60_000, "{grant}");
        (grant["id"].clone(), grant["bindings"].clone(), grant["opens_left"].clone())
    };
    let before = shape();
    // Only a keeper says that, of its own grant, and there is no word for more.
    for said in [
        json!({ "verb": "command_started", "pid": member.pid() }),
        json!({ "verb": "tell_versions" }),
        json!({ "verb": "finish", "ending": "tree_exit" }),
    ] {
        let mut request = said.clone();
        request["protocol"] = json!(kin_broker::control::protocol::PROTOCOL);
        let answer = exchange(&world, &request).expect("an answer");
        assert_eq!(answer["failed"]["code"], "bad_request", "{said}: {answer}");
    }
    for option in [&["--only", DATABASE][..], &["--only", "API_KEY,DATABASE_URL"]] {
        let mut line = world.run_line(option);
        line.truncate(4);
        line.extend(["--".into(), "true".into()]);
        let (code, _, errors) = member.run(&line.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(code == 5 && errors.contains(DATABASE), "{code}: {errors}");
    }
    let line = world.run_line(&["--ttl", "30d", "--max-opens", "1000"]);
    let inner = member.spawn(&line.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(inner.cat(&world.file(API)).is_ok());
    let grants = world.grants();
    let inner_left = grants[1]["ttl_left_ms"].as_u64().expect("a time");
    assert!(inner_left <= 60_000 && grants[1]["opens_left"] == 8, "{grants:#?}");
    assert_eq!(shape(), (before.0.clone(), before.1, json!(8)));
    world.kin(["revoke", before.0.as_str().expect("an id")]).run().exits(0);
    assert_eq!(member.cat(&world.file(API)), Err(REFUSED));
    assert!(record::of(&world.audit(), "grant.revoke").iter().any(|line| line["grant"] == before.0));
}

#[test]
fn e10_a_broker_that_died_voids_its_grants_and_the_wrapper_says_so() {
    let world = World::ready();
    let (first, second) = (world.member(&[]), world.member(&["--ttl", "1h"]));
    assert!(first.cat(&world.file(DATABASE)).is_ok());
    world.crash();
    assert_eq!(first.cat(&world.file(DATABASE)), Err(Errno::ENOTCONN));
    for member in [&first, &second] {
        let void = || member.errors().matches("the broker stopped; its grants are void").count();
        eventually("the wrapper says so", SOON, || void() > 0);
        assert_eq!((void(), member.errors().lines().count()), (1, 1), "in one line: {}", member.errors());
    }
    world.kin(["daemon"]).run().exits(0);
    for member in [&first, &second] {
        assert_eq!(member.cat(&world.file(DATABASE)), Err(REFUSED));
    }
    assert!(world.grants().is_empty());
    let records = world.audit();
    let started = record::of(&records, "broker.start")[1];
    assert_eq!((&started["unclean"], &started["grants_lost"]), (&json!(true), &json!(2)), "{started}");
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
        eventually("the inner grant ends", SOON, || world.grants().len() == 1);
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
