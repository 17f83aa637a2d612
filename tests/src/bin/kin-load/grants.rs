//! How are thousands of grants made cheaply? One front, and a fork of it for each keeper, which speaks the
//! control protocol and runs no command.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use kin_broker::control::Client;
use kin_broker::control::protocol::{GrantRequest, Granted, Question};
use kin_broker::sys::paths::Directories;
use kin_broker::sys::process::fork_single_threaded;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, getpid, getppid};

use crate::Result;

/// How many ask at the same time: the broker serves 128 connections, and drops those above.
const AT_ONCE: usize = 32;

/// Asks for `count` grants of the project in `directory` and prints what came of each: `granted ID` or
/// `refused CODE`; then `all COUNT`. They last until standard input ends.
pub(crate) fn hold(count: usize, directory: &Path) -> Result<()> {
    let (answers, mut answer) = std::io::pipe().map_err(|error| format!("a pipe: {error}"))?;
    let mut answers = BufReader::new(answers);
    for number in 0..count {
        match fork_single_threaded().map_err(|errno| format!("fork keeper {number}: {errno}"))? {
            ForkResult::Child => keep(directory, &mut answer),
            ForkResult::Parent { .. } if number >= AT_ONCE => pass_on(&mut answers)?,
            ForkResult::Parent { .. } => {}
        }
    }
    (0..count.min(AT_ONCE)).try_for_each(|_| pass_on(&mut answers))?;
    println!("all {count}");
    // The keepers end with this process: see `keep`.
    std::io::stdin().read_to_end(&mut Vec::new()).map(drop).map_err(|error| format!("wait: {error}"))
}

fn pass_on(answers: &mut BufReader<PipeReader>) -> Result<()> {
    let mut line = String::new();
    answers.read_line(&mut line).map_err(|error| format!("a keeper's answer: {error}"))?;
    print!("{line}");
    Ok(())
}

/// Lives a keeper's life: until the front or the broker is gone.
fn keep(directory: &Path, answer: &mut PipeWriter) -> ! {
    let front = getppid();
    let _ = set_pdeathsig(Signal::SIGKILL);
    let asked = ask(directory, front.as_raw().cast_unsigned());
    let line = match &asked {
        Ok((_, granted)) => format!("granted {}\n", granted.id),
        Err(error) => format!("refused {}\n", error.code),
    };
    // One write of less than PIPE_BUF bytes: the lines of many keepers do not mix (pipe(7)).
    let _ = answer.write_all(line.as_bytes());
    if let Ok((broker, _)) = &asked
        && getppid() == front
    {
        let _ = poll(&mut [PollFd::new(broker.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
    }
    std::process::exit(i32::from(asked.is_err()))
}

/// The broker's process, and the grant. A keeper holds no connection.
fn ask(directory: &Path, front: u32) -> kin_broker::Result<(OwnedFd, Granted)> {
    let mut client = Client::connect(&Directories::from_environment()?)?;
    let granted = client.ask(Question::Grant(GrantRequest {
        directory: directory.to_owned(),
        only: None,
        ttl_ms: None,
        limits: Default::default(),
        max_opens_of: Default::default(),
        values: Default::default(),
        front,
        command: vec![format!("load {}", getpid())],
        end_with_child: false,
        private: None,
        redact: None,
    }))?;
    Ok((client.process()?, granted))
}
