//! The way to the broker: to one that runs, or to one that is started for this.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kin_broker::control::Client;
use kin_broker::paths::Directories;
use kin_broker::{Class, Error, Result, describe};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// The name (`/proc/PID/comm`) that a keeper gives itself.
const KEEPER: &str = "kin-keeper";
/// How long a broker may take to be ready.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// How long a broker that says it is ready, or that another one runs, may take to answer.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(5);
/// How often a walk up the tree starts over because a process ended under it.
const WALKS: usize = 8;

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
    match Client::connect(directories) {
        Err(error) if is_absent(&error) => {}
        answer => return answer,
    }
    if descends_from_keeper(std::process::id(), &|pid| std::fs::read(format!("/proc/{pid}/stat")).ok()) {
        return Err(Error::new(
            Class::Unreachable,
            "no_broker_in_tree",
            "no broker runs, and one must not be started inside a grant's tree",
        )
        .hint("start it outside: `kin daemon`"));
    }
    start()?;
    let deadline = Instant::now() + CONNECT_DEADLINE;
    loop {
        match Client::connect(directories) {
            Err(error) if is_absent(&error) && Instant::now() < deadline => std::thread::sleep(PAUSE),
            answer => return answer,
        }
    }
}

/// Whether no broker runs, as opposed to one that cannot be used.
pub(super) fn is_absent(error: &Error) -> bool {
    error.code == "broker_unreachable"
}

/// Starts a broker and waits until it is ready; another one that was faster is as good.
fn start() -> Result<()> {
    let program = std::env::current_exe().map_err(|error| not_started(describe(&error)))?;
    let mut child = Command::new(program)
        .args(["daemon", "--json"])
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| is_for_broker(name.as_encoded_bytes())))
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

/// A broker outlives the shell that happened to start it: it gets what tells it where things are, and
/// nothing that may be a secret of that shell's.
fn is_for_broker(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 9] = [
        b"HOME",
        b"USER",
        b"LOGNAME",
        b"PATH",
        b"LANG",
        b"TZ",
        b"TMPDIR",
        b"DBUS_SESSION_BUS_ADDRESS",
        b"RUST_BACKTRACE",
    ];
    const BEGINNINGS: [&[u8]; 3] = [b"KIN_", b"XDG_", b"LC_"];
    NAMES.contains(&name) || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
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

/// Whether `pid` or a process above it calls itself a keeper. What /proc does not show (hidepid) ends the
/// walk: nobody's grant is wider for it, a broker started below a keeper only keeps that tree alive.
fn descends_from_keeper(pid: u32, stat: &dyn Fn(u32) -> Option<Vec<u8>>) -> bool {
    for _ in 0..WALKS {
        let mut at = pid;
        loop {
            if at <= 1 {
                return false;
            }
            let Some((comm, parent)) = stat(at).as_deref().and_then(parse_stat) else { break };
            if comm == KEEPER.as_bytes() {
                return true;
            }
            at = parent;
        }
    }
    false
}

/// Name and parent from `/proc/PID/stat` (proc_pid_stat(5)). The name may hold anything, also `)`; what
/// follows it does not.
fn parse_stat(stat: &[u8]) -> Option<(Vec<u8>, u32)> {
    let open = stat.iter().position(|byte| *byte == b'(')?;
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    let comm = stat.get(open + 1..close)?.to_vec();
    let parent = std::str::from_utf8(stat.get(close + 1..)?).ok()?.split_whitespace().nth(1)?.parse().ok()?;
    Some((comm, parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(rows: &'static [(u32, &'static str, u32)]) -> impl Fn(u32) -> Option<Vec<u8>> {
        |pid| {
            let (pid, comm, parent) = rows.iter().find(|row| row.0 == pid)?;
            Some(format!("{pid} ({comm}) S {parent} 1 1 0 -1").into_bytes())
        }
    }

    #[test]
    fn no_broker_is_started_below_a_keeper() {
        let rows =
            tree(&[(9, "sh", 8), (8, "x) S 1 (", 7), (7, "kin-keeper", 5), (5, "kin", 1), (4, "sh", 1)]);
        assert!(descends_from_keeper(9, &rows));
        assert!(descends_from_keeper(7, &rows));
        assert!(!descends_from_keeper(5, &rows));
        assert!(!descends_from_keeper(4, &rows));
        assert!(!descends_from_keeper(3, &rows));
    }

    #[test]
    fn this_process_is_below_no_keeper() {
        assert!(
            !descends_from_keeper(std::process::id(), &|pid| std::fs::read(format!("/proc/{pid}/stat")).ok())
        );
    }

    #[test]
    fn g14_a_broker_does_not_inherit_what_may_be_secret() {
        for name in
            ["AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "LD_PRELOAD", "HOMEX", "MY_KIN_X", "DATABASE_URL"]
        {
            assert!(!is_for_broker(name.as_bytes()), "{name}");
        }
        for name in ["HOME", "KIN_HOME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "PATH"] {
            assert!(is_for_broker(name.as_bytes()), "{name}");
        }
    }
}
