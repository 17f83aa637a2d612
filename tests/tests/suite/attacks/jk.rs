//! Who may speak to the broker, and what may a repository say for itself? Socket, manifests, policy.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use kin_tests::{Actor, World, binary, eventually, record};
use nix::errno::Errno;
use serde_json::{Value, json};

use crate::{DATABASE, database};

/// Starts many at once and gives their exit codes.
fn all_at_once(world: &World, args: &[&str], count: usize) -> Vec<i32> {
    let start = |_| -> Child {
        let mut command = world.program(binary());
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("a process")
    };
    let mut children: Vec<Child> = (0..count).map(start).collect();
    let end = Instant::now() + Duration::from_secs(40);
    let mut codes = Vec::new();
    while let Some(child) = children.last_mut() {
        match child.try_wait().expect("wait") {
            Some(status) => {
                codes.push(status.code().unwrap_or(-1));
                children.pop();
            }
            None if Instant::now() > end => {
                children.iter_mut().for_each(|child| drop(child.kill()));
                panic!("{} of {count} did not end; codes so far: {codes:?}", children.len());
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    codes
}

fn starts(records: &[Value]) -> usize {
    record::of(records, "broker.start").len()
}

#[test]
fn j10_of_a_hundred_daemons_one_wins_and_the_others_say_so() {
    let world = World::new();
    let codes = all_at_once(&world, &["daemon"], 100);
    let count = |code: i32| codes.iter().filter(|own| **own == code).count();
    assert_eq!((count(0), count(6)), (1, 99), "{codes:?}");
    world.kin(["daemon"]).run().refuses(6, &["running"]);
    assert_eq!(starts(&world.audit()), 1);
    let modes = ["kin/run", "kin/run/socket"]
        .map(|name| std::fs::metadata(world.path(name)).expect("metadata").permissions().mode() & 0o777);
    assert_eq!(modes, [0o700, 0o600]);
}

#[test]
fn j10_of_a_hundred_runs_all_find_the_one_broker() {
    let world = World::ready();
    world.kin(["stop"]).run().exits(0);
    let codes = all_at_once(&world, &["run", "--", "true"], 100);
    assert!(codes.iter().all(|code| *code == 0), "{codes:?}");
    assert_eq!(starts(&world.audit()), 2);
}

#[test]
fn x13_a_hundred_starts_after_a_crash_make_one_broker_and_one_mount() {
    let world = World::ready();
    world.crash();
    let codes = all_at_once(&world, &["daemon"], 100);
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
    assert_eq!(kin_tests::mount::mounts_on(&world.mountpoint()).len(), 1);
    assert_eq!(starts(&world.audit()), 2);
    assert_eq!(world.member(&[]).cat(&world.file(DATABASE)), Ok(database(&world)));
}

#[test]
fn the_broker_is_nobodys_descendant_and_keeps_no_tree_alive() {
    let world = World::ready();
    world.kin(["stop"]).run().exits(0);
    let member = world.member(&[]);
    let broker = world.broker().pid;
    let below = kin_tests::process::tree(member.started());
    assert!(!below.iter().any(|process| process.pid == broker), "the broker is below the front");
    let keeper = world.keeper(0);
    assert!(!kin_tests::process::tree(keeper).iter().any(|process| process.pid == broker));
    member.finish();
    eventually("the tree is empty and the grant ends", crate::SOON, || world.grants().is_empty());
}

/// Speaks to the broker; a read waits for so many seconds.
fn connect(world: &World, seconds: u64) -> UnixStream {
    let stream = UnixStream::connect(world.path("kin/run/socket")).expect("the socket");
    stream.set_read_timeout(Some(Duration::from_secs(seconds))).expect("a deadline");
    stream
}

/// One frame: the length of the document, no value, the document.
pub(super) fn exchange(world: &World, document: &Value) -> Option<Value> {
    let mut stream = connect(world, 5);
    let json = document.to_string().into_bytes();
    let head = [(json.len() as u32).to_le_bytes(), u32::MAX.to_le_bytes()].concat();
    stream.write_all(&[head, json].concat()).expect("sent");
    let mut head = [0; 8];
    stream.read_exact(&mut head).ok()?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    let mut answer = vec![0; length as usize];
    stream.read_exact(&mut answer).expect("an answer");
    Some(serde_json::from_slice(&answer).expect("JSON"))
}

#[test]
fn j13_another_protocol_is_refused_by_name() {
    let world = World::ready();
    let answer = exchange(&world, &json!({ "protocol": 999, "verb": "hello" })).expect("an answer");
    let failed = &answer["failed"];
    assert_eq!(
        (&failed["class"], &failed["code"]),
        (&json!("unreachable"), &json!("protocol_version")),
        "{answer}"
    );
    // Also where the newer request is one that this broker cannot know.
    let answer = exchange(&world, &json!({ "protocol": 999, "verb": "from_the_future", "x": [1] }));
    assert_eq!(answer.expect("an answer")["failed"]["code"], "protocol_version");
    let answer =
        exchange(&world, &json!({ "protocol": kin_broker::control::protocol::PROTOCOL, "verb": "hello" }))
            .expect("an answer");
    assert!(answer["done"]["pid"].is_u64(), "{answer}");
}

#[test]
fn j03_a_bad_frame_ends_its_connection_and_nothing_else() {
    let world = World::ready();
    let over = [0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0];
    for bad in [
        &[0; 8][..],
        &[0xff; 8],
        &over,
        b"GET / HTTP/1.1\r\n\r\n",
        &[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, b'{'],
    ] {
        let mut stream = connect(&world, 2);
        let _ = stream.write_all(bad);
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{bad:?}: {error}"),
        }
    }
    assert_eq!(world.member(&[]).cat(&world.file(DATABASE)), Ok(database(&world)));
}

/// How many of the broker's threads serve connections, or wait for them.
fn control_threads(broker: u32) -> usize {
    kin_tests::process::threads_named(broker, "control")
}

/// Whether the broker has closed its end; it may not have within the stream's deadline, and nothing else.
fn is_closed(mut stream: &UnixStream) -> bool {
    loop {
        match stream.read(&mut [0; 8]) {
            Ok(got) => return got == 0,
            Err(error) => match error.kind() {
                std::io::ErrorKind::Interrupted => {}
                std::io::ErrorKind::ConnectionReset => return true,
                std::io::ErrorKind::WouldBlock => return false,
                _ => panic!("{error}"),
            },
        }
    }
}

#[test]
fn j05_a_crowd_of_connections_is_capped_and_leaves_no_threads() {
    let world = World::ready();
    let (member, broker) = (world.member(&[]), world.broker().pid);
    let since = Instant::now();
    let held: Vec<UnixStream> = (0..128).map(|_| connect(&world, 10)).collect();
    eventually("each has a thread, and one is at the socket", Duration::from_secs(5), || {
        control_threads(broker) == 129
    });
    let (mut refused, mut served) = (0, 0);
    while refused + served < 300 && since.elapsed() < Duration::from_secs(4) {
        let closed = is_closed(&connect(&world, 10));
        // A connection that was long under way is one of the time after.
        if since.elapsed() < Duration::from_secs(4) {
            *(if closed { &mut refused } else { &mut served }) += 1;
        }
    }
    assert!(
        refused > 0 && served == 0,
        "{served} connections more than the broker serves, {refused} were refused"
    );
    assert!(control_threads(broker) <= 129);
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
    drop(held);
    eventually("as many threads as on a quiet day", Duration::from_secs(5), || control_threads(broker) == 2);
    world.kin(["status"]).run().exits(0);
}

#[test]
fn j04_a_request_that_comes_in_drops_is_not_waited_for() {
    let world = World::ready();
    let member = world.member(&[]);
    let begun: Vec<UnixStream> = (0..100)
        .map(|_| {
            let mut stream = connect(&world, 10);
            stream.write_all(&[200]).expect("one byte of a frame");
            stream
        })
        .collect();
    let since = Instant::now();
    let slowly = begun.iter().map(|stream| stream.try_clone().expect("a descriptor")).collect::<Vec<_>>();
    let drip = std::thread::spawn(move || {
        for _ in 0..6 {
            std::thread::sleep(Duration::from_secs(1));
            slowly.iter().for_each(|mut stream| drop(stream.write_all(&[0])));
        }
    });
    // Meanwhile others are served.
    world.kin(["status"]).run().exits(0);
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
    for stream in &begun {
        // A word of why, and the end.
        let mut said = Vec::new();
        let _ = (&mut &*stream).read_to_end(&mut said);
        assert!(since.elapsed() < Duration::from_secs(8), "waited for {:?}", since.elapsed());
    }
    assert!(since.elapsed() > Duration::from_secs(3), "a slow request has its time");
    drip.join().expect("the writer");
}

#[test]
fn k01_a_manifest_is_inert_until_it_is_trusted() {
    let world = World::ready();
    let clone = world.path("clone");
    std::fs::create_dir(&clone).expect("a directory");
    std::fs::copy(world.project().join("kin.toml"), clone.join("kin.toml")).expect("a copy");
    // Trust is for content and path: the same content elsewhere is another project.
    world.kin(["run", "--", "true"]).cwd(&clone).run().refuses(3, &["trust"]);
    world.kin(["run", "--", "true"]).run().exits(0);
    // Found from below, and not where there is none.
    let below = world.project().join("a/b");
    std::fs::create_dir_all(&below).expect("directories");
    world.kin(["run", "--", "true"]).cwd(&below).run().exits(0);
    world.kin(["run", "--", "true"]).cwd(world.path("home")).run().refuses(3, &["kin.toml"]);
}

#[test]
fn k00_a_trust_store_that_was_edited_trusts_nothing() {
    let world = World::ready();
    world.kin(["stop"]).run().exits(0);
    let store = store_of(&world);
    let text = std::fs::read(&store).expect("the trust store");
    let digit = text.iter().rposition(u8::is_ascii_hexdigit).expect("a digit");
    let mut edited = text.clone();
    edited[digit] = if edited[digit] == b'0' { b'1' } else { b'0' };
    std::fs::write(&store, edited).expect("an edit");
    world.kin(["run", "--", "true"]).run().refuses(3, &["trust"]);
    let records = world.audit();
    assert_eq!(record::of(&records, "policy.reject").len(), 1, "{records:#?}");
}

#[test]
fn k15_an_old_trust_store_put_back_trusts_nothing_and_is_recorded() {
    let world = World::ready();
    let wider = std::fs::read_to_string(world.project().join("kin.toml")).expect("kin.toml");
    let (store, narrower) = (store_of(&world), wider.replace("API_KEY = \"api/key\"\n", ""));
    assert_ne!(wider, narrower);
    let run = || world.kin(["run", "--", "true"]).run();
    let put_back = |old: &[u8]| {
        world.kin(["stop"]).run().exits(0);
        std::fs::write(&store, old).expect("the store");
    };
    let old = std::fs::read(&store).expect("the store");
    let rejected = || -> Vec<String> {
        let records = world.audit();
        let rejected = record::of(&records, "policy.reject");
        rejected.into_iter().map(|record| record::reason(record).to_owned()).collect()
    };
    // What a person untrusted stays untrusted.
    world.kin(["untrust"]).run().exits(0);
    put_back(&old);
    run().refuses(3, &["trust store", "written last"]);
    assert_eq!(rejected(), ["trust_rollback"]);
    // What a person trusted anew with less stays so.
    world.manifest(&narrower);
    world.trust();
    run().exits(0);
    put_back(&old);
    world.manifest(&wider);
    let refused = world.kin(["run", "--", "true"]).run().refuses(3, &["trust"]);
    assert!(refused.stderr.contains("kin trust"), "{refused}");
    assert_eq!(rejected(), ["trust_rollback", "trust_rollback"]);
    // One that is gone trusts nothing either, and a person begins anew.
    world.manifest(&narrower);
    world.trust();
    world.kin(["stop"]).run().exits(0);
    std::fs::remove_file(&store).expect("the store");
    run().refuses(3, &["trust store"]);
    world.trust();
    world.kin(["stop"]).run().exits(0);
    run().exits(0);
    assert_eq!(rejected(), ["trust_rollback", "trust_rollback", "trust_missing"]);
}

#[test]
fn k15_trust_is_not_rolled_back_with_a_vault_that_a_person_takes_or_restores() {
    let world = World::ready();
    let (vault, store, kept) = (world.path("kin/data/vault.age"), store_of(&world), world.path("kept.age"));
    let run = |code| world.kin(["run", "--", "true"]).run().exits(code);
    world.kin(["backup"]).args([&kept]).run().exits(0);
    let old = (std::fs::read(&vault).expect("the vault"), std::fs::read(&store).expect("the store"));
    world.kin(["untrust"]).run().exits(0);
    let again = |store_too: bool| {
        world.kin(["stop"]).run().exits(0);
        std::fs::write(&vault, &old.0).expect("an old vault");
        if store_too {
            std::fs::write(&store, &old.1).expect("an old store");
        }
    };
    again(true);
    world.kin(["unlock"]).run().refuses(7, &["older"]);
    world.kin(["unlock", "--accept-rollback"]).run().exits(0);
    run(3);
    world.trust();
    run(0);
    again(false);
    world.kin(["unlock", "--accept-rollback"]).run().exits(0);
    run(0);
    // A backup from when the project was trusted, over a vault that is lost.
    world.kin(["untrust"]).run().exits(0);
    world.kin(["stop"]).run().exits(0);
    std::fs::remove_file(&vault).expect("the vault");
    std::fs::write(&store, &old.1).expect("an old store");
    world.kin(["restore", "--yes"]).args([&kept]).run().exits(0);
    run(3);
    world.trust();
    let trusted = std::fs::read(&store).expect("the store");
    // Another identity signs the store anew, and knows the same ones for old.
    world.kin(["untrust"]).run().exits(0);
    world.kin(["rekey", "--key-file"]).args([world.path("key2")]).run().exits(0);
    run(3);
    world.trust();
    world.kin(["stop"]).run().exits(0);
    run(0);
    world.kin(["stop"]).run().exits(0);
    std::fs::write(&store, trusted).expect("an old store");
    run(3);
}

fn store_of(world: &World) -> std::path::PathBuf {
    let entries = std::fs::read_dir(world.path("kin/data")).expect("the data directory").flatten();
    let mut stores = entries.map(|entry| entry.path()).filter(|path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.contains("trust"))
    });
    stores.next().expect("a trust store")
}

