//! What does a broker in the background keep of whoever started it, and of a burst? Nothing.

use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::time::Duration;

use kin_tests::{World, binary, eventually, process};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getsid};

/// A line of `/proc/PID/status`.
fn status_of(pid: u32, what: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
    line.expect("a line of that name").trim().to_owned()
}

/// Runs kin from a shell that leaves it all that a broker could keep, and reads the shell's output to its end.
fn called(world: &World, arguments: &str) {
    let script = format!(
        "trap '' HUP CHLD USR1; exec 9>&1 8<&0; ulimit -St 1000; exec taskset -c \"$FIRST\" \"$KIN\" {arguments} 2>&1"
    );
    let allowed = status_of(std::process::id(), "Cpus_allowed_list");
    let first: String = allowed.chars().take_while(char::is_ascii_digit).collect();
    let mut shell = world.program("/bin/sh");
    shell.args(["-c", &script]).env("KIN", binary()).env("FIRST", first);
    let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
    let mut output = shell.stdout.take().expect("piped");
    let (said, heard) = channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let _ = said.send(output.read_to_string(&mut text).map(|_| text));
    });
    let text = heard.recv_timeout(Duration::from_secs(20));
    assert!(matches!(text, Ok(Ok(_))), "who reads the caller's output to its end waits for the broker");
    assert!(shell.wait().expect("wait").success(), "{text:?}");
    assert!(world.is_broker_running());
    let mut input = shell.stdin.take();
    let written = input.as_mut().map(|input| input.write_all(b"x").map_err(|error| error.kind()));
    assert!(written.is_none_or(|written| written == Err(std::io::ErrorKind::BrokenPipe)), "{written:?}");
}

/// The broker, and the processes of its own.
fn keeps_nothing(world: &World) {
    let broker = world.broker();
    let ignored = u64::from_str_radix(&status_of(broker.pid, "SigIgn"), 16).expect("a mask");
    let none = [Signal::SIGHUP, Signal::SIGCHLD, Signal::SIGUSR1];
    assert!(none.iter().all(|signal| ignored & 1 << (*signal as u64 - 1) == 0), "it ignores {ignored:x}");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", broker.pid)).expect("limits");
    assert!(
        limits.lines().any(|line| line.starts_with("Max cpu time") && !line.contains("1000")),
        "{limits}"
    );
    let own = status_of(std::process::id(), "Cpus_allowed_list");
    assert_eq!(status_of(broker.pid, "Cpus_allowed_list"), own);
    for process in process::tree(broker.pid) {
        let session = getsid(Some(Pid::from_raw(process.pid.cast_signed()))).expect("a session");
        assert_ne!(session, getsid(None).expect("ours"), "{process:?}");
    }
}

#[test]
fn x20_a_daemon_keeps_nothing_of_its_caller() {
    let world = World::new();
    called(&world, "daemon");
    keeps_nothing(&world);
    // What a thread keeps depends on when it began.
    for _ in 0..5 {
        world.kin(["stop"]).run().exits(0);
        called(&world, "daemon");
    }
}

#[test]
fn x20_the_broker_that_a_run_starts_keeps_nothing_of_the_run() {
    let world = World::ready();
    world.kin(["stop"]).run().exits(0);
    called(&world, "run -- /bin/true");
    keeps_nothing(&world);
}

#[test]
fn x20_an_identity_on_standard_input_opens_the_vault_of_a_daemon() {
    let world = World::ready();
    world.kin(["stop"]).run().exits(0);
    let key = std::fs::read(world.path("identity")).expect("the identity");
    world.kin(["daemon", "--identity-fd", "0"]).input(key).run().exits(0);
    assert_eq!(world.status()["vault"]["state"], "unlocked");
}

#[test]
fn y08_what_a_thousand_grants_took_is_given_back() {
    let world = World::new();
    // Root may let it have more than the limit here is; another user may not, and has fewer grants.
    let daemon = world.foreground();
    let world = world.furnished();
    let used =
        || -> u64 { status_of(daemon.pid(), "RssAnon").trim_end_matches(" kB").parse().expect("a number") };
    std::thread::sleep(Duration::from_secs(4));
    let before = used();
    let crowd = world.crowd(1000);
    assert!(crowd.refused.is_empty(), "{:?}", crowd.refused.first());
    for _ in 0..3 {
        assert_eq!(world.grants().len(), 1000);
    }
    drop(crowd);
    let back = before + (4 << 10);
    eventually("what the grants took is given back", Duration::from_secs(12), || used() <= back);
}
