//! Does whoever starts a broker, or asks it, decide what it runs and where it keeps things?

use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use kin_tests::{Actor, Role, World, as_nobody, binary, program};

use crate::{DATABASE, database};

/// A program that leaves a mark and then does what it should.
fn planted(world: &World, directory: &Path, name: &str) -> PathBuf {
    let mark = world.path("mark");
    let text = format!("#!/bin/sh\necho {name} \"$@\" >> {}\nexec /usr/bin/{name} \"$@\"\n", mark.display());
    program::script(directory.join(name), &text);
    mark
}

fn is_unmarked(mark: &Path) {
    assert!(!mark.exists(), "run: {}", std::fs::read_to_string(mark).unwrap_or_default());
}

/// As a user: root mounts without the program.
#[test]
fn j16_a_fusermount3_of_the_callers_is_not_run() {
    if as_nobody("attacks::j_surroundings::j16_a_fusermount3_of_the_callers_is_not_run") == Role::Done {
        return;
    }
    let world = World::ready();
    let bin = world.path("bin");
    std::fs::create_dir(&bin).expect("a directory");
    let mark = planted(&world, &bin, "fusermount3");
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let named = bin.join("fusermount3");
    for stop in [true, false] {
        // Stopped, it takes its mount down; killed, the next one clears it.
        if stop {
            world.kin(["stop"]).env("PATH", &path).run().exits(0);
        } else {
            world.crash();
        }
        for arguments in [&["run", "--", "true"][..], &["run", "--private", "--", "true"]] {
            world.kin(arguments).env("PATH", &path).env("FUSERMOUNT_PATH", &named).run().exits(0);
        }
        is_unmarked(&mark);
    }
    world.kin(["stop"]).run().exits(0);
    world.kin(["daemon"]).env("PATH", &path).env("FUSERMOUNT_PATH", &named).run().exits(0);
    world.kin(["doctor", "--fix"]).env("PATH", &path).run();
    assert_eq!(world.member(&[]).cat(&world.file(DATABASE)), Ok(database(&world)));
    is_unmarked(&mark);
}

#[test]
fn j16_a_bus_that_is_a_program_or_another_machine_is_not_asked() {
    let world = World::new();
    world.kin(["daemon"]).run().exits(0);
    let mark = world.path("mark");
    let program = program::script(world.path("evil"), &format!("#!/bin/sh\n: > {}\n", mark.display()));
    let network = TcpListener::bind("127.0.0.1:0").expect("a port");
    network.set_nonblocking(true).expect("a flag");
    let port = network.local_addr().expect("an address").port();
    for (address, word) in [
        (format!("unixexec:path={}", program.display()), "unixexec"),
        (format!("unix:path=/nonexistent;unixexec:path={}", program.display()), "unix"),
        (format!("tcp:host=127.0.0.1,port={port}"), "tcp"),
        ("launch:".to_owned(), "launch"),
    ] {
        let init = world.kin(["init", "--keyring"]).env("DBUS_SESSION_BUS_ADDRESS", &address);
        init.run().refuses(4, &["session bus", word]);
        // Also the one that a broker was started with.
        world.kin(["stop"]).run().exits(0);
        world.kin(["daemon"]).env("DBUS_SESSION_BUS_ADDRESS", &address).run().exits(0);
        world.kin(["init", "--keyring"]).run().exits(4);
    }
    is_unmarked(&mark);
    assert!(network.accept().is_err(), "somebody called");
}

/// What only root can stage.
mod needs_root {
    use super::*;

