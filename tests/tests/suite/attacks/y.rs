//! Does it stay right under load? Rows Y, and those of other letters that need very many at a time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use kin_tests::{Actor, Crowd, Probe, World, eventually, record, soak};
use serde_json::{Value, json};

use crate::{API, DATABASE, REFUSED, SOON, database};

/// Many grants, and quickly made; `scripts/soak` does 10,000.
const MANY: u64 = 1_000;

/// The manifest of a project with `count` files, `file0` and so on, each with a secret of its own.
fn many_files(world: &World, count: usize) -> Vec<String> {
    let bindings = (0..count).map(|number| format!("file{number} = \"many/s{number}\"\n"));
    let manifest =
        format!("schema = 1\n[project]\nname = \"api\"\n[bindings]\n{}", bindings.collect::<String>());
    // Of very many a few are canaries: the record is searched for each of them.
    let canaries = if count > 50 { 5 } else { count };
    let values = (0..count).map(|number| match (format!("many/s{number}"), number < canaries) {
        (reference, true) => world.secret(&reference),
        (reference, false) => {
            let value = kin_tests::canary::canary();
            world.set(&reference, value.as_bytes());
            value
        }
    });
    let values = values.collect();
    world.manifest(&manifest);
    world.trust();
    values
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("a canary is text")
}

/// What `kin-load` is asked for: `times` reads that must give `value`, or nothing.
fn reads(world: &World, file: &str, value: Option<&str>, times: u64, rate: u64) -> Value {
    json!({ "path": world.file(file), "value": value, "times": times, "rate": rate })
}

/// Asks all of them at the same time.
fn at_once(probes: &[(Probe, Value)], op: &str) -> Vec<Value> {
    for (probe, arguments) in probes {
        probe.begin(op, arguments);
    }
    probes.iter().map(|(probe, _)| probe.end()).collect()
}

#[track_caller]
fn is_right(answer: &Value) {
    assert_eq!((&answer["wrong"], &answer["crossed"]), (&json!(0), &json!(0)), "{answer}");
}

fn revoked(world: &World) -> Vec<String> {
    let records = world.audit();
    let of = record::of(&records, "grant.revoke");
    of.into_iter().map(|line| record::text(line, "grant").to_owned()).collect()
}

/// Each of the crowd, and one more, has ended by exactly one record.
fn all_ended_once(world: &World, crowd: &Crowd) {
    let mut ended = revoked(world);
    let all = ended.len();
    ended.sort_unstable();
    ended.dedup();
    let expected = crowd.granted.len() + 1;
    assert_eq!((all, ended.len()), (expected, expected));
    assert!(crowd.granted.iter().all(|id| ended.binary_search(id).is_ok()));
}

#[test]
fn d09_revoke_all_ends_every_grant_with_one_record_each() {
    let world = World::ready();
    let member = world.member(&[]);
    let many = soak::amount("KIN_SOAK", MANY) as usize;
    let crowd = world.crowd(many);
    // With the member's there are 10,000 at most: the 10,001st is one too many.
    let over = (many + 1).saturating_sub(10_000);
    assert_eq!((crowd.granted.len(), crowd.refused.len()), (many - over, over));
    assert!(crowd.refused.iter().all(|code| code == "grant_limit"), "{:?}", crowd.refused);
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
    let began = Instant::now();
    world.kin(["revoke", "--all"]).run().exits(0);
    let took = began.elapsed();
    assert_eq!(member.cat(&world.file(DATABASE)), Err(REFUSED));
    all_ended_once(&world, &crowd);
    eprintln!("{many} grants revoked in {took:?}");
    soak::hold(many as u64, 0, 0, 0);
    // A second alone on the machine; here others run too.
    assert!(took < Duration::from_secs(10), "{took:?} for {many} grants");
}

#[test]
fn d03_no_thread_is_allowed_anything_once_it_was_refused() {
    let world = World::ready();
    let (rounds, threads) = (soak::amount("KIN_SOAK", 50), 8);
    let count = |answer: &Value, name: &str| answer[name].as_u64().expect("a count");
    let (mut asked, mut late, mut other) = (0, 0, 0);
    for round in 0..rounds {
        let member = world.load_member(&[]);
        member.begin("race", &json!({ "path": world.file(DATABASE), "threads": threads }));
        // Later from round to round, so that the withdrawal meets other states.
        std::thread::sleep(Duration::from_micros(700 * (round % 50)));
        world.kin(["revoke", "--all"]).run().exits(0);
        let answer = member.end();
        (late, other) = (late + count(&answer, "late"), other + count(&answer, "other"));
        // What was allowed, and what each thread was refused.
        asked += count(&answer, "allowed") + 20 * threads;
        if rounds <= 50 {
            assert_eq!((late, other), (0, 0), "round {round}: {answer}");
        }
    }
    soak::hold(asked, late, other, 0);
    none_is_allowed_after_its_revocation(&world.audit(), rounds);
}

fn none_is_allowed_after_its_revocation(records: &[Value], rounds: u64) {
    let revocations = record::of(records, "grant.revoke").into_iter();
    let ended: HashMap<&str, u64> =
        revocations.map(|line| (record::text(line, "grant"), record::seq(line))).collect();
    assert_eq!(ended.len() as u64, rounds);
    let late = |line: &&Value| {
        ended.get(record::text(line, "grant")).is_some_and(|revoked| record::seq(line) > *revoked)
    };
    assert_eq!(record::of(records, "open.allow").into_iter().find(late), None);
}

