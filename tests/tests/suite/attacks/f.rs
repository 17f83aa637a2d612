//! Is the vault that opens the one that was written last, whole, and readable without kin? Vault integrity.

use std::path::PathBuf;

use kin_tests::{Actor, Kin, Role, World, binary, canary, is_root, leaks_below, record};

use crate::{DATABASE, REFUSED, database};

fn vault(world: &World) -> PathBuf {
    world.path("kin/data/vault.age")
}

#[test]
fn f04_an_old_vault_is_refused_and_a_person_who_takes_it_is_recorded() {
    let world = World::ready();
    let old = std::fs::read(vault(&world)).expect("the vault");
    let first = database(&world);
    world.secret("db/url");
    world.kin(["lock"]).run().exits(0);
    std::fs::write(vault(&world), old).expect("the old vault");
    world.kin(["unlock"]).run().refuses(7, &["older", "have", "want"]);
    assert_eq!(world.kin(["unlock", "--json"]).run().exits(7).json_error()["code"], "vault_rollback");
    world.kin(["unlock", "--accept-rollback"]).run().exits(0);
    assert_eq!(world.member(&[]).cat(&world.file(DATABASE)), Ok(first));
    let records = world.audit();
    assert_eq!(record::of(&records, "vault.reject").len(), 3, "{records:#?}");
    assert_eq!(record::of(&records, "vault.accept_rollback").len(), 1, "{records:#?}");
    // It is the newest now: no second word is needed.
    world.kin(["lock"]).run().exits(0);
    world.kin(["unlock"]).run().exits(0);
}

#[test]
fn f04_a_member_takes_no_old_vault() {
    let world = World::ready();
    let member = world.member(&[]);
    let kin = kin_tests::binary();
    let line = [kin.to_str().expect("UTF-8"), "unlock", "--accept-rollback"];
    assert_eq!(member.run(&line).0, 5);
    world.kin(["lock"]).run().exits(0);
    assert_eq!(member.run(&line).0, 5);
    assert_eq!(member.cat(&world.file(DATABASE)), Err(REFUSED));
}

#[test]
fn f12_two_commands_at_a_time_lose_no_secret() {
    const EACH: usize = 60;
    let world = World::ready();
    let kin = kin_tests::binary();
    let writer = |name: &str| {
        let script = format!(
            "for n in $(seq {EACH}); do printf %s {name}-$n | \"$1\" set {name}/$n --stdin >/dev/null || exit 1; done"
        );
        let mut command = world.program("/bin/sh");
        command.args(["-c", &script, "sh"]).arg(&kin).spawn().expect("a shell")
    };
    let mut writers = [writer("first"), writer("second")];
    for writer in &mut writers {
        assert!(writer.wait().expect("wait").success());
    }
    let listed = world.kin(["list", "--json"]).run().exits(0).json();
    let names: Vec<&str> =
        listed.as_array().into_iter().flatten().filter_map(|of| of["reference"].as_str()).collect();
    for name in ["first", "second"] {
        let kept = names.iter().filter(|reference| reference.starts_with(name)).count();
        assert_eq!(kept, EACH, "{names:?}");
    }
}

