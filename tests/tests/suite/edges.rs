//! Does a grant reach as often, as long and as far as it says, and no further?

use std::time::Duration;

use kin_tests::{Actor, Part, Probe, World, record};
use nix::errno::Errno;
use serde_json::{Value, json};

use crate::{API, DATABASE, REFUSED, database};

/// A world whose `DATABASE_URL` has these edges beside its reference.
fn world_with(identity: kin_tests::Identity, edges: &str) -> World {
    let world = World::ready_with(identity);
    world.manifest(&format!(
        "schema = 1\n[project]\nname = \"api\"\n[bindings]\n\
         DATABASE_URL = {{ ref = \"db/url\", {edges} }}\nAPI_KEY = \"api/key\"\n"
    ));
    world.trust();
    world
}

fn world(edges: &str) -> World {
    world_with(kin_tests::Identity::Native, edges)
}

fn nested<'p>(world: &World, outer: &'p Probe, options: &[&str]) -> Part<'p> {
    let line = world.run_line(options);
    outer.spawn(&line.iter().map(String::as_str).collect::<Vec<_>>())
}

/// How many denials there are for this reason.
fn denials(records: &[Value], reason: &str) -> u64 {
    let denied = records.iter().filter(|line| record::is_denial(line) && record::reason(line) == reason);
    denied.map(record::denials).sum()
}

both! {
    fn eight_threads_get_exactly_as_many_opens_as_the_grant_has(identity) {
        let world = World::ready_with(identity);
        let member = world.member(&["--max-opens", "50"]);
        let burst = json!({ "path": world.file(DATABASE), "threads": 8, "times": 40 });
        assert_eq!(member.ask("burst_by_threads", burst), Ok(json!({ "0": 50, "13": 270 })));
        let grant = &world.grants()[0];
        assert_eq!((&grant["opens"], &grant["opens_left"]), (&json!(50), &json!(0)));
        let records = world.audit();
        assert_eq!(record::of(&records, "open.allow").len(), 50);
        assert_eq!(denials(&records, "max_opens"), 270);
        assert_eq!(record::of(&records, "grant.create")[0]["max_opens"], 50);
    }
}

#[test]
fn the_edges_of_a_binding_are_shown_before_it_is_trusted() {
    let world = world("max_opens = 2, for_first = \"90s\", descend = 3");
    let shown = world.kin(["check"]).run().exits(0).text();
    let levels = "for 3 levels, of which the command is the first";
    for edge in ["opens 2 times for each grant", "opens for the first 1m 30s of a command", levels] {
        assert!(shown.contains(edge), "{edge}: {shown}");
        assert!(world.kin(["trust", "--yes"]).run().exits(0).text().contains(edge), "{edge}");
    }
    let binding = world.kin(["check", "--json"]).run().exits(0).json()["bindings"][1].clone();
    assert_eq!(binding["file"], DATABASE);
    assert_eq!([&binding["max_opens"], &binding["for_first_ms"], &binding["levels"]], [2, 90_000, 3]);
}

#[test]
fn a_file_has_a_number_of_opens_of_its_own() {
    let world = world("max_opens = 2");
    let member = world.member(&["--max-opens", "API_KEY=1", "--max-opens", "DATABASE_URL=9"]);
    let fd = member.open(&world.file(DATABASE)).expect("the first");
    for _ in 0..5 {
        assert_eq!(member.pread(fd, 100, 0), Ok(database(&world)), "reads do not count");
    }
    assert!(member.stat(&world.file(DATABASE)).is_ok(), "nor does looking");
    assert_eq!(member.child("fork").cat(&world.file(DATABASE)), Ok(database(&world)), "the second");
    assert_eq!(member.cat(&world.file(DATABASE)), Err(REFUSED));
    assert!(member.cat(&world.file(API)).is_ok());
    assert_eq!(member.cat(&world.file(API)), Err(REFUSED));
    assert_eq!(member.pread(fd, 100, 0), Ok(database(&world)), "what is open stays open");
    let grant = world.grants()[0].clone();
    let edges = [(API, 0), (DATABASE, 0)].map(
        |(file, left)| json!({ "file": file, "opens_left": left, "window_left_ms": null, "levels": null }),
    );
    assert_eq!((&grant["edges"], &grant["opens_left"]), (&json!(edges), &Value::Null));
    assert_eq!(denials(&world.audit(), "max_opens"), 2);
    world.kin(["run", "--max-opens", "NONE=1", "--", "true"]).run().refuses(2, &["NONE"]);
}