#[test]
fn k02_one_changed_byte_ends_trust_and_is_shown() {
    let world = World::ready();
    let text = std::fs::read_to_string(world.project().join("kin.toml")).expect("kin.toml");
    world.manifest(&text.replace("DATABASE_URL = \"db/url\"", "DATABASE_URL = \"api/key\""));
    let output = world.kin(["run", "--", "true"]).run().refuses(3, &["changed"]);
    for line in ["-DATABASE_URL = \"db/url\"", "+DATABASE_URL = \"api/key\""] {
        assert!(output.stderr.contains(line), "no {line}: {output}");
    }
    // A grant that stands is a snapshot: what it was given for does not change under it.
    world.manifest(&text);
    world.kin(["run", "--", "true"]).run().exits(0);
}

#[test]
fn k04_nothing_in_a_repository_grants_itself_trust() {
    let world = World::ready();
    let store = std::fs::read(store_of(&world)).expect("the trust store");
    let clone = world.path("clone");
    for dir in [".kin", ".config/kin", "kin"] {
        std::fs::create_dir_all(clone.join(dir)).expect("directories");
        for name in ["trust.json", "trust", "trust.toml", "config.toml"] {
            std::fs::write(clone.join(dir).join(name), &store).expect("a file");
        }
    }
    std::fs::copy(world.project().join("kin.toml"), clone.join("kin.toml")).expect("a copy");
    world.kin(["run", "--", "true"]).cwd(&clone).run().refuses(3, &["trust"]);
    for more in ["[trust]\nyes = true\n", "[policy]\nallow = \"all\"\n", "trusted = true\n"] {
        let text = std::fs::read_to_string(world.project().join("kin.toml")).expect("kin.toml");
        let first = if more.starts_with('[') { text + more } else { more.to_owned() + &text };
        std::fs::write(clone.join("kin.toml"), first).expect("kin.toml");
        world.kin(["run", "--", "true"]).cwd(&clone).run().exits(3);
        world.kin(["trust", "--yes"]).cwd(&clone).run().exits(3);
    }
}

