//! What does a running program see of a new version, and what is done for it?

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use kin_tests::{Actor, Probe, World, binary, eventually, record};
use nix::errno::Errno;
use serde_json::json;

use crate::{API, DATABASE};

/// Longer than versions are waited for that come together.
const APART: Duration = Duration::from_millis(700);
const LATE: Duration = Duration::from_secs(20);

/// What the watches of a probe were told: the path, the event (inotify(7)), the name in a directory.
fn told(member: &Probe) -> Vec<(String, String, String)> {
    let told = member.ask("watched", json!({})).expect("events");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let event = |event: &serde_json::Value| (text(&event[0]), text(&event[1]), text(&event[2]));
    told.as_array().into_iter().flatten().map(event).collect()
}

fn watch(member: &Probe, path: &Path) {
    member.ask("watch", json!({ "path": path })).expect("a watch");
}

/// Waits until the watch of a file is told that it is gone; all that was told.
fn hears(member: &Probe, path: &Path) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    eventually("an event", LATE, || {
        all.extend(told(member));
        all.iter().any(|(on, event, _)| Path::new(on) == path && event == "delete_self")
    });
    all
}

#[test]
fn a_poller_sees_every_one_of_twenty_quick_rotations() {
    let world = World::ready();
    for options in [&[][..], &["--private"]] {
        world.set("db/url", b"x");
        let member = world.member(options);
        member.ask("poll", json!({ "path": world.file(DATABASE) })).expect("a poller");
        let seen =
            || member.ask("polled", json!({})).expect("what it saw").as_array().cloned().unwrap_or_default();
        for size in 2..=21 {
            world.set("db/url", &vec![b'x'; size]);
            eventually("the poller sees it", LATE, || seen().len() >= size);
        }
        let seen = seen();
        assert_eq!(
            seen.iter().map(|seen| seen[1].as_u64().expect("a size")).collect::<Vec<_>>(),
            (1..=21).collect::<Vec<_>>()
        );
        // As a float, which is what most pollers compare.
        assert!(seen.is_sorted_by(|before, after| before[0].as_f64() < after[0].as_f64()), "{seen:?}");
        assert!(member.finish().success());
    }
}

#[test]
fn a_watch_of_a_file_hears_of_every_new_version_and_a_directorys_of_none() {
    let world = World::ready();
    for options in [&[][..], &["--private"]] {
        world.set("db/url", b"first");
        let member = world.member(options);
        let (file, directory) = (world.file(DATABASE), world.mountpoint().join("api"));
        let outside = world.member(&[]);
        for (number, version) in [&b"second"[..], b"third", b"fourth"].iter().enumerate() {
            assert!(member.stat(&file).is_ok());
            watch(&member, &file);
            watch(&member, &directory);
            match number {
                0 => world.set("db/url", version),
                _ => drop(world.kin(["rotate", "db/url", "--stdin"]).input(*version).run().exits(0)),
            }
            let all = hears(&member, &file);
            assert_eq!(member.cat(&file), Ok(version.to_vec()));
            assert_eq!(member.stat(&file).expect("stat")["nlink"], 1);
            assert!(all.iter().all(|(on, _, _)| Path::new(on) == file), "{all:?}");
        }
        watch(&member, &file);
        world.kin(["rm", "db/url", "--yes"]).run().exits(0);
        hears(&member, &file);
        assert_eq!(member.stat(&file), Err(Errno::ENOENT));
        assert!(member.finish().success() && outside.finish().success());
        world.set("db/url", b"first");
    }
}

#[test]
fn a_restored_vault_is_told_of_like_any_other_change() {
    let world = World::ready();
    world.set("db/url", b"first");
    let backup = world.path("backup");
    world.kin(["backup".as_ref(), backup.as_os_str()]).run().exits(0);
    world.set("db/url", b"second");
    let member = world.member(&[]);
    for file in [DATABASE, API] {
        assert!(member.stat(&world.file(file)).is_ok());
        watch(&member, &world.file(file));
    }
    world.kin(["restore".as_ref(), backup.as_os_str(), "--yes".as_ref()]).run().exits(0);
    let all = hears(&member, &world.file(DATABASE));
    assert!(all.iter().all(|(on, _, _)| Path::new(on) == world.file(DATABASE)), "{all:?}");
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(b"first".to_vec()));
}

