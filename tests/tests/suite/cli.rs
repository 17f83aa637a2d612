//! Do the commands do what their help says? Vault, looking, starting and stopping.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use kin_tests::{Actor, Output, World, binary, is_root, mount, record};
use serde_json::json;

use crate::{DATABASE, database};

#[test]
fn a_new_user_begins_with_init() {
    let world = World::new();
    let key = world.path("identity");
    let key = key.to_str().expect("a path");
    world.kin(["init", "--key-file", key]).run().exits(0);
    let mode = std::fs::metadata(key).expect("the identity").permissions().mode();
    assert_eq!(mode & 0o777, 0o400 | mode & 0o200, "{mode:o}");
    world.secret("db/url");
    world.manifest("schema = 1\n[project]\nname = \"api\"\n[bindings]\nDATABASE_URL = \"db/url\"\n");
    world.trust();
    let output = world.kin(["run", "--", "cat"]).args([world.file(DATABASE)]).run().exits(0);
    assert_eq!(output.stdout, database(&world));
    let again = world.kin(["init", "--key-file", key]).run();
    assert!([3, 5].contains(&again.code()), "a second init must not replace a vault: {again}");
}

#[test]
fn run_without_a_vault_says_so() {
    let world = World::new();
    world.manifest("schema = 1\n[project]\nname = \"api\"\n[bindings]\nDATABASE_URL = \"db/url\"\n");
    let output = world.kin(["run", "--", "true"]).run();
    assert!([3, 4].contains(&output.code()), "{output}");
    assert!(output.stderr.contains("hint: "), "{output}");
}

#[test]
fn whatever_a_person_does_is_recorded_with_the_process_that_did_it() {
    let world = World::ready();
    let member = world.member(&[]);
    let backup = world.path("backup.age");
    for args in [
        &["set", "db/url", "--generate", "hex:8"][..],
        &["reveal", "db/url", "--yes"],
        &["reveal", "db/url", "--version", "1", "--yes"],
        &["backup", backup.to_str().expect("a path in UTF-8")],
        &["rm", "api/key", "--yes"],
        &["untrust"],
        &["revoke", "--all"],
        &["lock"],
    ] {
        world.kin(args).run().exits(0);
    }
    let kin = binary();
    let kin = kin.to_str().expect("a path in UTF-8");
    assert_eq!(member.run(&[kin, "reveal", "db/url", "--yes"]).0, 5);
    let records = world.audit();
    let one = |event: &str| record::of(&records, event).pop().unwrap_or_else(|| panic!("no {event}"));
    for event in [
        "vault.write",
        "vault.reveal",
        "vault.backup",
        "vault.remove",
        "policy.untrust",
        "grant.revoke",
        "vault.lock",
    ] {
        let found = one(event);
        assert!(record::chain(found).contains(&u64::from(std::process::id())), "{found:#}");
        assert_eq!(record::text(found, "comm"), "kin", "{found:#}");
        // Only root looks into it: kin keeps everybody of the same user out.
        assert!(!is_root() || found["exe"] == kin, "{found:#}");
    }
    assert!(record::chain(one("sock.deny")).contains(&u64::from(member.pid())), "{records:#?}");
    let versions = |event| -> Vec<_> {
        record::of(&records, event).iter().map(|line| line["version"].clone()).collect()
    };
    assert_eq!(versions("vault.reveal"), [json!(2), json!(1)]);
    assert_eq!(versions("vault.write").last(), Some(&json!(2)));
    assert_eq!(record::text(one("vault.backup"), "reason"), backup.to_str().expect("a path in UTF-8"));
    // Nobody asked for what the broker does by itself.
    assert!(one("broker.start").get("tgid").is_none());
}

#[test]
fn a_secret_is_set_shown_revealed_and_removed() {
    let world = World::ready();
    let list = world.kin(["list"]).run().exits(0).text();
    assert!(list.contains("db/url") && list.contains("api/key"), "{list}");
    let listed = world.kin(["list", "--json"]).run().exits(0).json();
    let names: Vec<&str> =
        listed.as_array().into_iter().flatten().filter_map(|s| s["reference"].as_str()).collect();
    assert_eq!(names, ["api/key", "db/url"], "{listed}");
    let shown = world.kin(["show", "db/url", "--json"]).run().exits(0).json();
    assert_eq!((&shown["version"], &shown["size"]), (&1.into(), &database(&world).len().into()), "{shown}");
    let revealed = world.kin(["reveal", "db/url", "--yes"]).run().exits(0);
    assert_eq!(revealed.stdout.strip_suffix(b"\n").unwrap_or(&revealed.stdout), database(&world));
    world.kin(["reveal", "db/url"]).run().refuses(5, &["reveal"]);
    world.secret("db/url");
    assert_eq!(world.kin(["show", "db/url", "--json"]).run().exits(0).json()["version"], 2);
    world.kin(["rm", "api/key"]).run().refuses(5, &["person"]);
    world.kin(["show", "api/key"]).run().exits(0);
    world.kin(["rm", "api/key", "--yes"]).run().exits(0);
    world.kin(["show", "api/key"]).run().refuses(2, &["api/key"]);
    world.kin(["rm", "api/key", "--yes"]).run().refuses(2, &["api/key"]);
    let records = world.audit();
    assert_eq!(record::of(&records, "vault.write").len(), 3, "{records:#?}");
    assert_eq!(record::of(&records, "vault.reveal").len(), 1);
    assert_eq!(record::of(&records, "vault.remove").len(), 1);
}

