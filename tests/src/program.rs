//! Programs that a test makes and then runs.
//!
//! Another process writes them: a child that another test forks meanwhile inherits every descriptor of this process,
//! and a file that anybody has open for writing cannot be executed (ETXTBSY, execve(2)).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A copy of the program `from`, which anybody may run.
///
/// # Panics
/// Where install(1) cannot.
pub fn copied(from: &Path, to: PathBuf) -> PathBuf {
    let status = install().args([from, &to]).status().expect("install");
    assert!(status.success(), "install: {status}");
    to
}

/// A program of this text, which anybody may run.
///
/// # Panics
/// Where install(1) cannot.
pub fn script(to: PathBuf, text: &str) -> PathBuf {
    let mut install = install().arg("/dev/stdin").arg(&to).stdin(Stdio::piped()).spawn().expect("install");
    install.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("the text");
    let status = install.wait().expect("install");
    assert!(status.success(), "install: {status}");
    to
}

fn install() -> Command {
    let mut install = Command::new("install");
    install.args(["-m", "0755"]);
    install
}
