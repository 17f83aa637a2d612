//! How do the wrapper's processes let go of what is the command's?
//!
//! A terminal or a pipe ends for its reader when the last process lets go of it: the command and what it
//! started shall be the last.

use std::fs::{File, OpenOptions};
use std::os::fd::RawFd;

use nix::unistd::{close, dup2_stderr, dup2_stdin, dup2_stdout};

/// The front keeps stderr, for its one line.
pub(super) fn let_go_but_stderr(passed: &[RawFd]) {
    let Some(null) = null() else { return };
    let _ = dup2_stdin(&null);
    let _ = dup2_stdout(&null);
    close_all(passed);
}

/// The keeper, which may live long, keeps nothing.
pub(super) fn let_go(passed: &[RawFd]) {
    let_go_but_stderr(passed);
    if let Some(null) = null() {
        let _ = dup2_stderr(&null);
    }
}

fn close_all(passed: &[RawFd]) {
    for fd in passed {
        let _ = close(*fd);
    }
}

fn null() -> Option<File> {
    OpenOptions::new().read(true).write(true).open("/dev/null").ok()
}
