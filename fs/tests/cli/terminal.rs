//! How does it talk with a person at a terminal?

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use kin_broker::control::protocol::{Question, TrustState};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

use crate::broker::{PASSPHRASE, Scene, VALUE, write_manifest};
use crate::program::{DEADLINE, Home, PROGRAM, Ran, finish};

/// A terminal, and a program whose controlling terminal it is.
struct Session {
    terminal: File,
    /// Kept open, so that the terminal outlives the program.
    line: File,
    child: Child,
    shown: String,
}

impl Session {
    /// `setsid -c` gives the program a session of its own with the terminal that is its standard input.
    fn start(home: &Home, arguments: &[&str]) -> Self {
        Self::lead(home, &[&[PROGRAM], arguments].concat())
    }

    /// As [`Self::start`], for any program.
    fn lead(home: &Home, words: &[&str]) -> Self {
        let pty = openpty(None, None).unwrap();
        let line = File::from(pty.slave);
        let mut command = Command::new("setsid");
        command.arg("-c").args(words);
        home.prepare(&mut command);
        command.stdin(line.try_clone().unwrap());
        let child = command.spawn().unwrap();
        Self { terminal: File::from(pty.master), line, child, shown: String::new() }
    }

    /// Reads until the terminal shows `text`.
    fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + DEADLINE;
        while !self.shown.contains(text) {
            assert!(Instant::now() < deadline, "{text:?} is not in {:?}", self.shown);
            let mut ready = [PollFd::new(self.terminal.as_fd(), PollFlags::POLLIN)];
            if poll(&mut ready, PollTimeout::from(100u8)).unwrap() > 0 {
                let mut bytes = [0; 4096];
                let got = self.terminal.read(&mut bytes).unwrap();
                self.shown += &String::from_utf8_lossy(&bytes[..got]);
            }
        }
    }

    fn send(&mut self, keys: &[u8]) {
        self.terminal.write_all(keys).unwrap();
    }

    fn echoes(&self) -> bool {
        tcgetattr(&self.line).unwrap().local_flags.contains(LocalFlags::ECHO)
    }

    fn finish(self) -> (Ran, String) {
        let ran = finish(self.child);
        (ran, self.shown)
    }
}

#[test]
fn a_value_is_asked_for_and_not_shown() {
    let home = Home::served();
    assert_eq!(home.run(&["init", "--key-file", "key"]).code, 0);
    let mut session = Session::start(&home, &["set", "db/url"]);
    session.expect("Value of db/url: ");
    assert!(!session.echoes());
    session.send(b"s3cret value\n");
    session.expect("\r\n");
    let (ran, shown) = session.finish();
    assert_eq!((ran.code, ran.text()), (0, "stored db/url, version 1, 12 bytes\n"), "{}", ran.stderr);
    assert!(!shown.contains("s3cret"));
    assert_eq!(home.run(&["reveal", "db/url", "--yes"]).stdout, b"s3cret value");
}

/// The only child of a process (`CONFIG_PROC_CHILDREN`, proc_tid_children(5)).
fn child_of(pid: u32) -> Pid {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    Pid::from_raw(children.trim().parse().unwrap())
}

#[test]
fn g10_echo_comes_back_when_a_prompt_is_interrupted() {
    let home = Home::new();
    // The shell leads the session, so that the terminal is not hung up before it is looked at.
    let script = format!("trap : INT; {PROGRAM} init; code=$?; stty -a; exit $code");
    for signal in [None, Some(Signal::SIGINT), Some(Signal::SIGTERM), Some(Signal::SIGHUP)] {
        let mut session = Session::lead(&home, &["bash", "-c", &script]);
        session.expect("New passphrase for the vault: ");
        assert!(!session.echoes());
        match signal {
            None => session.send(b"half\x03"),
            Some(signal) => kill(child_of(session.child.id()), signal).unwrap(),
        }
        let (ran, shown) = session.finish();
        assert_eq!(ran.code, 128 + signal.unwrap_or(Signal::SIGINT) as i32, "{}", ran.stderr);
        for mode in ["echo", "isig", "icanon"] {
            assert!(ran.text().split_whitespace().any(|word| word == mode), "{mode}: {}", ran.text());
        }
        assert!(!shown.contains("half"));
    }
}

