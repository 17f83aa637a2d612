//! Can somebody get in from another namespace, or as another user? The second is the kernel's refusal, and
//! nothing may weaken it.

use kin_tests::{Actor, Part, Probe, World, eventually, is_root, mount, process, record};
use serde_json::{Value, json};

use crate::private::{credentials, env, laid, nothing_is_left};
use crate::{API, DATABASE, REFUSED, SOON, database};

const NOBODY: u32 = 65534;

#[test]
fn c06_the_mount_is_for_its_user_alone() {
    let world = World::ready();
    let _member = world.member(&[]);
    let mounts = mount::mounts_on(&world.mountpoint());
    let [mount] = &mounts[..] else { panic!("not one mount: {mounts:?}") };
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(mount.options.iter().any(|own| own == option), "no {option}: {mount:?}");
    }
    let user = format!("user_id={}", nix::unistd::getuid());
    assert!(mount.super_options.contains(&user), "{mount:?}");
    assert!(!mount.super_options.iter().any(|option| option == "allow_other"), "{mount:?}");
}

const NEW_USER: u64 = 0x1000_0000;

/// A process below `member` in namespaces of its own.
fn spawned<'m>(member: &'m Probe, world: &World, unshare: &[&str]) -> Part<'m> {
    let probe = world.path("probe.py");
    let probe = ["/usr/bin/python3", "-IS", probe.to_str().expect("a path in UTF-8")];
    let line: Vec<&str> = ["unshare"].iter().chain(unshare).chain(&["--"]).chain(&probe).copied().collect();
    member.spawn(&line)
}

fn refused_from_elsewhere(world: &World, reader: &dyn Actor) {
    for name in [DATABASE, API, "made-up"] {
        assert_eq!(reader.cat(&world.file(name)), Err(REFUSED), "{name}");
        assert_eq!(reader.stat(&world.file(name)), Err(REFUSED), "{name}");
    }
    assert_eq!(reader.list(&world.mountpoint().join("api")), Err(REFUSED));
}

/// Why each process was refused, by the record: one word.
fn reasons(world: &World) -> Vec<String> {
    let records = world.audit();
    let mut reasons: Vec<String> = records
        .iter()
        .filter(|line| record::is_denial(line))
        .map(|line| record::reason(line).into())
        .collect();
    reasons.sort();
    reasons.dedup();
    reasons
}

