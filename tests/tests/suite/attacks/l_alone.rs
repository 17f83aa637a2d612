//! Is there one writer of the record, whatever is removed or moved, and does it say truly how things ended?

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use kin_tests::{Actor, Role, World, binary, eventually, in_user_namespace, is_root, record};
use nix::errno::Errno;
use serde_json::Value;

use crate::{DATABASE, database};

fn remove_locks(world: &World) {
    for lock in ["kin/run/broker.lock", "kin/state/audit.lock"] {
        let _ = std::fs::remove_file(world.path(lock));
        assert!(!world.path(lock).exists());
    }
}

#[test]
fn l21_no_second_broker_starts_where_the_lock_files_are_gone() {
    let world = World::ready();
    let member = world.member(&[]);
    let broker = world.broker();
    for _ in 0..2 {
        remove_locks(&world);
        let refused = world.kin(["daemon"]).run().refuses(6, &["already running"]);
        assert!(refused.stderr.contains("kin status"), "{refused}");
        assert_eq!(world.broker().pid, broker.pid);
        assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
    }
    assert_eq!(record::of(&world.audit(), "broker.start").len(), 1);
    world.kin(["audit", "verify"]).run().exits(0);
    remove_locks(&world);
    drop(member);
    world.kin(["stop"]).run().exits(0);
    world.kin(["daemon"]).run().exits(0);
}

/// A broker whose state is this world's, under another name, and whose runtime directory is its own.
fn sharing_the_record<'w>(world: &'w World, arguments: &[&str]) -> kin_tests::Kin<'w> {
    let (state, runtime) = (world.path("linked"), world.path("elsewhere"));
    if !runtime.exists() {
        std::fs::create_dir(&runtime).expect("a directory");
        std::fs::set_permissions(&runtime, PermissionsExt::from_mode(0o700)).expect("a mode");
    }
    let kin = world.kin(arguments).env("KIN_HOME", "").env("XDG_RUNTIME_DIR", runtime);
    kin.env("XDG_STATE_HOME", state).env("XDG_DATA_HOME", world.path("data"))
}

#[test]
fn l21_nor_where_two_runtime_directories_share_one_record() {
    let world = World::new();
    let first = || world.kin(["status"]).env("KIN_HOME", "").env("XDG_STATE_HOME", world.path("real"));
    let daemon = world.kin(["daemon"]).env("KIN_HOME", "").env("XDG_STATE_HOME", world.path("real"));
    let daemon = daemon.env("XDG_DATA_HOME", world.path("data"));
    std::fs::create_dir(world.path("real")).expect("a directory");
    std::os::unix::fs::symlink(world.path("real"), world.path("linked")).expect("a link");
    daemon.run().exits(0);
    sharing_the_record(&world, &["daemon"]).run().refuses(6, &["another broker"]);
    std::fs::remove_file(world.path("real/kin/audit.lock")).expect("a lock");
    sharing_the_record(&world, &["daemon"]).run().refuses(6, &["another broker"]);
    first().run().exits(0);
    world.kin(["stop"]).env("KIN_HOME", "").env("XDG_STATE_HOME", world.path("real")).run().exits(0);
}

#[test]
fn l21_a_broker_whose_directories_were_moved_ends_and_touches_nothing_of_the_next() {
    let world = World::ready();
    let member = world.member(&[]);
    let broker = world.broker();
    // As an attacker would: a copy first, which then takes the place in one moment.
    let (home, away, copy) = (world.home(), world.path("away"), world.path("copy"));
    std::fs::create_dir(&copy).expect("a directory");
    let parts = ["config", "data", "state"].map(|name| home.join(name));
    let copied = std::process::Command::new("cp").arg("-a").args(parts).arg(&copy).status();
    assert!(copied.is_ok_and(|status| status.success()));
    std::fs::rename(&home, &away).and_then(|()| std::fs::rename(&copy, &home)).expect("moved");
    eventually("the first broker's end", Duration::from_secs(5), || !broker.is_alive());
    world.kin(["daemon"]).run().exits(0);
    assert_ne!(world.broker().pid, broker.pid);
    let records = world.audit();
    assert_eq!(record::of(&records, "broker.start").len(), 2, "{records:#?}");
    world.kin(["audit", "verify"]).run().exits(0);
    drop(member);
    let moved = away.join("run/mnt");
    let _ = std::process::Command::new("fusermount3").args(["-uz"]).arg(moved).status();
}

/// How the only grant of the record ended.
fn ending(world: &World) -> String {
    eventually("the grant's end", Duration::from_secs(5), || world.grants().is_empty());
    let records = world.audit();
    let ends = record::of(&records, "grant.expire");
    let [end] = ends[..] else { panic!("not one end: {records:#?}") };
    record::reason(end).to_owned()
}

#[test]
fn l22_a_grant_whose_command_cannot_be_started_was_not_started() {
    let world = World::ready();
    world.kin(["run", "--", "/no/such/program"]).run().exits(127);
    assert_eq!(ending(&world), "not_started");
}

#[test]
fn l22_so_was_one_whose_files_cannot_be_made() {
    let world = World::ready();
    world.set_from_file("db/url", b"\xff\xfe is no text");
    world.manifest(
        "schema = 1\n[project]\nname = \"api\"\n[bindings]\nDATABASE_URL = \"db/url\"\n\
         [files.\"x.json\"]\nformat = \"json\"\nselect = { url = \"{{ DATABASE_URL }}\" }\n",
    );
    world.trust();
    world.kin(["run", "--", "true"]).run().exits(3);
    assert_eq!(ending(&world), "not_started");
}

