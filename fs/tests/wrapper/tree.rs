//! A grant lasts as long as its tree, and a prompt waits no longer than for the command.

use std::time::{Duration, Instant};

use kin_policy::Ending;
use nix::sys::signal::Signal;

use crate::broker::{First, Heard, Stub};
use crate::{Running, lives, pid_in, piped, send, stat, text, until};

/// Leaves a process behind that outlives its parents, has no terminal and holds no pipe.
const DAEMON: &str = "(setsid sh -c 'echo $$ >daemon; exec sleep 60' </dev/null >/dev/null 2>&1 &) ; ";

#[test]
fn d04_the_grant_lasts_until_the_last_descendant_is_gone() {
    let stub = Stub::new(First::Granted);
    let mut running = Running::start(piped(&mut stub.shell(&format!("{DAEMON} exit 4"))));
    assert_eq!(running.wait().code(), Some(4));
    let (keeper, daemon) = (stub.keeper(), pid_in(&stub.path("daemon")));
    assert!(lives(keeper) && lives(daemon));
    // An orphan is the keeper's (subreaper), not init's.
    until("the adoption", || (stat(daemon, 4)? == keeper.to_string()).then_some(()));
    assert!(!stub.heard().iter().any(|heard| matches!(heard, Heard::Finish(_))));
    send(daemon, Signal::SIGKILL);
    assert_eq!(stub.finish(), Ending::TreeExit);
    until("the keeper's end", || (!lives(keeper)).then_some(()));
}

#[test]
fn d04_the_front_returns_at_once_while_a_background_job_lives() {
    let stub = Stub::new(First::Granted);
    let start = Instant::now();
    let mut running = Running::start(piped(&mut stub.shell("sleep 2 >/dev/null 2>&1 &")));
    running.wait();
    assert!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());
    assert_eq!(stub.finish(), Ending::TreeExit);
    assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn d04_end_with_child_ends_the_grant_with_the_command() {
    let stub = Stub::new(First::Granted);
    let script = format!("{DAEMON} while ! [ -s daemon ]; do sleep 0.01; done");
    let mut running = Running::start(piped(&mut stub.command(&["--end-with-child", "sh", "-c", &script])));
    assert_eq!(running.wait().code(), Some(0));
    assert_eq!(stub.finish(), Ending::CommandExit);
    let (keeper, daemon) = (stub.keeper(), pid_in(&stub.path("daemon")));
    // Whoever is left stays in a tree, without a grant.
    std::thread::sleep(Duration::from_millis(200));
    assert!(lives(keeper) && lives(daemon));
    send(daemon, Signal::SIGKILL);
    until("the keeper's end", || (!lives(keeper)).then_some(()));
}

#[test]
fn an_empty_tree_has_ended_its_grant_when_the_front_returns() {
    let stub = Stub::new(First::Granted);
    for _ in 0..20 {
        let seen = stub.heard().len();
        let mut running = Running::start(piped(&mut stub.command(&["true"])));
        running.wait();
        let heard = stub.heard();
        let finished = heard[seen..].iter().any(|heard| matches!(heard, Heard::Finish(Ending::TreeExit)));
        assert!(finished, "{:?}", &heard[seen..]);
    }
}

/// What root sees in `/proc/PID`; nobody else sees it of a process that is not dumpable.
fn assert_points_to(pid: u32, link: &str, target: &str) {
    match std::fs::read_link(format!("/proc/{pid}/{link}")) {
        Ok(found) => assert_eq!(found, std::path::Path::new(target)),
        Err(error) => {
            assert!(!nix::unistd::geteuid().is_root(), "{link}: {error}");
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        }
    }
}

#[test]
fn a_lingering_keeper_holds_no_pipe_and_no_directory() {
    let stub = Stub::new(First::Granted);
    let mut shell = std::process::Command::new("sh");
    // Both the output and descriptor 3 are the pipe that `cat` reads to its end.
    let script = "\"$1\" sh -c \"$2\" 3>&1 | cat; echo done";
    let daemon =
        "(setsid sh -c 'echo $$ >daemon; exec sleep 60' </dev/null >/dev/null 2>&1 3>&- &) ; echo out";
    shell.args(["-c", script, "sh"]).arg(crate::wrap()).arg(daemon);
    shell.env("KIN_HOME", stub.path("")).current_dir(stub.path(""));
    let output = Running::start(piped(&mut shell)).output();
    assert_eq!(text(&output.stdout), "out\ndone\n");
    let keeper = stub.keeper();
    assert!(lives(keeper));
    assert_points_to(keeper, "cwd", "/");
    for number in ["0", "1", "2"] {
        assert_points_to(keeper, &format!("fd/{number}"), "/dev/null");
    }
    send(pid_in(&stub.path("daemon")), Signal::SIGKILL);
    stub.finish();
}

