//! What does a command see that has a mount of its own, and what does anybody else?

use std::path::PathBuf;
use std::time::Duration;

use kin_tests::{Actor, Part, Probe, World, binary, eventually, is_root, mount, process};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::{API, DATABASE, REFUSED, SOON, database};

const MANIFEST: &str = r#"schema = 1
[project]
name = "api"
[bindings]
DATABASE_URL = { ref = "db/url", path = ".env" }
API_KEY = { ref = "api/key", path = "~/.api/credentials" }
"#;

/// A ready world whose two files have real paths: `.env`, over a file that is there, and
/// `~/.api/credentials`, where nothing is.
pub(crate) fn laid() -> World {
    laid_with(kin_tests::Identity::Native)
}

fn laid_with(identity: kin_tests::Identity) -> World {
    let world = World::ready_with(identity);
    world.manifest(MANIFEST);
    world.trust();
    std::fs::write(env(&world), "its own").expect(".env");
    world
}

pub(crate) fn env(world: &World) -> PathBuf {
    world.project().join(".env")
}

pub(crate) fn credentials(world: &World) -> PathBuf {
    world.path("home/.api/credentials")
}

fn nested<'p>(world: &World, outer: &'p Probe, options: &[&str]) -> Part<'p> {
    let line = world.run_line(options);
    outer.spawn(&line.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Nothing of a private mount is left, nor was it ever seen here.
pub(crate) fn nothing_is_left(world: &World) {
    assert_eq!(std::fs::read_to_string(env(world)).expect(".env"), "its own");
    assert!(!world.path("home/.api").exists());
    for path in [env(world), credentials(world)] {
        assert!(mount::mounts_on(&path).is_empty(), "{path:?}");
    }
}

both! {
    fn files_are_at_their_real_paths_for_the_tree_and_for_nobody_else(identity) {
        let world = laid_with(identity);
        let (member, outsider) = (world.member(&["--private"]), world.outsider());
        for reader in [&member as &dyn Actor, &member.child("fork"), &member.child("orphan")] {
            assert_eq!(reader.cat(&env(&world)), Ok(database(&world)));
            assert_eq!(reader.cat(&credentials(&world)), Ok(world.value("api/key")));
            assert_eq!(reader.cat(&world.file(DATABASE)), Ok(database(&world)));
        }
        let stat = member.stat(&env(&world)).expect("stat");
        assert_eq!(stat["size"], database(&world).len());
        assert_eq!(outsider.cat(&env(&world)), Ok(b"its own".to_vec()));
        assert_eq!(outsider.cat(&credentials(&world)), Ok(Vec::new()));
        assert_eq!(outsider.cat(&world.file(DATABASE)), Err(REFUSED));
        assert!(member.finish().success());
        eventually("the grant ends", SOON, || world.grants().is_empty());
        nothing_is_left(&world);
    }
}

#[test]
fn the_rest_of_the_project_is_what_it_was() {
    let world = laid();
    let member = world.member(&["--private"]);
    assert_eq!(member.ask("getcwd", json!({})), Ok(json!(world.project())));
    assert_eq!(member.cat(&world.project().join("kin.toml")), Ok(MANIFEST.as_bytes().to_vec()));
    let (code, ..) = member.run(&["sh", "-c", "echo made > made; mkdir d; mv made d/made"]);
    assert_eq!(code, 0);
    assert_eq!(std::fs::read_to_string(world.project().join("d/made")).expect("a file"), "made\n");
    // The file itself is the mount's: nothing is put in its place, and nothing written to it.
    for change in ["mv kin.toml .env", "mv .env x", "rm -f .env", "echo x > .env"] {
        let (code, _, errors) = member.run(&["sh", "-c", change]);
        assert!(code != 0 && !errors.is_empty(), "{change}: {code} {errors}");
    }
    assert_eq!(member.cat(&env(&world)), Ok(database(&world)));
}

#[test]
fn exit_codes_signals_and_descriptors_are_what_they_are_without() {
    let world = laid();
    let run = |script: &str| world.kin(["run", "--private", "--", "sh", "-c", script]).run().code();
    assert_eq!(run("exit 7"), 7);
    assert_eq!(run("kill -TERM $$"), 128 + 15);
    assert_eq!(world.kin(["run", "--private", "--", "no-such-program"]).run().code(), 127);
    assert_eq!(world.kin(["run", "--private", "--", "/etc/passwd"]).run().code(), 126);
    let (member, outsider) = (world.member(&["--private"]), world.outsider());
    assert_eq!(member.ask("descriptors", json!({})), outsider.ask("descriptors", json!({})));
    process::signal(member.started(), Signal::SIGTERM);
    assert_eq!(
        member.wait(Duration::from_secs(5)).code(),
        None,
        "it died by the signal that the front passed on"
    );
    eventually("the grant ends", SOON, || world.grants().is_empty());
    nothing_is_left(&world);
}

#[test]
fn a_stopped_command_with_a_private_mount_stops_its_front_and_goes_on_with_it() {
    let world = laid();
    let member = world.member(&["--private"]);
    let state = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
        stat.rsplit(") ").next().and_then(|rest| rest.chars().next())
    };
    for _ in 0..3 {
        process::signal(member.pid(), Signal::SIGTSTP);
        eventually("both have stopped", SOON, || {
            [member.pid(), member.started()].iter().all(|pid| state(*pid) == Some('T'))
        });
        process::signal(member.started(), Signal::SIGCONT);
        assert_eq!(member.cat(&env(&world)), Ok(database(&world)));
        assert_ne!(state(member.started()), Some('T'));
    }
    assert!(member.finish().success());
}