#[test]
fn a_watch_of_a_file_that_is_open_or_laid_elsewhere_hears_nothing() {
    let world = World::ready();
    world.manifest(
        "schema = 1\n[project]\nname = \"api\"\n[bindings]\nDATABASE_URL = { ref = \"db/url\", path = \".env\" }\nAPI_KEY = \"api/key\"\n",
    );
    world.trust();
    for (options, path) in [(&[][..], world.file(DATABASE)), (&["--private"], world.project().join(".env"))] {
        let member = world.member(options);
        let before = member.stat(&path).expect("stat");
        let _held = options.is_empty().then(|| member.open(&path).expect("open"));
        watch(&member, &path);
        assert!(member.stat(&world.file(API)).is_ok());
        watch(&member, &world.file(API));
        world.set("db/url", b"another");
        world.set("api/key", b"another");
        // They are told of in order.
        let all = hears(&member, &world.file(API));
        assert!(all.iter().all(|(on, _, _)| Path::new(on) == world.file(API)), "{all:?}");
        let after = member.stat(&path).expect("stat");
        assert!(after["mtime_ns"].as_u64() > before["mtime_ns"].as_u64() && after["size"] == 7);
        assert_eq!(member.cat(&path), Ok(b"another".to_vec()));
        assert!(member.finish().success());
    }
}

#[test]
fn nobody_finds_a_file_gone_while_its_versions_change() {
    let world = World::ready();
    let values: Vec<Vec<u8>> = (0..40u8).map(|n| vec![b'a' + n % 26; 1000]).collect();
    world.set("db/url", &values[0]);
    let member = world.member(&[]);
    member.ask("poll", json!({ "path": world.file(DATABASE), "reads": true })).expect("a poller");
    for value in &values {
        world.set("db/url", value);
    }
    let seen = member.ask("polled", json!({})).expect("what it saw");
    assert!(seen.as_array().is_some_and(|seen| seen.len() > 10), "{seen}");
}

#[test]
fn node_watches_a_file_and_polls_it() {
    if !Path::new("/usr/bin/node").exists() {
        return;
    }
    let world = World::ready();
    let script = "const fs = require('fs'); const [file, note] = process.argv.slice(1); \
        let told = 0, polled = 0; const done = () => { if (told && polled) process.exit(0) }; \
        fs.watch(file, () => { told++; done() }); \
        fs.watchFile(file, { interval: 20 }, () => { polled++; done() }); fs.writeFileSync(note, 'up\\n')";
    let file = world.file(DATABASE);
    let mut node =
        Running::start(&world, &[], &["/usr/bin/node", "-e", script, file.to_str().expect("a path"), "note"]);
    node.lines("note", 1);
    // Its first look comes when it comes: one version may be what it sees first.
    eventually("it has seen a version", LATE, || {
        std::thread::sleep(APART);
        world.secret("db/url");
        node.child.try_wait().expect("wait").is_some()
    });
    assert_eq!(node.code(), Some(0));
}

/// `kin run` with a script, beside the test.
struct Running {
    child: Child,
    directory: PathBuf,
}

impl Running {
    fn start(world: &World, options: &[&str], command: &[&str]) -> Self {
        let mut run = world.program(binary());
        run.arg("run").args(options).arg("--").args(command);
        run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { child: run.spawn().expect("kin run"), directory: world.project() }
    }

    fn script(world: &World, options: &[&str], script: &str) -> Self {
        Self::start(world, options, &["sh", "-c", script])
    }

    /// The lines of a file in the project, once there are so many.
    fn lines(&self, file: &str, count: usize) -> Vec<String> {
        let text = || std::fs::read_to_string(self.directory.join(file)).unwrap_or_default();
        eventually(&format!("{count} lines of {file}"), LATE, || text().lines().count() >= count);
        text().lines().map(str::to_owned).collect()
    }

    fn touch(&self, file: &str) {
        std::fs::write(self.directory.join(file), "").expect("a file");
    }