both! {
    fn c01_a_member_in_a_namespace_of_its_own_is_refused(identity) {
        let world = World::ready_with(identity);
        let member = world.member(&[]);
        for unshare in [
            &["--user"][..],
            &["--user", "--map-root-user"],
            &["--user", "--map-current-user"],
            &["--user", "--map-root-user", "--pid", "--fork"],
        ] {
            let elsewhere = spawned(&member, &world, unshare);
            refused_from_elsewhere(&world, &elsewhere);
            elsewhere.dismiss();
        }
        assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
        assert_eq!(reasons(&world), ["ns_mismatch"]);
    }

    fn c01_a_known_member_that_leaves_its_namespace_is_refused_from_then_on(identity) {
        let world = World::ready_with(identity);
        let member = world.member(&[]);
        let leaver = member.child("fork");
        let fd = leaver.open(&world.file(DATABASE)).expect("open");
        assert_eq!(leaver.pread(fd, 100, 0), Ok(database(&world)));
        leaver.ask("unshare", json!({ "flags": NEW_USER })).expect("a user namespace");
        assert_eq!(leaver.pread(fd, 100, 0), Err(REFUSED));
        refused_from_elsewhere(&world, &leaver);
        assert_eq!(reasons(&world), ["ns_mismatch"]);
    }

    fn c01_a_member_that_hides_where_it_is_reads_nothing(identity) {
        let world = World::ready_with(identity);
        let member = world.member(&[]);
        let hidden = member.child("fork");
        hidden.ask("not_dumpable", json!({})).expect("prctl");
        assert_eq!(hidden.cat(&world.file(DATABASE)), Ok(database(&world)));
        hidden.ask("unshare", json!({ "flags": NEW_USER })).expect("a user namespace");
        refused_from_elsewhere(&world, &hidden);
    }

    fn c01_a_binding_for_any_namespace_opens_there_and_the_record_says_so(identity) {
        let world = World::ready_with(identity);
        world.manifest(
            "schema = 1\n[project]\nname = \"api\"\n[bindings]\nAPI_KEY = \"api/key\"\n\
             DATABASE_URL = { ref = \"db/url\", namespaces = \"any\" }\n",
        );
        world.trust();
        let member = world.member(&[]);
        let elsewhere = spawned(&member, &world, &["--user", "--map-root-user", "--pid", "--fork"]);
        assert_eq!(elsewhere.list(&world.mountpoint().join("api")), Ok(vec![DATABASE.into()]));
        assert_eq!(elsewhere.cat(&world.file(DATABASE)), Ok(database(&world)));
        assert_eq!(elsewhere.cat(&world.file(API)), Err(REFUSED));
        assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
        let records = world.audit();
        let allowed: Vec<&Value> = record::of(&records, "open.allow");
        let flags: Vec<&Value> = allowed.iter().map(|line| &line["other_namespace"]).collect();
        assert_eq!(flags, [&json!(true), &Value::Null], "{allowed:#?}");
        let made = record::of(&records, "grant.create");
        assert_eq!(made[0]["namespaces"], json!({ (DATABASE): "any" }), "{made:#?}");
    }

    fn c01_a_grant_made_in_a_namespace_is_for_that_one(identity) {
        let world = World::ready_with(identity);
        let outside = world.outsider();
        let mut line = vec!["unshare".to_owned(), "--user".into(), "--map-root-user".into(), "--".into()];
        line.extend(world.run_line(&[]));
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let member = outside.spawn(&line);
        assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
        let child = member.child("fork");
        child.ask("unshare", json!({ "flags": NEW_USER })).expect("a user namespace");
        refused_from_elsewhere(&world, &child);
    }

    fn c01_a_nested_run_from_elsewhere_gets_no_more_than_its_place(identity) {
        let world = World::ready_with(identity);
        let member = world.member(&[]);
        let elsewhere = spawned(&member, &world, &["--user", "--map-root-user"]);
        let kin = kin_tests::binary();
        let kin = kin.to_str().expect("a path in UTF-8");
        let file = world.file(DATABASE);
        let nested = [kin, "run", "--", "cat", file.to_str().expect("a path in UTF-8")];
        let (code, out, errors) = elsewhere.run(&nested);
        assert!(code != 0 && out.is_empty(), "{code} {errors}");
        let only = [kin, "run", "--only", DATABASE, "--", "true"];
        let (code, _, errors) = elsewhere.run(&only);
        assert_eq!(code, 5, "{errors}");
    }

    fn c04_a_program_bound_over_a_pinned_path_is_refused(identity) {
        let world = World::ready_with(identity);
        pinned_cat(&world);
        let member = world.member(&[]);
        let (code, out, errors) = bound_over(&member, &world, &["--user", "--map-root-user", "--mount"]);
        assert!(code != 0 && out.is_empty() && errors.contains("Permission denied"), "{code}: {errors}");
        let records = world.audit();
        let denied: Vec<&Value> = records.iter().filter(|line| record::is_denial(line)).collect();
        assert!(!denied.is_empty(), "{records:#?}");
        for line in denied {
            assert_eq!((record::text(line, "exe"), record::reason(line)), (&*cat(), "ns_mismatch"), "{line}");
        }
    }
}

/// Where `cat` really is.
fn cat() -> String {
    std::fs::canonicalize("/bin/cat").expect("cat").to_str().expect("a path in UTF-8").to_owned()
}

fn pinned_cat(world: &World) {
    let digest = std::process::Command::new("sha256sum").arg(cat()).output().expect("sha256sum").stdout;
    let digest = String::from_utf8(digest).expect("text");
    let (digest, _) = digest.split_once(' ').expect("a digest");
    world.manifest(&format!(
        "schema = 1\n[project]\nname = \"api\"\n[bindings]\n\
         DATABASE_URL = {{ ref = \"db/url\", exe = {{ path = \"{}\", sha256 = \"{digest}\" }} }}\n",
        cat()
    ));
    world.trust();
}

