//! Which exit code stands for what became of the command, and how is the command shown?

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use kin_broker::describe;
use kin_broker::grants::messages::{NotMasked, Unmasked};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

/// The exit code for a fault after the start.
pub(super) const FAULT: i32 = 125;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ended {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal, and whether it left a core.
    Signaled { signal: i32, core: bool },
}

impl Ended {
    /// `None` where it has not ended: a stop or a continuation.
    pub(super) fn from_status(status: ExitStatus) -> Option<Self> {
        let signaled = |signal| Self::Signaled { signal, core: status.core_dumped() };
        status.code().map(Self::Exited).or_else(|| status.signal().map(signaled))
    }
}

/// What a status cannot say that has no core of its own: a second one would take the place of the first, which
/// is the command's (core(5)).
pub(super) fn left_a_core(signal: i32) -> String {
    let name = Signal::try_from(signal).map_or_else(|_| signal.to_string(), |signal| signal.to_string());
    format!("kin: the command died by {name} (core dumped)")
}

/// The exit code and the line for a command that could not be started: 127 not found, 126 found but not
/// executable, as the shells have it (POSIX, XCU 2.8.2), and 125 for a fault of the wrapper's own.
pub(super) fn of_failed_start(program: &OsStr, error: &io::Error) -> (i32, String) {
    let name = escaped(program, usize::MAX);
    let code = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::EACCES) if is_nowhere(program) => {
            return (127, format!("error: {name}: command not found"));
        }
        Some(Errno::ENOENT) => 127,
        None | Some(Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE) => 125,
        Some(_) => 126,
    };
    (code, format!("error: could not run {name}: {}", describe(error)))
}

/// Whether it was to be looked for and no directory of PATH has it. execvp(3) says EACCES of a directory
/// that it may not search, though nothing was found.
fn is_nowhere(program: &OsStr) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = || std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    !program.as_encoded_bytes().contains(&b'/') && !found()
}

/// The warning of a value that is not masked.
pub(super) fn not_masked(NotMasked { file, why }: &NotMasked) -> String {
    let because = match why {
        Unmasked::Short => ": what has less than 8 bytes never is",
        Unmasked::Long => ": it is too large",
        Unmasked::Encoded => " where it is encoded: all values together are too large",
    };
    format!("warning: {file} is not masked{because}")
}

/// The error of a redacted stream that could not be written; `kin run` does not end with 0 then.
pub(super) fn not_written(errno: i32) -> String {
    let why = describe(&io::Error::from_raw_os_error(errno));
    format!("error: what the command wrote could not be written: {why}")
}

/// The most arguments of a command, and the most characters of one, that `kin status` is told.
const SHOWN: (usize, usize) = (64, 256);

/// The command as text without control characters, cut where it is long.
pub(super) fn shown(command: &[OsString]) -> Vec<String> {
    command.iter().take(SHOWN.0).map(|argument| escaped(argument, SHOWN.1)).collect()
}

fn escaped(text: &OsStr, most: usize) -> String {
    let text = text.to_string_lossy();
    let mut escaped = String::with_capacity(text.len().min(most));
    for c in text.chars().take(most) {
        // Only what would disturb a terminal; quotes and letters of any script stay as they are.
        if kin_policy::unprintable(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    if text.chars().nth(most).is_some() {
        escaped.push('…');
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn z02_a_start_that_fails_has_the_shells_codes() {
        let code = |program: &str, errno: Errno| {
            of_failed_start(program.as_ref(), &io::Error::from_raw_os_error(errno as i32)).0
        };
        assert_eq!(code("no-such-program", Errno::ENOENT), 127);
        assert_eq!(code("no-such-program", Errno::EACCES), 127);
        assert_eq!(code("./nothing", Errno::ENOENT), 127);
        assert_eq!(code("/", Errno::EACCES), 126);
        assert_eq!(code("x", Errno::ENOEXEC), 126);
        assert_eq!(code("x", Errno::E2BIG), 126);
        assert_eq!(code("x", Errno::EAGAIN), 125);
    }

    #[test]
    fn a_status_tells_exits_signals_and_stops_apart() {
        let of = |raw| Ended::from_status(ExitStatus::from_raw(raw));
        assert_eq!(of(3 << 8), Some(Ended::Exited(3)));
        let signaled = |signal, core| Some(Ended::Signaled { signal, core });
        assert_eq!(of(libc::SIGKILL), signaled(libc::SIGKILL, false));
        // WCOREDUMP of wait(2).
        assert_eq!(of(libc::SIGSEGV | 0x80), signaled(libc::SIGSEGV, true));
        assert_eq!(of(libc::SIGRTMIN() + 1), signaled(libc::SIGRTMIN() + 1, false));
        assert_eq!(left_a_core(libc::SIGSEGV), "kin: the command died by SIGSEGV (core dumped)");
        assert_eq!(of(libc::SIGTSTP << 8 | 0x7f), None);
        assert_eq!(of(0xffff), None);
    }

    #[test]
    fn a_command_is_shown_without_control_characters_and_cut() {
        let shown = shown(&["a\u{1b}[31m\n".into(), "'ключ' \"x\"".into(), "x".repeat(1 << 20).into()]);
        assert_eq!(shown[0], "a\\u{1b}[31m\\n");
        assert_eq!(shown[1], "'ключ' \"x\"");
        assert_eq!(shown[2].chars().count(), SHOWN.1 + 1);
    }
}
