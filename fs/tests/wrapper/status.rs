//! What the caller of a wrapped command sees is what it would see without the wrapper.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use kin_policy::Ending;

use crate::broker::{First, Heard, Stub};
use crate::{Running, install, lives, piped, text, until};

fn run(stub: &Stub, arguments: &[&str]) -> std::process::Output {
    Running::start(piped(&mut stub.command(arguments))).output()
}

#[test]
fn z02_the_commands_code_is_the_runs() {
    let stub = Stub::new(First::Granted);
    for code in [0, 1, 7, 255] {
        let output = run(&stub, &["sh", "-c", &format!("exit {code}")]);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        assert_eq!((text(&output.stdout), text(&output.stderr)), (String::new(), String::new()));
    }
}

#[test]
fn z02_the_run_dies_by_the_commands_signal() {
    let stub = Stub::new(First::Granted);
    // 36 is a real-time signal.
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGKILL, libc::SIGSEGV, 36] {
        let output = run(&stub, &["sh", "-c", &format!("kill -{signal} $$")]);
        assert_eq!(output.status.signal(), Some(signal), "{:?}", output.status);
        assert!(!output.status.core_dumped());
    }
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "\"$1\" sh -c 'kill -15 $$'; echo $?", "sh"]).arg(crate::wrap());
    shell.env("KIN_HOME", stub.path(""));
    assert!(text(&Running::start(piped(&mut shell)).output().stdout).contains("143"));
}

#[test]
fn z02_a_core_of_the_command_is_told_of() {
    let stub = Stub::new(First::Granted);
    let mut told = 0;
    // 0 of the hard limit is 0 of both.
    for (limit, signal) in [("unlimited", libc::SIGSEGV), ("unlimited", libc::SIGTERM), ("0", libc::SIGSEGV)]
    {
        let script = format!("ulimit -c {limit} 2>/dev/null || ulimit -c $(ulimit -Hc); kill -{signal} $$");
        let mut bare = std::process::Command::new("sh");
        let bare = Running::start(piped(bare.args(["-c", &script]).current_dir(stub.path("")))).output();
        let output = run(&stub, &["sh", "-c", &script]);
        assert_eq!((bare.status.signal(), output.status.signal()), (Some(signal), Some(signal)));
        assert!(!output.status.core_dumped());
        let line = match bare.status.core_dumped() {
            true => "kin: the command died by SIGSEGV (core dumped)\n",
            false => "",
        };
        assert_eq!(text(&output.stderr), line, "{limit} {signal}");
        told += usize::from(!line.is_empty());
    }
    let cores_are_files = || {
        let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
        let hard = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_CORE).unwrap().1;
        !pattern.starts_with(['|', '@', '/']) && !pattern.trim().is_empty() && hard > 1 << 24
    };
    assert!(told == 1 || !cores_are_files());
}

#[test]
fn z02_what_cannot_be_run_is_127_or_126() {
    let stub = Stub::new(First::Granted);
    std::fs::write(stub.path("plain"), "#!/bin/sh\n").unwrap();
    install(b"#!/no/such/interpreter\n", &stub.path("lost"));
    for (program, code, line) in [
        ("no-such-program", 127, "error: no-such-program: command not found\n"),
        ("./no/such", 127, "error: could not run ./no/such: no such file or directory\n"),
        ("", 127, "error: : command not found\n"),
        ("./lost", 127, "error: could not run ./lost: no such file or directory\n"),
        ("./plain", 126, "error: could not run ./plain: permission denied\n"),
        ("/", 126, "error: could not run /: permission denied\n"),
    ] {
        let output = run(&stub, &[program]);
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(code), line));
    }
    // The grant that they had is over.
    assert!(stub.heard().iter().any(|heard| matches!(heard, Heard::Finish(Ending::NotStarted))));
    assert!(!stub.heard().iter().any(|heard| matches!(heard, Heard::Finish(Ending::TreeExit))));
}

#[test]
fn a_script_without_an_interpreter_runs_as_execvp_runs_it() {
    let stub = Stub::new(First::Granted);
    install(b"echo ran; exit 3\n", &stub.path("script"));
    let output = run(&stub, &["./script"]);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(3), "ran\n"));
}

#[test]
fn a_refusal_is_the_brokers_and_nothing_starts() {
    let stub = Stub::new(First::Denied);
    let output = run(&stub, &["touch", "ran"]);
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(5), "error: no\n"));
    assert!(!stub.path("ran").exists());
}

#[test]
fn a_locked_vault_is_unlocked_and_asked_again() {
    let stub = Stub::new(First::Locked);
    let output = run(&stub, &["echo", "ran"]);
    assert_eq!(text(&output.stderr), "unlock: the vault is locked\n");
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "ran\n"));
}