/// `head` at the path of `cat`, and run by that path.
fn bound_over(member: &Probe, world: &World, unshare: &[&str]) -> (i64, Vec<u8>, String) {
    let script = format!("mount --bind /usr/bin/head {0} && exec {0} \"$1\"", cat());
    let file = world.file(DATABASE);
    let line = ["--", "sh", "-c", &script, "sh", file.to_str().expect("a path in UTF-8")];
    let line: Vec<&str> = ["unshare"].iter().chain(unshare).chain(&line).copied().collect();
    member.run(&line)
}

#[test]
fn c04_a_pin_by_path_alone_is_refused_with_the_digest_to_write() {
    let world = World::ready();
    let manifest = |binding: &str| {
        world.manifest(&format!("schema = 1\n[project]\nname = \"api\"\n[bindings]\nDB = {binding}\n"));
        world.kin(["check"]).run()
    };
    let digest = std::process::Command::new("sha256sum").arg(cat()).output().expect("sha256sum").stdout;
    for exe in ["\"/bin/cat\"", "{ path = \"/bin/cat\" }"] {
        let refused = manifest(&format!("{{ ref = \"db/url\", exe = {exe} }}")).refuses(3, &["sha256"]);
        let hint = String::from_utf8_lossy(&digest[..64]).into_owned();
        assert!(refused.stderr.contains(&hint), "{refused}");
    }
    let digest = String::from_utf8_lossy(&digest[..64]).into_owned();
    let relative = format!("{{ ref = \"db/url\", exe = {{ path = \"bin/cat\", sha256 = \"{digest}\" }} }}");
    let _ = manifest(&relative).refuses(3, &["absolute"]);
    let both = format!(
        "{{ ref = \"db/url\", namespaces = \"any\", exe = {{ path = \"/bin/cat\", sha256 = \"{digest}\" }} }}"
    );
    let _ = manifest(&both).refuses(3, &["namespaces"]);
}

#[test]
fn c05_a_private_mount_is_closed_to_who_reaches_it_through_a_member() {
    let world = laid();
    let (member, outsider, other) = (world.member(&["--private"]), world.outsider(), world.member(&[]));
    let pid = member.pid().to_string();
    let paths = [env(&world), credentials(&world), world.file(DATABASE)];
    // The same path there is readable to the member itself: what refuses is not the way.
    let through = |path: &std::path::Path| format!("/proc/{pid}/root{}", path.display());
    for path in &paths {
        assert!(member.cat(through(path).as_ref()).is_ok_and(|value| !value.is_empty()));
        for stranger in [&outsider, &other] {
            assert_eq!(stranger.cat(through(path).as_ref()), Err(REFUSED), "{path:?}");
            let user =
                if is_root() { &["--mount"][..] } else { &["--user", "--preserve-credentials", "--mount"] };
            let line =
                [&["nsenter", "--target", &pid][..], user, &["--", "cat", path.to_str().expect("UTF-8")]];
            let (code, value, errors) = stranger.run(&line.concat());
            assert_eq!((code, value), (1, Vec::new()), "{errors}");
            assert!(errors.contains("Permission denied"), "{errors}");
        }
    }
    let records = world.audit();
    let denied = records.iter().any(|line| line["event"] == "open.deny" && line["reason"] == "no_grant");
    assert!(denied, "{records:#?}");
}

#[test]
fn c10_a_private_mount_is_invisible_outside_and_nothing_of_it_stays() {
    let world = laid();
    let before = mount::mounts_on(&world.mountpoint()).len();
    let member = world.member(&["--private"]);
    let child = member.child("fork");
    assert_eq!(child.cat(&credentials(&world)), Ok(world.value("api/key")));
    for path in [env(&world), credentials(&world)] {
        assert!(mount::mounts_on(&path).is_empty(), "{path:?}");
    }
    assert_eq!((before, mount::mounts_on(&world.mountpoint()).len()), (1, 1));
    assert_eq!(std::fs::read(env(&world)).expect(".env"), b"its own");
    let sessions = || world.broker_threads("private");
    assert_eq!(sessions(), 1);
    let keeper = world.keeper(0);
    process::tree(keeper).iter().for_each(|process| process.kill());
    eventually("the grant ends", SOON, || world.grants().is_empty());
    eventually("the session ends", SOON, || sessions() == 0);
    eventually("the placeholder goes", SOON, || !credentials(&world).exists());
    nothing_is_left(&world);
}