/// A world whose `.env` may be mapped, and whose other file may not.
fn mapped() -> World {
    let world = laid();
    world.manifest(&MANIFEST.replace("path = \".env\"", "path = \".env\", mmap = true"));
    world.trust();
    world
}

fn mapped_bytes(member: &Probe, fd: u64) -> Result<serde_json::Value, Errno> {
    member.ask("map", json!({ "fd": fd, "shared": false }))
}

fn died_of_sigbus() -> Result<serde_json::Value, Errno> {
    Ok(json!({ "signal": Signal::SIGBUS as i32 }))
}

#[test]
fn b05_a_file_may_be_mapped_where_its_binding_says_so_and_the_mount_is_private() {
    let world = mapped();
    let (member, other) = (world.member(&["--private"]), world.member(&[]));
    let first = kin_tests::canary::encode_standard(&database(&world)[..16]);
    let fd = member.open(&env(&world)).expect("open");
    assert_eq!(mapped_bytes(&member, fd), Ok(json!(first)));
    assert_eq!(member.ask("map", json!({ "fd": fd, "shared": true })), Err(Errno::ENODEV));
    assert!(member.ask("sendfile", json!({ "fd": fd })).is_ok());
    let unmapped = member.open(&credentials(&world)).expect("open");
    assert_eq!(mapped_bytes(&member, unmapped), died_of_sigbus());
    let fd = other.open(&world.file(DATABASE)).expect("open");
    assert_eq!(mapped_bytes(&other, fd), died_of_sigbus(), "in the mount of all");
}

#[test]
fn a_mapping_ends_before_the_revocation_is_answered() {
    let world = mapped();
    let member = world.member(&["--private"]);
    let fd = member.open(&env(&world)).expect("open");
    let start = member.ask("map_only", json!({ "fd": fd })).expect("mapped");
    let touch = || member.ask("touch", json!({ "start": start }));
    for _ in 0..3 {
        assert_eq!(touch(), Ok(json!(kin_tests::canary::encode_standard(&database(&world)[..16]))));
    }
    world.kin(["revoke", "--all"]).run().exits(0);
    assert_eq!(touch(), died_of_sigbus());
    assert_eq!(member.ask("sendfile", json!({ "fd": fd })), Err(REFUSED));
    assert_eq!(mapped_bytes(&member, fd), died_of_sigbus());
}

#[test]
fn b12_what_is_mapped_is_of_one_version() {
    let world = mapped();
    let member = world.member(&["--private"]);
    let old = member.open(&env(&world)).expect("open");
    let start = member.ask("map_only", json!({ "fd": old })).expect("mapped");
    assert!(member.ask("touch", json!({ "start": start })).expect("bytes").is_string());
    world.secret("db/url");
    let new = member.open(&env(&world)).expect("open");
    let first = kin_tests::canary::encode_standard(&database(&world)[..16]);
    assert_eq!(mapped_bytes(&member, new), Ok(json!(first)));
    // The old version is no longer in memory, and does not come back.
    let touched = member.ask("touch", json!({ "start": start }));
    assert!(touched == died_of_sigbus() || touched == Ok(json!(first)), "{touched:?}");
    assert_eq!(mapped_bytes(&member, old), died_of_sigbus());
    assert_eq!(mapped_bytes(&member, new), Ok(json!(first)));
}

