//! Who reads, where somebody else owns the mounts that the broker sees? Nothing of /proc is taken from under
//! another mount.

use std::path::Path;
use std::process::{Command, Stdio};

use kin_tests::{Actor, Role, World, binary, in_user_namespace, record};
use serde_json::json;

use crate::{API, DATABASE, REFUSED, database};

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// `DATABASE_URL` is for `cat` alone.
fn pin_cat(world: &World) {
    let digest = Command::new("sha256sum").arg("/bin/cat").output().expect("sha256sum").stdout;
    let digest = String::from_utf8_lossy(&digest[..64]).into_owned();
    world.manifest(&format!(
        "schema = 1\n[project]\nname = \"api\"\n[bindings]\nAPI_KEY = \"api/key\"\n\
         DATABASE_URL = {{ ref = \"db/url\", exe = {{ path = \"/bin/cat\", sha256 = \"{digest}\" }} }}\n"
    ));
    world.trust();
}

fn mount(arguments: &[&str]) {
    let done = Command::new(arguments[0]).args(&arguments[1..]).stderr(Stdio::inherit()).status();
    assert!(done.is_ok_and(|status| status.success()), "{arguments:?}");
}

/// A `cat` of the member's tree that waits: its number.
fn waiting_cat(member: &dyn Actor, world: &World) -> u32 {
    let fifo = world.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    let script = "cat \"$0\" >/dev/null 2>&1 & echo $!";
    let (_, number, _) = member.run(&["sh", "-c", script, text(&fifo)]);
    let number: u32 = String::from_utf8_lossy(&number).trim().parse().expect("a number");
    let runs = || std::fs::read_link(format!("/proc/{number}/exe")).is_ok_and(|exe| exe.ends_with("cat"));
    kin_tests::eventually("cat runs", std::time::Duration::from_secs(5), runs);
    number
}

both! {
    fn c08_a_process_whose_directory_another_ones_is_mounted_over_is_not_that_one(identity) {
        let way = if identity == kin_tests::Identity::Native { "natively" } else { "by_procfs" };
        let name = format!(
            "attacks::c_proc::c08_a_process_whose_directory_another_ones_is_mounted_over_is_not_that_one::{way}"
        );
        if in_user_namespace(&name) == Role::Done {
            return;
        }
        let world = World::ready_with(identity);
        pin_cat(&world);
        let member = world.member(&[]);
        let cat = waiting_cat(&member, &world);
        let (known, fresh) = (member.child("fork"), member.child("fork"));
        assert_eq!(known.cat(&world.file(API)), Ok(world.value("api/key")));
        assert_eq!(known.cat(&world.file(DATABASE)), Err(REFUSED));
        for reader in [&known, &fresh] {
            let over = format!("/proc/{}", reader.pid());
            mount(&["mount", "--bind", &format!("/proc/{cat}"), &over]);
            assert_eq!(reader.cat(&world.file(DATABASE)), Err(REFUSED));
            // Nobody's executable is proven meanwhile, and doctor says why.
            let (code, _, errors) = member.run(&["cat", text(&world.file(DATABASE))]);
            assert!(code != 0 && errors.contains("Permission denied"), "{code}: {errors}");
            let doctor = world.kin(["doctor", "--json"]).run();
            let checks = doctor.json();
            let proc = checks.as_array().into_iter().flatten().find(|check| check["name"] == "/proc");
            let message = proc.and_then(|check| check["message"].as_str()).unwrap_or_default();
            assert!(message.contains(&over), "{checks:#}");
            mount(&["umount", &over]);
            let (code, value, errors) = member.run(&["cat", text(&world.file(DATABASE))]);
            assert_eq!((code, value), (0, database(&world)), "{errors}");
        }
        let records = world.audit();
        let covered = |line: &&serde_json::Value| {
            record::is_denial(line) && record::reason(line) == "identity_unverifiable"
        };
        assert!(records.iter().filter(covered).count() >= 2, "{records:#?}");
    }
}

#[test]
fn c08_what_is_mounted_and_taken_away_while_a_program_is_looked_at_is_noticed() {
    let name = "attacks::c_proc::c08_what_is_mounted_and_taken_away_while_a_program_is_looked_at_is_noticed";
    if in_user_namespace(name) == Role::Done {
        return;
    }
    let world = World::ready();
    pin_cat(&world);
    let member = world.member(&[]);
    let cat = waiting_cat(&member, &world);
    let script = "while :; do mount --bind /proc/$0 /proc/$1; umount /proc/$1; done";
    let mut delivered = 0;
    // Each is looked at for the first time while it happens.
    for _ in 0..10 {
        let reader = member.child("fork");
        let mut racer = Command::new("sh")
            .args(["-c", script, &cat.to_string(), &reader.pid().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        std::thread::sleep(std::time::Duration::from_millis(20));
        delivered += (0..30).filter(|_| reader.cat(&world.file(DATABASE)).is_ok()).count();
        racer.kill().expect("killed");
        racer.wait().expect("waited for");
    }
    assert_eq!(delivered, 0);
}

/// Runs `kin` behind a shell line in a user and mount namespace of its own.
fn behind(world: &World, line: &str, arguments: &[&str]) -> kin_tests::Output {
    let script = format!("{line} && exec \"$0\" \"$@\"");
    let kin = binary();
    let unshare = ["--user", "--map-root-user", "--mount", "--", "sh", "-c", &script, text(&kin)];
    let unshare: Vec<&str> = unshare.iter().chain(arguments).copied().collect();
    world.other("unshare", unshare).run()
}

#[test]
fn c08_without_proc_nothing_starts() {
    let world = World::ready();
    world.kin(["stop"]).run().exits(0);
    let empty = "mount -t tmpfs none /proc";
    for arguments in [&["daemon"][..], &["daemon", "--foreground"], &["run", "--", "true"]] {
        let refused = behind(&world, empty, arguments).refuses(6, &["no /proc is mounted"]);
        assert!(refused.stderr.contains("hint: mount -t proc proc /proc"), "{refused}");
    }
    let refused = behind(&world, empty, &["daemon", "--json"]);
    assert_eq!(refused.json_error()["code"], json!("proc_unavailable"), "{refused}");
    // A directory of /proc in the place of all of it.
    let _ = behind(&world, "mount --bind /proc/1 /proc", &["daemon"]).refuses(6, &["no /proc is mounted"]);
    assert!(!world.is_broker_running());
    world.kin(["daemon"]).run().exits(0);
}

#[test]
fn c08_a_broker_does_not_start_below_what_covers_a_process() {
    let world = World::ready();
    world.kin(["stop"]).run().exits(0);
    for line in ["mount --bind /proc/1 /proc/$$", "sleep 9 & mount --bind /proc/$$ /proc/$!"] {
        let line = format!("{line} && true");
        let refused = behind(&world, &line, &["daemon"]).refuses(6, &["something is mounted over /proc/"]);
        assert!(refused.stderr.contains("hint: umount /proc/"), "{refused}");
    }
    // What containers lay over files of the machine's covers nobody.
    let masks = "mount -t tmpfs none /proc/sys && mount --bind /dev/null /proc/uptime";
    behind(&world, masks, &["daemon"]).exits(0);
    world.kin(["stop"]).run().exits(0);
    world.kin(["daemon"]).run().exits(0);
}