#[test]
fn trust_by_hash_is_for_exactly_that_content() {
    let world = World::ready();
    let text = "schema = 1\n[project]\nname = \"api\"\n[bindings]\nONE = \"db/url\"\n";
    world.manifest(text);
    let sum = world.other("sha256sum", ["kin.toml"]).run().exits(0).text();
    let hash = sum.split_whitespace().next().expect("a digest").to_owned();
    world.kin(["trust", "--hash", &"0".repeat(64)]).run().exits(3);
    world.kin(["run", "--", "true"]).run().exits(3);
    world.kin(["trust", "--hash", &hash]).run().exits(0);
    assert_eq!(world.member(&[]).cat(&world.file("ONE")), Ok(database(&world)));
    world.kin(["untrust"]).run().exits(0);
    world.kin(["run", "--", "true"]).run().refuses(3, &["trust"]);
}

fn bad_manifest(world: &World, text: &str, words: &[&str]) {
    world.manifest(text);
    for command in [&["run", "--", "true"][..], &["trust", "--yes"], &["check"]] {
        let output = world.kin(command).run().exits(3);
        assert!(words.iter().any(|word| output.stderr.contains(word)), "{words:?}: {output}");
        assert!(!output.stderr.contains('\u{1b}'), "{output}");
    }
}