#[test]
fn nested_runs_read_their_own_part_of_a_private_mount() {
    let world = laid();
    let outer = world.member(&["--private"]);
    let inner = nested(&world, &outer, &["--only", API]);
    assert_eq!(inner.cat(&credentials(&world)), Ok(world.value("api/key")));
    assert_eq!(inner.cat(&world.file(API)), Ok(world.value("api/key")));
    assert_eq!(inner.cat(&env(&world)), Err(Errno::ENOENT));
    assert_eq!(outer.cat(&env(&world)), Ok(database(&world)));
}

#[test]
fn a_private_mount_inside_another_is_the_inner_grants() {
    let world = laid();
    let outer = world.member(&["--private"]);
    if !is_root() {
        // It would take its files into another user namespace, and they are for that of the outer run.
        let mut line = world.run_line(&["--private", "--only", DATABASE]);
        line.truncate(5);
        line.extend(["--".into(), "true".into()]);
        let (code, _, errors) = outer.run(&line.iter().map(String::as_str).collect::<Vec<_>>());
        let wanted = "is for the namespaces of the run around this process alone";
        assert!(code == 5 && errors.contains(wanted) && errors.contains("hint: "), "{code} {errors}");
        return;
    }
    let inner = nested(&world, &outer, &["--private", "--only", DATABASE]);
    assert_eq!(inner.cat(&env(&world)), Ok(database(&world)));
    assert_eq!(inner.cat(&world.file(DATABASE)), Ok(database(&world)));
    assert_eq!(inner.cat(&credentials(&world)), Err(Errno::ENOENT));
    // What is not the inner grant's, the inner mount does not even have.
    assert_eq!(outer.cat(&world.file(API)), Ok(world.value("api/key")));
    inner.dismiss();
    eventually("the inner grant ends", SOON, || world.grants().len() == 1);
    assert_eq!(outer.cat(&env(&world)), Ok(database(&world)));
    assert_eq!(outer.cat(&credentials(&world)), Ok(world.value("api/key")));
}

#[test]
fn a_placeholder_stays_for_as_long_as_somebody_stands_on_it() {
    let world = laid();
    let (first, second) = (world.member(&["--private"]), world.member(&["--private"]));
    assert!(first.finish().success());
    eventually("one grant ends", SOON, || world.grants().len() == 1);
    assert_eq!(second.cat(&credentials(&world)), Ok(world.value("api/key")));
    assert!(second.finish().success());
    eventually("the other ends", SOON, || world.grants().is_empty());
    nothing_is_left(&world);
}

#[test]
fn revocation_reaches_a_private_mount() {
    let world = laid();
    let member = world.member(&["--private"]);
    let fd = member.open(&env(&world)).expect("open");
    assert_eq!(member.pread(fd, 5, 0), Ok(database(&world)[..5].to_vec()));
    world.kin(["revoke", "--all"]).run().exits(0);
    assert_eq!(member.pread(fd, 100, 0), Err(REFUSED));
    for path in [env(&world), credentials(&world), world.file(DATABASE)] {
        assert_eq!(member.cat(&path), Err(REFUSED));
    }
}

fn owner_killed(whose: fn(&World, &Probe) -> u32) {
    let world = laid();
    let member = world.member(&["--private"]);
    let fd = member.open(&env(&world)).expect("open");
    process::signal(whose(&world, &member), Signal::SIGKILL);
    eventually("survivors are refused", SOON, || member.pread(fd, 100, 0) == Err(REFUSED));
    assert!(member.cat(&env(&world)).is_err());
    assert!(member.cat(&world.file(DATABASE)).is_err());
    process::tree(member.pid()).iter().for_each(|process| process.kill());
    eventually("the placeholder goes", SOON, || !world.path("home/.api").exists());
    nothing_is_left(&world);
}

