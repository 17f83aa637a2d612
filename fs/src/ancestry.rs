//! Was this process started below a keeper?

use kin_broker::control::protocol::KEEPER_COMM;
use kin_broker::{Class, Error, Result};

/// How often a walk up the tree starts over because a process ended under it.
const WALKS: usize = 8;

/// Refuses to go on below a keeper. The name of a process is no proof, but lying about it only refuses
/// the liar a broker.
///
/// # Errors
/// `no_broker_in_tree`.
pub fn refuse_below_a_keeper() -> Result<()> {
    if !descends_from_keeper(std::process::id(), &|pid| std::fs::read(format!("/proc/{pid}/stat")).ok()) {
        return Ok(());
    }
    let message = "no broker runs, and one must not be started inside a grant's tree";
    Err(Error::new(Class::Unreachable, "no_broker_in_tree", message).hint("start it outside: `kin daemon`"))
}

/// Whether `pid` or a process above it calls itself a keeper. What /proc does not show (hidepid) ends the
/// walk: nobody's grant is wider for it, a broker started below a keeper only keeps that tree alive.
fn descends_from_keeper(pid: u32, stat: &dyn Fn(u32) -> Option<Vec<u8>>) -> bool {
    for _ in 0..WALKS {
        let mut at = pid;
        loop {
            if at == 1 {
                return false;
            }
            let Some((comm, parent)) = stat(at).as_deref().and_then(parse_stat) else { break };
            if comm == KEEPER_COMM.as_bytes() {
                return true;
            }
            // None: the top of a namespace that was entered, or a parent that is being reaped.
            if parent == 0 {
                break;
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
    fn a_parent_that_is_reaped_while_its_number_is_read_is_no_top() {
        let rows = tree(&[(9, "sh", 8), (8, "kin-keeper", 1)]);
        let asked = std::cell::Cell::new(0);
        let reaping = |pid| {
            asked.set(asked.get() + 1);
            if asked.get() == 1 { Some(b"9 (sh) S 0 1 1 0 -1".to_vec()) } else { rows(pid) }
        };
        assert!(descends_from_keeper(9, &reaping));
    }

    #[test]
    fn this_process_is_below_no_keeper() {
        assert!(
            !descends_from_keeper(std::process::id(), &|pid| std::fs::read(format!("/proc/{pid}/stat")).ok())
        );
    }
}