#[test]
fn k09_bad_names_are_refused() {
    let world = World::ready();
    let long = "x".repeat(256);
    for name in ["../x", "/x", ".", "..", "", &long, "a\\nb", "a\\u0000b", "-x", "a\\u001b[31m", "a\\u202eb"]
    {
        let text = format!("schema = 1\n[project]\nname = \"api\"\n[bindings]\n\"{name}\" = \"db/url\"\n");
        bad_manifest(&world, &text, &["name", "TOML", "toml"]);
    }
    for reference in ["", "../x", "/x", "a//b", "-a", "a b", "$(id)"] {
        let text = format!("schema = 1\n[project]\nname = \"api\"\n[bindings]\nX = \"{reference}\"\n");
        bad_manifest(&world, &text, &["reference"]);
    }
    for name in ["", "..", "a/b", "-x", ".git", "a~b"] {
        let text = format!("schema = 1\n[project]\nname = \"{name}\"\n[bindings]\nX = \"db/url\"\n");
        bad_manifest(&world, &text, &["name"]);
    }
    let text = "schema = 1\n[project]\nname = \"api\"\n[bindings]\nKey = \"db/url\"\nKEY = \"api/key\"\n";
    bad_manifest(&world, text, &["KEY", "Key"]);
}

#[test]
fn k11_an_unknown_key_is_refused() {
    let world = World::ready();
    let base = "schema = 1\n[project]\nname = \"api\"\n";
    for (text, word) in [
        (format!("{base}[binding]\nX = \"db/url\"\n"), "binding"),
        (format!("{base}[bindings]\nX = {{ ref = \"db/url\", env_pth = \"Y\" }}\n"), "env_pth"),
        (format!("{base}descripton = \"x\"\n[bindings]\nX = \"db/url\"\n"), "descripton"),
        (format!("extra = 1\n{base}[bindings]\nX = \"db/url\"\n"), "extra"),
    ] {
        bad_manifest(&world, &text, &[word]);
    }
    for (text, word) in [
        ("[project]\nname = \"api\"\n[bindings]\nX = \"db/url\"\n".to_owned(), "schema"),
        (format!("{base}[bindings]\nX = \"db/url\"\n").replace("schema = 1", "schema = 2"), "schema"),
        ("not toml at all".to_owned(), ""),
        ("schema = 1\n".to_owned(), "project"),
    ] {
        bad_manifest(&world, &text, &[word]);
    }
}

