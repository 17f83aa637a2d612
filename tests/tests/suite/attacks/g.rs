//! Can a value be taken from memory, or from what a process is started with? Keys and memory.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use kin_tests::{Actor, Identity, Role, World, as_nobody, binary, process};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::{DATABASE, database};

const ATTACKS: [&str; 8] =
    ["mem", "environ", "maps", "fd", "attach", "seize", "process_vm_readv", "pidfd_getfd"];

#[test]
fn g01_nobody_of_the_same_user_looks_into_broker_keeper_and_front() {
    let name = "attacks::g::g01_nobody_of_the_same_user_looks_into_broker_keeper_and_front";
    if as_nobody(name) == Role::Done {
        return;
    }
    let world = World::ready();
    let member = world.member(&[]);
    let outsider = world.outsider();
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
    // The probe can do it to a process that is not protected, so a refusal means something.
    let victim = world.outsider();
    for how in ["mem", "environ", "maps", "fd"] {
        assert!(outsider.ask("attack", json!({ "pid": victim.pid(), "how": how })).is_ok(), "{how}");
    }
    let guarded = [("broker", world.broker().pid), ("keeper", world.keeper(0)), ("front", member.started())];
    for (who, pid) in guarded {
        for how in ATTACKS {
            for attacker in [&outsider, &member] {
                let answer = attacker.ask("attack", json!({ "pid": pid, "how": how }));
                assert!(
                    matches!(answer, Err(Errno::EPERM | Errno::EACCES)),
                    "{how} on the {who}: {answer:?}"
                );
            }
        }
    }
}

#[test]
fn g06_where_memory_cannot_be_locked_doctor_warns_and_require_mlock_refuses() {
    let name = "attacks::g::g06_where_memory_cannot_be_locked_doctor_warns_and_require_mlock_refuses";
    if as_nobody(name) == Role::Done {
        return;
    }
    let world = World::new();
    let kin = binary();
    let unlocked =
        |verb: &'static [&str]| world.other("prlimit", ["--memlock=0", "--"]).args([&kin]).args(verb);
    let doctor = unlocked(&["doctor", "--all"]).run();
    assert!(doctor.text().contains("cannot be locked in memory"), "{doctor}");
    unlocked(&["daemon"]).run().exits(0);
    assert_eq!(world.status()["broker"]["memory_locked"], false);
    // It is the broker's limit that counts, not doctor's own.
    let doctor = world.kin(["doctor"]).run().text();
    assert!(doctor.contains("could not lock values in memory"), "{doctor}");
    world.kin(["stop"]).run().exits(0);
    world.configure("[vault]\nrequire_mlock = true\n");
    unlocked(&["daemon"]).run().refuses(3, &["locked in memory"]);
    world.kin(["daemon"]).run().exits(0);
    assert_eq!(world.status()["broker"]["memory_locked"], true);
    let doctor = unlocked(&["doctor"]).run().text();
    assert!(doctor.contains("has values locked in memory"), "{doctor}");
}

#[test]
fn g02_no_process_of_kins_leaves_a_core() {
    let world = World::ready();
    let member = world.member(&[]);
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
    for pid in [world.broker().pid, world.keeper(0), member.started()] {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("its limits");
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("the limit");
        let none = core.split_whitespace().nth(4) == Some("0");
        // A process that is not dumpable leaves none whatever its limit (core(5)): its files are root's then.
        let meta = std::fs::metadata(format!("/proc/{pid}/environ")).expect("its environment");
        assert!(none || meta.uid() == 0, "{pid}: {core}");
    }
    // And in fact: with cores allowed, in a directory of its own, a broker that crashes leaves nothing there.
    drop(member);
    world.kin(["stop"]).run().exits(0);
    let place = world.path("cores");
    std::fs::create_dir(&place).expect("a directory");
    for signal in [Signal::SIGSEGV, Signal::SIGABRT] {
        let mut command = world.program("prlimit");
        command.args(["--core=unlimited", "--"]).arg(binary()).current_dir(&place);
        let mut broker = world.foreground_by(command);
        // Rust's own handler of SIGSEGV lets a signal pass that is no fault, and is gone with that.
        process::signal(broker.pid(), signal);
        std::thread::sleep(Duration::from_millis(200));
        process::signal(broker.pid(), signal);
        let status = broker.wait(Duration::from_secs(5));
        assert_eq!((status.signal(), status.core_dumped()), (Some(signal as i32), false));
        assert_eq!(std::fs::read_dir(&place).expect("a listing").count(), 0, "a core of {signal}");
    }
    // The next one clears what they left.
    world.kin(["daemon"]).run().exits(0);
}

