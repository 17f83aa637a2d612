//! Can somebody pass for a member who is none? Identity and ancestry.

use kin_tests::{Actor, Identity, Probe, World, record};
use nix::errno::Errno;
use serde_json::{Value, json};

use crate::{API, DATABASE, REFUSED, SOON, database};

/// The records of what `probe` was allowed.
fn allowed(records: &[Value], pid: u32) -> Vec<&Value> {
    record::by(records, pid.into()).into_iter().filter(|line| record::event(line) == "open.allow").collect()
}

fn refused_everything(outsider: &dyn Actor, world: &World) {
    for name in [DATABASE, API, "made-up"] {
        let path = world.file(name);
        assert_eq!(outsider.cat(&path), Err(REFUSED), "{name}");
        assert_eq!(outsider.stat(&path), Err(REFUSED), "{name}");
        for mode in [0, 1, 2, 4] {
            let access = outsider.ask("access", json!({ "path": path, "mode": mode }));
            assert!(matches!(access, Err(REFUSED | Errno::EROFS)), "{name}, mode {mode}: {access:?}");
        }
    }
    let project = world.mountpoint().join("api");
    assert_eq!(outsider.list(&project), Err(REFUSED));
    assert_eq!(outsider.stat(&project), Err(REFUSED));
    assert_eq!(outsider.ask("chdir", json!({ "path": project })), Err(REFUSED));
}

both! {
    fn a01_an_outsider_learns_nothing_and_is_recorded(identity) {
        let world = World::ready_with(identity);
        let member = world.member(&[]);
        let outsider = world.outsider();
        refused_everything(&outsider, &world);
        // Nor after a member had the names looked up and cached.
        assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
        refused_everything(&outsider, &world);
        let records = world.audit();
        let who = outsider.who();
        let denied: Vec<&Value> =
            record::by(&records, outsider.pid().into()).into_iter().filter(|r| record::is_denial(r)).collect();
        assert!(!denied.is_empty(), "{records:#?}");
        for line in &denied {
            assert_eq!(record::event(line), "open.deny", "{line}");
            assert_eq!(record::reason(line), "no_grant", "{line}");
            for field in ["start", "exe", "comm", "uid"] {
                assert_eq!(line[field], who[field], "{field} of {line}");
            }
            assert_eq!(line["tid"], who["pid"], "{line}");
            assert_eq!(record::chain(line).first(), Some(&u64::from(std::process::id())), "{line}");
        }
        assert!(allowed(&records, outsider.pid()).is_empty());
    }

    fn a02_members_of_every_depth_are_members(identity) {
        let world = World::ready_with(identity);
        let member = world.member(&[]);
        let keeper = world.keeper(0);
        let path = world.file(DATABASE);
        assert_eq!(member.cat(&path), Ok(database(&world)));
        let child = member.child("fork");
        assert_eq!(child.cat(&path), Ok(database(&world)));
        let request = json!({ "depth": 50, "request": { "op": "cat", "args": { "path": path } } });
        let deep = member.ask("deep", request).expect("an answer from below");
        assert_eq!(deep["answer"]["errno"], Value::Null, "{deep}");
        let orphan = member.child("orphan");
        assert_eq!(orphan.ask("who", json!({})).expect("an answer")["ppid"], keeper);
        assert_eq!(orphan.cat(&path), Ok(database(&world)));
        let grant = world.grants()[0]["id"].clone();
        let records = world.audit();
        let far = deep["who"]["pid"].as_u64().expect("a pid") as u32;
        for (pid, depth) in [(member.pid(), 1), (child.pid(), 2), (far, 51), (orphan.pid(), 1)] {
            let lines = allowed(&records, pid);
            assert_eq!(lines.len(), 1, "{records:#?}");
            assert_eq!(lines[0]["grant"], grant);
            let chain = record::chain(lines[0]);
            assert_eq!(chain.iter().position(|above| *above == u64::from(keeper)), Some(depth - 1), "{chain:?}");
        }
    }

    fn a03_a_thread_that_is_not_the_main_one_is_its_process(identity) {
        let world = World::ready_with(identity);
        let member = world.member(&[]);
        let request = json!({ "request": { "op": "cat", "args": { "path": world.file(DATABASE) } } });
        let told = member.ask("thread", request.clone()).expect("an answer");
        assert_ne!(told["tid"], json!(member.pid()));
        assert!(told["answer"]["ok"].is_string(), "{told}");
        let records = world.audit();
        let lines = allowed(&records, member.pid());
        assert_eq!(lines.len(), 1, "{records:#?}");
        assert_eq!(lines[0]["tid"], told["tid"]);
        let outside = world.outsider().ask("thread", request).expect("an answer");
        assert_eq!(outside["answer"]["errno"], REFUSED as i32, "{outside}");
    }

    fn a05_a_name_that_looks_like_a_stat_line_is_only_a_name(identity) {
        let world = World::ready_with(identity);
        let _member = world.member(&[]);
        let keeper = world.keeper(0);
        for name in [format!("x) S {keeper} ("), format!("x\n) S {keeper}"), format!("x\nPPid:\t{keeper}\n")] {
            let outsider = world.outsider();
            outsider.ask("setcomm", json!({ "name": name })).expect("a name");
            assert_eq!(outsider.cat(&world.file(DATABASE)), Err(REFUSED), "{name:?}");
            let below = outsider.child("fork");
            assert_eq!(below.cat(&world.file(DATABASE)), Err(REFUSED), "{name:?}");
        }
        let log = std::fs::read_to_string(world.log_file()).expect("the log");
        assert!(log.lines().all(|line| line.starts_with('{') && line.ends_with('}')), "a record was split");
    }

    fn a09_nothing_in_an_environment_is_authority(identity) {
        let world = World::ready_with(identity);
        let member = world.member(&[]);
        assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
        let outsider = world.outsider_with(&variables(&member));
        let place = std::fs::read_link(format!("/proc/{}/cwd", member.pid())).expect("the member's directory");
        outsider.ask("chdir", json!({ "path": place })).expect("the same directory");
        refused_everything(&outsider, &world);
        // Nor where the directory itself is reached through the member.
        member.ask("chdir", json!({ "path": world.mountpoint().join("api") })).expect("a member may go there");
        let through = format!("/proc/{}/cwd/{DATABASE}", member.pid());
        assert_eq!(outsider.cat(through.as_ref()), Err(REFUSED));
        assert_eq!(member.cat(DATABASE.as_ref()), Ok(database(&world)));
    }
}

