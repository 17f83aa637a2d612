//! Is nothing changed that the record does not have, and nothing in the record that was not changed?

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use kin_broker::keys::Identity;
use kin_tests::{Actor, Kin, World, binary, eventually, mount, record};
use serde_json::Value;

use crate::{DATABASE, database};

const MANIFEST: &str = "schema = 1\n[project]\nname = \"api\"\n[bindings]\n\
    DATABASE_URL = { ref = \"db/url\", path = \"url\" }\nAPI_KEY = { ref = \"api/key\", path = \"key\" }\n";

/// From now on the broker's record takes not one byte more (RLIMIT_FSIZE, setrlimit(2)): as on a full disk, but
/// all other files, which are smaller, can be written.
fn refuse_records(world: &World) {
    let size = std::fs::metadata(world.log_file()).expect("the log").len();
    for other in ["data/vault.age", "data/trust.json", "state/audit.anchor"] {
        let other = std::fs::metadata(world.path("kin").join(other)).map_or(0, |meta| meta.len());
        assert!(2 * other < size, "{size} bytes would bound more than the record: {other}");
    }
    limit(world, &size.to_string());
}

fn accept_records(world: &World) {
    limit(world, "unlimited");
}

fn limit(world: &World, bytes: &str) {
    let mut prlimit = Command::new("prlimit");
    prlimit.arg(format!("--pid={}", world.broker().pid)).arg(format!("--fsize={bytes}:"));
    assert!(prlimit.status().is_ok_and(|status| status.success()), "{prlimit:?}");
}

/// Makes the record long enough that all other files are smaller.
fn lengthen_the_record(world: &World) {
    let size = |path: &str| std::fs::metadata(world.path(path)).map_or(0, |meta| meta.len());
    while size("kin/state/audit.jsonl") < 2 * size("kin/data/vault.age") + 4096 {
        world.kin(["reveal", "--yes", "db/url"]).run().exits(0);
    }
}

/// The record as it stands in its file.
fn recorded(world: &World) -> Vec<Value> {
    let text = std::fs::read_to_string(world.log_file()).expect("the log");
    text.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
}

/// What stands on the disk beside the record: each file and link below these directories.
fn standing(world: &World) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for below in ["kin/config", "kin/data", "project", "other", "out"] {
        collect(&world.path(below), &mut all);
    }
    let links = world.path("kin/state/links.json");
    all.insert(links.clone(), std::fs::read(links).unwrap_or_default());
    all
}

fn collect(directory: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        // What the vault remembers of the record is the record's own, and follows it.
        if entry.file_name().to_string_lossy().starts_with("record.head") {
            continue;
        }
        let meta = std::fs::symlink_metadata(&path).expect("a look");
        if meta.is_symlink() {
            into.insert(
                path.clone(),
                std::fs::read_link(&path).expect("a link").into_os_string().into_encoded_bytes(),
            );
        } else if meta.is_dir() {
            into.insert(path.clone(), Vec::new());
            collect(&path, into);
        } else {
            into.insert(path.clone(), std::fs::read(&path).expect("a file"));
        }
    }
}

/// One verb that a person changes something by, and the record of it.
struct Row {
    event: &'static str,
    arguments: Vec<String>,
    input: &'static str,
    directory: &'static str,
}

fn row(event: &'static str, arguments: &[&str]) -> Row {
    let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    Row { event, arguments, input: "", directory: "project" }
}

impl Row {
    fn given(self, input: &'static str) -> Self {
        Self { input, ..self }
    }

    fn within(self, directory: &'static str) -> Self {
        Self { directory, ..self }
    }

    fn kin<'w>(&self, world: &'w World) -> Kin<'w> {
        world.kin(&self.arguments).input(self.input).cwd(world.path(self.directory))
    }
}

