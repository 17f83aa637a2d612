//! On a terminal, under a shell with job control, a wrapped command behaves as a bare one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, poll};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};

use crate::broker::{First, Stub};
use crate::{lives, pid_in, stat, until, written};

/// A process that leads the session of a terminal, and a person at it.
struct Terminal {
    leader: Child,
    keys: Option<File>,
    screen: Arc<Mutex<String>>,
    over: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    fn start(stub: &Stub, program: &[&str]) -> Self {
        let (master, slave) = terminal();
        let side = || slave.try_clone().expect("a descriptor");
        let mut command = Command::new("setsid");
        command.arg("--ctty").args(program).env("KIN_HOME", stub.path("")).current_dir(stub.path(""));
        command.env("WRAP", crate::wrap()).env("PS1", "READY> ").env("HISTFILE", "");
        command.stdin(side()).stdout(side()).stderr(side());
        let leader = command.spawn().expect("setsid of util-linux");
        drop((command, slave));
        let keys = master;
        let output = keys.try_clone().expect("a descriptor");
        let (screen, over) = (Arc::new(Mutex::new(String::new())), Arc::new(AtomicBool::new(false)));
        let (shown, stop) = (screen.clone(), over.clone());
        let reader = std::thread::spawn(move || read_screen(output, &shown, &stop));
        Self { leader, keys: Some(keys), screen, over, reader: Some(reader) }
    }

    /// Closes the terminal's own side, which the reader shares.
    fn hang_up(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.reader.take().map(JoinHandle::join);
        self.keys = None;
    }

    fn shell(stub: &Stub) -> Self {
        let mut terminal = Self::start(stub, &["bash", "--norc", "--noprofile", "-i"]);
        terminal.sees("READY> ");
        terminal
    }

    fn types(&mut self, keys: &str) {
        let mut terminal = self.keys.as_ref().expect("it is not hung up");
        terminal.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Waits until the screen shows `text`, and forgets what it showed up to there.
    fn sees(&mut self, text: &str) {
        let screen = self.screen.clone();
        let found = std::panic::catch_unwind(|| {
            until(text, || {
                let mut shown = screen.lock().expect("no panic");
                let end = shown.find(text)? + text.len();
                shown.drain(..end);
                Some(())
            });
        });
        assert!(found.is_ok(), "{text:?} is not in {:?}", self.screen.lock());
    }
}

/// Both sides of a terminal; openpty(3) would leak them into the children of other tests.
fn terminal() -> (File, File) {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags).expect("a terminal");
    grantpt(&master).expect("grantpt");
    unlockpt(&master).expect("unlockpt");
    let name = ptsname_r(&master).expect("a name");
    let slave =
        nix::fcntl::open(name.as_str(), flags, nix::sys::stat::Mode::empty()).expect("its other side");
    (File::from(OwnedFd::from(master)), File::from(slave))
}

fn read_screen(mut output: File, screen: &Mutex<String>, over: &AtomicBool) {
    let mut bytes = [0; 4096];
    while !over.load(Ordering::Relaxed) {
        let mut fds = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, 20u8) == Ok(0) {
            continue;
        }
        match output.read(&mut bytes) {
            Ok(got @ 1..) => {
                screen.lock().expect("no panic").push_str(&String::from_utf8_lossy(&bytes[..got]))
            }
            _ => return,
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.hang_up();
        let _ = self.leader.kill();
        let _ = self.leader.wait();
    }
}

/// Notes every ^C, and ends when `over` exists. Nothing is forked between: a vfork's child that stops
/// before its exec leaves its parent waiting, unstopped, under any wrapper or none.
const COUNTING: &str = "mkfifo never; exec 9<>never; trap \"echo INT >>got\" INT; echo $$ >command; \
    while ! [ -e over ]; do read -t 0.02 <&9; done; echo end >>got";

