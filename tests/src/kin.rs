//! What does one `kin` command answer? Commands run with a deadline, and what they say is kept.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::probe::read_from_start;
use crate::process;
use crate::soak::deadline;
use crate::world::World;

/// One command, before it runs.
pub struct Kin<'w> {
    world: &'w World,
    command: Command,
    input: Option<Vec<u8>>,
    output: Option<File>,
    deadline: Duration,
}

impl<'w> Kin<'w> {
    pub(crate) fn new(world: &'w World, command: Command) -> Self {
        Self { world, command, input: None, output: None, deadline: deadline(Duration::from_secs(20)) }
    }

    /// More arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// Bytes on stdin; without, it is `/dev/null`.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// Somewhere else for stdout.
    #[must_use]
    pub fn output(mut self, file: File) -> Self {
        self.output = Some(file);
        self
    }

    /// The working directory; without, it is the project's.
    #[must_use]
    pub fn cwd(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// One more variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Another deadline.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// Where it does not end before the deadline: with all that it said.
    #[track_caller]
    pub fn run(self) -> Output {
        self.attempt().unwrap_or_else(|why| panic!("{why}"))
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// What it said, where it did not end before the deadline.
    pub(crate) fn attempt(mut self) -> Result<Output, String> {
        let (stdout, stderr) = (new_file(), new_file());
        let to = self.output.take().unwrap_or_else(|| clone(&stdout));
        self.command.stdout(to).stderr(clone(&stderr));
        self.command.stdin(self.input.take().map_or_else(Stdio::null, |bytes| holding(&bytes).into()));
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", self.command));
        self.world.shared().track(child.id());
        let status = wait(&mut child, self.deadline);
        let said = read_from_start(&stderr);
        let what = line(&self.command);
        self.world.note(&what, status, &said);
        let Some(status) = status else {
            process::tree(child.id()).iter().for_each(|process| process.kill());
            let _ = child.wait();
            let shown = read_from_start(&stdout);
            return Err(format!("{what} did not end within {:?}\n{shown}\n{said}", self.deadline));
        };
        Ok(Output { what, status, stdout: bytes_of(stdout), stderr: said })
    }
}

/// The command line, for people: without the environment, which is always the same.
fn line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy().escape_debug().to_string()).collect::<Vec<_>>().join(" ")
}

fn wait(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + deadline;
    loop {
        match child.try_wait().expect("wait") {
            Some(status) => return Some(status),
            None if Instant::now() > end => return None,
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// Files, not pipes: nobody waits for a process that was left behind with a descriptor.
fn new_file() -> File {
    tempfile::tempfile().expect("a temporary file")
}

fn clone(file: &File) -> File {
    file.try_clone().expect("a descriptor")
}

fn holding(bytes: &[u8]) -> File {
    let mut file = new_file();
    file.write_all(bytes).and_then(|()| file.rewind()).expect("a file with the input");
    file
}

fn bytes_of(mut file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| std::io::Read::read_to_end(&mut file, &mut bytes)).expect("the output");
    bytes
}

/// How a command ended.
#[derive(Debug)]
pub struct Output {
    what: String,
    /// Its status.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it said.
    pub stderr: String,
}

impl Output {
    /// Its exit code, as a shell sees it: 128 and the signal where it died of one.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Holds it to an exit code; nothing may have panicked either way.
    ///
    /// # Panics
    /// Where it is another.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code(), code, "{self}");
        assert!(!self.stderr.contains("panicked"), "{self}");
        self
    }

    /// Holds it to an exit code, an `error:` line that has all of `words`, and a `hint:` line.
    ///
    /// # Panics
    /// Where it is not so.
    #[track_caller]
    pub fn refuses(self, code: i32, words: &[&str]) -> Self {
        let this = self.exits(code);
        let errors: Vec<&str> = this.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        let [error] = errors[..] else { panic!("not one error line: {this}") };
        let voice = error.trim_start_matches("error: ");
        assert!(!voice.ends_with('.'), "{this}");
        assert!(words.iter().all(|word| error.contains(word)), "{words:?} in {this}");
        assert!(
            this.stderr.lines().filter(|line| line.starts_with("hint: ")).count() == 1,
            "no hint: {this}"
        );
        this
    }

    /// What it printed, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// What it printed, as one JSON document.
    ///
    /// # Panics
    /// Where it is not.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// The error that `--json` prints, on whichever stream.
    ///
    /// # Panics
    /// Where there is none.
    #[track_caller]
    pub fn json_error(&self) -> Value {
        let lines = self.text() + "\n" + &self.stderr;
        let whole = [self.text(), self.stderr.clone()];
        let candidates = whole.iter().map(String::as_str).chain(lines.lines());
        let parsed = candidates.filter_map(|text| serde_json::from_str::<Value>(text.trim()).ok());
        let mut errors = parsed.filter(|value| value.get("class").is_some());
        errors.next().unwrap_or_else(|| panic!("no error in JSON: {self}"))
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}: {}", self.what, self.status)?;
        write!(f, "stdout: {}stderr: {}", String::from_utf8_lossy(&self.stdout), self.stderr)
    }
}