/// A world in which every one of the rows can be done, one after the other.
fn stage() -> (World, Vec<Row>) {
    let world = World::ready();
    world.manifest(MANIFEST);
    world.trust();
    world.secret("db/url");
    let (first, second) = (Identity::generate(), Identity::generate());
    world.kin(["recovery", "add", "--yes", first.recipient()]).run().exits(0);
    world.kin(["link", "--yes", "DATABASE_URL"]).run().exits(0);
    for directory in ["other", "out"] {
        std::fs::create_dir(world.path(directory)).expect("a directory");
    }
    let other = "schema = 1\n[project]\nname = \"other\"\n[bindings]\nX = \"db/url\"\n";
    std::fs::write(world.path("other/kin.toml"), other).expect("kin.toml");
    std::fs::write(world.path("out/values.env"), "A=one\nB=two\nC=three\n").expect("a file");
    let at = |name: &str| world.path("out").join(name).to_str().expect("UTF-8").to_owned();
    world.kin(["backup", &at("kept.age")]).run().exits(0);
    let (values, kept, key) = (at("values.env"), at("kept.age"), at("key2"));
    let (made, written) = (at("made.age"), at("written.age"));
    let (first, second) = (first.recipient().to_owned(), second.recipient().to_owned());
    let rows = vec![
        row("vault.reveal", &["reveal", "--yes", "db/url"]),
        row("vault.write", &["set", "new/one", "--stdin"]).given("value"),
        row("vault.write", &["set", "db/url", "--stdin"]).given("another"),
        row("vault.write", &["rotate", "db/url", "--generate", "hex"]),
        row("vault.write", &["rotate", "db/url", "--from-version", "1"]),
        row("vault.write", &["import", &values, "--yes"]),
        row("vault.export", &["export", "--only", "db/*", "--to", &first, &written]),
        row("vault.backup", &["backup", &made]),
        row("vault.recovery_add", &["recovery", "add", "--yes", &second]),
        row("vault.recovery_add", &["recovery", "new", "--yes"]),
        row("vault.recovery_remove", &["recovery", "remove", &first]),
        row("policy.link", &["link", "--yes", "API_KEY"]),
        row("policy.unlink", &["unlink", "DATABASE_URL"]),
        row("policy.trust", &["trust", "--yes"]).within("other"),
        row("policy.untrust", &["untrust"]),
        row("vault.remove", &["rm", "api/key", "--yes"]),
        row("vault.restore", &["restore", &kept, "--yes"]),
        row("vault.rekey", &["rekey", "--key-file", &key]),
    ];
    (world, rows)
}

fn secrets(world: &World) -> Value {
    world.kin(["list", "--json"]).run().exits(0).json()
}

#[test]
fn l21_without_a_record_nothing_is_changed() {
    let (world, rows) = stage();
    lengthen_the_record(&world);
    let (before, listed, many) = (standing(&world), secrets(&world), recorded(&world).len());
    refuse_records(&world);
    for row in &rows {
        let refused = row.kin(&world).run().refuses(8, &["audit log"]);
        assert!(refused.stdout.is_empty(), "{}: {refused}", row.arguments.join(" "));
        let after = standing(&world);
        let changed: Vec<_> =
            after.keys().chain(before.keys()).filter(|path| after.get(*path) != before.get(*path)).collect();
        assert!(changed.is_empty(), "{}: {changed:?}", row.arguments.join(" "));
    }
    assert_eq!(secrets(&world), listed);
    // Locked it can be, whatever becomes of the record, and opened it cannot.
    world.kin(["lock"]).run().exits(0);
    world.kin(["unlock"]).run().refuses(8, &["audit log"]);
    world.kin(["restore", "--yes"]).args([world.path("out/kept.age")]).run().refuses(8, &["audit log"]);
    assert_eq!(world.status()["vault"]["state"], "locked");
    accept_records(&world);
    world.kin(["unlock"]).run().exits(0);
    let records = recorded(&world);
    let told: Vec<_> = records.iter().skip(many).map(record::event).collect();
    assert!(!told.iter().any(|event| rows.iter().any(|row| row.event == *event)), "{told:?}");
    world.kin(["audit", "verify"]).run().exits(0);
}

