//! What does a process in this place get to see? Probes are told what to do and answer with data or an
//! errno (`fixtures/probe.py`).

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use crate::canary::decode;
use crate::process::{self, Process};
use crate::soak::deadline;
use crate::watchdog::Shared;

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(25);

/// Something that does what it is told, in some process.
pub trait Actor {
    /// Sends one request; `on` is the way down through its children.
    ///
    /// # Errors
    /// The errno that the process got.
    fn send(&self, request: Value) -> Result<Value, Errno>;

    /// Its pid and the like, as it first said.
    fn who(&self) -> &Value;

    /// Does one thing.
    ///
    /// # Errors
    /// The errno that the process got.
    fn ask(&self, op: &str, arguments: Value) -> Result<Value, Errno> {
        self.send(json!({ "op": op, "args": arguments }))
    }

    /// Its pid.
    fn pid(&self) -> u32 {
        self.who()["pid"].as_u64().expect("a pid") as u32
    }

    /// Reads a whole file.
    ///
    /// # Errors
    /// The errno of open or read.
    fn cat(&self, path: &Path) -> Result<Vec<u8>, Errno> {
        self.ask("cat", json!({ "path": text(path) })).map(bytes)
    }

    /// Opens a file for reading; the descriptor stays open in the process.
    ///
    /// # Errors
    /// The errno of open.
    fn open(&self, path: &Path) -> Result<u64, Errno> {
        self.ask("open", json!({ "path": text(path) })).map(|fd| fd.as_u64().expect("a descriptor"))
    }

    /// Reads from an open descriptor at an offset.
    ///
    /// # Errors
    /// The errno of pread.
    fn pread(&self, fd: u64, size: u64, offset: u64) -> Result<Vec<u8>, Errno> {
        self.ask("pread", json!({ "fd": fd, "size": size, "offset": offset })).map(bytes)
    }

    /// What stat says.
    ///
    /// # Errors
    /// The errno of stat.
    fn stat(&self, path: &Path) -> Result<Value, Errno> {
        self.ask("stat", json!({ "path": text(path) }))
    }

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// The errno of open or getdents.
    fn list(&self, path: &Path) -> Result<Vec<String>, Errno> {
        let names = self.ask("list", json!({ "path": text(path) }))?;
        Ok(names.as_array().into_iter().flatten().map(|name| string(name).to_owned()).collect())
    }

    /// Runs a program to its end: its exit code (negative for a signal), output and errors.
    ///
    /// # Panics
    /// Where it cannot be started.
    fn run(&self, argv: &[&str]) -> (i64, Vec<u8>, String) {
        let done =
            self.ask("run", json!({ "argv": argv })).unwrap_or_else(|errno| panic!("{argv:?}: {errno}"));
        let errors = String::from_utf8_lossy(&bytes(done["err"].clone())).into_owned();
        (done["code"].as_i64().expect("a code"), bytes(done["out"].clone()), errors)
    }

    /// A descendant that is asked through this process: `fork`, `orphan`.
    ///
    /// # Panics
    /// Where there is none.
    fn child(&self, op: &str) -> Part<'_>
    where
        Self: Sized,
    {
        Part::new(self, self.ask(op, json!({})).expect("a child"))
    }

    /// Starts a program that is a probe again, for instance through `kin run`.
    ///
    /// # Panics
    /// Where it does not come up.
    fn spawn(&self, argv: &[&str]) -> Part<'_>
    where
        Self: Sized,
    {
        Part::new(self, self.ask("spawn", json!({ "argv": argv })).expect("a child that speaks"))
    }
}

/// Bytes of an answer.
///
/// # Panics
/// Where it has none.
pub(crate) fn bytes(value: Value) -> Vec<u8> {
    decode(string(&value))
}

fn string(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn unpack(answer: &Value, request: &Value) -> Result<Value, Errno> {
    if let Some(errno) = answer["errno"].as_i64() {
        return Err(Errno::from_raw(errno as i32));
    }
    match answer.get("ok") {
        Some(value) => Ok(value.clone()),
        None => panic!("the probe failed at {request}: {answer:#}"),
    }
}

/// A descendant of another actor, reached through it.
pub struct Part<'p> {
    above: &'p dyn Actor,
    child: u64,
    who: Value,
}

impl<'p> Part<'p> {
    fn new(above: &'p dyn Actor, who: Value) -> Self {
        Self { above, child: who["child"].as_u64().expect("a child"), who }
    }

