//! The way to the broker: to one that runs, or to one that is started for this.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kin_broker::children::programs;
use kin_broker::control::Client;
use kin_broker::sys::paths::Directories;
use kin_broker::{Class, Error, Result, describe};
use kin_fs::ancestry;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// How long a broker may take to be ready.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// How long a broker that says it is ready, or that another one runs, may take to answer.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// The pause between two looks, and how many of them a start is given before the next.
const PAUSE: Duration = Duration::from_millis(5);
const LOOKS: usize = 20;

/// A broker that runs.
///
/// # Errors
/// As [`Client::connect`].
pub(super) fn to_running(directories: &Directories) -> Result<Client> {
    Client::connect(directories)
}

/// A broker; where none runs, one is started.
///
/// # Errors
/// As [`Client::connect`]; `no_broker_in_tree` below a keeper; the broker's own refusal to start.
pub(super) fn to_broker(directories: &Directories) -> Result<Client> {
    to_broker_by(directories, &["daemon", "--json"])
}

/// As [`to_broker`], for private mounts: the broker may do without the user's mount.
///
/// # Errors
/// As there.
pub(super) fn to_broker_for_private(directories: &Directories) -> Result<Client> {
    to_broker_by(directories, &["daemon", "--json", "--private-only"])
}

fn to_broker_by(directories: &Directories, arguments: &[&str]) -> Result<Client> {
    match answering(directories) {
        Err(error) if is_absent(&error) => {}
        answer => return answer,
    }
    ancestry::refuse_below_a_keeper()?;
    let deadline = Instant::now() + CONNECT_DEADLINE;
    loop {
        // Where another broker has the lock it is coming up, or going down: then the next start succeeds.
        start(arguments)?;
        for _ in 0..LOOKS {
            match answering(directories) {
                Err(error) if is_absent(&error) && Instant::now() < deadline => std::thread::sleep(PAUSE),
                answer => return answer,
            }
        }
    }
}

/// A broker that has answered: one that is just ending takes a connection and drops it.
fn answering(directories: &Directories) -> Result<Client> {
    let mut client = Client::connect(directories)?;
    client.hello()?;
    Ok(client)
}

/// Whether no broker runs, as opposed to one that cannot be used.
pub(super) fn is_absent(error: &Error) -> bool {
    error.code == "broker_unreachable"
}

/// Starts a broker and waits until it is ready; another one that was faster is as good.
fn start(arguments: &[&str]) -> Result<()> {
    let program = std::env::current_exe().map_err(|error| not_started(describe(&error)))?;
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(programs::environment(&|name| std::env::var_os(name)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| not_started(describe(&error)))?;
    match wait(&mut child)? {
        status if status.success() => Ok(()),
        status => match said(&mut child) {
            Some(error) if error.code == "already_running" => Ok(()),
            Some(error) => Err(error),
            None => Err(not_started(status.to_string())),
        },
    }
}

fn wait(child: &mut Child) -> Result<std::process::ExitStatus> {
    let deadline = Instant::now() + START_DEADLINE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(Error::new(
                    Class::Timeout,
                    "broker_start_timeout",
                    "the broker was not ready in time",
                )
                .hint("`kin daemon --foreground` shows why"));
            }
            Err(error) => return Err(not_started(describe(&error))),
        }
    }
}

/// The error that a broker wrote before it ended, without waiting for whoever else holds the pipe.
fn said(child: &mut Child) -> Option<Error> {
    let mut stderr = child.stderr.take()?;
    fcntl(&stderr, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).ok()?;
    let mut text = vec![0; 64 << 10];
    let mut length = 0;
    while let Ok(got @ 1..) = stderr.read(&mut text[length..]) {
        length += got;
    }
    let text = std::str::from_utf8(&text[..length]).ok()?;
    text.lines().rev().find_map(|line| serde_json::from_str(line).ok())
}

fn not_started(why: String) -> Error {
    Error::new(Class::Unreachable, "broker_start_failed", format!("the broker did not start: {why}"))
        .hint("`kin daemon --foreground` shows why, and `kin doctor` what may be missing")
}
