//! The built program in a directory of its own, without a terminal, with a deadline.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Row Z09: what cannot ask says so within 5 s.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_kin");

/// A KIN_HOME and an empty working directory.
pub(crate) struct Home {
    dir: tempfile::TempDir,
}

/// What a run of the program left.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Home {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("work")).unwrap();
        fs::create_dir(dir.path().join("run")).unwrap();
        fs::set_permissions(dir.path().join("run"), Permissions::from_mode(0o700)).unwrap();
        Self { dir }
    }

    /// As [`Self::new`], with a broker, the only one that is sent a value: it stops with this.
    pub(crate) fn served() -> Self {
        let home = Self::new();
        home.serve();
        home
    }

    /// Starts a broker. It may do without the user's mount.
    pub(crate) fn serve(&self) {
        // Not to a pipe: what a broker starts may hold that for as long as it lives.
        let mut daemon = self.command(&["daemon", "--private-only"]);
        assert!(daemon.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(PROGRAM);
        self.prepare(command.args(arguments));
        command
    }

    /// Nothing of the tester's environment, no terminal.
    pub(crate) fn prepare(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("KIN_HOME", self.path())
            .env("TZ", "UTC")
            .current_dir(self.work())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Ran {
        finish(self.command(arguments).spawn().unwrap())
    }

    pub(crate) fn run_with(&self, arguments: &[&str], input: &[u8]) -> Ran {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let ran = finish(child);
        let _ = writer.join().unwrap();
        ran
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.path().join("run/broker.lock").exists() {
            let _ = self.command(&["stop"]).status();
        }
    }
}

/// Waits with a deadline; the tests print little, so a pipe holds it all.
pub(crate) fn finish(mut child: Child) -> Ran {
    let deadline = Instant::now() + DEADLINE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            panic!("it hangs; it had said {:?}", String::from_utf8_lossy(&output.stderr));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ran::from(child.wait_with_output().unwrap())
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let status = output.status;
        Self {
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap()),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).expect("messages are UTF-8"),
        }
    }
}

impl Ran {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("it prints UTF-8")
    }

    /// All that it said, for snapshots.
    pub(crate) fn transcript(&self, home: &Home) -> String {
        let mut text = self.text().to_owned();
        if !self.stderr.is_empty() {
            text += &format!("stderr:\n{}", self.stderr);
        }
        text += &format!("exit {}\n", self.code);
        text.replace(home.path().to_str().unwrap(), "$KIN_HOME")
            .replace(env!("CARGO_PKG_VERSION"), "$VERSION")
    }
}