#[test]
fn a_window_closes_for_opens_and_not_for_what_is_open() {
    let world = world("for_first = \"2s\"");
    let narrow = world.member(&["--for-first", "1s"]);
    let member = world.member(&[]);
    assert!(narrow.cat(&world.file(API)).is_ok());
    let fd = member.open(&world.file(DATABASE)).expect("open in time");
    let left = world.grants()[1]["edges"][0]["window_left_ms"].as_u64().expect("a window");
    assert!((1..=2000).contains(&left), "{left}");
    std::thread::sleep(Duration::from_millis(2100));
    assert_eq!(narrow.cat(&world.file(API)), Err(REFUSED), "the whole grant's window");
    assert_eq!(member.cat(&world.file(DATABASE)), Err(REFUSED), "the file's window");
    assert!(member.cat(&world.file(API)).is_ok(), "which is the other file's not");
    assert_eq!(member.pread(fd, 100, 0), Ok(database(&world)));
    assert_eq!(world.grants()[0]["window_left_ms"], 0);
    assert_eq!(denials(&world.audit(), "window_closed"), 2);
    world.kin(["revoke", "--all"]).run().exits(0);
    assert_eq!(member.pread(fd, 100, 0), Err(REFUSED));
}

both! {
    fn what_is_for_the_command_alone_is_for_no_descendant(identity) {
        let world = world_with(identity, "descend = \"child\"");
        let member = world.member(&[]);
        let fd = member.open(&world.file(DATABASE)).expect("open");
        let (child, orphan) = (member.child("fork"), member.child("orphan"));
        for other in [&child, &orphan] {
            assert_eq!(other.cat(&world.file(DATABASE)), Err(REFUSED));
            assert_eq!(other.stat(&world.file(DATABASE)), Err(REFUSED));
            assert_eq!(other.pread(fd, 100, 0), Err(REFUSED), "an inherited descriptor");
            assert_eq!(other.cat(&world.file(API)), Ok(world.value("api/key")));
            assert_eq!(other.list(&world.mountpoint().join("api")), Ok(vec![API.into(), DATABASE.into()]));
        }
        assert_eq!(member.pread(fd, 100, 0), Ok(database(&world)));
        assert!(denials(&world.audit(), "too_far") >= 6);
        // Not as the command's heir either.
        member.ask("subreaper", json!({})).expect("a subreaper");
        assert_eq!(child.child("orphan").cat(&world.file(DATABASE)), Err(REFUSED));
        let left = world.served_below(&member);
        assert!(member.finish().success());
        assert_eq!(left.cat(&world.file(API)), Ok(world.value("api/key")));
        assert_eq!(left.cat(&world.file(DATABASE)), Err(REFUSED));
    }

    fn levels_are_counted_as_they_are_at_the_moment_of_asking(identity) {
        let world = world_with(identity, "descend = 2");
        let member = world.member(&[]);
        let (child, orphan) = (member.child("fork"), member.child("orphan"));
        let grandchild = child.child("fork");
        assert_eq!(child.cat(&world.file(DATABASE)), Ok(database(&world)));
        for other in [&grandchild, &orphan, &orphan.child("fork")] {
            assert_eq!(other.cat(&world.file(DATABASE)), Err(REFUSED));
        }
        // Who was near enough, and is known for it, is no longer once it hangs on the keeper.
        let left = world.served_below(&member);
        let fd = left.open(&world.file(DATABASE)).expect("it is on the second level");
        assert_eq!(left.pread(fd, 100, 0), Ok(database(&world)));
        assert!(member.finish().success());
        assert_eq!(left.cat(&world.file(DATABASE)), Err(REFUSED));
        assert_eq!(left.pread(fd, 100, 0), Err(REFUSED));
    }

    fn a_subreaper_inside_draws_nobody_nearer_than_below_itself(identity) {
        let world = world_with(identity, "descend = 2");
        let member = world.member(&[]);
        let child = member.child("fork");
        let grandchild = child.child("fork");
        for subreaper in [&child, &grandchild] {
            subreaper.ask("subreaper", json!({})).expect("a subreaper");
            assert_eq!(subreaper.child("orphan").cat(&world.file(DATABASE)), Err(REFUSED));
        }
        // One that the command itself adopts is the command's child from then on.
        member.ask("subreaper", json!({})).expect("a subreaper");
        let adopted = member.child("fork");
        assert_eq!(adopted.child("orphan").cat(&world.file(DATABASE)), Ok(database(&world)));
    }
}

