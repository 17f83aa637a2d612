//! What a command gets when a secret has another version, and what stays as it was.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

use kin_policy::Ending;
use nix::sys::signal::Signal;

use crate::broker::{First, Stub};
use crate::{Running, install, lives, piped, send, stat, text, until, written};

/// Longer than versions are waited for that come together.
const APART: Duration = Duration::from_millis(500);

fn shell(stub: &Stub, what: &str, script: &str) -> Command {
    stub.command(&[&format!("--on-rotate={what}"), "sh", "-c", script])
}

/// The lines of a file, once there are so many.
fn lines(stub: &Stub, file: &str, count: usize) -> Vec<String> {
    let lines = || std::fs::read_to_string(stub.path(file)).unwrap_or_default();
    let of = |text: String| text.lines().map(str::to_owned).collect::<Vec<_>>();
    until(&format!("{count} lines of {file}"), || Some(of(lines())).filter(|lines| lines.len() >= count))
}

/// Notes its pid in `up`, and ends with 7 when `over` exists.
const SERVER: &str = "echo $$ >>up; while ! [ -e over ]; do sleep 0.02; done; exit 7";

#[test]
fn versions_that_come_together_are_one_signal() {
    let stub = Stub::new(First::Granted);
    let script =
        "trap 'echo HUP >>got' HUP; echo $$ >command; while ! [ -e over ]; do sleep 0.02; done; exit 7";
    let mut running = Running::start(piped(&mut shell(&stub, "HUP", script)));
    written(&stub.path("command"));
    for signals in 1..=3 {
        (0..20).for_each(|_| stub.rotate());
        assert_eq!(lines(&stub, "got", signals).len(), signals);
        std::thread::sleep(APART);
        assert_eq!(lines(&stub, "got", signals).len(), signals);
    }
    std::fs::write(stub.path("over"), "").unwrap();
    assert_eq!(running.wait().code(), Some(7));
    assert_eq!(stub.commands().len(), 1);
}

#[test]
fn a_command_that_is_started_again_is_the_fronts_as_the_first_was() {
    let stub = Stub::new(First::Granted);
    let mut command = shell(&stub, "restart", &format!("echo at $PWD; {SERVER}"));
    let running = Running::start(piped(&mut command));
    for starts in 1..=4 {
        let up = lines(&stub, "up", starts);
        assert_eq!(up.len(), starts);
        let now: u32 = up[starts - 1].parse().unwrap();
        // Fields 4 to 6: parent, process group, session.
        assert_eq!(stat(now, 4), Some(stub.keeper().to_string()));
        for field in [5, 6] {
            assert_eq!(stat(now, field), stat(running.pid(), field));
        }
        if starts < 4 {
            stub.rotate();
        }
    }
    std::fs::write(stub.path("over"), "").unwrap();
    let output = running.output();
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).lines().count(), 4);
    let up: Vec<u32> = lines(&stub, "up", 4).iter().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(stub.commands(), up);
    assert_eq!(stub.finish(), Ending::TreeExit);
}

#[test]
fn a_command_that_is_started_again_dies_by_its_signal_and_by_its_users() {
    for (signal, to_front) in [(Signal::SIGUSR1, false), (Signal::SIGTERM, true), (Signal::SIGKILL, false)] {
        let stub = Stub::new(First::Granted);
        let mut running = Running::start(piped(&mut shell(&stub, "restart", SERVER)));
        lines(&stub, "up", 1);
        stub.rotate();
        let up: u32 = lines(&stub, "up", 2)[1].parse().unwrap();
        until("the restart", || (stub.commands().len() == 2).then_some(()));
        send(if to_front { running.pid() } else { up }, signal);
        assert_eq!(running.wait().signal(), Some(signal as i32));
        assert_eq!(stub.finish(), Ending::TreeExit);
        until("the keeper's end", || (!lives(stub.keeper())).then_some(()));
    }
}

