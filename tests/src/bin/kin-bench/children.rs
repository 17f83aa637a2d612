//! How children are asked, waited for and ended: every wait has a deadline.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::Result;

/// How long one command, or one block of a client, may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// This binary, in one of its parts.
pub(crate) fn own<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Result<Command> {
    let own = std::env::current_exe().map_err(|error| format!("where am I: {error}"))?;
    let mut command = Command::new(own);
    command.args(arguments);
    Ok(command)
}

/// A child that answers lines with lines. It ends when its standard input does.
pub(crate) struct Responder {
    child: Child,
    requests: Option<ChildStdin>,
    answers: ChildStdout,
    unread: Vec<u8>,
}

impl Responder {
    /// Starts it.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("start {command:?}: {error}"))?;
        let requests = child.stdin.take();
        let answers = child.stdout.take().ok_or("a child without standard output")?;
        Ok(Self { child, requests, answers, unread: Vec::new() })
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends one line.
    pub(crate) fn send(&mut self, line: &str) -> Result<()> {
        let pipe = self.requests.as_mut().ok_or("the child's input is closed")?;
        pipe.write_all(format!("{line}\n").as_bytes()).map_err(|error| format!("ask a child: {error}"))
    }

    /// The next line it writes.
    pub(crate) fn receive(&mut self) -> Result<String> {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            self.wait_readable(until)?;
            let mut bytes = [0; 4096];
            match self.answers.read(&mut bytes) {
                Ok(0) => return Err("a child ended instead of answering".into()),
                Ok(count) => self.unread.extend_from_slice(&bytes[..count]),
                Err(error) => return Err(format!("read a child's answer: {error}")),
            }
        }
    }

    fn wait_readable(&self, until: Instant) -> Result<()> {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.answers.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => Err(format!("a child did not answer within {} s", DEADLINE.as_secs())),
            Ok(_) => Ok(()),
            Err(error) => Err(format!("wait for a child: {error}")),
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.requests = None;
        end(&mut self.child, Duration::from_secs(5));
    }
}

/// Waits for a child that was told to end, and kills it where it does not.
pub(crate) fn end(child: &mut Child, patience: Duration) {
    let until = Instant::now() + patience;
    while Instant::now() < until {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(Duration::from_millis(2));
    }
    child.kill().and_then(|()| child.wait().map(drop)).unwrap_or_else(|error| eprintln!("warning: {error}"));
}

/// Runs a command to its end with `input`; fails where it fails. What it writes has to fit a pipe (64 KiB).
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("run {command:?}: {error}"))?;
    let watched = Watched::new(&child);
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(input).map_err(|error| format!("feed {command:?}: {error}"))?;
    }
    watched.wait()?;
    let output = child.wait_with_output().map_err(|error| format!("run {command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(output),
        false => Err(format!(
            "{command:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        )),
    }
}

/// From just before fork and exec until the exit was seen; output is discarded.
pub(crate) fn time(command: &mut Command) -> Result<Duration> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let start = Instant::now();
    let mut child = command.spawn().map_err(|error| format!("run {command:?}: {error}"))?;
    Watched::new(&child).wait()?;
    let took = start.elapsed();
    match child.wait() {
        Ok(status) if status.success() => Ok(took),
        Ok(status) => Err(format!("{command:?}: {status}")),
        Err(error) => Err(format!("run {command:?}: {error}")),
    }
}

/// A child that is killed once its deadline has passed. It is not reaped before the watch has ended, so the
/// number that is killed is the child's.
struct Watched(Pid);

static OVERDUE: OnceLock<&'static Mutex<Vec<(Pid, Instant)>>> = OnceLock::new();

fn overdue() -> &'static Mutex<Vec<(Pid, Instant)>> {
    OVERDUE.get_or_init(|| {
        let list: &'static Mutex<Vec<(Pid, Instant)>> = Box::leak(Box::default());
        thread::spawn(move || {
            loop {
                thread::sleep(Duration::from_millis(100));
                let Ok(watched) = list.lock() else { return };
                for (pid, _) in watched.iter().filter(|(_, until)| *until < Instant::now()) {
                    let _ = kill(*pid, Signal::SIGKILL);
                }
            }
        });
        list
    })
}

impl Watched {
    fn new(child: &Child) -> Self {
        let pid = Pid::from_raw(child.id() as i32);
        if let Ok(mut watched) = overdue().lock() {
            watched.push((pid, Instant::now() + DEADLINE));
        }
        Self(pid)
    }

    /// Blocks until the child has exited, and leaves it to be reaped.
    fn wait(self) -> Result<()> {
        waitid(Id::Pid(self.0), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
            .map(drop)
            .map_err(|error| format!("wait for a child: {error}"))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Ok(mut watched) = overdue().lock() {
            watched.retain(|(pid, _)| *pid != self.0);
        }
    }
}