#[test]
fn d05_the_keepers_death_is_a_fault_of_the_wrapper_and_leaves_the_command_alone() {
    let stub = Stub::new(First::Granted);
    let running = Running::start(piped(&mut stub.shell("echo $$ >command; exec sleep 60 >/dev/null 2>&1")));
    let command = pid_in(&stub.path("command"));
    let keeper = stub.keeper();
    send(keeper, Signal::SIGKILL);
    let output = running.output();
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(text(&output.stderr), "error: the keeper ended before the command: its grant is void\n");
    assert!(lives(command));
    assert!(!lives(keeper) && !stub.heard().iter().any(|heard| matches!(heard, Heard::Finish(_))));
    send(command, Signal::SIGKILL);
}

#[test]
fn d05_a_keeper_tells_of_its_fronts_death_and_stays_to_reap() {
    let stub = Stub::new(First::Granted);
    let mut running =
        Running::start(piped(&mut stub.shell("echo $$ >command; exec sleep 60 >/dev/null 2>&1")));
    let (command, keeper) = (pid_in(&stub.path("command")), stub.keeper());
    send(running.pid(), Signal::SIGKILL);
    running.wait();
    assert_eq!(stub.finish(), Ending::OwnerKilled);
    assert!(lives(keeper) && lives(command));
    send(command, Signal::SIGKILL);
    until("the keeper's end", || (!lives(keeper)).then_some(()));
    assert!(matches!(stub.heard().last(), Some(Heard::Finish(Ending::TreeExit))));
}

#[test]
fn the_broker_s_end_is_one_line_and_the_command_goes_on() {
    let (stub, mut broker) = Stub::that_ends();
    let script = "while ! [ -e go ]; do sleep 0.01; done; echo still; exit 6";
    let running = Running::start(piped(&mut stub.shell(script)));
    assert!(broker.wait().unwrap().success());
    std::thread::sleep(Duration::from_millis(100));
    std::fs::write(stub.path("go"), "").unwrap();
    let output = running.output();
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(6), "still\n"));
    assert_eq!(text(&output.stderr), "kin: the broker stopped; its grants are void\n");
}

#[test]
fn a_keeper_is_named_in_a_session_of_its_own_and_deaf_to_the_terminal() {
    let stub = Stub::new(First::Granted);
    let mut running = Running::start(piped(&mut stub.shell("echo $$ >command; exec sleep 60")));
    let (command, keeper) = (pid_in(&stub.path("command")), stub.keeper());
    let comm = std::fs::read_to_string(format!("/proc/{keeper}/comm")).unwrap();
    assert_eq!(comm.trim(), kin_broker::control::protocol::KEEPER_COMM);
    // Fields 5 and 6: process group and session.
    assert_eq!(stat(command, 5), stat(running.pid(), 5));
    assert_eq!(stat(command, 6), stat(running.pid(), 6));
    until("the session", || (stat(keeper, 6)? == keeper.to_string()).then_some(()));
    assert_eq!(stat(keeper, 5), Some(keeper.to_string()));
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP] {
        send(keeper, signal);
    }
    send(command, Signal::SIGTERM);
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(running.wait().signal(), Some(libc::SIGTERM));
    assert_eq!(stub.finish(), Ending::TreeExit);
}

#[test]
fn a_terminated_keeper_ends() {
    let stub = Stub::new(First::Granted);
    let mut running = Running::start(piped(&mut stub.shell("echo $$ >command; exec sleep 60 2>/dev/null")));
    let command = pid_in(&stub.path("command"));
    stub.started();
    until("the session", || (stat(stub.keeper(), 6)? == stub.keeper().to_string()).then_some(()));
    std::thread::sleep(Duration::from_millis(50));
    send(stub.keeper(), Signal::SIGTERM);
    assert_eq!(running.wait().code(), Some(125));
    send(command, Signal::SIGKILL);
}