#[test]
fn a_new_passphrase_is_typed_twice() {
    let home = Home::served();
    for (second, code) in [("corect horse\n", 2), ("correct horse\n", 0)] {
        let mut session = Session::start(&home, &["init"]);
        session.expect("New passphrase for the vault: ");
        session.send(b"correct horse\n");
        session.expect("The same again: ");
        session.send(second.as_bytes());
        assert_eq!(session.finish().0.code, code);
    }
    assert_eq!(home.run(&["lock"]).code, 0);
    let line = [PASSPHRASE, b"\n"].concat();
    assert_eq!(home.run_with(&["unlock", "--passphrase-stdin"], &line).code, 0);
}

#[test]
fn a_locked_vault_asks_for_its_passphrase_and_goes_on() {
    let home = Home::served();
    let line = [PASSPHRASE, b"\n"].concat();
    assert_eq!(home.run_with(&["init", "--passphrase-stdin"], &line).code, 0);
    assert_eq!(home.run_with(&["set", "tls/key", "--stdin"], VALUE).code, 0);
    assert_eq!(home.run(&["stop"]).code, 0);
    home.serve();
    let mut session = Session::start(&home, &["list"]);
    session.expect("Passphrase of the vault: ");
    session.send(&line);
    let (ran, _) = session.finish();
    assert!(ran.code == 0 && ran.text().contains("tls/key"), "{}", ran.stderr);
}

#[test]
fn only_yes_reveals() {
    let home = Home::new();
    Scene::default().play(&home);
    for (answer, code) in [("y\n", 0), ("yes\n", 0), ("\n", 5), ("n\n", 5), ("\x04", 5), ("yikes\n", 5)] {
        let mut session = Session::start(&home, &["reveal", "db/url"]);
        session.expect("Print its value? [y/N] ");
        assert!(session.shown.contains("version    3"), "{}", session.shown);
        session.send(answer.as_bytes());
        let (ran, _) = session.finish();
        assert_eq!(ran.code, code, "{answer:?}: {}", ran.stderr);
        assert_eq!(ran.stdout == VALUE, code == 0, "{answer:?}");
    }
}

#[test]
fn k02_trust_shows_what_changed_before_it_asks() {
    let home = Home::new();
    write_manifest(&home);
    let diff = "-DATABASE_URL = \"db/url\"\n+DATABASE_URL = \"prod/url\u{1b}[8m\"\n".to_owned();
    let scene = Scene { trust: Some(TrustState::Changed { diff }), ..Scene::default() }.play(&home);
    let mut session = Session::start(&home, &["trust"]);
    session.expect("Trust it? [y/N] ");
    session.send(b"n\n");
    let (ran, shown) = session.finish();
    assert_eq!(ran.code, 5);
    assert!(!scene.was_asked(|question| matches!(question, Question::Trust { .. })));
    assert!(!shown.contains('\u{1b}'));
    let shown = shown.replace(home.path().to_str().unwrap(), "$KIN_HOME").replace('\r', "");
    insta::assert_snapshot!(shown.trim_end_matches("n\n"));
}

#[test]
fn z09_a_background_job_does_not_wait_for_the_terminal() {
    let home = Home::new();
    let pty = openpty(None, None).unwrap();
    let mut command = Command::new("setsid");
    // With job control a job in the background has a process group of its own and the terminal as its input.
    let script = format!("set -m; {PROGRAM} reveal db/url & wait $!");
    command.args(["-c", "bash", "-c", &script]);
    home.prepare(&mut command);
    command.stdin(File::from(pty.slave));
    let started = Instant::now();
    let ran = finish(command.spawn().unwrap());
    assert_eq!(ran.code, 5, "{}", ran.stderr);
    assert!(started.elapsed() < Duration::from_secs(5));
    drop(pty.master);
}