#[test]
fn y01_fifty_processes_with_fifty_secrets_get_ten_thousand_right_answers() {
    let world = World::ready();
    let count = soak::amount("KIN_SOAK_PROCESSES", 50) as usize;
    let times = soak::amount("KIN_SOAK", 200);
    let values = many_files(&world, count);
    let start = |number: usize| {
        let file = format!("file{number}");
        let (probe, value) = match number % 5 {
            4 => (world.load_outsider(), None),
            _ => (world.load_member(&["--only", &file]), Some(values[number].as_str())),
        };
        (probe, reads(&world, &file, value, times, 0))
    };
    let probes: Vec<(Probe, Value)> = (0..count).map(start).collect();
    let answers = at_once(&probes, "reads");
    let wrong = |outsiders: bool, what: &str| -> u64 {
        let of = answers.iter().enumerate().filter(|(number, _)| (number % 5 == 4) == outsiders);
        of.map(|(_, answer)| answer[what].as_u64().expect("a count")).sum()
    };
    soak::hold(count as u64 * times, wrong(true, "wrong"), wrong(false, "wrong"), wrong(false, "crossed"));
    let slowest = answers.iter().filter_map(|answer| answer["p99"].as_u64()).max();
    let most = kin_tests::process::most_resident(world.broker().pid).expect("a broker");
    assert!(most < 48 << 10, "the broker had {most} KiB resident: it holds what was closed long ago");
    eprintln!("{count} processes, {times} opens each: the slowest process's p99 is {slowest:?} µs");
}

#[test]
fn y02_among_hundreds_of_grants_everybody_reads_its_own() {
    let world = World::ready();
    let crowd = world.crowd(300);
    assert_eq!((crowd.granted.len(), &crowd.refused[..]), (300, &[][..]));
    let (one, other) = (world.member(&["--only", DATABASE]), world.member(&["--only", API]));
    let outsider = world.outsider();
    for _ in 0..20 {
        assert_eq!(one.cat(&world.file(DATABASE)), Ok(database(&world)));
        assert_eq!(other.cat(&world.file(API)), Ok(world.value("api/key")));
        assert_eq!(one.cat(&world.file(API)), Err(nix::errno::Errno::ENOENT));
        assert_eq!(outsider.cat(&world.file(DATABASE)), Err(REFUSED));
    }
    let front = crowd.pid();
    drop(crowd);
    eventually("the grants end with their front", 10 * SOON, || world.grants().len() == 2);
    assert_eq!(kin_tests::process::tree(front), []);
    assert_eq!(one.cat(&world.file(DATABASE)), Ok(database(&world)));
}

#[test]
fn y03_a_fork_bomb_in_one_tree_changes_no_answer_for_others() {
    let world = World::ready();
    let value = text(database(&world));
    let bomb = world.load_member(&[]);
    let member = (world.load_member(&[]), reads(&world, DATABASE, Some(&value), 2_000, 0));
    let outsider = (world.load_outsider(), reads(&world, DATABASE, None, 500, 0));
    let fuse = json!({ "path": world.file(DATABASE), "value": value, "forks": 2_000, "alive": 100 });
    bomb.begin("bomb", &fuse);
    at_once(&[member, outsider], "reads").iter().for_each(is_right);
    let burnt = bomb.end();
    assert_eq!((&burnt["made"], &burnt["wrong"]), (&json!(2_000), &json!(0)), "{burnt}");
}

#[test]
fn y07_a_flood_of_denied_opens_changes_no_answer_and_stays_small_in_the_record() {
    let world = World::ready();
    let value = text(database(&world));
    let before = std::fs::metadata(world.log_file()).expect("the log").len();
    let flood = (world.load_outsider(), reads(&world, DATABASE, None, 10_000, 5_000));
    let member = (world.load_member(&[]), reads(&world, DATABASE, Some(&value), 200, 100));
    at_once(&[flood, member], "reads").iter().for_each(is_right);
    let grown = std::fs::metadata(world.log_file()).expect("the log").len() - before;
    assert!(grown < 512 << 10, "{grown} bytes for 200 opens and a flood");
    let records = world.audit();
    let denied: u64 = records.iter().filter(|line| record::is_denial(line)).map(record::denials).sum();
    // An open that finds the name in the kernel's cache just as its 1 ms ends is refused twice: where the kernel asks
    // whether the name still holds, and where it looks for the name anew (fuse_dentry_revalidate, then fuse_lookup).
    assert!((10_000..=20_000).contains(&denied), "none is lost from the count: {denied}");
}

#[test]
fn e12_a_grant_over_the_limit_is_refused_and_others_are_unaffected() {
    let world = World::new();
    // Of 800 descriptors grants get half, one each; where a broker may have more, the limit is 10,000.
    let _broker = world.foreground_with_descriptors(800);
    let world = world.furnished();
    let member = world.member(&[]);
    let crowd = world.crowd(459);
    assert_eq!(crowd.granted.len(), 399);
    assert_eq!(crowd.refused, vec!["grant_limit"; 60]);
    world.kin(["run", "--", "true"]).run().refuses(5, &["400 grants"]);
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
    assert_eq!(world.outsider().cat(&world.file(DATABASE)), Err(REFUSED));
    world.kin(["revoke", "--all"]).run().exits(0);
    assert_eq!(member.cat(&world.file(DATABASE)), Err(REFUSED));
    all_ended_once(&world, &crowd);
    drop((crowd, member));
    eventually("their keepers are gone", 5 * SOON, || world.kin(["run", "--", "true"]).run().code() == 0);
}
