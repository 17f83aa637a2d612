//! What does one open cost, in numbers that no other load on the machine changes?

use std::collections::{BTreeMap, BTreeSet};

use kin_tests::{Actor, Role, World, binary, in_user_namespace, is_root};
use serde_json::json;

use crate::{DATABASE, database};

const CYCLES: usize = 200;
/// How far a total may be off: what a lock that two threads want costs, and the ends of the window.
const NOISE: usize = CYCLES / 10;

const PAGE: &str = include_str!("../../../docs/performance.md");

/// The rows of its table.
const ROWS: usize = 9;

/// Upcalls and system calls of one cycle, as the table of docs/performance.md has them.
fn promised() -> BTreeMap<&'static str, usize> {
    let (_, table) = PAGE.split_once("| One warm open + read + close |").expect("the table");
    let rows = table.lines().skip(2).map_while(|line| line.strip_prefix("| `")?.split_once("` | "));
    rows.map(|(name, count)| (name, count.trim_end_matches(" |").parse().expect("a count"))).collect()
}

/// What the threads did that read `/dev/fuse`, in the lines of `strace -f -x -y`.
fn counted(trace: &str) -> BTreeMap<&str, usize> {
    let lines: Vec<_> = trace.lines().filter_map(|line| line.split_once(' ')).collect();
    let serving: BTreeSet<_> =
        lines.iter().filter(|(_, line)| line.contains("</dev/fuse>")).map(|(thread, _)| *thread).collect();
    let mut counts = BTreeMap::new();
    for (_, line) in lines.iter().filter(|(thread, _)| serving.contains(thread)) {
        let line = line.trim_start();
        let call = line.split_once('(').map(|(call, _)| call).filter(|_| !line.starts_with('<'));
        for name in call.into_iter().chain(upcall(line)) {
            *counts.entry(name).or_default() += 1;
        }
    }
    counts
}

/// The request that a read(2) of `/dev/fuse` returned: the opcode is the fifth byte (fuse(4)).
fn upcall(line: &str) -> Option<&'static str> {
    let returned = line.starts_with("<... read resumed>") || line.starts_with("read(");
    let header = line.split_once("\"\\x").filter(|_| returned)?.1;
    match header.split("\\x").nth(4)? {
        "01" => Some("LOOKUP"),
        "0e" => Some("OPEN"),
        "0f" => Some("READ"),
        "12" => Some("RELEASE"),
        _ => Some("another upcall"),
    }
}

#[test]
fn the_calls_of_one_open_are_counted() {
    // Below strace no program gains rights, so fusermount3 needs them already.
    if !is_root() && in_user_namespace("costs::the_calls_of_one_open_are_counted") == Role::Done {
        return;
    }
    let world = World::new();
    let trace = world.path("trace");
    let mut strace = world.program("strace");
    strace.args(["-f", "-qq", "-x", "-y", "-s", "8", "-o"]).arg(&trace).arg(binary());
    let mut daemon = world.foreground_by(strace);
    let world = world.furnished();
    let member = world.load_member(&[]);
    let value = String::from_utf8(database(&world)).expect("a canary is text");
    let read = |times: usize| {
        let arguments = json!({ "path": world.file(DATABASE), "value": value, "times": times });
        let answer = member.ask("reads", arguments).expect("reads");
        assert_eq!((&answer["wrong"], &answer["crossed"]), (&json!(0), &json!(0)), "{answer}");
        std::fs::read_to_string(&trace).expect("the trace").len()
    };
    let (from, to) = (read(20), read(CYCLES));
    let trace = std::fs::read_to_string(&trace).expect("the trace");
    let counts = counted(&trace[from..to]);
    let promised = promised();
    assert_eq!(promised.len(), ROWS, "{promised:?}");
    // The kernel keeps a name for a tick or two, and strace makes a cycle that long: how often it asks for it is a
    // matter of time. Each such question is no more than two of any call.
    let lookups = counts.get("LOOKUP").copied().unwrap_or(0);
    assert!(lookups <= CYCLES + NOISE, "{counts:?}");
    for name in counts.keys().filter(|name| **name != "LOOKUP").chain(promised.keys()) {
        let (found, wanted) = (counts.get(name).unwrap_or(&0), promised.get(name).unwrap_or(&0));
        assert!(
            found.abs_diff(wanted * CYCLES) <= NOISE + 2 * lookups,
            "{name}: {found}, not {wanted} in each: {counts:?}"
        );
    }
    drop(member);
    world.kin(["stop"]).run().exits(0);
    daemon.wait(std::time::Duration::from_secs(10));
}
