//! What is there under load? Readers and grants by the hundred, made by the program `kin-load`.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::probe::Probe;
use crate::process;
use crate::watchdog::Shared;
use crate::world::{World, binary};

/// `kin-load`: beside the program under test, or beside the suite that it was built with.
fn program() -> PathBuf {
    let beside = binary().with_file_name("kin-load");
    let built = || std::env::current_exe().ok()?.parent()?.parent().map(|target| target.join("kin-load"));
    let path = if beside.is_file() { beside } else { built().expect("a path of our own") };
    assert!(path.is_file(), "no program at {}: build it first (cargo build)", path.display());
    path
}

impl World {
    /// A member that opens flat out: `kin-load reader`, started by `kin run` with these options.
    pub fn load_member(&self, options: &[&str]) -> Probe {
        let mut command = self.program(binary());
        command.arg("run").args(options).arg("--").arg(program()).arg("reader");
        Probe::start(command, self.shared())
    }

    /// An outsider that opens flat out.
    pub fn load_outsider(&self) -> Probe {
        let mut command = self.program(program());
        command.arg("reader");
        Probe::start(command, self.shared())
    }

    /// Asks for `count` grants of the project, each for a keeper of its own.
    ///
    /// # Panics
    /// Where not every keeper is answered.
    pub fn crowd(&self, count: usize) -> Crowd {
        let mut command = self.program(program());
        command.arg("grants").arg(count.to_string()).arg(self.project());
        Crowd::start(command, count, self.shared())
    }

    /// A broker in the foreground that may have this many descriptors.
    pub fn foreground_with_descriptors(&self, limit: u32) -> crate::Daemon {
        let mut command = self.program("prlimit");
        command.arg(format!("--nofile={limit}:{limit}")).arg(binary());
        self.foreground_by(command)
    }
}

/// Many grants below one front; they end with it.
pub struct Crowd {
    child: Child,
    _answers: BufReader<ChildStdout>,
    /// The ids of the grants that were made.
    pub granted: Vec<String>,
    /// The codes of the refusals.
    pub refused: Vec<String>,
}

impl Crowd {
    fn start(mut command: Command, count: usize, shared: &Arc<Shared>) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("kin-load");
        shared.track(child.id());
        let mut answers = BufReader::new(child.stdout.take().expect("piped"));
        let (mut granted, mut refused) = (Vec::new(), Vec::new());
        // The world's deadline kills it: then its output ends.
        loop {
            let mut line = String::new();
            answers.read_line(&mut line).expect("an answer");
            match line.trim_end().split_once(' ') {
                Some(("granted", id)) => granted.push(id.to_owned()),
                Some(("refused", code)) => refused.push(code.to_owned()),
                Some(("all", _)) => break,
                _ => panic!("kin-load grants: {line:?} after {}", granted.len()),
            }
        }
        assert_eq!(granted.len() + refused.len(), count);
        Self { child, _answers: answers, granted, refused }
    }

    /// The front of all of them.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let tree = process::tree(self.child.id());
        drop(self.child.stdin.take());
        let _ = self.child.wait();
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while tree.iter().any(|process| process.is_alive()) && std::time::Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