#[test]
fn g10_a_passphrase_in_arguments_or_environment_is_refused() {
    let world = World::new();
    world.kin(["daemon"]).run().exits(0);
    let passphrase = world.canary();
    world.kin(["init", "--passphrase-stdin"]).input(format!("{passphrase}\n")).run().exits(0);
    world.kin(["lock"]).run().exits(0);
    for name in ["KIN_PASSPHRASE", "KIN_PASSWORD"] {
        for verb in ["unlock", "init", "rekey", "recovery"] {
            let verb = if verb == "recovery" { &["recovery", "list"][..] } else { &[verb] };
            world.kin(verb).env(name, &passphrase).run().refuses(2, &[name]);
        }
    }
    for option in ["--passphrase", "--password", "--passphrase-stdin"] {
        for verb in ["unlock", "init", "rekey"] {
            let said = world.kin([verb, &format!("{option}={passphrase}")]).run().exits(2);
            assert!(
                !said.stderr.contains(&passphrase) && !said.text().contains(&passphrase),
                "{verb} {option}"
            );
        }
    }
    // What comes through a pipe is read only where that was asked for.
    world.kin(["unlock"]).input(format!("{passphrase}\n")).run().refuses(4, &["passphrase"]);
    assert_eq!(world.status()["vault"]["state"], "locked");
    world.kin(["unlock", "--passphrase-stdin"]).input(format!("{passphrase}\n")).run().exits(0);
}

#[test]
fn g13_a_child_has_the_descriptors_that_the_user_passed() {
    let world = World::ready();
    let (member, outsider) = (world.member(&[]), world.outsider());
    let of = |probe: &dyn Actor| -> Vec<u64> {
        let all = probe.ask("descriptors", json!({})).expect("its descriptors");
        all.as_array().into_iter().flatten().filter_map(serde_json::Value::as_u64).collect()
    };
    // Whoever started this suite may have passed it some, and it passes them on.
    let mut expected = of(&outsider);
    assert!(expected.starts_with(&[0, 1, 2]));
    assert_eq!(of(&member), expected);
    let line = world.run_line(&[]).join(" ");
    let script = format!("exec 97</dev/null; exec {line}");
    let passed = outsider.spawn(&["/bin/bash", "-c", &script]);
    expected = [&expected.into_iter().filter(|fd| *fd < 3).collect::<Vec<_>>()[..], &[97]].concat();
    assert_eq!(of(&passed), expected);
}

#[test]
fn g14_nothing_in_a_process_list_is_a_value() {
    let world = World::ready_with(Identity::Native);
    let member = world.member(&[]);
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
    let variables = member.ask("environ", json!({})).expect("its environment");
    let directory = world.mountpoint().join("api");
    assert_eq!(variables["KIN_DIR"], json!(directory));
    assert_eq!(world.leaks(), Vec::<String>::new());
}