#[test]
fn values_are_made_to_a_specification() {
    let world = World::ready();
    world.kin(["set", "a/hex", "--generate", "hex:32"]).run().exits(0);
    let revealed = world.kin(["reveal", "a/hex", "--yes"]).run().exits(0).text();
    let value = revealed.trim_end();
    assert!(
        value.len() == 64 && value.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{} digits",
        value.len()
    );
    for bad in ["", "hex:", "hex:0", "hex:x", "hex:99999999999", "frob:3"] {
        let output = world.kin(["set", "a/bad", &format!("--generate={bad}")]).run();
        assert_eq!(output.code(), 2, "{output}");
    }
}

#[test]
fn values_survive_a_restart() {
    let world = World::ready();
    world.kin(["stop"]).run().exits(0);
    assert!(mount::mounts_on(&world.mountpoint()).is_empty());
    let output = world.kin(["run", "--", "cat"]).args([world.file(DATABASE)]).run().exits(0);
    assert_eq!(output.stdout, database(&world));
}

#[test]
fn a_vault_with_a_passphrase_opens_with_it_alone() {
    let world = World::new();
    let passphrase = world.canary();
    world.kin(["daemon"]).run().exits(0);
    world.kin(["init", "--passphrase-stdin"]).input(format!("{passphrase}\n")).run().exits(0);
    world.secret("db/url");
    world.manifest("schema = 1\n[project]\nname = \"api\"\n[bindings]\nDATABASE_URL = \"db/url\"\n");
    world.trust();
    assert_eq!(world.member(&[]).cat(&world.file(DATABASE)), Ok(database(&world)));
    world.kin(["stop"]).run().exits(0);
    world.kin(["daemon"]).run().exits(0);
    assert_eq!(world.status()["vault"]["state"], "locked");
    world.kin(["run", "--", "true"]).run().refuses(4, &["locked"]);
    world.kin(["unlock", "--passphrase-stdin"]).input("wrong\n").run().refuses(4, &[]);
    assert_eq!(world.status()["vault"]["state"], "locked");
    world.kin(["unlock", "--passphrase-stdin"]).input(format!("{passphrase}\n")).run().exits(0);
    assert_eq!(world.member(&[]).cat(&world.file(DATABASE)), Ok(database(&world)));
}

/// The beginning of a script, for a session with a keyring of its own.
const KEYRING: &str = r#"
printf %s password | gnome-keyring-daemon --foreground --unlock --components=secrets >/dev/null 2>&1 &
keyring=$!
trap 'kill $keyring' EXIT
ask() { dbus-send --session --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.NameHasOwner \
    string:org.freedesktop.secrets; }
tries=0
until ask | grep -q true; do
    tries=$((tries + 1)); test $tries -lt 100
    sleep 0.1
done
"#;

/// What is done in such a session, `$1` kin and `$2` the file with the value.
const KEPT_BY_THE_KEYRING: &str = r#"
"$1" init --keyring >&2
"$1" set db/url --stdin < "$2" >&2
"$1" trust --yes >&2
"$1" run -- sh -c 'cat "$KIN_DIR/DATABASE_URL"'
"$1" stop >&2
"$1" run -- sh -c 'cat "$KIN_DIR/DATABASE_URL"'
"$1" stop >&2
"#;