#[test]
fn a_backup_is_verified_and_brings_back_a_vault_that_was_lost_or_damaged() {
    let world = World::ready();
    let (first, kept) = (database(&world), world.path("kept.age"));
    world.kin(["backup"]).args([&kept]).run().exits(0);
    world.kin(["backup"]).args([&kept]).run().refuses(5, &["there already"]);
    world.secret("db/url");
    world.kin(["set", "later/one", "--generate", "hex"]).run().exits(0);
    world.kin(["restore"]).args([&kept]).run().refuses(5, &["person"]);
    world.kin(["restore", "--yes"]).args([&kept]).run().exits(0);
    assert_eq!(world.member(&[]).cat(&world.file(DATABASE)), Ok(first.clone()));
    world.kin(["show", "later/one"]).run().refuses(2, &["later/one"]);
    for damage in [None, Some(&b"age-encryption.org/v1"[..])] {
        world.kin(["lock"]).run().exits(0);
        match damage {
            None => std::fs::remove_file(vault(&world)).expect("the vault"),
            Some(bytes) => std::fs::write(vault(&world), bytes).expect("the vault"),
        }
        assert_ne!(world.kin(["unlock"]).run().code(), 0);
        world.kin(["restore", "--yes"]).args([&kept]).run().exits(0);
        assert_eq!(world.member(&[]).cat(&world.file(DATABASE)), Ok(first.clone()));
    }
    let mut bytes = std::fs::read(&kept).expect("the backup");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&kept, bytes).expect("the backup");
    world.kin(["restore", "--yes"]).args([&kept]).run().refuses(7, &["kept.age"]);
    let records = world.audit();
    assert_eq!(record::of(&records, "vault.backup").len(), 1, "{records:#?}");
    assert_eq!(record::of(&records, "vault.restore").len(), 3, "{records:#?}");
}

#[test]
fn the_documented_steps_recover_every_value_without_kin() {
    let world = World::ready();
    let (first, second) = (world.value("db/url"), world.secret("db/url").into_bytes());
    let binary: Vec<u8> = (1..=255).cycle().take(1000).collect();
    world.set("binary/value", &binary);
    let recover = world.path("recover.py");
    std::fs::write(&recover, include_str!("../../../../docs/recover.py")).expect("the program");
    let read = |arguments: &[&str]| {
        let script = "age -d -i \"$1\" \"$2\" | /usr/bin/python3 \"$3\" \"$1\" \"${@:4}\"";
        let files = [world.path("identity"), vault(&world), recover.clone()];
        world.other("/bin/bash", ["-o", "pipefail", "-ec", script, "sh"]).args(files).args(arguments).run()
    };
    assert_eq!(read(&[]).exits(0).text(), "api/key 1\nbinary/value 1\ndb/url 1,2\n");
    assert_eq!(read(&["db/url"]).exits(0).stdout, second);
    assert_eq!(read(&["db/url", "1"]).exits(0).stdout, first);
    assert_eq!(read(&["api/key"]).exits(0).stdout, world.value("api/key"));
    assert_eq!(read(&["binary/value"]).exits(0).stdout, binary);
}

/// Calls that put bytes somewhere, or make a file that a mapping could put them into.
const WRITES: &str = "trace=write,pwrite64,writev,pwritev,pwritev2,sendto,sendmsg,sendfile,copy_file_range,splice,\
                      vmsplice,mmap,memfd_create";

/// What `kin` wrote, below strace: each call with the path of its descriptor.
fn traced<'w>(world: &'w World, into: &str, arguments: &[&str]) -> Kin<'w> {
    let strace = ["-f", "-qq", "-y", "-s", "65536", "-e", WRITES, "-o"];
    world.other("strace", strace).args([world.path(into)]).args([binary()]).args(arguments)
}

/// Of the traced calls that have a secret in them: those to a file, and how many went elsewhere.
fn calls_with(trace: &str, secrets: &[String]) -> (Vec<String>, usize) {
    let (mut to_files, mut elsewhere) = (Vec::new(), 0);
    for line in trace.lines() {
        let Some((call, rest)) = line.split_once('(') else { continue };
        let descriptor =
            rest.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or("", |(of, _)| of);
        let call = call.rsplit(' ').next().unwrap_or_default();
        let shared = call == "mmap" && rest.contains("MAP_SHARED") && rest.contains("PROT_WRITE");
        if shared && descriptor.starts_with('/') {
            to_files.push(format!("a mapping of {descriptor}"));
        }
        if secrets.iter().any(|secret| canary::found_in(line.as_bytes(), secret).is_some()) {
            match descriptor.starts_with('/') && !descriptor.starts_with("/dev/") {
                true => to_files.push(format!("{call} to {descriptor}")),
                false => elsewhere += 1,
            }
        }
    }
    (to_files, elsewhere)
}