#[test]
fn a_manifest_that_cannot_be_read_is_refused() {
    let world = World::ready();
    let path = world.project().join("kin.toml");
    std::fs::remove_file(&path).expect("removed");
    world.kin(["run", "--", "true"]).run().refuses(3, &["kin.toml"]);
    std::fs::create_dir(&path).expect("a directory");
    world.kin(["run", "--", "true"]).run().exits(3);
    std::fs::remove_dir(&path).expect("removed");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).expect("a FIFO");
    world.kin(["run", "--", "true"]).within(Duration::from_secs(5)).run().exits(3);
    std::fs::remove_file(&path).expect("removed");
    std::fs::write(&path, [0xff, 0xfe, b'x']).expect("no UTF-8");
    world.kin(["run", "--", "true"]).run().exits(3);
}

#[test]
fn a_reference_that_the_vault_lacks_is_named_before_anything_starts() {
    let world = World::ready();
    world.manifest("schema = 1\n[project]\nname = \"api\"\n[bindings]\nX = \"no/such\"\n");
    let check = world.kin(["check"]).run();
    assert!(check.code() != 0 && format!("{}{}", check.text(), check.stderr).contains("no/such"), "{check}");
    world.trust();
    let started = world.path("started");
    let output = world.kin(["run", "--", "touch", started.to_str().expect("a path")]).run();
    output.refuses(3, &["no/such"]);
    assert!(!started.exists());
}