#[test]
fn a_command_that_does_not_end_is_killed_and_started_again() {
    let stub = Stub::new(First::Granted);
    let mut running = Running::start(piped(&mut shell(&stub, "restart", &format!("trap '' TERM; {SERVER}"))));
    lines(&stub, "up", 1);
    let start = Instant::now();
    stub.rotate();
    lines(&stub, "up", 2);
    assert!(start.elapsed() >= Duration::from_secs(10), "{:?}", start.elapsed());
    std::fs::write(stub.path("over"), "").unwrap();
    assert_eq!(running.wait().code(), Some(7));
}

#[test]
fn who_is_told_to_end_meanwhile_is_not_started_again() {
    let stub = Stub::new(First::Granted);
    let script =
        "trap 'echo TERM >>got; [ -e twice ] && exit 9' TERM; echo $$ >>up; while :; do sleep 0.02; done";
    let mut running = Running::start(piped(&mut shell(&stub, "restart", script)));
    lines(&stub, "up", 1);
    stub.rotate();
    lines(&stub, "got", 1);
    std::fs::write(stub.path("twice"), "").unwrap();
    send(running.pid(), Signal::SIGTERM);
    assert_eq!(running.wait().code(), Some(9));
    assert_eq!(stub.commands().len(), 1);
}

#[test]
fn a_program_that_is_gone_is_not_started_again() {
    let stub = Stub::new(First::Granted);
    let program = stub.path("server");
    install(&std::fs::read("/bin/sh").unwrap(), &program);
    let program = program.to_str().unwrap();
    let running = Running::start(piped(&mut stub.command(&["--on-rotate=restart", program, "-c", SERVER])));
    lines(&stub, "up", 1);
    std::fs::remove_file(program).unwrap();
    stub.rotate();
    let output = running.output();
    assert_eq!(output.status.code(), Some(127));
    assert_eq!(text(&output.stderr), format!("error: could not run {program}: no such file or directory\n"));
}

#[test]
fn a_stopped_command_is_left_alone_until_it_goes_on() {
    let stub = Stub::new(First::Granted);
    let mut command = shell(&stub, "restart", SERVER);
    // In a group of its own: this test's may be an orphaned one, in which nobody stops (setpgid(2)).
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut running = Running::start(piped(&mut command));
    let up: u32 = lines(&stub, "up", 1)[0].parse().unwrap();
    send(up, Signal::SIGSTOP);
    until("the stop", || (stat(running.pid(), 3)? == "T").then_some(()));
    stub.rotate();
    std::thread::sleep(APART);
    assert_eq!(stat(up, 3).as_deref(), Some("T"));
    send(up, Signal::SIGCONT);
    lines(&stub, "up", 2);
    std::fs::write(stub.path("over"), "").unwrap();
    assert_eq!(running.wait().code(), Some(7));
}

#[test]
fn what_its_group_was_sent_before_is_not_the_next_ones() {
    let stub = Stub::new(First::Granted);
    let script = format!(
        "trap 'echo got >>got' USR1 TSTP; [ -e once ] || {{ >once; kill -USR1 0; kill -TSTP 0; }}; {SERVER}"
    );
    let mut command = shell(&stub, "restart", &script);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut running = Running::start(piped(&mut command));
    lines(&stub, "up", 1);
    lines(&stub, "got", 2);
    stub.rotate();
    lines(&stub, "up", 2);
    std::fs::write(stub.path("over"), "").unwrap();
    assert_eq!(running.wait().code(), Some(7));
    assert_eq!(lines(&stub, "got", 2).len(), 2);
}

#[test]
fn nobody_is_left_where_the_keeper_is_killed() {
    let stub = Stub::new(First::Granted);
    let mut running = Running::start(piped(&mut shell(&stub, "restart", "echo $$ >up; exec sleep 60")));
    let up: u32 = lines(&stub, "up", 1)[0].parse().unwrap();
    let behind = until("who stays behind", || {
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", stub.keeper())).ok()?;
        children.split_whitespace().map(|pid| pid.parse().unwrap()).find(|pid| *pid != up)
    });
    send(stub.keeper(), Signal::SIGKILL);
    assert_eq!(running.wait().code(), Some(125));
    until("its end", || (!lives(behind)).then_some(()));
    send(up, Signal::SIGKILL);
}