#[test]
fn the_keyring_of_the_session_keeps_the_identity() {
    let world = World::new();
    world.manifest("schema = 1\n[project]\nname = \"api\"\n[bindings]\nDATABASE_URL = \"db/url\"\n");
    let value = world.canary();
    let file = world.path("value");
    std::fs::write(&file, &value).expect("a file");
    let output = in_a_session_with_a_keyring(&world, KEPT_BY_THE_KEYRING, &file);
    assert_eq!(output.text(), format!("{value}{value}"));
    // Without the session the identity is out of reach: no fallback, no wait.
    let start = Instant::now();
    world.kin(["run", "--", "true"]).run().refuses(4, &[]);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

fn in_a_session_with_a_keyring(world: &World, script: &str, file: &Path) -> Output {
    let script = [KEYRING, script].concat();
    let command = world.other("dbus-run-session", ["--", "sh", "-ec", &script, "sh"]);
    command.args([kin_tests::binary().as_path(), file]).within(Duration::from_secs(40)).run().exits(0)
}

/// A vault whose key comes into the keyring twice, and is used: `$1` is kin, and what it says goes to standard output
/// by turns, each under a line that names it.
const WARNED_OF_THE_KEYRING: &str = r#"
for turn in "init --keyring" "set a --generate hex:32" "trust --yes" lock unlock "rekey --keyring" "list" "run -- true" stop \
    "run -- true" "rekey --key-file $KIN_HOME/key" "rekey --keyring --json" stop; do
    echo "== $turn"
    "$1" $turn 2>&1
done
"#;

#[test]
fn a_key_that_comes_into_the_keyring_is_warned_of_once() {
    let world = World::new();
    world.manifest("schema = 1\n[project]\nname = \"api\"\n[bindings]\n");
    let said = in_a_session_with_a_keyring(&world, WARNED_OF_THE_KEYRING, Path::new("/dev/null")).text();
    let turns = said.split("== ").filter(|turn| turn.contains("any program of yours can ask"));
    let turns: Vec<_> = turns.map(|turn| turn.lines().next().unwrap_or_default()).collect();
    assert_eq!(turns, ["init --keyring", "rekey --keyring --json"], "{said}");
    assert_eq!(said.matches("warning: any program of yours can ask").count(), turns.len(), "{said}");
}

#[test]
fn g08_without_a_keyring_init_refuses_and_falls_back_to_nothing() {
    let world = World::new();
    world.kin(["daemon"]).run().exits(0);
    let start = Instant::now();
    world.kin(["init", "--keyring"]).run().refuses(4, &[]);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(world.status()["vault"]["state"], "absent");
}

#[test]
fn the_mountpoint_is_closed_when_nothing_is_mounted() {
    let world = World::ready();
    world.kin(["stop"]).run().exits(0);
    assert!(mount::mounts_on(&world.mountpoint()).is_empty());
    let mode = std::fs::metadata(world.mountpoint()).expect("the directory").permissions().mode();
    assert_eq!(mode & 0o777, 0o500);
    assert_eq!(std::fs::read_dir(world.mountpoint()).expect("a listing").count(), 0);
}

#[test]
fn stop_without_a_broker_and_status_without_one_are_no_faults_of_ours() {
    let world = World::new();
    let stop = world.kin(["stop"]).run();
    assert!([0, 6].contains(&stop.code()), "{stop}");
    let status = world.kin(["status"]).run();
    assert!([0, 6].contains(&status.code()), "{status}");
    assert!(!world.is_broker_running(), "neither starts one");
}

#[test]
fn doctor_names_what_it_looked_at() {
    let world = World::ready();
    let output = world.kin(["doctor"]).run();
    let said = output.text() + &output.stderr;
    for subject in ["/dev/fuse", "fusermount3"] {
        assert!(said.contains(subject), "no {subject}: {output}");
    }
    assert!(!said.contains("panicked"), "{output}");
}

#[test]
fn j01_a_runtime_directory_that_others_can_write_is_refused() {
    let world = World::ready();
    world.kin(["stop"]).run().exits(0);
    let run = world.path("kin/run");
    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o777)).expect("a mode");
    world.kin(["run", "--", "true"]).run().refuses(3, &["0777"]);
    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o700)).expect("a mode");
    world.kin(["run", "--", "true"]).run().exits(0);
}

#[test]
fn without_kin_home_the_xdg_directories_are_used() {
    let world = World::new();
    let without = |args: &[&str]| {
        let command = world.other("env", ["-u", "KIN_HOME"]).args([kin_tests::binary()]).args(args);
        command.run().exits(0)
    };
    let key = world.path("identity");
    without(&["init", "--key-file", key.to_str().expect("a path")]);
    world.manifest("schema = 1\n[project]\nname = \"api\"\n[bindings]\nONE = \"a/b\"\n");
    without(&["set", "a/b", "--generate", "hex:16"]);
    without(&["trust", "--yes"]);
    let place =
        without(&["run", "--", "sh", "-c", "cat \"$KIN_DIR/ONE\" >/dev/null && printf %s \"$KIN_DIR\""])
            .text();
    assert_eq!(place, world.path("xdg/kin/mnt/api").to_str().expect("a path"));
    for dir in [".config/kin", ".local/share/kin", ".local/state/kin"] {
        assert!(world.path("home").join(dir).is_dir(), "{dir}");
    }
    without(&["stop"]);
    assert!(mount::mounts_on(&world.path("xdg/kin/mnt")).is_empty());
    assert!(!world.home().join("run").exists());
}