#[test]
fn k12_nothing_inside_a_tree_widens_what_it_may_read() {
    let world = World::ready();
    let member = world.member(&["--only", "API_KEY"]);
    let kin = binary();
    let kin = kin.to_str().expect("a path in UTF-8");
    let wider = [
        &["run", "--only", "API_KEY,DATABASE_URL", "--", "true"][..],
        &["run", "--only", "DATABASE_URL", "--", "true"],
        &["trust", "--yes"],
        &["set", "db/url", "--generate", "uuid"],
        &["reveal", "db/url", "--yes"],
    ];
    for line in wider {
        let argv: Vec<&str> = std::iter::once(kin).chain(line.iter().copied()).collect();
        let (code, _, errors) = member.run(&argv);
        assert_eq!(code, 5, "{line:?}: {errors}");
    }
    // Another home is another broker, whose files are not these; no variable makes this one forget the tree.
    let names = ["KIN_ONLY", "KIN_GRANT", "KIN_DIR", "KIN_PROJECT", "KIN_TRUST", "KIN_MOUNT"];
    let env: serde_json::Map<String, Value> =
        names.iter().map(|name| ((*name).into(), json!("DATABASE_URL"))).collect();
    let argv = [kin, "run", "--only", "DATABASE_URL", "--", "true"];
    let done = member.ask("run", json!({ "argv": argv, "env": env })).expect("kin");
    assert_eq!(done["code"], 5, "{done}");
    let other = world.path("other");
    let done = member.ask(
        "run",
        json!({ "argv": [kin, "run", "--", "cat", world.file(DATABASE)], "env": { "KIN_HOME": other } }),
    );
    let done = done.expect("kin");
    assert_ne!(done["code"], 0, "{done}");
    assert_eq!(member.cat(&world.file(DATABASE)), Err(Errno::ENOENT));
}

/// Somebody else listens where the broker would.
mod needs_root {
    use super::*;

    /// Binds as root, listens as nobody, and says what it was told.
    const LISTENER: &str = "
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o666)
os.chown(sys.argv[1], int(sys.argv[2]), 0)
os.setuid(65534)
listener.listen()
print('up', flush=True)
sys.stdin.read()
listener.setblocking(False)
told = b''
try:
    while True:
        peer, _ = listener.accept()
        peer.settimeout(1)
        while piece := peer.recv(4096):
            told += piece
except (BlockingIOError, TimeoutError):
    pass
print(len(told))
";

    #[test]
    fn j12_a_socket_of_another_uid_is_told_nothing() {
        kin_tests::needs_root();
        let world = World::ready();
        world.kin(["stop"]).run().exits(0);
        let socket = world.path("kin/run/socket");
        for (owner, why) in [("0", "served by uid 65534"), ("65534", "belongs to uid 65534")] {
            let _ = std::fs::remove_file(&socket);
            let mut listener = world.program("/usr/bin/python3");
            listener.args(["-c", LISTENER]).arg(&socket).arg(owner);
            let mut listener =
                listener.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3");
            let mut said = std::io::BufReader::new(listener.stdout.take().expect("stdout"));
            let mut line = String::new();
            std::io::BufRead::read_line(&mut said, &mut line).expect("a line");
            assert_eq!(line, "up\n");
            world.kin(["set", "db/url", "--stdin"]).input(world.canary()).run().refuses(6, &[why]);
            world.kin(["run", "--", "true"]).run().refuses(6, &[why]);
            world.kin(["status"]).run().refuses(6, &[why]);
            drop(listener.stdin.take());
            let mut told = String::new();
            said.read_to_string(&mut told).expect("a number");
            assert!(listener.wait().expect("wait").success());
            assert_eq!(told, "0\n", "{why}");
        }
        std::fs::remove_file(&socket).expect("it goes");
    }

    #[test]
    fn j12_the_broker_listens_at_its_path_and_at_no_abstract_name() {
        kin_tests::needs_root();
        let world = World::ready();
        let pid = world.broker().pid;
        let inode = |entry: std::fs::DirEntry| {
            let link = std::fs::read_link(entry.path()).ok()?;
            Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        };
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").flatten();
        let own: Vec<String> = descriptors.filter_map(inode).collect();
        let table = std::fs::read_to_string("/proc/net/unix").expect("the table");
        // Its seventh column is the inode, the eighth the name, where there is one (proc_net(5)).
        let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        let names: Vec<String> = rows
            .filter(|row| row.get(6).is_some_and(|inode| own.iter().any(|own| own == inode)))
            .filter_map(|row| row.get(7).map(ToString::to_string))
            .collect();
        assert!(names.iter().all(|name| Path::new(name) == world.path("kin/run/socket")), "{names:?}");
        assert!(!names.is_empty(), "{table}");
    }
}