#[test]
fn a_killed_keeper_closes_its_private_mount() {
    owner_killed(|world, _| world.keeper(0));
}

#[test]
fn a_killed_front_closes_its_private_mount() {
    owner_killed(|_, member| member.started());
}

#[test]
fn a_killed_broker_leaves_a_dead_mount_that_goes_with_its_namespace() {
    let world = laid();
    let member = world.member(&["--private"]);
    let fd = member.open(&env(&world)).expect("open");
    world.crash();
    assert_eq!(member.pread(fd, 100, 0), Err(Errno::ENOTCONN));
    assert_eq!(member.cat(&env(&world)), Err(Errno::ENOTCONN));
    assert!(member.finish().success());
    eventually("the keeper takes the placeholder away", 5 * SOON, || !world.path("home/.api").exists());
    nothing_is_left(&world);
    assert_eq!(world.member(&["--private"]).cat(&env(&world)), Ok(database(&world)));
}

/// A number of /proc/PID/status (proc_pid_status(5)).
fn of_the_broker(world: &World, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.broker().pid)).expect("a broker");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect(name);
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn a_private_mount_takes_less_than_a_mebibyte_of_the_broker() {
    let world = laid();
    let live = |count: usize| {
        let members: Vec<_> = (0..count).map(|_| world.member(&["--private"])).collect();
        for member in &members {
            assert_eq!(member.cat(&env(&world)), Ok(database(&world)));
        }
        members
    };
    // What others have given back must not be what the next ones fill.
    drop(live(4));
    eventually("they end", SOON, || world.grants().is_empty());
    let before = of_the_broker(&world, "VmRSS");
    let members = live(8);
    let each = of_the_broker(&world, "VmRSS").saturating_sub(before) / 8;
    assert!(each < 1024, "{each} KiB each");
    // Else one touched page could be 2 MiB, by the machine's settings.
    assert_eq!(of_the_broker(&world, "THP_enabled"), 0);
    drop(members);
}

#[test]
fn a_page_that_is_mapped_stays_after_the_broker_was_killed() {
    let world = mapped();
    let member = world.member(&["--private"]);
    let fd = member.open(&env(&world)).expect("open");
    let first = json!(kin_tests::canary::encode_standard(&database(&world)[..16]));
    let start = member.ask("map_only", json!({ "fd": fd })).expect("mapped");
    assert_eq!(member.ask("touch", json!({ "start": start })), Ok(first.clone()));
    world.crash();
    // The kernel answers from its cache, and nobody is left who could empty it. It asks for all else, and gets nothing.
    assert_eq!(member.ask("touch", json!({ "start": start })), Ok(first));
    assert!(member.ask("sendfile", json!({ "fd": fd })).is_ok());
    assert_eq!(member.pread(fd, 100, 0), Err(Errno::ENOTCONN));
    assert_eq!(member.cat(&env(&world)), Err(Errno::ENOTCONN));
    // Who maps a file of direct I/O empties its cache (fuse_file_mmap, fs/fuse/file.c).
    assert_eq!(mapped_bytes(&member, fd), died_of_sigbus());
    assert_eq!(member.ask("touch", json!({ "start": start })), died_of_sigbus());
    assert!(member.finish().success());
}

#[test]
fn what_broker_and_keeper_left_when_both_were_killed_goes_at_the_next_start() {
    let world = laid();
    let member = world.member(&["--private"]);
    let keeper = world.keeper(0);
    world.crash();
    process::signal(keeper, Signal::SIGKILL);
    process::tree(member.pid()).iter().for_each(|process| process.kill());
    assert!(credentials(&world).exists());
    world.kin(["daemon"]).run().exits(0);
    nothing_is_left(&world);
}

#[test]
fn nothing_starts_where_a_file_cannot_be_laid() {
    let world = laid();
    std::fs::remove_file(env(&world)).expect("gone");
    let refused = |code: i32, word: &str| {
        let output = world.kin(["run", "--private", "--", "touch", "started"]).run().refuses(code, &[word]);
        assert!(!world.project().join("started").exists(), "{output}");
        assert!(!world.path("home/.api").exists(), "{output}");
    };
    std::fs::create_dir(env(&world)).expect("a directory");
    refused(3, "is not a regular file");
    std::fs::remove_dir(env(&world)).expect("gone");
    std::os::unix::fs::symlink("/etc/passwd", env(&world)).expect("a link");
    refused(3, "is a symbolic link");
    // A link to the file in the mount leads there already.
    std::fs::remove_file(env(&world)).expect("gone");
    std::os::unix::fs::symlink(world.file(DATABASE), env(&world)).expect("a link");
    assert_eq!(world.member(&["--private"]).cat(&env(&world)), Ok(database(&world)));
}

