//! What is the identity in the session's keyring? Asked through a child that has a deadline.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::keyring_agent::{LIMIT, VERB};
use super::{Identity, mismatch};
use crate::Plaintext;
use crate::children::programs::PATH;
use crate::sys::bus;
use crate::sys::error::{Class, Error, Result, describe};

const DEADLINE: Duration = Duration::from_millis(4500);
/// What a child needs of the environment to find the session's bus, and nothing else.
const PASSED: [&str; 2] = ["HOME", "XDG_RUNTIME_DIR"];
const HINT: &str = "unlock the keyring (`gnome-keyring-daemon --unlock --components=secrets` does it without \
                    a desktop), or keep the identity elsewhere: --passphrase-stdin, --key-file PATH";
/// For a vault whose identity is in the keyring already.
const GET_HINT: &str = "unlock the keyring (`gnome-keyring-daemon --unlock --components=secrets` does it without \
                        a desktop); `kin unlock --identity-fd N` and `kin recovery restore` do without it";

/// How to start the child that asks the Secret Service.
#[derive(Clone, Debug)]
pub struct Agent {
    /// A program that serves [`super::keyring_agent::VERB`].
    pub program: PathBuf,
    /// After this the child is killed.
    pub deadline: Duration,
}

impl Agent {
    /// The running program itself, even where its file was replaced since it started (proc(5)); within
    /// five seconds.
    pub fn own() -> Self {
        Self { program: PathBuf::from("/proc/self/exe"), deadline: DEADLINE }
    }

    /// The identity of `recipient`, from the bus at `session_bus` or else at this process's.
    ///
    /// # Errors
    /// Class Locked: `keyring_locked`, `keyring_unavailable`, `keyring_timeout`, `keyring_item_missing`,
    /// `identity_mismatch`.
    pub fn get(&self, recipient: &str, session_bus: Option<&str>) -> Result<Identity> {
        let answer =
            self.ask("get", recipient, &[], session_bus).map_err(|error| hinting(error, GET_HINT))?;
        Identity::parse(answer.bytes())
            .filter(|identity| identity.recipient() == recipient)
            .ok_or_else(|| mismatch("the keyring's item is not this vault's identity"))
    }

    /// Keeps `identity`, and makes sure that it can be had back.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn put(&self, identity: &Identity, session_bus: Option<&str>) -> Result<()> {
        self.ask("put", identity.recipient(), identity.text().bytes(), session_bus)?;
        self.get(identity.recipient(), session_bus).map(|_| ()).map_err(|error| hinting(error, HINT))
    }

    /// Whether there is a Secret Service that answers.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn probe(&self, session_bus: Option<&str>) -> Result<()> {
        self.ask("probe", "probe", &[], session_bus).map(|_| ())
    }

    fn ask(&self, action: &str, recipient: &str, input: &[u8], bus: Option<&str>) -> Result<Plaintext> {
        let until = Instant::now() + self.deadline;
        let mut child = Running(self.start(action, recipient, bus)?);
        if let Some(mut stdin) = child.0.stdin.take() {
            // It fits into the pipe, so this cannot block; where nobody reads it, the status says why.
            let _ = stdin.write_all(input);
        }
        let answer = child.answer(until)?;
        if child.status(until)?.success() { Ok(answer) } else { Err(refusal(answer.bytes())) }
    }

    fn start(&self, action: &str, recipient: &str, bus: Option<&str>) -> Result<Child> {
        let bus = bus.map(str::to_owned).or_else(|| std::env::var(bus::VARIABLE).ok());
        let bus = bus.map(|address| bus::checked(&address)).transpose();
        let bus = bus.map_err(|why| unavailable(&format!("the session bus is not to be trusted: {why}")))?;
        let passed = PASSED.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        Command::new(&self.program)
            .args([VERB, action, recipient])
            .env_clear()
            .envs(passed)
            .env("PATH", PATH)
            .envs(bus.map(|address| (bus::VARIABLE, address)))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| unavailable(&describe(&error)))
    }
}

/// A child that does not outlive the question.
struct Running(Child);

impl Running {
    /// Everything it says, straight into locked memory.
    fn answer(&mut self, until: Instant) -> Result<Plaintext> {
        let mut answer = Plaintext::zeroed(LIMIT);
        let mut filled = 0;
        let Some(mut output) = self.0.stdout.take() else { return Err(unavailable("no pipe")) };
        while filled < LIMIT {
            let left = PollTimeout::try_from(until.saturating_duration_since(Instant::now()))
                .unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(output.as_fd(), PollFlags::POLLIN)], left) {
                Ok(0) => return Err(timeout()),
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                Err(errno) => return Err(unavailable(errno.desc())),
            }
            match output.read(&mut answer.bytes_mut()[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(unavailable(&describe(&error))),
            }
        }
        answer.truncate(filled);
        Ok(answer)
    }

    /// How it ended. It has closed its output, so it ends within moments.
    fn status(&mut self, until: Instant) -> Result<ExitStatus> {
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if Instant::now() >= until => return Err(timeout()),
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => return Err(unavailable(&describe(&error))),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Another hint for a keyring that does not give what it has; what it gave wrongly has its own.
fn hinting(error: Error, hint: &str) -> Error {
    if error.code == "identity_mismatch" { error } else { error.hint(hint) }
}

/// What the child's word means.
fn refusal(answer: &[u8]) -> Error {
    let text = String::from_utf8_lossy(answer);
    let (word, reason) = text.split_once(": ").unwrap_or((&text, "it ended without an answer"));
    let reason: String = reason.chars().take(200).flat_map(char::escape_default).collect();
    match word {
        "locked" => locked("keyring_locked", format!("the keyring is locked: {reason}")),
        "missing" => locked("keyring_item_missing", "the keyring has no identity for this vault".to_owned()),
        "ambiguous" => mismatch("the keyring has several items for this vault"),
        _ => unavailable(&reason),
    }
}

fn unavailable(reason: &str) -> Error {
    locked("keyring_unavailable", format!("the keyring cannot be reached: {reason}"))
}

fn timeout() -> Error {
    locked("keyring_timeout", "the keyring did not answer in time".to_owned())
}

fn locked(code: &'static str, message: String) -> Error {
    Error::new(Class::Locked, code, message).hint(HINT)
}