    /// The process that was started: with `kin run` that is the front, not the probe.
    ///
    /// # Panics
    /// Where it was forked and not started.
    pub fn started(&self) -> u32 {
        self.who["started"].as_u64().expect("a program was started") as u32
    }

    /// Ends it, and waits until nobody holds its output any more.
    ///
    /// # Panics
    /// Where the actor above cannot.
    pub fn dismiss(self) {
        self.above.ask("dismiss", json!({ "child": self.child })).expect("it ends");
    }
}

impl Actor for Part<'_> {
    fn send(&self, mut request: Value) -> Result<Value, Errno> {
        let mut way = vec![json!(self.child)];
        way.extend(request["on"].as_array().cloned().unwrap_or_default());
        request["on"] = Value::Array(way);
        self.above.send(request)
    }

    fn who(&self) -> &Value {
        &self.who
    }
}

/// Lines to and from a probe, with a deadline.
struct Lines {
    reading: File,
    writing: Option<File>,
    buffer: Vec<u8>,
}

impl Lines {
    fn new(reading: impl Into<OwnedFd>, writing: impl Into<OwnedFd>) -> Self {
        let (reading, writing) = (File::from(reading.into()), File::from(writing.into()));
        Self { reading, writing: Some(writing), buffer: Vec::new() }
    }

    fn exchange(&mut self, request: &Value) -> Result<Value, String> {
        self.put(request)?;
        self.receive()
    }

    fn put(&mut self, request: &Value) -> Result<(), String> {
        let line = format!("{request}\n");
        let mut writing = self.writing.as_ref().ok_or("its input is closed")?;
        writing.write_all(line.as_bytes()).map_err(|error| format!("not sent: {error}"))
    }

    fn receive(&mut self) -> Result<Value, String> {
        let end = Instant::now() + deadline(DEADLINE);
        loop {
            if let Some(at) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=at).collect();
                return serde_json::from_slice(&line).map_err(|error| error.to_string());
            }
            if !readable(self.reading.as_fd(), end) {
                return Err("no answer in time".into());
            }
            let mut chunk = [0; 1 << 16];
            match self.reading.read(&mut chunk) {
                Ok(0) => return Err("it ended".into()),
                Ok(got) => self.buffer.extend_from_slice(&chunk[..got]),
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

fn readable(fd: BorrowedFd<'_>, end: Instant) -> bool {
    let left = end.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout) == Ok(1)
}

/// A process that the test started: a member (through `kin run`) or an outsider.
pub struct Probe {
    child: RefCell<Child>,
    lines: RefCell<Lines>,
    who: Value,
    stderr: File,
    shared: Arc<Shared>,
}

impl Probe {
    /// Starts a command that becomes a probe.
    ///
    /// # Panics
    /// Where it does not: with what it said on stderr.
    pub(crate) fn start(mut command: Command, shared: &Arc<Shared>) -> Self {
        let stderr = tempfile::tempfile().expect("a file for stderr");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(stderr.try_clone().expect("a descriptor"));
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        shared.track(child.id());
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut lines = Lines::new(output, input);
        let first = lines.receive();
        let mut probe = Self {
            child: RefCell::new(child),
            lines: RefCell::new(lines),
            who: Value::Null,
            stderr,
            shared: shared.clone(),
        };
        match first {
            Ok(hello) => probe.who = hello["ok"].clone(),
            Err(why) => panic!("{command:?} did not come up: {why}\n{}", probe.errors()),
        }
        probe
    }

    /// The process that was started: for a member, the front.
    pub fn started(&self) -> u32 {
        self.child.borrow().id()
    }

    /// What it and its front wrote to stderr so far.
    pub fn errors(&self) -> String {
        read_from_start(&self.stderr)
    }