#[test]
fn l21_whatever_is_changed_is_recorded_with_who_asked() {
    let (world, rows) = stage();
    for row in &rows {
        let many = recorded(&world).len();
        row.kin(&world).run().exits(0);
        let records = recorded(&world);
        let own = record::of(&records[many..], row.event);
        assert!(!own.is_empty(), "{}: {:#?}", row.arguments.join(" "), &records[many..]);
        assert!(own.iter().all(|record| record["comm"] == "kin"), "{own:#?}");
    }
    assert_eq!(record::of(&recorded(&world), "change.fail").len(), 0);
    world.kin(["audit", "verify"]).run().exits(0);
}

#[test]
fn l22_a_change_that_fails_after_its_record_is_said_to_have_failed() {
    let (world, rows) = stage();
    // Where a file is written first, something stands that cannot be replaced.
    let obstacles =
        ["kin/data/vault.age.tmp", "kin/state/links.json.tmp", "kin/data/trust.json.announced.tmp"];
    let beside = ["out/made.age.tmp", "out/written.age.tmp", "out/key2"];
    for obstacle in obstacles.iter().chain(&beside) {
        std::fs::create_dir(world.path(obstacle)).expect("an obstacle");
    }
    let listed = secrets(&world);
    let links = |world: &World| std::fs::symlink_metadata(world.project().join("key")).is_ok();
    for row in rows.iter().filter(|row| !["vault.reveal", "policy.unlink"].contains(&row.event)) {
        let many = recorded(&world).len();
        let output = row.kin(&world).run();
        assert!([3, 8].contains(&output.code()), "{}: {output}", row.arguments.join(" "));
        let records = recorded(&world);
        let (own, failed) =
            (record::of(&records[many..], row.event), record::of(&records[many..], "change.fail"));
        assert_eq!(failed.len(), 1, "{}: {:#?}", row.arguments.join(" "), &records[many..]);
        let (first, last) = (own.first().expect("a record"), own.last().expect("a record"));
        assert_eq!((&failed[0]["change"], &failed[0]["of"]), (&row.event.into(), &first["seq"]));
        let to = failed[0].get("to").unwrap_or(&failed[0]["of"]);
        assert_eq!(to, &last["seq"], "{}", failed[0]);
        assert_eq!(failed[0]["comm"], "kin", "{}", failed[0]);
        assert!(failed[0]["reason"].is_string() && record::seq(failed[0]) > record::seq(last));
    }
    assert_eq!(secrets(&world), listed);
    assert!(!links(&world), "a link that nobody remembers");
    world.kin(["run", "--", "true"]).cwd(world.path("other")).run().refuses(3, &["trust"]);
    world.kin(["run", "--", "true"]).run().exits(0);
}

/// Records of this event, once there is one.
fn in_time(world: &World, event: &str) -> Value {
    let found = || record::of(&world.audit(), event).last().map(|record| (*record).clone());
    eventually(event, Duration::from_secs(5), || found().is_some());
    found().expect("a record")
}

