//! Was this process started below a keeper?

use kin_broker::{Class, Error, Result};

/// What a keeper calls itself (`PR_SET_NAME`, at most 15 bytes).
pub const KEEPER_COMM: &str = "kin-keeper";

/// Refuses to go on below a keeper. The name of a process is no proof, but lying about it only refuses
/// the liar a broker.
///
/// # Errors
/// `no_broker_in_tree`.
pub fn refuse_below_a_keeper() -> Result<()> {
    let mut pid = std::process::id();
    while let Some((comm, parent)) = comm_and_parent(pid) {
        if comm == KEEPER_COMM {
            let message = "no broker runs, and one must not be started inside a grant's tree";
            return Err(Error::new(Class::Unreachable, "no_broker_in_tree", message)
                .hint("run `kin status` in a terminal of your own: the grant around this process is void"));
        }
        pid = parent;
    }
    Ok(())
}

/// Fields 2 and 4 of `/proc/PID/stat`; the name may hold parentheses, so the last one closes it.
fn comm_and_parent(pid: u32) -> Option<(String, u32)> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let open = stat.iter().position(|byte| *byte == b'(')?;
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    let comm = String::from_utf8_lossy(stat.get(open + 1..close)?).into_owned();
    let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
    let parent = rest.split_ascii_whitespace().nth(1)?.parse().ok()?;
    (parent != 0).then_some((comm, parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_line_reads() {
        let (comm, parent) = comm_and_parent(std::process::id()).unwrap();
        assert!(!comm.is_empty());
        assert_eq!(parent, std::os::unix::process::parent_id());
    }

    #[test]
    fn tests_do_not_run_below_a_keeper() {
        assert_eq!(refuse_below_a_keeper(), Ok(()));
    }
}