both! {
    fn a02_a_member_that_adopts_orphans_itself_changes_nothing(identity) {
        let world = World::ready_with(identity);
        let member = world.member(&[]);
        member.ask("subreaper", json!({})).expect("prctl");
        let child = member.child("fork");
        let orphan = child.child("orphan");
        assert_eq!(orphan.ask("who", json!({})).expect("an answer")["ppid"], member.pid());
        assert_eq!(orphan.cat(&world.file(DATABASE)), Ok(database(&world)));
        let outsider = world.outsider();
        outsider.ask("subreaper", json!({})).expect("prctl");
        assert_eq!(outsider.child("orphan").cat(&world.file(DATABASE)), Err(REFUSED));
    }

    fn a20_a_member_is_known_by_a_long_chain_and_one_that_is_too_long_is_refused(identity) {
        let world = World::ready_with(identity);
        let file = world.file(DATABASE);
        for (depth, code) in [("1000", 0), ("5000", 1)] {
            let line = ["run", "--", "sh", "-c", CHAIN, CHAIN, depth, file.to_str().expect("a path in UTF-8")];
            let ended = world.kin(line).within(std::time::Duration::from_secs(150)).run().exits(code);
            assert_eq!(ended.stdout == database(&world), code == 0, "{ended}");
        }
        let records = world.audit();
        // The kernel has forgotten the file's name by then, so the second one is refused where it is looked up, once or twice.
        let answered = |line: &&Value| ["open.allow", "open.deny"].contains(&record::event(line));
        let opens: Vec<&Value> = records.iter().filter(answered).collect();
        let mut said: Vec<(&str, &str)> = opens.iter().map(|line| (record::event(line), record::reason(line))).collect();
        said.dedup();
        assert_eq!(said, [("open.allow", ""), ("open.deny", "ancestry_too_deep")], "{opens:#?}");
    }
}

/// So many shells, each the parent of the next, and the last one's `cat`.
const CHAIN: &str = r#"if [ "$1" -gt 1 ]; then sh -c "$0" "$0" $(($1 - 1)) "$2"; else cat "$2"; fi; exit $?"#;

fn variables(member: &Probe) -> Vec<(String, String)> {
    let all = member.ask("environ", json!({})).expect("its environment");
    let pairs = all.as_object().into_iter().flatten();
    pairs.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

#[test]
fn a10_a_grant_ends_with_its_keeper_also_while_that_is_a_zombie() {
    let world = World::ready();
    let member = world.member(&[]);
    kin_tests::process::signal(world.keeper(0), nix::sys::signal::Signal::SIGKILL);
    kin_tests::eventually("the grant ends", SOON, || member.cat(&world.file(DATABASE)) == Err(REFUSED));
}

#[test]
fn the_root_lists_empty_for_everybody() {
    let world = World::ready_with(Identity::Native);
    let member = world.member(&[]);
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
    for probe in [&member, &world.outsider()] {
        assert_eq!(probe.list(&world.mountpoint()), Ok(Vec::new()));
        assert!(probe.stat(&world.mountpoint()).is_ok());
    }
}

/// Rows that only root can stage.
mod needs_root {
    use super::*;

    /// What pidfds tell needs no look into `/proc`; what only `/proc` tells is refused where it hides.
    #[test]
    fn a18_where_proc_hides_processes_members_read_and_others_do_not() {
        let name = "attacks::a::needs_root::a18_where_proc_hides_processes_members_read_and_others_do_not";
        if kin_tests::as_nobody_under_hidepid(name) == kin_tests::Role::Done {
            return;
        }
        let world = World::ready();
        let (member, outsider) = (world.member(&[]), world.outsider());
        let orphan = member.child("orphan");
        for reader in [&member as &dyn Actor, &member.child("fork"), &orphan] {
            assert_eq!(reader.cat(&world.file(DATABASE)), Ok(database(&world)));
        }
        refused_everything(&outsider, &world);
        let hidden = member.child("fork");
        hidden.ask("not_dumpable", json!({})).expect("prctl");
        assert_eq!(hidden.cat(&world.file(DATABASE)), Err(REFUSED));
        let records = world.audit();
        let denied = record::by(&records, hidden.pid().into());
        assert!(denied.iter().all(|line| record::reason(line) == "identity_unverifiable"), "{denied:#?}");
        let report = world.kin(["doctor"]).run();
        assert!(report.text().contains("hidepid="), "{report}");
    }
}