/// Rows that only root can stage.
mod needs_root {
    use super::*;

    #[test]
    fn c06_another_uid_is_refused_inside_a_tree_and_outside() {
        kin_tests::needs_root();
        let world = World::ready();
        let (member, outsider) = (world.member(&[]), world.outsider());
        let project = world.mountpoint().join("api");
        assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
        let root = world.mountpoint();
        for probe in [&member, &outsider] {
            for (directory, name) in [(&project, DATABASE.to_owned()), (&root, format!("api/{DATABASE}"))] {
                let other =
                    probe.ask("as_uid", json!({ "uid": NOBODY, "directory": directory, "name": name }));
                assert_eq!(other, Err(REFUSED));
            }
        }
    }

    #[test]
    fn c06_a_program_with_two_uids_is_refused() {
        kin_tests::needs_root();
        let world = World::ready();
        let member = world.member(&[]);
        let directory = world.mountpoint().join("api");
        for (real, effective) in [(NOBODY, 0), (0, NOBODY)] {
            let request =
                json!({ "real": real, "effective": effective, "directory": directory, "name": DATABASE });
            assert_eq!(member.ask("with_ids", request), Err(REFUSED), "{real}, {effective}");
        }
    }

    #[test]
    fn c01_a_pid_namespace_alone_is_refused() {
        kin_tests::needs_root();
        let world = World::ready();
        let member = world.member(&[]);
        let elsewhere = spawned(&member, &world, &["--pid", "--fork"]);
        refused_from_elsewhere(&world, &elsewhere);
        assert_eq!(reasons(&world), ["ns_mismatch"]);
    }

    /// In the grant's own user namespace it is the content that tells.
    #[test]
    fn c04_a_program_bound_over_a_pinned_path_is_another_program() {
        kin_tests::needs_root();
        let world = World::ready();
        pinned_cat(&world);
        let member = world.member(&[]);
        let (code, out, errors) = bound_over(&member, &world, &["--mount"]);
        assert!(code != 0 && out.is_empty() && errors.contains("Permission denied"), "{code}: {errors}");
        assert_eq!(reasons(&world), ["exe_hash_mismatch"]);
    }

    #[test]
    fn c02_a_broker_in_a_pid_namespace_refuses_readers_outside_and_warns() {
        kin_tests::needs_root();
        let world = World::ready();
        world.kin(["stop"]).run().exits(0);
        let said = world.path("said");
        let script = format!("exec unshare --pid --fork -- \"$0\" \"$@\" 2>{}", said.display());
        let mut command = world.program("sh");
        command.arg("-c").arg(script).arg(kin_tests::binary());
        let daemon = world.foreground_by(command);
        let outsider = world.outsider();
        for path in [world.file(DATABASE), world.mountpoint().join("made-up")] {
            assert_eq!(outsider.cat(&path), Err(REFUSED));
        }
        let said = std::fs::read_to_string(said).expect("what it said");
        assert!(said.starts_with("warning: ") && said.contains("pid namespace"), "{said:?}");
        let broker = kin_tests::process::tree(daemon.pid()).get(1).copied().expect("a broker");
        kin_tests::process::signal(broker.pid, nix::sys::signal::Signal::SIGTERM);
        kin_tests::eventually("it stops", std::time::Duration::from_secs(3), || !broker.is_alive());
    }

    #[test]
    fn c07_a_second_uid_that_a_namespace_maps_is_refused() {
        kin_tests::needs_root();
        let world = World::ready();
        let member = world.member(&[]);
        let request = json!({ "uid": NOBODY, "path": world.file(DATABASE) });
        let answer = member.ask("as_mapped_uid", request).expect("an answer");
        assert_eq!(answer, json!({ "uid": 1, "errno": REFUSED as i32 }));
        assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
    }
}
