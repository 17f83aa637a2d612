//! `kin doctor`: whether this machine has what kin needs, and how to mend what it lacks.

mod checks;
mod mounts;

use clap::Args;
use kin_broker::control::Client;
use kin_broker::control::protocol::{KeyMethod, Question, Status};
use kin_broker::sys::paths::Directories;
use kin_broker::{Class, Error, Result};
use serde::Serialize;

use super::output::{self, Tone};
use super::{Format, connect};

/// Check what kin needs of this machine, and say how to mend it
///
/// Looks at /dev/fuse, fusermount3, namespaces for private mounts, the directories, the kernel, memory limits, ptrace, swap, the mount,
/// the broker, the vault and the keyring. `warn` is something to know, `fail` something that does not work; the exit
/// code is 0 without a `fail`. It starts no broker. Locked in memory are values and keys; never the buffers of FUSE requests,
/// nor the ordinary memory that passes a value on or that libraries use, which is wiped when it is freed.
#[derive(Args)]
#[command(after_help = "Examples:
  kin doctor
  kin doctor --fix
  kin doctor --json | jq '.[] | select(.state != \"ok\")'")]
pub(super) struct Arguments {
    /// Clear a mount that a killed broker left, and make the runtime directory private; nothing else
    #[arg(long)]
    fix: bool,
    /// Look at the keyring also where the vault has its key elsewhere
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    pub(super) format: Format,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
    #[serde(skip)]
    class: Class,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    Warn,
    Fail,
}

impl Check {
    fn ok(name: &'static str, message: impl Into<String>) -> Self {
        Self { name, state: State::Ok, message: message.into(), fix: None, class: Class::Internal }
    }

    fn warn(name: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { state: State::Warn, fix: Some(fix.into()), ..Self::ok(name, message) }
    }

    fn fail(class: Class, name: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { state: State::Fail, fix: Some(fix.into()), class, ..Self::ok(name, message) }
    }
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let directories = Directories::from_environment()?;
    let mut client = connect::to_running(&directories);
    if arguments.fix {
        mounts::fix(&directories, client.is_err());
        client = connect::to_running(&directories);
    }
    let checks = look(&directories, client, arguments.all);
    match arguments.format.json {
        true => output::json(&checks)?,
        false => output::print(&description(&checks, output::colours(&std::io::stdout())))?,
    }
    verdict(&checks)
}

fn look(directories: &Directories, client: Result<Client>, all: bool) -> Vec<Check> {
    let absent = client.as_ref().is_err_and(connect::is_absent);
    let status = client.and_then(|mut client| client.ask::<Status>(Question::Status));
    let mut checks = vec![
        checks::fuse_device(),
        checks::fusermount(),
        checks::namespaces(),
        checks::directories(directories),
        checks::kernel(),
        checks::proc_visible(status.as_ref().ok().map(|status| &status.broker)),
        checks::memory(status.as_ref().ok().map(|status| &status.broker)),
        checks::ptrace(),
        checks::swap(),
    ];
    checks.push(mounts::stale(directories, absent));
    checks.push(checks::broker(status));
    let (vault, key) = checks::vault(directories);
    checks.push(vault);
    let uses_keyring = key == Some(KeyMethod::Keyring);
    if uses_keyring || key.is_none() || all {
        checks.push(checks::keyring(uses_keyring));
    }
    checks
}

/// The exit code is that of the first thing that does not work.
fn verdict(checks: &[Check]) -> Result<()> {
    let failed: Vec<_> = checks.iter().filter(|check| check.state == State::Fail).collect();
    let Some(first) = failed.first() else { return Ok(()) };
    let names: Vec<_> = failed.iter().map(|check| check.name).collect();
    let error = Error::new(first.class, "doctor_failed", format!("not in order: {}", names.join(", ")));
    Err(match &first.fix {
        Some(fix) => error.hint(fix.clone()),
        None => error,
    })
}

fn description(checks: &[Check], colours: bool) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let (word, tone) = match check.state {
            State::Ok => ("ok  ", Tone::Good),
            State::Warn => ("warn", Tone::Doubtful),
            State::Fail => ("fail", Tone::Bad),
        };
        let word = output::paint(colours, tone, word);
        text += &format!("{word}  {:width$}  {}\n", check.name, output::printable(&check.message));
        if let Some(fix) = &check.fix {
            text += &format!("      {:width$}  fix: {}\n", "", output::printable(fix));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_gives_the_exit_code_and_warnings_give_none() {
        let warn = || Check::warn("swap", "swap is on", "turn it off");
        assert!(verdict(&[Check::ok("fuse", "fine"), warn()]).is_ok());
        let failed = Check::fail(Class::Unreachable, "fuse device", "it is missing", "modprobe fuse");
        let later = Check::fail(Class::Unsafe, "directories", "open to others", "chmod 700 /x");
        let error = verdict(&[warn(), failed, later]).unwrap_err();
        assert_eq!(error.exit_code(), 6);
        assert_eq!(error.message, "not in order: fuse device, directories");
        assert_eq!(error.hint.as_deref(), Some("modprobe fuse"));
    }

    #[test]
    fn a_check_is_a_line_and_its_fix_another() {
        let checks = [Check::ok("fuse", "fine"), Check::warn("swap", "on\u{1b}", "swapoff -a")];
        assert_eq!(
            description(&checks, false),
            "ok    fuse  fine\nwarn  swap  on\\u{1b}\n            fix: swapoff -a\n"
        );
    }
}
