//! A signal reaches the command once, whoever it was sent to.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::broker::{First, Stub};
use crate::{Running, lives, pid_in, piped, send, until, written};

/// Notes every signal by its name and ends on USR2.
const COUNTING: &str = "for s in TERM INT HUP USR1 WINCH; do trap \"echo $s >>got\" $s; done; \
    trap 'echo end >>got; exit 0' USR2; echo $$ >command; while :; do sleep 0.01; done";

fn got(stub: &Stub) -> Vec<String> {
    let path = stub.path("got");
    until("the end", || written(&path).lines().any(|line| line == "end").then_some(()));
    written(&path).lines().map(str::to_owned).collect()
}

/// A trap has run by then.
fn a_moment() {
    std::thread::sleep(Duration::from_millis(150));
}

#[test]
fn a_signal_to_the_front_reaches_the_command_once() {
    let stub = Stub::new(First::Granted);
    let mut running = Running::start(piped(&mut stub.shell(COUNTING)));
    written(&stub.path("command"));
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGWINCH] {
        send(running.pid(), signal);
        a_moment();
    }
    send(running.pid(), Signal::SIGUSR2);
    assert_eq!(running.wait().code(), Some(0));
    assert_eq!(got(&stub), ["TERM", "INT", "HUP", "USR1", "WINCH", "end"]);
}

/// What is not passed on, as docs/limits.md has it: no process can catch it, a fault, news of children, the C library's.
fn is_passed_on(number: i32) -> bool {
    let kept = [libc::SIGKILL, libc::SIGSTOP, libc::SIGCHLD, 32, 33];
    let faults = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];
    !kept.contains(&number) && !faults.contains(&number)
}

/// Sends it until the front has ended: what harms nobody is lost before the front knows of the command.
fn send_until_the_end(running: &mut Running, number: i32) -> std::process::ExitStatus {
    let mut sent = None;
    let front = nix::unistd::Pid::from_raw(running.pid().cast_signed());
    until(&format!("the end by {number}"), || {
        if sent.is_none_or(|at: Instant| at.elapsed() > Duration::from_millis(500)) {
            kin_broker::sys::process::send(front, number).expect("it is there");
            sent = Some(Instant::now());
        }
        running.0.try_wait().expect("our child")
    })
}

/// Whether a shell that is started here could not trap it: whoever started this process had it ignored, and that is
/// inherited. (SIGPIPE is ignored in Rust's processes alone.)
fn is_ignored(number: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("SigIgn").trim();
    let ignored = u64::from_str_radix(ignored, 16).expect("a mask");
    number != libc::SIGPIPE && ignored >> (number - 1) & 1 == 1
}

#[test]
fn every_signal_that_can_be_caught_is_passed_on() {
    for number in (1..=64).filter(|number| is_passed_on(*number) && !is_ignored(*number)) {
        let stub = Stub::new(First::Granted);
        let code = 100 + number;
        let script = format!(
            "trap 'echo {number} >>got; exit {code}' {number}; echo $$ >command; while :; do sleep 0.01; done"
        );
        let mut running = Running::start(piped(&mut stub.shell(&script)));
        written(&stub.path("command"));
        let status = send_until_the_end(&mut running, number);
        assert_eq!((status.code(), status.signal()), (Some(code), None), "{number}");
        assert_eq!(written(&stub.path("got")), format!("{number}\n"));
    }
}

#[test]
fn a_signal_that_no_trap_awaits_ends_the_run_as_the_bare_command() {
    for number in [libc::SIGPIPE, libc::SIGXCPU, libc::SIGSTKFLT, libc::SIGSYS, libc::SIGTRAP, 34, 37, 64] {
        let stub = Stub::new(First::Granted);
        let mut running = Running::start(piped(&mut stub.shell("echo $$ >command; exec sleep 60")));
        let command = pid_in(&stub.path("command"));
        stub.started();
        assert_eq!(send_until_the_end(&mut running, number).signal(), Some(number));
        assert!(!lives(command));
    }
}

#[test]
fn a_signal_to_the_whole_group_reaches_the_command_and_is_passed_on() {
    let stub = Stub::new(First::Granted);
    let mut command = stub.shell(COUNTING);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut running = Running::start(piped(&mut command));
    written(&stub.path("command"));
    let group = nix::unistd::Pid::from_raw(running.pid().cast_signed());
    for signal in [Signal::SIGTERM, Signal::SIGUSR1] {
        nix::sys::signal::killpg(group, signal).unwrap();
        a_moment();
    }
    send(running.pid(), Signal::SIGUSR2);
    assert_eq!(running.wait().code(), Some(0));
    // Nobody tells the front that the command has it: once or twice, as two of one kind become one or not.
    let mut got = got(&stub);
    got.dedup();
    assert_eq!(got, ["TERM", "USR1", "end"]);
}

#[test]
fn a_signal_to_the_front_that_kills_the_command_is_the_runs_death() {
    let stub = Stub::new(First::Granted);
    let mut running = Running::start(piped(&mut stub.shell("echo $$ >command; exec sleep 60")));
    written(&stub.path("command"));
    stub.started();
    send(running.pid(), Signal::SIGTERM);
    assert_eq!(running.wait().signal(), Some(libc::SIGTERM));
}

#[test]
fn what_the_tree_sends_to_its_own_group_is_not_sent_back() {
    let stub = Stub::new(First::Granted);
    // A group of its own for the harness, or `kill 0` would be for this test too.
    let script = "trap 'echo TERM >>got' TERM; kill 0; sleep 0.3; echo end >>got";
    let mut command = stub.shell(script);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut running = Running::start(piped(&mut command));
    assert_eq!(running.wait().code(), Some(0));
    assert_eq!(got(&stub), ["TERM", "end"]);
}

#[test]
fn an_alarm_that_was_set_before_the_run_is_the_commands() {
    let stub = Stub::new(First::Granted);
    let mut perl = std::process::Command::new("perl");
    perl.args(["-e", "alarm 1; exec @ARGV"]).arg(crate::wrap()).args(["sleep", "60"]);
    perl.env("KIN_HOME", stub.path(""));
    assert_eq!(Running::start(piped(&mut perl)).wait().signal(), Some(libc::SIGALRM));
}