/// What stands in a directory, the links and the files.
fn standing(directory: PathBuf) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
    names.sort();
    names
}

fn gits_own(binding: &str) -> World {
    let world = World::ready();
    world.set("db/url", b"[user]\n\tname = one\n");
    world.manifest(&format!("schema = 1\n[project]\nname = \"api\"\n[bindings]\n{binding}\n"));
    world.trust();
    world
}

#[test]
fn what_git_could_not_change_in_a_private_mount_is_refused_before_the_start() {
    for path in ["~/.gitconfig", "~/.config/git/config", ".git/config"] {
        let world = gits_own(&format!("G = {{ ref = \"db/url\", writable = true, path = \"{path}\" }}"));
        let before = standing(world.home());
        let run = ["run", "--private", "--", "git", "config", "--global", "user.name", "two"];
        let said = world.kin(run).run().refuses(3, &["git maps what it changes", "writable"]);
        assert_eq!(standing(world.home()), before, "{said}");
        assert!(world.grants().is_empty());
        // Without a real path, and to read it there, it is as ever.
        assert_eq!(world.kin(["run", "--", "true"]).run().code(), 0);
    }
}

#[test]
fn who_wants_to_change_gits_configuration_leaves_nothing_on_the_disk() {
    let world = gits_own("G = { ref = \"db/url\", path = \"~/.gitconfig\" }");
    std::fs::write(world.path("home/.gitconfig"), "").expect("a file");
    let before = standing(world.home());
    let member = world.member(&["--private"]);
    let (code, output, _) = member.run(&["git", "config", "--global", "user.name"]);
    assert_eq!((code, output), (0, b"one\n".to_vec()));
    let (code, _, errors) = member.run(&["git", "config", "--global", "user.name", "two"]);
    assert!(code > 0, "{code}: no signal");
    assert!(errors.contains("Read-only file system"), "{errors}");
    assert_eq!(standing(world.home()), before);
    assert!(member.finish().success());
    assert_eq!(standing(world.home()), before);
}

#[test]
fn who_renames_over_a_writable_file_at_its_real_path_does_so_in_memory() {
    let world = World::ready();
    world.set("db/url", b"https://me:old@a.example\n");
    world.manifest(
        "schema = 1\n[project]\nname = \"api\"\n[bindings]\n\
         G = { ref = \"db/url\", writable = true, path = \"~/.git-credentials\" }\n",
    );
    world.trust();
    let before = standing(world.home());
    let member = world.member(&["--private"]);
    let real = world.path("home/.git-credentials");
    let during = standing(world.home());
    for password in ["one", "two"] {
        let script = format!(
            "printf 'protocol=https\\nhost=a.example\\nusername=me\\npassword={password}\\n\\n' | git credential-store store"
        );
        let (code, _, errors) = member.run(&["sh", "-c", &script]);
        assert_eq!((code, errors.as_str()), (0, ""));
        assert_eq!(member.cat(&real), Ok(format!("https://me:{password}@a.example\n").into_bytes()));
        assert_eq!(standing(world.home()), during, "a lock, or a new file");
    }
    // Where the link leads others find what stood there before: nothing.
    assert_eq!(world.outsider().cat(&real), Ok(Vec::new()));
    // What is at the path itself is not replaced.
    let (code, ..) = member.run(&["sh", "-c", "printf evil > ~/x && mv ~/x ~/.git-credentials"]);
    assert_ne!(code, 0);
    std::fs::remove_file(world.path("home/x")).expect("removed");
    // What such a program leaves when it dies is gone with the grant.
    let (code, ..) = member.run(&["git", "config", "--file", real.to_str().expect("a path"), "a.b", "c"]);
    assert_ne!(code, 0, "it maps what it changes");
    assert_eq!(standing(world.home()), during);
    assert!(member.finish().success());
    eventually("the grant ends", SOON, || standing(world.home()) == before);
    let versions = world.kin(["history", "db/url", "--json"]).run().exits(0).json();
    assert_eq!(versions.as_array().map(Vec::len), Some(4), "two of them by git");
}