#[test]
fn f15_set_and_import_put_no_value_into_a_file_at_any_instant() {
    let name = "attacks::f::f15_set_and_import_put_no_value_into_a_file_at_any_instant";
    // Below strace no program gains rights, so fusermount3 needs them already.
    if !is_root() && kin_tests::in_user_namespace(name) == Role::Done {
        return;
    }
    let world = World::new();
    let broker = world.path("broker.trace");
    let mut strace = world.program("strace");
    strace.args(["-f", "-qq", "-y", "-s", "65536", "-e", WRITES, "-o"]).arg(&broker).arg(binary());
    let mut daemon = world.foreground_by(strace);
    let key = world.path("identity");
    world.kin(["init", "--key-file"]).args([key]).run().exits(0);
    let secrets: Vec<String> = (0..4).map(|_| world.canary()).collect();
    let [set, env, json, kept] = &secrets[..] else { unreachable!("there are four") };
    let project = world.project();
    std::fs::write(project.join("x.env"), format!("A={env}\n")).expect("a file");
    std::fs::write(project.join("x.json"), format!("{{\"B\":\"{json}\"}}")).expect("a file");
    std::fs::write(project.join(".env"), format!("C={kept}\n")).expect("a file");
    traced(&world, "1", &["set", "a", "--stdin"]).input(set.as_bytes()).run().exits(0);
    traced(&world, "2", &["import", "x.env"]).run().exits(0);
    traced(&world, "3", &["import", "x.json"]).run().exits(0);
    traced(&world, "4", &["import", ".env", "--link", "--yes"]).run().exits(0);
    world.kin(["stop"]).run().exits(0);
    assert!(daemon.wait(std::time::Duration::from_secs(10)).success());
    for (trace, some) in [("1", true), ("2", true), ("3", true), ("4", true), ("broker.trace", false)] {
        let text = std::fs::read(world.path(trace)).expect("a trace");
        let (files, elsewhere) = calls_with(&String::from_utf8_lossy(&text), &secrets);
        assert!(files.is_empty(), "{trace}: {files:#?}");
        assert!(elsewhere > 0 || !some, "{trace} shows no value on its way to the broker");
    }
    for trace in ["1", "2", "3", "4", "broker.trace", "project/x.env", "project/x.json"] {
        std::fs::remove_file(world.path(trace)).expect("a file of this test's");
    }
    assert_eq!(leaks_below(&world.path(""), &world.mountpoint(), &secrets), [""; 0]);
}

/// A leak that the test above would have to find, written as kin never does.
#[test]
fn f15_a_value_in_a_file_would_be_found() {
    let world = World::new();
    let (secret, trace) = (canary::canary(), world.path("trace"));
    let script = format!("printf %s {secret} > leak");
    let strace = ["-f", "-qq", "-y", "-s", "65536", "-e", WRITES, "-o"];
    world.other("strace", strace).args([&trace]).args(["sh", "-c", &script]).run().exits(0);
    let text = std::fs::read_to_string(&trace).expect("a trace");
    let (files, _) = calls_with(&text, std::slice::from_ref(&secret));
    assert_eq!(files, [format!("write to {}", world.project().join("leak").display())]);
}

mod needs_root {
    use super::*;

    #[test]
    fn f10_a_file_of_another_owner_is_refused() {
        kin_tests::needs_root();
        let world = World::ready();
        world.kin(["lock"]).run().exits(0);
        for name in ["kin/data/vault.age", "kin/config/key.json", "kin/state/vault.anchor", "identity"] {
            let path = world.path(name);
            std::os::unix::fs::chown(&path, Some(65534), Some(65534)).expect("root may");
            world.kin(["unlock"]).run().refuses(3, &["belongs to uid 65534"]);
            std::os::unix::fs::chown(&path, Some(0), Some(0)).expect("root may");
        }
        world.kin(["unlock"]).run().exits(0);
    }
}