#[test]
fn without_a_broker_or_a_command_a_run_is_refused() {
    let stub = Stub::new(First::Granted);
    let output = run(&stub, &[]);
    assert_eq!(output.status.code(), Some(2));
    std::fs::remove_file(stub.path("run/socket")).unwrap();
    let output = run(&stub, &["true"]);
    assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
}

#[test]
fn input_and_output_are_the_commands() {
    let stub = Stub::new(First::Granted);
    let mut running = Running::start(piped(&mut stub.command(&["cat"])).stdin(Stdio::piped()));
    let mut input = running.0.stdin.take().unwrap();
    input.write_all(b"one\ntwo\n").unwrap();
    drop(input);
    let output = running.output();
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "one\ntwo\n"));
}

#[test]
fn the_command_gets_its_directory_and_its_variables() {
    let stub = Stub::new(First::Granted);
    let output = run(&stub, &["sh", "-c", "echo $KIN_DIR $TLS_KEY_FILE"]);
    assert_eq!(text(&output.stdout), "/mnt/api /mnt/api/tls.key\n");
}

#[test]
fn the_broker_is_told_who_asks_and_what_runs() {
    let stub = Stub::new(First::Granted);
    let mut running = Running::start(piped(&mut stub.command(&["sh", "-c", "exit 0", "a\u{1b}[31mb"])));
    let front = running.pid();
    running.wait();
    let (keeper, request) = stub.hears("a grant", |heard| match heard {
        Heard::Grant { keeper, request } => Some((*keeper, request.clone())),
        _ => None,
    });
    assert_ne!(keeper, front);
    assert_eq!(request.front, front);
    assert_eq!(request.command, ["sh", "-c", "exit 0", "a\\u{1b}[31mb"]);
    assert_eq!(request.directory, stub.path("").canonicalize().unwrap());
    assert_ne!(stub.started(), keeper);
}

#[test]
fn g13_the_command_has_the_descriptors_it_was_passed_and_no_more() {
    let stub = Stub::new(First::Granted);
    let listed = |wrapper: &str| {
        let mut shell = std::process::Command::new("sh");
        let script = format!("exec 3>passed {wrapper} sh -c 'echo x >&3; ls /proc/self/fd'");
        shell.args(["-c", &script]).env("KIN_HOME", stub.path("")).current_dir(stub.path(""));
        let output = Running::start(piped(&mut shell)).output();
        assert_eq!(std::fs::read_to_string(stub.path("passed")).unwrap(), "x\n");
        text(&output.stdout)
    };
    let wrapped = listed(crate::wrap().to_str().unwrap());
    // Whatever else this test was started with is there without the wrapper too.
    assert_eq!(wrapped, listed(""));
    assert!(["0", "1", "2", "3"].iter().all(|fd| wrapped.lines().any(|line| line == *fd)), "{wrapped}");
}

#[test]
fn the_command_starts_with_the_fronts_mask_dispositions_and_limits() {
    let stub = Stub::new(First::Granted);
    let signals = |wrapper: &str| {
        let mut shell = std::process::Command::new("sh");
        // CHLD ignored would make the kernel reap the command unseen.
        let script = format!(
            "trap '' CHLD HUP USR1; ulimit -Sc 0; exec {wrapper} sh -c \
             'grep -E \"^Sig(Blk|Ign|Cgt)\" /proc/self/status; ulimit -Sc; ulimit -Hc; exit 9'"
        );
        shell.args(["-c", &script]).env("KIN_HOME", stub.path(""));
        let output = Running::start(piped(&mut shell)).output();
        assert_eq!(output.status.code(), Some(9), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    assert_eq!(signals(crate::wrap().to_str().unwrap()), signals(""));
}

#[test]
fn a_start_can_be_called_off_while_the_broker_is_silent() {
    let stub = Stub::new(First::Silence);
    let mut running = Running::start(piped(&mut stub.command(&["touch", "ran"])));
    let keeper = stub.keeper();
    crate::send(running.pid(), nix::sys::signal::Signal::SIGINT);
    assert_eq!(running.wait().signal(), Some(libc::SIGINT));
    until("the keeper's end", || (!lives(keeper)).then_some(()));
    assert!(!stub.path("ran").exists());
}

#[test]
fn a_front_that_dies_early_starts_nothing() {
    let stub = Stub::new(First::Silence);
    let mut running = Running::start(piped(&mut stub.command(&["touch", "ran"])));
    let keeper = stub.keeper();
    crate::send(running.pid(), nix::sys::signal::Signal::SIGKILL);
    running.wait();
    until("the keeper's end", || (!lives(keeper)).then_some(()));
    assert!(!stub.path("ran").exists());
}