#[test]
fn r16_an_interrupt_from_the_terminal_arrives_once() {
    let stub = Stub::new(First::Granted);
    let mut terminal = Terminal::shell(&stub);
    terminal.types(&format!("\"$WRAP\" bash -c '{COUNTING}'; echo status=$?\n"));
    written(&stub.path("command"));
    for presses in 1..=3 {
        terminal.types("\x03");
        until("the interrupt", || (written(&stub.path("got")).lines().count() == presses).then_some(()));
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    std::fs::write(stub.path("over"), "").unwrap();
    terminal.sees("status=0");
    assert_eq!(std::fs::read_to_string(stub.path("got")).unwrap(), "INT\nINT\nINT\nend\n");
}

#[test]
fn r16_an_interrupt_that_kills_the_command_is_130() {
    let stub = Stub::new(First::Granted);
    let mut terminal = Terminal::shell(&stub);
    terminal.types("\"$WRAP\" sh -c 'echo $$ >command; exec sleep 60'\n");
    written(&stub.path("command"));
    stub.started();
    terminal.types("\x03");
    terminal.sees("READY> ");
    terminal.types("echo status=$?\n");
    terminal.sees("status=130");
}

#[test]
fn r16_a_stopped_command_is_a_stopped_job_and_goes_on_in_the_foreground() {
    let stub = Stub::new(First::Granted);
    let mut terminal = Terminal::shell(&stub);
    terminal.types(&format!("\"$WRAP\" bash -c '{COUNTING}'; echo status=$?\n"));
    let command = pid_in(&stub.path("command"));
    // Fields 5 and 8: process group, and the terminal's foreground group.
    assert_eq!(stat(command, 5), stat(command, 8));
    for _ in 0..3 {
        terminal.types("\x1a");
        terminal.sees("Stopped");
        // 128 + SIGTSTP: the front stopped by the signal that its command stopped by.
        terminal.sees("status=148");
        assert_eq!(stat(command, 3).as_deref(), Some("T"));
        terminal.types("fg; echo status=$?\n");
        until("the continuation", || (stat(command, 3)? != "T").then_some(()));
        until("the foreground", || (stat(command, 5) == stat(command, 8)).then_some(()));
    }
    terminal.types("\x03");
    until("the interrupt", || stub.path("got").exists().then_some(()));
    std::fs::write(stub.path("over"), "").unwrap();
    terminal.sees("status=0");
    assert_eq!(std::fs::read_to_string(stub.path("got")).unwrap(), "INT\nend\n");
}

#[test]
fn a_continuation_by_the_shell_and_one_by_anybody_reach_the_command_once() {
    let stub = Stub::new(First::Granted);
    let mut terminal = Terminal::shell(&stub);
    let script = COUNTING.replace("INT", "CONT");
    terminal.types(&format!("\"$WRAP\" bash -c '{script}'; echo status=$?\n"));
    let command = pid_in(&stub.path("command"));
    let front = stub.hears("a grant", |heard| match heard {
        crate::broker::Heard::Grant { request, .. } => Some(request.front),
        _ => None,
    });
    let got = |times: usize| {
        let path = stub.path("got");
        until("the continuation", || (written(&path).lines().count() == times).then_some(()));
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert_eq!(written(&path), "CONT\n".repeat(times));
    };
    for time in 0..3 {
        terminal.types("\x1a");
        terminal.sees("status=148");
        assert_eq!(stat(command, 3).as_deref(), Some("T"));
        terminal.types("fg; echo status=$?\n");
        got(2 * time + 1);
        crate::send(front, nix::sys::signal::Signal::SIGCONT);
        got(2 * time + 2);
    }
    std::fs::write(stub.path("over"), "").unwrap();
    terminal.sees("status=0");
}

#[test]
fn a_command_that_was_started_again_has_the_terminals_keys() {
    let stub = Stub::new(First::Granted);
    let mut terminal = Terminal::shell(&stub);
    terminal.types(&format!("\"$WRAP\" --on-rotate=restart bash -c '{COUNTING}'; echo status=$?\n"));
    written(&stub.path("command"));
    stub.rotate();
    let command = until("the restart", || stub.commands().get(1).copied());
    until("its start", || {
        (std::fs::read_to_string(stub.path("command")).ok()?.trim() == command.to_string()).then_some(())
    });
    assert_eq!(stat(command, 5), stat(command, 8));
    terminal.types("\x1a");
    terminal.sees("Stopped");
    terminal.sees("status=148");
    terminal.types("fg; echo status=$?\n");
    until("the foreground", || {
        (stat(command, 3)? != "T" && stat(command, 5) == stat(command, 8)).then_some(())
    });
    terminal.types("\x03");
    until("the interrupt", || stub.path("got").exists().then_some(()));
    std::fs::write(stub.path("over"), "").unwrap();
    terminal.sees("status=0");
    assert_eq!(std::fs::read_to_string(stub.path("got")).unwrap(), "INT\nend\n");
}

#[test]
fn r16_a_command_that_is_stopped_and_continued_by_others_takes_the_front_along() {
    let stub = Stub::new(First::Granted);
    let mut terminal = Terminal::shell(&stub);
    terminal.types("\"$WRAP\" sh -c 'echo $$ >command; exec sleep 60'; echo status=$?\n");
    let command = pid_in(&stub.path("command"));
    let front = stub.hears("a grant", |heard| match heard {
        crate::broker::Heard::Grant { request, .. } => Some(request.front),
        _ => None,
    });
    for _ in 0..20 {
        crate::send(command, nix::sys::signal::Signal::SIGSTOP);
        until("the stop", || (stat(command, 3)? == "T").then_some(()));
        crate::send(command, nix::sys::signal::Signal::SIGCONT);
        until("the continuation", || (stat(front, 3)? != "T" && stat(command, 3)? != "T").then_some(()));
    }
    crate::send(command, nix::sys::signal::Signal::SIGSTOP);
    until("the front's stop", || (stat(front, 3)? == "T").then_some(()));
    crate::send(front, nix::sys::signal::Signal::SIGCONT);
    until("the continuation", || (stat(front, 3)? != "T" && stat(command, 3)? != "T").then_some(()));
    crate::send(command, nix::sys::signal::Signal::SIGKILL);
    until("the end", || (!lives(front)).then_some(()));
}

#[test]
fn r16_a_background_job_that_reads_the_terminal_stops() {
    let stub = Stub::new(First::Granted);
    let mut terminal = Terminal::shell(&stub);
    terminal.types("\"$WRAP\" sh -c 'echo $$ >command; read line; echo got=$line; exit 5' &\n");
    let command = pid_in(&stub.path("command"));
    until("the stop", || (stat(command, 3)? == "T").then_some(()));
    // bash tells of it before its next prompt.
    until("the front's stop", || {
        let front: u32 = stub.heard().iter().find_map(|heard| match heard {
            crate::broker::Heard::Grant { request, .. } => Some(request.front),
            _ => None,
        })?;
        (stat(front, 3)? == "T").then_some(())
    });
    terminal.types("fg; echo status=$?\n");
    until("the continuation", || (stat(command, 3)? != "T").then_some(()));
    terminal.types("hello\n");
    terminal.sees("got=hello");
    terminal.sees("status=5");
}

#[test]
fn a_stop_key_without_job_control_stops_nothing() {
    let stub = Stub::new(First::Granted);
    // The front leads the session: nobody could continue what stopped (an orphaned process group).
    let wrap = crate::wrap();
    let script = "echo $$ >command; sleep 0.5; echo alive";
    let mut terminal = Terminal::start(&stub, &[wrap.to_str().unwrap(), "sh", "-c", script]);
    written(&stub.path("command"));
    stub.started();
    terminal.types("\x1a");
    terminal.sees("alive");
    assert_eq!(until("the end", || terminal.leader.try_wait().unwrap()).code(), Some(0));
}

#[test]
fn a_hangup_reaches_the_command_of_a_front_that_leads_the_session() {
    let stub = Stub::new(First::Granted);
    let wrap = crate::wrap();
    let script = "trap 'echo HUP >>got; exit 0' HUP; echo $$ >command; while :; do sleep 0.01; done";
    let mut terminal = Terminal::start(&stub, &[wrap.to_str().unwrap(), "sh", "-c", script]);
    written(&stub.path("command"));
    stub.started();
    terminal.hang_up();
    let status = until("the end", || terminal.leader.try_wait().unwrap());
    assert_eq!((status.code(), status.signal()), (Some(0), None));
    assert_eq!(written(&stub.path("got")), "HUP\n");
}
