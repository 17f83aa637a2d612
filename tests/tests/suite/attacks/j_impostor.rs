//! Who answers in the broker's place, and what was put in the place of what the vault remembers?

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use kin_tests::{World, binary, eventually, program, record};
use serde_json::{Value, json};

const PASSPHRASE: &[u8] = b"correct horse battery staple\n";

/// A script that listens where the broker does, answers as a broker whose vault waits for its passphrase, and keeps
/// whatever it is sent.
const SCRIPT: &str = r#"
import ctypes, fcntl, json, os, socket, struct, sys, threading
run, status, marks = sys.argv[1], sys.argv[2], sys.argv[3].split(",")
if "hidden" in marks:
    assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0
if "lock" in marks:
    lock = open(run + "/broker.lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    fcntl.lockf(lock, fcntl.LOCK_EX)
kept = open(run + "/../kept", "ab", buffering=0)
listener = socket.socket(socket.AF_UNIX)
listener.bind(run + "/socket")
listener.listen(16)
def serve(stream):
    while True:
        head = stream.recv(8, socket.MSG_WAITALL)
        if len(head) < 8:
            return
        size, value = struct.unpack("<II", head)
        size += 0 if value == 0xffffffff else value
        body = stream.recv(size, socket.MSG_WAITALL)
        kept.write(body + b"\n")
        verb = json.loads(body[:struct.unpack("<II", head)[0]])["verb"]
        done = {"hello": {"pid": os.getpid(), "version": "0.1.0"}, "status": json.loads(status)}.get(verb)
        answer = json.dumps({"done": done}).encode()
        stream.sendall(struct.pack("<II", len(answer), 0xffffffff) + answer)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#;

/// The script, until it is dropped.
struct Impostor(Child);

impl Impostor {
    fn bind(world: &World, status: &Value, marks: &str) -> Self {
        let run = world.home().join("run");
        let script = world.path("impostor.py");
        std::fs::write(&script, SCRIPT).expect("the script");
        let mut command = world.program("/usr/bin/python3");
        command.arg(&script).arg(&run).arg(status.to_string()).arg(marks);
        let child = command.stdin(Stdio::null()).spawn().expect("python3");
        let impostor = Self(child);
        eventually("it listens", Duration::from_secs(10), || run.join("socket").exists());
        impostor
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a broker says of itself while its vault is locked; it is gone afterwards.
fn locked(world: &World) -> Value {
    world.kin(["init", "--passphrase-stdin"]).input(PASSPHRASE).run().exits(0);
    world.kin(["lock"]).run().exits(0);
    let status = world.status();
    assert_eq!(status["vault"]["key"]["kind"], json!("passphrase"), "{status:#}");
    world.kin(["stop"]).run().exits(0);
    status
}

/// Every command that sends a passphrase or a value.
fn sends(world: &World, marks: &str) {
    let secret = world.canary();
    let file = world.path("import.env");
    std::fs::write(&file, format!("A={secret}\n")).expect("a file");
    let file = file.to_str().expect("UTF-8").to_owned();
    let commands: [(&[&str], &[u8]); 5] = [
        (&["unlock", "--passphrase-stdin"], PASSPHRASE),
        (&["init", "--passphrase-stdin"], PASSPHRASE),
        (&["rekey", "--passphrase-stdin"], PASSPHRASE),
        (&["set", "db/url", "--stdin"], secret.as_bytes()),
        (&["import", &file, "--yes"], b""),
    ];
    for (command, input) in commands {
        world.kin(command).input(input).run().refuses(6, &["is no broker"]);
    }
    let kept = std::fs::read(world.home().join("kept")).unwrap_or_default();
    let kept = String::from_utf8_lossy(&kept);
    assert!(!kept.contains("correct horse") && !kept.contains(&secret), "{marks}: {kept}");
    // It was asked, and so the answers were believable.
    assert!(kept.contains("\"hello\""), "{marks}: {kept}");
    std::fs::remove_file(file).expect("the file");
}

#[test]
fn j17_who_binds_the_socket_first_gets_neither_a_passphrase_nor_a_value() {
    let world = World::new();
    let status = locked(&world);
    for marks in ["", "hidden", "lock", "hidden,lock"] {
        let impostor = Impostor::bind(&world, &status, marks);
        sends(&world, marks);
        drop(impostor);
        std::fs::remove_file(world.home().join("run/socket")).expect("its socket");
    }
    world.kin(["unlock", "--passphrase-stdin"]).input(PASSPHRASE).run().exits(0);
}

#[test]
fn j17_who_takes_a_running_brokers_socket_away_gets_nothing_either() {
    let world = World::new();
    let status = locked(&world);
    world.kin(["daemon"]).run().exits(0);
    // The broker notices within a second; the impostor asks for nothing but that time.
    let (socket, aside) = (world.home().join("run/socket"), world.home().join("run/aside"));
    std::fs::rename(&socket, &aside).expect("the broker's socket");
    let impostor = Impostor::bind(&world, &status, "hidden");
    world
        .kin(["unlock", "--passphrase-stdin"])
        .input(PASSPHRASE)
        .run()
        .refuses(6, &["does not hold the broker's lock"]);
    drop(impostor);
    std::fs::rename(&aside, &socket).expect("the broker's socket");
    // It may have ended by itself.
    world.kin(["stop"]).run();
    eventually("the broker is gone", Duration::from_secs(10), || !world.is_broker_running());
    let _ = std::fs::remove_file(socket);
}

#[test]
fn j17_what_is_no_broker_is_said_where_the_lock_is_held_already() {
    let world = World::new();
    let run = world.home().join("run");
    DirBuilder::new().mode(0o700).create(&run).expect("a directory");
    let script = format!(
        "import fcntl, time; f = open({:?}, 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print('x', flush=True); time.sleep(60)",
        run.join("broker.lock")
    );
    let mut command = world.program("/usr/bin/python3");
    let holder = command.args(["-c", &script]).stdout(Stdio::piped()).spawn().expect("python3");
    let mut holder = Impostor(holder);
    let mut said = [0];
    std::io::Read::read_exact(holder.0.stdout.as_mut().expect("a pipe"), &mut said).expect("a byte");
    world.kin(["daemon"]).run().refuses(6, &["holds the broker's lock and is no broker"]);
    drop(holder);
    std::fs::remove_file(run.join("broker.lock")).expect("the lock");
}

#[test]
fn j17_a_copy_of_the_program_is_the_same_program() {
    let world = World::new();
    world.kin(["daemon"]).run().exits(0);
    let copy = program::copied(&binary(), world.path("kin-copy"));
    let copy = copy.to_str().expect("UTF-8");
    world.other(copy, ["init", "--passphrase-stdin"]).input(PASSPHRASE).run().exits(0);
}

fn restart(world: &World, config: &str) {
    world.kin(["stop"]).run().exits(0);
    world.configure(config);
}

fn unlock(world: &World) -> String {
    world.kin(["unlock", "--passphrase-stdin"]).input(PASSPHRASE).run().exits(0).stderr
}

#[test]
fn j17_a_setting_that_was_weakened_is_said_at_the_unlock_once_and_recorded() {
    let world = World::new();
    world.configure("[vault]\nauto_lock = \"15m\"\n[audit]\nsync = \"each\"\n");
    world.kin(["init", "--passphrase-stdin"]).input(PASSPHRASE).run().exits(0);
    restart(&world, "[vault]\nauto_lock = \"15m\"\n[audit]\nsync = \"each\"\n");
    assert_eq!(unlock(&world), "");
    restart(&world, "[vault]\nauto_lock = \"off\"\nremember = \"kernel\"\n");
    let said = unlock(&world);
    for change in ["sync was each, is group", "remember was off, is kernel", "auto_lock was 900s, is off"] {
        assert!(said.contains(change), "{change}: {said}");
    }
    assert_eq!(world.status()["vault"]["notices"].as_array().map(Vec::len), Some(3));
    assert_eq!(record::of(&world.audit(), "policy.notice").len(), 3);
    world.kin(["lock"]).run().exits(0);
    restart(&world, "[vault]\nauto_lock = \"15m\"\n");
    // What is stricter is nobody's business, and what was said is not said again.
    assert_eq!(unlock(&world), "");
    // A memory that was taken away is missed, and the defaults are what is compared with.
    world.kin(["stop"]).run().exits(0);
    std::fs::remove_file(world.home().join("state/settings.vault")).expect("the memory");
    world.configure("[vault]\nauto_lock = \"off\"\n");
    let said = unlock(&world);
    assert!(said.contains("nothing says which vault") && said.contains("is off"), "{said}");
}

/// Moves `names` of one home to another.
fn swap(from: &Path, to: &Path, names: &[&str]) {
    for name in names {
        std::fs::copy(from.join(name), to.join(name)).expect(name);
    }
}

#[test]
fn j17_another_vault_in_the_place_of_ones_own_is_noticed() {
    let (world, other) = (World::new(), World::new());
    for world in [&world, &other] {
        world.kin(["init", "--passphrase-stdin"]).input(PASSPHRASE).run().exits(0);
        world.kin(["stop"]).run().exits(0);
    }
    let (from, to) = (other.home(), world.home());
    swap(&from, &to, &["data/vault.age", "data/identity.age", "config/key.json"]);
    let refused = world.kin(["unlock", "--passphrase-stdin"]).input(PASSPHRASE).run();
    refused.refuses(7, &["vault.anchor was not written by this vault's owner"]);
    // With its mark it opens, and it is said.
    swap(&from, &to, &["state/vault.anchor"]);
    let said = unlock(&world);
    assert!(said.contains("another one than was open here last"), "{said}");
    let records = world.audit();
    let noticed = record::of(&records, "policy.notice");
    assert_eq!((noticed.len(), &noticed[0]["reason"]), (1, &json!("another_vault")), "{records:#?}");
    assert_eq!(unlock(&world), "");
    // The record verifies with the vault that was there alone.
    world.record_was_damaged();
}
