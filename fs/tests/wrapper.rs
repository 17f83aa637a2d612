//! The wrapper against a broker that speaks the protocol and notes what it hears.

#[path = "wrapper/broker.rs"]
mod broker;
#[path = "wrapper/jobs.rs"]
mod jobs;
#[path = "wrapper/rotation.rs"]
mod rotation;
#[path = "wrapper/signals.rs"]
mod signals;
#[path = "wrapper/status.rs"]
mod status;
#[path = "wrapper/tree.rs"]
mod tree;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What no step of a test may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// The harness; `cargo test` builds it beside this test.
fn wrap() -> PathBuf {
    let test = std::env::current_exe().expect("this test has a path");
    let built = test.ancestors().nth(2).expect("target/<profile>/deps").join("examples/wrap");
    assert!(built.exists(), "{} is missing: cargo build -p kin-fs --example wrap", built.display());
    built
}

/// Polls until `condition` gives something.
fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A wrapper's child that is killed where a test gives up on it.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().expect("the harness starts"))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn wait(&mut self) -> std::process::ExitStatus {
        until("the end of the front", || self.0.try_wait().expect("our child"))
    }

    /// Both outputs, which must be piped and small.
    fn output(mut self) -> Output {
        use std::io::Read;
        let status = self.wait();
        let mut output = Output { status, stdout: Vec::new(), stderr: Vec::new() };
        if let Some(mut pipe) = self.0.stdout.take() {
            pipe.read_to_end(&mut output.stdout).expect("stdout");
        }
        if let Some(mut pipe) = self.0.stderr.take() {
            pipe.read_to_end(&mut output.stderr).expect("stderr");
        }
        output
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn piped(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped())
}

/// Makes a program of these bytes by another process: one that a concurrent test forks could hold a descriptor of this
/// one open for writing, and the program could not be executed (ETXTBSY, execve(2)).
fn install(program: &[u8], to: &Path) {
    let mut install = Command::new("install");
    let install = install.args(["-m", "0755", "/dev/stdin"]).arg(to).stdin(Stdio::piped());
    let mut install = install.spawn().expect("install");
    std::io::Write::write_all(&mut install.stdin.take().expect("a pipe"), program).expect("the program");
    assert!(install.wait().expect("install").success());
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a file says, once it says something that ends with a line.
fn written(path: &Path) -> String {
    until(&format!("{}", path.display()), || {
        std::fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'))
    })
}

/// The number in a file that a shell wrote with `echo $$ > file`.
fn pid_in(path: &Path) -> u32 {
    written(path).trim().parse().expect("a pid")
}

/// A field of `/proc/PID/stat`, counted as proc_pid_stat(5) does, from 3.
fn stat(pid: u32, field: usize) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(field - 3).map(str::to_owned)
}

/// Whether it runs: neither gone nor a zombie.
fn lives(pid: u32) -> bool {
    stat(pid, 3).is_some_and(|state| state != "Z")
}

fn send(pid: u32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), signal).expect("it is there");
}
