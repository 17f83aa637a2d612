//! `kin stop`: stops the broker.

use std::time::{Duration, Instant};

use clap::Args;
use kin_broker::control::protocol::Question;
use kin_broker::sys::paths::Directories;
use kin_broker::{Class, Error, Result};

use super::{Format, connect, output};

/// How long a broker may take to unmount and to end its grants.
const DEADLINE: Duration = Duration::from_secs(5);

/// Stop the broker, which ends every grant
///
/// Every grant ends, the mount goes away, and the vault is locked. It returns when the broker is gone.
#[derive(Args)]
#[command(after_help = "Example:
  kin stop")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let stopped = match connect::to_running(&Directories::from_environment()?) {
        Ok(mut client) => {
            let pid = client.hello()?.pid;
            client.ask::<()>(Question::Stop)?;
            await_end(pid)?;
            true
        }
        Err(error) if connect::is_absent(&error) => false,
        Err(error) => return Err(error),
    };
    match (arguments.format.json, stopped) {
        (true, stopped) => output::json(&serde_json::json!({ "stopped": stopped })),
        (false, true) => output::line("the broker has stopped"),
        (false, false) => output::line("no broker runs"),
    }
}

fn await_end(pid: u32) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while !has_ended(pid) {
        if Instant::now() > deadline {
            return Err(Error::new(
                Class::Timeout,
                "timeout",
                format!("the broker (pid {pid}) has not stopped yet"),
            )
            .hint("`kin doctor` says what may hold it"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Gone, or a zombie that its parent has not looked at (state Z or X, proc_pid_stat(5)).
fn has_ended(pid: u32) -> bool {
    match std::fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => match stat.iter().rposition(|byte| *byte == b')') {
            Some(close) => matches!(stat.get(close + 2), Some(b'Z' | b'X')),
            None => false,
        },
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_ended_when_it_is_gone_or_a_zombie() {
        assert!(!has_ended(std::process::id()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let deadline = Instant::now() + DEADLINE;
        while !has_ended(child.id()) {
            assert!(Instant::now() < deadline, "a zombie counts as ended");
            std::thread::sleep(Duration::from_millis(5));
        }
        child.wait().unwrap();
        assert!(has_ended(child.id()));
    }
}