    /// How the process that was started ended, without doing anything to it.
    ///
    /// # Panics
    /// Where it has not after `deadline`.
    pub fn wait(&self, deadline: Duration) -> ExitStatus {
        let end = Instant::now() + deadline;
        while Instant::now() < end {
            if let Some(status) = self.child.borrow_mut().try_wait().expect("wait") {
                return status;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("{} did not end within {deadline:?}\n{}", self.started(), self.errors());
    }

    /// Closes its input, which ends it, and waits.
    pub fn finish(&self) -> ExitStatus {
        self.lines.borrow_mut().writing = None;
        self.wait(Duration::from_secs(10))
    }

    /// Sends one request and does not wait: [`Self::end`] takes the answer.
    ///
    /// # Panics
    /// Where it cannot be sent.
    pub fn begin(&self, op: &str, arguments: &Value) {
        let sent = self.lines.borrow_mut().put(&json!({ "op": op, "args": arguments }));
        sent.unwrap_or_else(|why| panic!("{op} {arguments}: {why}\n{}", self.errors()));
    }

    /// The answer to what was begun.
    ///
    /// # Panics
    /// Where none comes, or an errno.
    pub fn end(&self) -> Value {
        let answer = self.lines.borrow_mut().receive();
        let answer = answer.unwrap_or_else(|why| panic!("no answer: {why}\n{}", self.errors()));
        unpack(&answer, &Value::Null).unwrap_or_else(|errno| panic!("{errno}"))
    }

    /// Sends something that has no answer: the process ends by it.
    pub fn last(&self, op: &str, arguments: Value) -> ExitStatus {
        let request = json!({ "op": op, "args": arguments });
        if let Ok(answer) = self.lines.borrow_mut().exchange(&request) {
            panic!("{request} was answered with {answer}");
        }
        self.wait(Duration::from_secs(10))
    }
}

/// Everything in a file, whatever its offset.
pub(crate) fn read_from_start(file: &File) -> String {
    let mut bytes = vec![0; file.metadata().map_or(0, |meta| meta.len() as usize)];
    let got = file.read_at(&mut bytes, 0).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..got]).into_owned()
}

impl Actor for Probe {
    fn send(&self, request: Value) -> Result<Value, Errno> {
        match self.lines.borrow_mut().exchange(&request) {
            Ok(answer) => unpack(&answer, &request),
            Err(why) => panic!("no answer to {request}: {why}\n{}", self.errors()),
        }
    }

    fn who(&self) -> &Value {
        &self.who
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.shared.heard(&self.errors());
        let tree = process::tree(self.started());
        self.lines.get_mut().writing = None;
        let end = Instant::now() + Duration::from_secs(2);
        while tree.iter().any(|process| process.is_alive()) && Instant::now() < end {
            let _ = self.child.get_mut().try_wait();
            std::thread::sleep(Duration::from_millis(2));
        }
        tree.iter().for_each(|process| process.kill());
        let _ = self.child.get_mut().wait();
    }
}

/// A process that was left behind and serves over a socket.
pub struct Remote {
    lines: RefCell<Lines>,
    who: Value,
    process: Option<Process>,
}

impl Remote {
    /// A process below `member` that outlives it, started by the operation `op`.
    ///
    /// # Panics
    /// Where it does not speak.
    pub(crate) fn below(member: &dyn Actor, op: &str, socket: &Path) -> Self {
        let make = || drop(member.ask(op, json!({ "path": text(socket) })).expect("left behind"));
        Self::born(socket, || {
            make();
            None
        })
        .unwrap_or_else(|why| panic!("{why}"))
    }

    /// The process that `make` has connect to this socket; it names the process that was started for it.
    ///
    /// # Errors
    /// Where that one ended, and nobody connected.
    pub(crate) fn born(socket: &Path, make: impl FnOnce() -> Option<u32>) -> Result<Self, String> {
        let listener = UnixListener::bind(socket).expect("a socket");
        let started = make().and_then(Process::of);
        let end = Instant::now() + DEADLINE;
        while !readable(listener.as_fd(), Instant::now() + Duration::from_millis(50)) {
            if Instant::now() > end || started.is_some_and(|process| !process.is_alive()) {
                let _ = std::fs::remove_file(socket);
                return Err("the process that was started ended before it spoke".into());
            }
        }
        let (stream, _) = listener.accept().expect("a connection");
        let _ = std::fs::remove_file(socket);
        let mut lines = Lines::new(stream.try_clone().expect("a descriptor"), stream);
        let who = lines.receive()?["ok"].clone();
        let process = who["pid"].as_u64().and_then(|pid| Process::of(pid as u32));
        Ok(Self { lines: RefCell::new(lines), who, process })
    }

    /// Ends it, and waits until it is gone.
    pub fn finish(self) {
        drop(self);
    }
}

impl Actor for Remote {
    fn send(&self, request: Value) -> Result<Value, Errno> {
        let answer = self.lines.borrow_mut().exchange(&request);
        unpack(&answer.unwrap_or_else(|why| panic!("no answer to {request}: {why}")), &request)
    }

    fn who(&self) -> &Value {
        &self.who
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if let Some(process) = self.process {
            process.kill();
            while process.is_alive() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