    /// As root, who alone reads a broker's environment.
    #[test]
    fn j16_the_environment_of_a_broker_is_of_its_own_making() {
        kin_tests::needs_root();
        let world = World::ready();
        let hostile = [
            ("LD_PRELOAD", "/nonexistent/evil.so"),
            ("LD_LIBRARY_PATH", "/nonexistent"),
            ("GLIBC_TUNABLES", "glibc.malloc.check=3"),
            ("PATH", "/nonexistent:/usr/bin:/bin"),
            ("FUSERMOUNT_PATH", "/nonexistent/fusermount3"),
            ("DBUS_SESSION_BUS_ADDRESS", "unixexec:path=/nonexistent/evil"),
            ("AWS_SECRET_ACCESS_KEY", "of the shell"),
            ("RUST_LOG", "trace"),
            ("TZ", ":/nonexistent"),
        ];
        for arguments in [&["daemon"][..], &["run", "--", "true"]] {
            world.kin(["stop"]).run().exits(0);
            let command =
                hostile.iter().fold(world.kin(arguments), |kin, (name, value)| kin.env(name, value));
            command.run().exits(0);
            let environ = std::fs::read(format!("/proc/{}/environ", world.broker().pid)).expect("environ");
            let environ = String::from_utf8_lossy(&environ).into_owned();
            assert!(environ.contains(&format!("KIN_HOME={}", world.home().display())), "{environ}");
            for (name, value) in hostile {
                assert!(!environ.contains(value), "{name} in {environ}");
            }
        }
        // In the foreground it is the process that was started.
        world.kin(["stop"]).run().exits(0);
        let mut command = world.program(binary());
        command.env("LD_LIBRARY_PATH", "/nonexistent");
        let daemon = world.foreground_by(command);
        assert_eq!(world.broker().pid, daemon.pid());
        let environ = std::fs::read(format!("/proc/{}/environ", daemon.pid())).expect("environ");
        assert!(!String::from_utf8_lossy(&environ).contains("/nonexistent"));
        world.kin(["stop"]).run().exits(0);
    }

    #[test]
    fn j18_a_copy_with_more_rights_than_its_caller_does_nothing() {
        kin_tests::needs_root();
        let world = World::ready();
        let copy = program::copied(&binary(), world.path("kin-copy"));
        for (owner, group, mode) in [(65534, 0, 0o4755), (0, 65534, 0o2755)] {
            lchown(&copy, Some(owner), Some(group)).expect("an owner");
            std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(mode)).expect("a mode");
            let copy = copy.to_str().expect("a path");
            for arguments in [&["list"][..], &["reveal", "db/url", "--yes"], &["daemon"], &["--version"]] {
                let output = world.other(copy, arguments).run().refuses(3, &["more rights than its caller"]);
                assert!(output.stdout.is_empty(), "{output}");
            }
            let error = world.other(copy, ["list", "--json"]).run().exits(3).json_error();
            assert_eq!(error["code"], "privileged_program");
        }
        std::fs::remove_file(&copy).expect("removed");
    }

    /// `sudo -E kin …`: root's kin, and a user's home.
    #[test]
    fn j18_roots_kin_makes_and_takes_nothing_below_a_users_directories() {
        kin_tests::needs_root();
        let world = World::new();
        let home = world.path("theirs");
        world.manifest("schema = 1\n[project]\nname = \"api\"\n[bindings]\nONE = \"a/b\"\n");
        std::fs::DirBuilder::new().mode(0o755).create(&home).expect("a home");
        let ready = home.join("ready");
        std::fs::DirBuilder::new().mode(0o755).create(&ready).expect("a directory");
        for directory in [&home, &ready] {
            lchown(directory, Some(4711), Some(4711)).expect("an owner");
        }
        let refused = |name: &str, value: &Path, arguments: &[&str]| {
            let kin = world.other("env", ["-u", "KIN_HOME", "-u", "XDG_RUNTIME_DIR"]);
            let kin = kin.args([format!("{name}={}", value.display())]).args([binary()]).args(arguments);
            kin.run().refuses(3, &["belongs to uid 4711"]);
        };
        for arguments in [&["daemon"][..], &["run", "--", "true"], &["init", "--key-file", "/tmp/none"]] {
            refused("HOME", &home, arguments);
            for name in ["KIN_HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"]
            {
                refused(name, &home.join("new"), arguments);
                refused(name, &ready, arguments);
            }
        }
        let left: Vec<_> =
            std::fs::read_dir(&home).expect("listed").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["ready"]);
        let meta = ready.metadata().expect("metadata");
        assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o755, 4711));
        assert_eq!(std::fs::read_dir(&ready).expect("listed").count(), 0);
    }
}
