//! Is each refusal in the record, also of what the mount does not show?

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use kin_tests::{Actor, World, record};
use nix::errno::Errno;
use serde_json::Value;

use crate::{DATABASE, REFUSED, database};

/// The refusals of one directory of the mounts.
fn refused<'r>(records: &'r [Value], project: &str) -> Vec<&'r Value> {
    records
        .iter()
        .filter(|line| record::is_denial(line) && record::text(line, "project") == project)
        .collect()
}

both! {
    fn l19_refusals_before_a_projects_first_grant_are_recorded(identity) {
        let world = World::ready_with(identity);
        let read_by_five = || {
            let strangers: Vec<_> = (0..5).map(|_| world.outsider()).collect();
            for stranger in &strangers {
                assert_eq!(stranger.cat(&world.file(DATABASE)), Err(REFUSED));
            }
            let records = world.audit();
            let denied = refused(&records, "api");
            for stranger in &strangers {
                let mut own = denied.iter().filter(|line| record::tgid(line) == Some(stranger.pid().into()));
                let own = own.next().unwrap_or_else(|| panic!("no record of {}", stranger.pid()));
                assert_eq!((record::event(own), record::reason(own)), ("open.deny", "no_grant"), "{own}");
                assert!(record::text(own, "exe").contains("python3") && own["start"].is_u64(), "{own}");
            }
        };
        read_by_five();
        world.kin(["stop"]).run().exits(0);
        world.kin(["daemon"]).run().exits(0);
        // Nobody has asked for the vault yet.
        assert_eq!(world.status()["vault"]["state"], "locked");
        read_by_five();
        let member = world.member(&[]);
        assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
        // What its mount does not show is nothing that a member is refused.
        let before = world.audit().iter().filter(|line| record::is_denial(line)).count();
        assert_eq!(member.cat(&world.mountpoint().join("other/x")), Err(Errno::ENOENT));
        assert_eq!(world.audit().iter().filter(|line| record::is_denial(line)).count(), before);
    }
}

#[test]
fn l19_so_are_those_of_the_mount_that_can_be_written() {
    let world = World::ready();
    world.manifest(
        "schema = 1\n[project]\nname = \"api\"\n[bindings]\nDATABASE_URL = { ref = \"db/url\", writable = true }\n",
    );
    world.trust();
    let _member = world.member(&[]);
    let stranger = world.outsider();
    let asked =
        |path: &Path, how: &str| stranger.ask("open", serde_json::json!({ "path": path, "how": how }));
    assert_eq!(asked(&world.writable_mountpoint().join("other/x"), "read"), Err(REFUSED));
    assert_eq!(asked(&world.writable_mountpoint().join("another"), "new"), Err(REFUSED));
    let records = world.audit();
    for name in ["other", "another"] {
        assert_eq!(refused(&records, name).len(), 1, "{name}: {records:#?}");
    }
}

/// Asks for very many names, and prints the answers that it got.
const MADE_UP: &str = "
import errno, os, sys
seen = set()
for n in range(int(sys.argv[2])):
    try:
        os.stat(f'{sys.argv[1]}/made-up-{n}/x')
        seen.add(0)
    except OSError as error:
        seen.add(error.errno)
print(sorted(seen))
";

#[test]
fn l19_made_up_names_tell_nothing_and_take_no_room() {
    let world = World::ready();
    let (asked, before) = (2_500_u64, std::fs::metadata(world.log_file()).expect("the log").len());
    let memory = || kin_tests::process::most_resident(world.broker().pid).expect("a size");
    // What a first refusal takes is taken once.
    let outsider = world.outsider();
    assert_eq!(outsider.cat(&world.mountpoint().join("made-up/x")), Err(REFUSED));
    let resident = memory();
    let mountpoint = world.mountpoint();
    let said = world.other("/usr/bin/python3", ["-IS", "-c", MADE_UP]).args([mountpoint.as_os_str()]);
    let said = said.args([asked.to_string()]).within(Duration::from_secs(50)).run().exits(0).text();
    assert_eq!(said.trim(), format!("[{}]", Errno::EACCES as i32));
    // The name of a trusted project that was never granted is a name like any other.
    assert_eq!(outsider.cat(&world.file(DATABASE)), Err(REFUSED));
    let records = world.audit();
    let denied = records.iter().filter(|line| record::is_denial(line));
    assert_eq!(denied.map(record::denials).sum::<u64>(), asked + 2);
    let grown = std::fs::metadata(world.log_file()).expect("the log").len() - before;
    assert!(grown < 5 << 20, "{grown} bytes");
    assert!(memory() < resident + (16 << 10), "{resident} KiB, then {} KiB", memory());
}

#[test]
fn l19_the_mounts_root_is_quiet_and_hostile_names_are_one_plain_line() {
    let world = World::ready();
    let outsider = world.outsider();
    let root = world.mountpoint();
    assert!(outsider.stat(&root).is_ok());
    assert_eq!(outsider.list(&root), Ok(Vec::new()));
    assert!(world.other("/usr/bin/df", [&root]).run().status.success());
    let quiet = world.audit();
    assert!(!quiet.iter().any(record::is_denial), "{quiet:#?}");
    let names =
        ["new\nline", "\u{1b}[2J", "\u{202e}gnp", "a\u{200b}b", &"n".repeat(255), ".Trash-1000", "API"];
    for name in names {
        assert_eq!(outsider.cat(&root.join(name).join("x")), Err(REFUSED), "{name:?}");
    }
    let script =
        "import os, sys\ntry: os.stat(os.fsencode(sys.argv[1]) + b'/\\xff\\xfe')\nexcept OSError: pass";
    world.other("/usr/bin/python3", ["-IS", "-c", script]).args([&root]).run().exits(0);
    let records = world.audit();
    let denied: Vec<_> = records.iter().filter(|line| record::is_denial(line)).collect();
    let told: BTreeSet<_> = denied.iter().map(|line| record::text(line, "project")).collect();
    assert_eq!((denied.len(), told.len()), (names.len() + 1, names.len() + 1), "{denied:#?}");
    let log = std::fs::read(world.log_file()).expect("the log");
    assert!(log.iter().all(|byte| *byte == b'\n' || (b' '..=b'~').contains(byte)));
}