/// Asks for a grant as a keeper does, and is gone before it has said which process its command is.
const A_KEEPER_THAT_GOES: &str = "
import json, os, socket, struct, sys
if os.fork() == 0:
    broker = socket.socket(socket.AF_UNIX)
    broker.connect(sys.argv[1])
    question = {'protocol': int(sys.argv[2]), 'verb': 'grant', 'directory': list(os.fsencode(sys.argv[3])), 'only': None,
                'ttl_ms': None, 'front': os.getppid(), 'command': ['true'], 'end_with_child': False}
    document = json.dumps(question).encode()
    broker.sendall(struct.pack('<II', len(document), 0xffffffff) + document)
    size = struct.unpack('<II', broker.recv(8, socket.MSG_WAITALL))[0]
    answer = broker.recv(size, socket.MSG_WAITALL)
    if b'done' not in answer:
        print(answer.decode())
    os._exit(0)
os.wait()
";

#[test]
fn l22_so_was_one_whose_keeper_went_before_its_command_came() {
    let world = World::ready();
    let keeper = world.other("/usr/bin/python3", ["-IS", "-c", A_KEEPER_THAT_GOES]);
    let (socket, project) = (world.path("kin/run/socket"), world.project());
    let protocol = kin_broker::control::protocol::PROTOCOL.to_string();
    let said = keeper.args([socket.as_os_str(), protocol.as_ref(), project.as_os_str()]).run().exits(0);
    assert_eq!(said.text(), "");
    assert_eq!(ending(&world), "not_started");
}

#[test]
fn l22_a_start_that_failed_leaves_no_broker_that_was_cut_short() {
    let world = World::new();
    let long = world.path(&"l".repeat(100));
    std::fs::create_dir(&long).expect("a directory");
    std::fs::set_permissions(&long, PermissionsExt::from_mode(0o700)).expect("a mode");
    let kin = |runtime: &Path, arguments: &[&str]| {
        let kin = world.kin(arguments).env("KIN_HOME", "").env("XDG_RUNTIME_DIR", runtime);
        kin.env("XDG_STATE_HOME", world.path("state")).env("XDG_DATA_HOME", world.path("data")).run()
    };
    let short = world.path("xdg");
    for _ in 0..2 {
        kin(&long, &["daemon"]).refuses(3, &["too long for a socket"]);
        assert!(!world.path("state/kin/running").exists());
        assert!(kin_tests::mount::mounts_on(&long.join("kin/mnt")).is_empty());
    }
    kin(&short, &["daemon"]).exits(0);
    let records = kin(&short, &["audit", "--json"]).exits(0).text();
    let records: Vec<Value> =
        records.lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
    let starts = record::of(&records, "broker.start");
    assert!(starts.iter().all(|start| start["unclean"] == false) && starts.len() == 3, "{records:#?}");
    let stops = record::of(&records, "broker.stop");
    assert_eq!(stops.iter().map(|stop| record::reason(stop)).collect::<Vec<_>>(), ["start failed"; 2]);
    kin(&short, &["audit", "verify"]).exits(0);
    kin(&short, &["stop"]).exits(0);
    kin(&short, &["audit", "verify"]).exits(0);
}

#[test]
fn l21_a_failed_sync_of_the_program_is_written_to_another_file() {
    let name = "attacks::l_alone::l21_a_failed_sync_of_the_program_is_written_to_another_file";
    if !is_root() && in_user_namespace(name) == Role::Done {
        return;
    }
    let world = World::ready();
    world.kin(["stop"]).run().exits(0);
    world.configure("[audit]\nsync = \"each\"\n");
    // The first file stays open: the next one cannot be given its inode number.
    let first = std::fs::File::open(world.log_file()).expect("the log");
    // The fifth of each thread: those that answer the kernel, and the recorder.
    let mut strace = world.program("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync"]);
    strace.args(["-e", "inject=fdatasync:error=EIO:when=5"]).arg(binary());
    let strace = strace.args(["daemon", "--foreground"]).stdin(Stdio::null()).stdout(Stdio::null());
    let mut strace = strace.stderr(Stdio::null()).spawn().expect("strace");
    eventually("the broker answers", Duration::from_secs(10), || {
        world.is_broker_running() && world.path("kin/run/socket").exists()
    });
    let member = world.member(&[]);
    let answers: Vec<_> = (0..24).map(|_| member.cat(&world.file(DATABASE))).collect();
    let delivered = answers.iter().filter(|answer| answer.is_ok()).count();
    let refused = answers.iter().filter(|answer| **answer == Err(Errno::EIO)).count();
    assert!(refused > 0 && delivered + refused == answers.len(), "{answers:?}");
    assert_eq!(answers.last(), Some(&Ok(database(&world))));
    let number = |found: std::io::Result<std::fs::Metadata>| found.expect("the log").ino();
    let (before, after) = (number(first.metadata()), number(std::fs::metadata(world.log_file())));
    assert_ne!(before, after, "what may be lost was not written elsewhere");
    let records = world.audit();
    assert!(record::of(&records, "open.allow").len() >= delivered, "{records:#?}");
    assert!(record::of(&records, "audit.fault").iter().any(|fault| fault["error"] == "EIO"), "{records:#?}");
    world.kin(["audit", "verify"]).run().exits(0);
    drop(member);
    world.kin(["stop"]).run().exits(0);
    let _ = strace.wait();
}