#[test]
fn real_paths_are_shown_and_bad_ones_refused() {
    let world = laid();
    let shown = world.kin(["check"]).run().exits(0).text();
    assert!(shown.contains("~/.api/credentials") && shown.contains(".env"), "{shown}");
    for bad in ["/etc/passwd", "../x", "a/../b", "~root/x", "kin.toml", "~/.api/credentials/x"] {
        world.manifest(&MANIFEST.replace("\".env\"", &format!("\"{bad}\"")));
        let output = world.kin(["check"]).run().exits(3);
        assert!(output.stderr.contains("kin.toml line 5"), "{bad}: {output}");
    }
}

#[test]
fn without_user_namespaces_nothing_starts_and_doctor_says_why() {
    let world = laid();
    // Its own count of namespaces below it, which its own root may set (namespaces(7)).
    let in_forbidden = |command: &str| {
        let script = format!("echo 0 > /proc/sys/user/max_user_namespaces; {command}");
        let user = [
            "--user",
            "--map-user=1000",
            "--map-group=1000",
            "--keep-caps",
            "--",
            "sh",
            "-ec",
            &script,
            "sh",
        ];
        world.other("unshare", user).args([binary()]).run()
    };
    let output = in_forbidden("exec \"$1\" run --private -- touch started")
        .refuses(6, &["user namespaces are switched off"]);
    assert!(!world.project().join("started").exists(), "{output}");
    let doctor = in_forbidden("exec \"$1\" doctor --json").text();
    let checks: serde_json::Value = serde_json::from_str(&doctor).expect("JSON");
    let check = checks.as_array().into_iter().flatten().find(|check| check["name"] == "private mounts");
    let check = check.unwrap_or_else(|| panic!("no such check: {doctor}"));
    assert_eq!(check["state"], "warn", "{check}");
    assert!(check["fix"].as_str().is_some_and(|fix| fix.contains("user.max_user_namespaces")), "{check}");
    world.kin(["run", "--private", "--", "true"]).run().exits(0);
    // Where it works doctor says so, whoever asks.
    let doctor = world.kin(["doctor", "--json"]).run().text();
    let checks: serde_json::Value = serde_json::from_str(&doctor).expect("JSON");
    let check = checks.as_array().into_iter().flatten().find(|check| check["name"] == "private mounts");
    assert_eq!(check.expect("such a check")["state"], "ok", "{doctor}");
}

#[test]
fn a_private_mount_wants_no_fusermount3() {
    let world = laid();
    world.kin(["stop"]).run().exits(0);
    let without = |command: &str| {
        let script = format!(
            "for each in /usr/bin/fusermount3 /usr/bin/fusermount; do
                if [ -f $each ]; then mount --bind /dev/null $each; fi
            done
            exec unshare --user --map-user=1000 --map-group=1000 -- \"$1\" {command}"
        );
        let root = [
            "--user",
            "--map-root-user",
            "--mount",
            "--propagation",
            "private",
            "--",
            "sh",
            "-ec",
            &script,
            "sh",
        ];
        world.other("unshare", root).args([binary()]).run()
    };
    let output = without("run --private -- cat .env").exits(0);
    assert_eq!(output.stdout, database(&world), "{output}");
    // Whoever has no mount of its own is told what is missing.
    let refused = without("run -- true").refuses(6, &["fuse"]);
    assert!(refused.stderr.contains("--private"), "{refused}");
    // What can be written is in the user's own mount, also for a private run.
    let trusted = |text: &str| {
        world.kin(["stop"]).run().exits(0);
        world.manifest(text);
        world.trust();
        world.kin(["stop"]).run().exits(0);
    };
    trusted(&MANIFEST.replacen("{ ref", "{ writable = true, ref", 1));
    without("run --private -- cat .env").refuses(6, &["fuse"]);
    trusted(MANIFEST);
    assert_eq!(world.member(&[]).cat(&world.file(DATABASE)), Ok(database(&world)));
}