    fn code(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("it ends", LATE, || {
            status = self.child.try_wait().expect("wait");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ends with 7 when `over` exists.
const UNTIL_OVER: &str = "while ! [ -e over ]; do sleep 0.02; done; exit 7";
/// What it reads is no secret: it stays in a file.
const READ: &str = "echo $(cat \"$KIN_DIR/DATABASE_URL\")";

#[test]
fn a_server_reloads_by_the_signal_it_asked_for() {
    for options in [&["--on-rotate", "HUP"][..], &["--on-rotate", "hup", "--private"]] {
        let world = World::ready();
        world.set("db/url", b"one");
        let mut server = Running::script(
            &world,
            options,
            &format!("trap '{READ} >>seen' HUP; {READ} >>seen; {UNTIL_OVER}"),
        );
        server.lines("seen", 1);
        world.set("db/url", b"two");
        assert_eq!(server.lines("seen", 2), ["one", "two"]);
        // Another secret of the grant counts, one that it has not does not.
        world.set("other/secret", b"other");
        world.set("api/key", b"another");
        assert_eq!(server.lines("seen", 3), ["one", "two", "two"]);
        std::thread::sleep(APART);
        assert_eq!(server.lines("seen", 3).len(), 3);
        server.touch("over");
        assert_eq!(server.code(), Some(7));
        assert!(record::of(&world.audit(), "grant.restart").is_empty());
    }
}

#[test]
fn a_server_is_started_again_under_its_grant() {
    for options in
        [&["--on-rotate", "restart", "--for-first", "1s"][..], &["--on-rotate", "restart", "--private"]]
    {
        let world = World::ready();
        world.set("db/url", b"one");
        // A descendant that goes on stays a member.
        let script = format!(
            "(while ! [ -e ask ]; do sleep 0.02; done; {READ} >>left) & echo $$ $PWD >>up; {READ} >>seen; {UNTIL_OVER}"
        );
        let mut server = Running::script(&world, options, &script);
        server.lines("seen", 1);
        let grant = world.grants()[0]["id"].clone();
        for (starts, version) in [(2, "two"), (3, "three")] {
            // The window is over by then, and begins anew.
            std::thread::sleep(Duration::from_millis(1100));
            world.set("db/url", version.as_bytes());
            assert_eq!(server.lines("seen", starts)[starts - 1], version);
        }
        server.touch("ask");
        assert_eq!(server.lines("left", 3), ["three"; 3]);
        assert_eq!(world.grants()[0]["id"], grant);
        let up = server.lines("up", 3);
        server.touch("over");
        assert_eq!(server.code(), Some(7));
        let records = world.audit();
        let restarts = record::of(&records, "grant.restart");
        let commands: Vec<String> = restarts
            .iter()
            .map(|restart| format!("{} {}", restart["command"], world.project().display()))
            .collect();
        assert_eq!(commands, up[1..]);
        assert_eq!(record::of(&records, "grant.create").len(), 1);
    }
}

#[test]
fn a21_a_command_that_is_started_again_has_the_filter_too() {
    for options in [&["--on-rotate", "restart"][..], &["--on-rotate", "restart", "--private"]] {
        let world = World::ready();
        crate::attacks::pin(&world, std::path::Path::new("/bin/cat"));
        let file = world.file("DATABASE_URL");
        let script = format!(
            "grep Seccomp_filters /proc/self/status >>seen; /bin/cat {} >/dev/null && echo read >>seen; {UNTIL_OVER}",
            file.display()
        );
        let mut server = Running::script(&world, options, &script);
        let seen = server.lines("seen", 2);
        world.set("db/url", b"two");
        assert_eq!(server.lines("seen", 4)[2..], seen);
        assert!(seen[0].ends_with(|last: char| ('1'..='9').contains(&last)) && seen[1] == "read", "{seen:?}");
        server.touch("over");
        assert_eq!(server.code(), Some(7));
    }
}

/// Two bindings in a file, a third beside it; one is a variable too.
const RENDERED: &str = "schema = 1\n[project]\nname = \"api\"\n[bindings]\n\
    DATABASE_URL = \"db/url\"\nAPI_KEY = \"api/key\"\nother = \"other/secret\"\n\
    [files.\".env\"]\nformat = \"dotenv\"\nselect = [\"DATABASE_URL\", \"API_KEY\"]\npath = \".env\"\n";

fn rendered() -> World {
    let world = World::ready();
    for (reference, value) in [("db/url", "one"), ("api/key", "key"), ("other/secret", "other")] {
        world.set(reference, value.as_bytes());
    }
    world.manifest(RENDERED);
    world.trust();
    world
}

#[test]
fn a_command_hears_of_what_it_has_in_a_rendered_file_alone() {
    let read = "echo $(cat \"$KIN_DIR/.env\") >>seen";
    for what in ["HUP", "restart"] {
        for private in [&[][..], &["--private"]] {
            let world = rendered();
            let options = [&["--only", ".env", "--on-rotate", what], private].concat();
            let script = format!("trap '{read}' HUP; {read}; {UNTIL_OVER}");
            let mut server = Running::script(&world, &options, &script);
            let seen = |count: usize| server.lines("seen", count)[count - 1].clone();
            assert_eq!(seen(1), "DATABASE_URL='one' API_KEY='key'");
            world.set("db/url", b"two");
            assert_eq!(seen(2), "DATABASE_URL='two' API_KEY='key'", "{options:?}");
            world.set("api/key", b"turned");
            assert_eq!(seen(3), "DATABASE_URL='two' API_KEY='turned'", "{options:?}");
            // It is no part of the file.
            world.set("other/secret", b"another");
            std::thread::sleep(APART);
            assert_eq!(server.lines("seen", 3).len(), 3, "{options:?}");
            server.touch("over");
            assert_eq!(server.code(), Some(7));
            let restarts = record::of(&world.audit(), "grant.restart").len();
            assert_eq!(restarts, if what == "restart" { 2 } else { 0 });
        }
    }
}

#[test]
fn a_watch_of_a_rendered_file_hears_of_every_part_of_it_and_of_nothing_else() {
    let world = rendered();
    world.manifest(&RENDERED.replace("path = \".env\"\n", ""));
    world.trust();
    for options in [&["--only", ".env"][..], &[], &["--private", "--only", ".env"]] {
        let (member, file) = (world.member(options), world.file(".env"));
        for (reference, value) in [("db/url", world.canary()), ("api/key", world.canary())] {
            let before = member.stat(&file).expect("stat");
            watch(&member, &file);
            world.set("other/secret", b"another");
            std::thread::sleep(APART);
            assert_eq!(told(&member), [], "{options:?}");
            world.set(reference, value.as_bytes());
            hears(&member, &file);
            assert!(member.stat(&file).expect("stat")["mtime_ns"].as_u64() > before["mtime_ns"].as_u64());
            assert!(String::from_utf8_lossy(&member.cat(&file).expect("cat")).contains(&value));
        }
        assert!(member.finish().success());
    }
}

#[test]
fn a_rendered_file_at_its_real_path_is_new_for_a_command_that_is_started_again() {
    let world = rendered();
    let script = format!("echo $(cat .env) >>seen; {UNTIL_OVER}");
    let mut server = Running::script(&world, &["--private", "--on-rotate", "restart"], &script);
    server.lines("seen", 1);
    world.set("db/url", b"two");
    let seen = server.lines("seen", 2);
    assert_eq!(seen, ["DATABASE_URL='one' API_KEY='key'", "DATABASE_URL='two' API_KEY='key'"]);
    server.touch("over");
    assert_eq!(server.code(), Some(7));
}

#[test]
fn a_variable_keeps_its_value_until_the_command_is_started_again() {
    let world = World::ready();
    let manifest = "schema = 1\n[project]\nname = \"api\"\n[bindings]\n\
        DATABASE_URL = { ref = \"db/url\", env_value = \"DB\" }\nAPI_KEY = \"api/key\"\n";
    world.manifest(manifest);
    world.trust();
    let file = world.path("dev.env");
    std::fs::write(&file, "KEY=kin://api/key\n").expect("a file");
    let file = file.to_str().expect("UTF-8");
    for (what, private) in [("HUP", false), ("restart", false), ("restart", true)] {
        for seen in ["seen", "over"] {
            let _ = std::fs::remove_file(world.project().join(seen));
        }
        for (reference, value) in [("db/url", "one"), ("api/key", "key")] {
            world.set(reference, value.as_bytes());
        }
        let mut options = vec!["--env-file", file, "--on-rotate", what];
        options.extend(private.then_some("--private"));
        let script = format!("trap 'echo $DB $KEY >>seen' HUP; echo $DB $KEY >>seen; {UNTIL_OVER}");
        let mut server = Running::script(&world, &options, &script);
        server.lines("seen", 1);
        let before = record::of(&world.audit(), "open.allow").len();
        world.set("db/url", b"two");
        server.lines("seen", 2);
        world.set("api/key", b"turned");
        let seen = server.lines("seen", 3);
        let values = |count: usize| {
            record::of(&world.audit(), "open.allow")[before..]
                .iter()
                .filter(|line| record::text(line, "op") == "env")
                .count()
                == count
        };
        match what {
            "HUP" => assert!(seen == ["one key"; 3] && values(0), "{seen:?}"),
            // Each of the two commands that came later asked for both.
            _ => assert!(seen == ["one key", "two key", "two turned"] && values(4), "{seen:?}"),
        }
        server.touch("over");
        assert_eq!(server.code(), Some(7));
    }
}

#[test]
fn a_value_that_no_variable_can_have_starts_a_command_no_more_and_says_why() {
    let world = World::ready();
    world.manifest(
        "schema = 1\n[project]\nname = \"api\"\n[bindings]\nDATABASE_URL = { ref = \"db/url\", env_value = \"DB\" }\n",
    );
    world.trust();
    world.kin(["run", "--", "true"]).run().exits(0).text();
    for redact in [&[][..], &["--redact"]] {
        world.set("db/url", b"a-value-that-is-long");
        let options = [&["run", "--on-rotate", "restart"], redact, &["--", "sh", "-c"]].concat();
        let script = format!("trap 'exit 5' TERM; echo >>seen; {UNTIL_OVER}");
        let _ = std::fs::remove_file(world.project().join("seen"));
        let mut command = world.program(binary());
        command.args(options).arg(script).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut server = Running { child: command.spawn().expect("kin run"), directory: world.project() };
        server.lines("seen", 1);
        world.set_from_file("db/url", b"a\0value-that-is-long");
        assert_eq!(server.code(), Some(125));
        let mut said = String::new();
        let mut stderr = server.child.stderr.take().expect("a pipe");
        std::io::Read::read_to_string(&mut stderr, &mut said).expect("text");
        assert_eq!(
            said,
            "error: the value of DATABASE_URL cannot be in the variable DB: it has a NUL byte\n"
        );
        assert_eq!(server.lines("seen", 1).len(), 1);
        eventually("the grant ends", LATE, || world.grants().is_empty());
    }
}

#[test]
fn after_its_grant_has_ended_a_command_is_left_alone() {
    for what in ["HUP", "restart"] {
        let world = World::ready();
        let script =
            format!("trap 'echo HUP >>seen' HUP; trap 'echo TERM >>seen' TERM; echo $$ >>up; {UNTIL_OVER}");
        let mut server = Running::script(&world, &["--on-rotate", what], &script);
        server.lines("up", 1);
        world.kin(["revoke", "--all"]).run().exits(0);
        world.set("db/url", b"three");
        std::thread::sleep(APART);
        assert_eq!(server.lines("up", 1).len(), 1);
        assert!(!world.project().join("seen").exists(), "{what}");
        server.touch("over");
        assert_eq!(server.code(), Some(7));
    }
}

#[test]
fn keepers_that_are_told_count_as_no_conversations() {
    let world = World::ready();
    let mut servers: Vec<_> = (0..140)
        .map(|_| {
            Running::script(
                &world,
                &["--on-rotate", "USR1"],
                &format!("trap 'echo told >>seen' USR1; echo >>up; {UNTIL_OVER}"),
            )
        })
        .collect();
    servers[0].lines("up", 140);
    world.set("db/url", b"another");
    servers[0].lines("seen", 140);
    servers[0].touch("over");
    assert!(servers.iter_mut().all(|server| server.code() == Some(7)));
    eventually("the grants end", LATE, || world.grants().is_empty());
}

#[test]
fn a_broker_killed_while_names_come_and_go_leaves_nobody_waiting() {
    let world = World::ready();
    for _ in 0..5 {
        let member = world.member(&[]);
        let reader = world.served_below(&member);
        let directory = world.mountpoint().join("api");
        let hammering = reader.ask("hammer_names", json!({ "directory": directory, "threads": 4 }));
        hammering.expect("threads");
        for _ in 0..5 {
            world.set("db/url", b"another");
        }
        let broker = world.broker();
        world.crash();
        eventually("the broker is gone", Duration::from_secs(5), || !broker.is_alive());
        eventually("its readers got an answer", Duration::from_secs(5), || {
            reader.ask("hammered", json!({})).is_ok_and(|left| left == 0)
        });
        drop((reader, member));
        world.kin(["daemon"]).run().exits(0);
    }
}