#[test]
fn l23_what_ended_while_nothing_could_be_recorded_is_recorded_later_with_its_time() {
    let world = World::ready();
    let member = world.member(&[]);
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
    lengthen_the_record(&world);
    refuse_records(&world);
    let mut unmount = Command::new("fusermount3");
    assert!(unmount.arg("-uz").arg(world.mountpoint()).status().is_ok_and(|status| status.success()));
    let is_back = || mount::mounts_on(&world.mountpoint()).len() == 1;
    eventually("the mount is back", Duration::from_secs(2), is_back);
    world.kin(["revoke", "--all"]).run().exits(0);
    world.kin(["lock"]).run().exits(0);
    let vault = world.path("kin/data/vault.age");
    let whole = std::fs::read(&vault).expect("the vault");
    std::fs::write(&vault, &whole[..whole.len() / 2]).expect("half of it");
    world.kin(["unlock"]).run().exits(7);
    std::fs::write(&vault, whole).expect("the vault");
    let events = ["mount.lost", "grant.revoke", "vault.lock", "vault.reject"];
    let records = world.audit();
    assert!(events.iter().all(|event| record::of(&records, event).is_empty()), "{records:#?}");
    std::thread::sleep(Duration::from_millis(1200));
    accept_records(&world);
    for event in events {
        let late = in_time(&world, event);
        let (happened, time) =
            (late["happened"].as_str().expect("a time"), late["time"].as_str().expect("a time"));
        assert!(happened < time, "{late}");
        // Who asked is not forgotten meanwhile; a mount is lost by nobody that asked.
        assert_eq!(late["comm"].as_str(), (event != "mount.lost").then_some("kin"), "{late}");
    }
    world.kin(["audit", "verify"]).run().exits(0);
}

#[test]
fn l23_a_vault_that_locked_itself_meanwhile_is_recorded_later() {
    let world = World::ready();
    lengthen_the_record(&world);
    world.kin(["stop"]).run().exits(0);
    world.configure("[vault]\nauto_lock = \"2s\"\n");
    world.kin(["daemon"]).run().exits(0);
    world.kin(["unlock"]).run().exits(0);
    refuse_records(&world);
    eventually("it locks itself", Duration::from_secs(10), || {
        world.status()["vault"]["state"] == "suspended"
    });
    assert!(record::of(&world.audit(), "vault.autolock").is_empty());
    accept_records(&world);
    let late = in_time(&world, "vault.autolock");
    assert_eq!(record::reason(&late), "idle");
    assert!(late["happened"].is_string(), "{late}");
}

#[test]
fn l24_no_vault_is_made_that_the_record_does_not_have() {
    let world = World::new();
    world.kin(["daemon"]).run().exits(0);
    let key = world.path("identity");
    let init = || world.kin(["init", "--key-file"]).args([&key]).run();
    refuse_small_records(&world);
    init().refuses(8, &["audit log"]);
    for made in [key.clone(), world.path("kin/config/key.json"), world.path("kin/data/vault.age")] {
        assert!(!made.exists(), "{}", made.display());
    }
    accept_records(&world);
    init().exits(0);
    assert_eq!(record::of(&world.audit(), "vault.init").len(), 1);
}

/// As [`refuse_records`], where there is nothing else yet.
fn refuse_small_records(world: &World) {
    let size = std::fs::metadata(world.log_file()).expect("the log").len();
    limit(world, &size.to_string());
}

#[test]
fn l25_a_verb_that_is_refused_inside_a_tree_is_refused_and_recorded_later() {
    let world = World::ready();
    lengthen_the_record(&world);
    let (go, done) = (world.path("home/go"), world.path("home/done"));
    let script = "while [ ! -e \"$1\" ]; do sleep 0.05; done; echo x | \"$3\" set a/b --stdin; echo $? > \"$2.new\"; mv \"$2.new\" \"$2\"";
    let mut run = world.program(binary());
    run.args(["run", "--", "sh", "-c", script, "sh"]).args([&go, &done]).arg(binary());
    let mut run =
        run.current_dir(world.project()).stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("a run");
    eventually("the grant stands", Duration::from_secs(5), || !world.grants().is_empty());
    refuse_records(&world);
    std::fs::write(&go, "").expect("a word");
    eventually("it was asked", Duration::from_secs(10), || done.exists());
    assert_eq!(std::fs::read_to_string(&done).expect("a status").trim(), "5");
    assert!(record::of(&world.audit(), "sock.deny").is_empty());
    accept_records(&world);
    let late = in_time(&world, "sock.deny");
    assert_eq!((&late["verb"], record::reason(&late)), (&"set".into(), "inside_a_tree"));
    assert!(late["happened"].is_string(), "{late}");
    run.wait().expect("its end");
}