#[test]
fn a_binding_with_env_path_gives_the_path_of_its_file() {
    let world = World::ready();
    world.manifest(
        "schema = 1\n[project]\nname = \"api\"\n[bindings]\n\
         DATABASE_URL = { ref = \"db/url\", env_path = \"DATABASE_URL_FILE\" }\nAPI_KEY = \"api/key\"\n",
    );
    world.trust();
    let member = world.member(&[]);
    let variables = member.ask("environ", json!({})).expect("its environment");
    assert_eq!(variables["DATABASE_URL_FILE"], json!(world.file(DATABASE)));
    let kin: Vec<&String> = variables.as_object().into_iter().flatten().map(|(name, _)| name).collect();
    assert!(!kin.iter().any(|name| name.starts_with("API_KEY")), "{kin:?}");
    let narrow = world.member(&["--only", crate::API]);
    let variables = narrow.ask("environ", json!({})).expect("its environment");
    assert_eq!(variables["DATABASE_URL_FILE"], serde_json::Value::Null);
}

mod needs_root {
    use std::process::Stdio;

    use kin_tests::{eventually, memory_of};

    use super::*;

    /// The line of a key file that is the identity.
    fn identity(world: &World) -> String {
        let file = std::fs::read_to_string(world.path("identity")).expect("the key file");
        file.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).expect("an identity").to_owned()
    }

    fn sweep(name: &str, config: &str, lock: impl FnOnce(&World)) {
        kin_tests::needs_root();
        let world = World::new();
        world.configure(config);
        let world = world.initialised().with_secrets();
        let member = world.member(&[]);
        let fd = member.open(&world.file(DATABASE)).expect("open");
        assert_eq!(member.pread(fd, 100, 0), Ok(database(&world)));
        let key = identity(&world);
        let value = String::from_utf8(database(&world)).expect("text");
        let other = String::from_utf8(world.value("api/key")).expect("text");
        world.kin(["reveal", "api/key", "--yes"]).run().exits(0);
        let (broker, secrets) = (world.broker().pid, [value, key, other]);
        // What is in use is there, so an empty sweep means something; a sweep takes longer than some idle times.
        if config.is_empty() {
            assert!(!memory_of(broker, &secrets[..1]).is_empty(), "{name}: a value that is open");
            assert!(!memory_of(broker, &secrets[1..2]).is_empty(), "{name}: the identity of an open vault");
        }
        lock(&world);
        assert_eq!(memory_of(broker, &secrets), Vec::<String>::new(), "{name}");
        assert_eq!(memory_of(member.started(), &secrets), Vec::<String>::new(), "{name}: the front");
    }

    #[test]
    fn g16_a_child_of_the_broker_holds_no_value_and_no_key() {
        kin_tests::needs_root();
        let world = World::ready();
        let member = world.member(&[]);
        let fd = member.open(&world.file(DATABASE)).expect("open");
        assert_eq!(member.pread(fd, 100, 0), Ok(database(&world)));
        let secrets = [String::from_utf8(database(&world)).expect("text"), identity(&world)];
        let broker = world.broker();
        assert!(!memory_of(broker.pid, &secrets).is_empty(), "the broker holds them");
        // A bus that takes connections and never answers: the child that asks it stands still for a while.
        let bus = world.path("bus");
        let _listener = std::os::unix::net::UnixListener::bind(&bus).expect("a socket");
        let address = format!("unix:path={}", bus.display());
        let mut asking = world.program(binary());
        asking.args(["rekey", "--keyring"]).env("DBUS_SESSION_BUS_ADDRESS", &address);
        let mut asking = asking.stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("kin");
        // It stands still for seconds, so that it can be looked at; one that has just been forked cannot.
        let asks = |child: &process::Process| {
            std::fs::read(format!("/proc/{}/cmdline", child.pid))
                .is_ok_and(|line| line.windows(13).any(|part| part == b"keyring-agent"))
        };
        let below = |process: &process::Process| process.parent() == Some(broker.pid);
        let agent = || process::all().into_iter().find(|process| below(process) && asks(process));
        eventually("the broker asks the keyring", Duration::from_secs(4), || agent().is_some());
        let child = agent().expect("it stands still");
        assert_eq!(memory_of(child.pid, &secrets), Vec::<String>::new(), "the child");
        assert_eq!(asking.wait().expect("wait").code(), Some(4), "a keyring that does not answer");
        assert_eq!(member.pread(fd, 100, 0), Ok(database(&world)));
    }

    #[test]
    fn g04_after_a_lock_no_value_and_no_key_is_in_memory() {
        sweep("lock", "", |world| drop(world.kin(["lock"]).run().exits(0)));
    }

    #[test]
    fn g04_after_an_automatic_lock_no_value_and_no_key_is_in_memory() {
        sweep("idle", "[vault]\nauto_lock = \"3s\"\n", |world| {
            let suspended = || world.status()["vault"]["state"] == "suspended";
            eventually("the vault locks itself", Duration::from_secs(15), suspended);
        });
    }

    /// Everything that is done with a vault whose passphrase is `passphrase`.
    fn whole_scenario(world: &World, passphrase: &str) {
        let backup = world.path("home/backup.age");
        let said = |line: &[&str], input: &str| {
            world.kin(line).input(input.as_bytes()).run().exits(0);
        };
        world.kin(["daemon"]).run().exits(0);
        said(&["init", "--passphrase-stdin"], passphrase);
        world.furnish();
        said(&["rotate", "db/url", "--stdin"], &world.canary());
        world.kin(["set", "tls/key", "--generate", "ssh-ed25519"]).run().exits(0);
        world.kin(["reveal", "api/key", "--yes"]).run().exits(0);
        said(&["backup", backup.to_str().expect("text")], passphrase);
        world.kin(["lock"]).run().exits(0);
        said(&["unlock", "--passphrase-stdin"], passphrase);
        world.kin(["audit", "--ref", "db/url"]).run().exits(0);
    }

    /// In place, and by a file beside it that takes its name, and one that does not.
    fn writes_back(world: &World) {
        world.manifest(crate::writable::MANIFEST);
        world.trust();
        let member = world.member(&[]);
        let (file, beside) = (world.writable(DATABASE), world.writable("beside"));
        let put = |path: &std::path::Path, how: &str| {
            let data = kin_tests::canary::encode_standard(world.canary().as_bytes());
            member.ask("put", json!({ "path": path, "data": data, "how": how })).expect("written");
        };
        put(&file, "empty");
        put(&beside, "new");
        member.ask("rename", json!({ "old": beside, "new": file })).expect("renamed");
        put(&beside, "new");
        let versions = world.kin(["history", "db/url", "--json"]).run().exits(0).json();
        assert_eq!(versions.as_array().map(Vec::len), Some(4));
    }

    #[test]
    fn g03_neither_the_disk_nor_the_swap_file_ever_holds_a_value_a_key_or_a_passphrase() {
        kin_tests::needs_root();
        let world = World::new();
        let disk = kin_tests::Disk::below(&world);
        let passphrase = world.canary();
        whole_scenario(&world, &passphrase);
        writes_back(&world);
        let member = world.member(&[]);
        let fd = member.open(&world.file(DATABASE)).expect("open");
        member.pread(fd, 100, 0).expect("a value");
        // What was written and deleted, and what was swapped out, is found: so an empty search means something.
        let written = kin_tests::canary::canary();
        std::fs::write(world.path("home/control"), &written).expect("a file");
        nix::unistd::sync();
        std::fs::remove_file(world.path("home/control")).expect("removed");
        let swapped = kin_tests::canary::canary();
        let control = world.outsider_with(&[]);
        control.ask("keep", json!({ "text": swapped })).expect("kept");
        assert!(disk.page_out(control.pid()) > 0);
        let controls = disk.holds(&[written, swapped]);
        assert_eq!(controls.len(), 2, "{controls:?}");
        let processes =
            [("broker", world.broker().pid), ("keeper", world.keeper(0)), ("front", member.started())];
        for (name, pid) in processes {
            assert!(disk.page_out(pid) > 0, "{name}");
        }
        let secrets = world.canaries();
        assert_eq!(disk.holds(&secrets), Vec::<String>::new());
    }
}