#[test]
fn a_nested_run_gets_no_open_more_and_no_window_anew() {
    let world = World::ready();
    let outer = world.member(&["--max-opens", "3", "--for-first", "3s"]);
    assert!(outer.cat(&world.file(DATABASE)).is_ok());
    let inner = nested(&world, &outer, &["--max-opens", "1000", "--for-first", "1h"]);
    assert!(inner.cat(&world.file(DATABASE)).is_ok() && inner.cat(&world.file(API)).is_ok());
    let another = nested(&world, &outer, &[]);
    for member in [&outer as &dyn Actor, &inner, &another] {
        assert_eq!(member.cat(&world.file(DATABASE)), Err(REFUSED));
    }
    let grants = world.grants();
    let counts = |index: usize| (grants[index]["opens"].clone(), grants[index]["opens_left"].clone());
    assert_eq!([counts(0), counts(1)], [(json!(3), json!(0)), (json!(2), json!(0))]);
    let left = grants[1]["window_left_ms"].as_u64().expect("a window");
    assert!(left <= 3000, "the outer window, not the hour: {left}");
    assert_eq!(denials(&world.audit(), "max_opens"), 3);
}

#[test]
fn a_window_that_is_over_stays_over_inside() {
    let world = world("for_first = \"1s\"");
    let outer = world.member(&[]);
    std::thread::sleep(Duration::from_millis(1100));
    let inner = nested(&world, &outer, &["--for-first", "1h"]);
    assert_eq!(inner.cat(&world.file(DATABASE)), Err(REFUSED));
    assert!(inner.cat(&world.file(API)).is_ok());
    assert_eq!(denials(&world.audit(), "window_closed"), 1);
}

#[test]
fn what_is_for_some_levels_alone_is_not_passed_on() {
    let world = world("descend = 9");
    let outer = world.member(&[]);
    assert!(outer.cat(&world.file(DATABASE)).is_ok());
    let inner = nested(&world, &outer, &[]);
    assert_eq!(inner.list(&world.mountpoint().join("api")), Ok(vec![API.into()]));
    assert_eq!(inner.cat(&world.file(DATABASE)), Err(Errno::ENOENT));
    let kin = kin_tests::binary();
    let kin = kin.to_str().expect("a path in UTF-8");
    let (code, _, errors) = outer.run(&[kin, "run", "--only", DATABASE, "--", "true"]);
    assert!(code == 5 && errors.contains(DATABASE), "{code}: {errors}");
}

#[test]
fn edges_that_are_none_are_refused_before_anything_starts() {
    let world = World::ready();
    for bad in ["0", "-1", "NaN", "18446744073709551616", "1.5", "", "API_KEY=0", "API_KEY=", "API_KEY"] {
        let option = format!("--max-opens={bad}");
        world.kin(["run", &option, "--", "true"]).run().refuses(2, &["whole number"]);
    }
    for bad in ["0", "-1", "1ns", "10m5", "NaN", "18446744073709551616", "31d", ""] {
        world.kin(["run", &format!("--for-first={bad}"), "--", "true"]).run().refuses(2, &["a time"]);
    }
    assert!(record::of(&world.audit(), "grant.create").is_empty());
}
