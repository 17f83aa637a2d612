//! Which processes does a grant's tree hold? For people to look at, never for a decision.

use kin_policy::{Pid, Process};

use super::procfs::{self, Stat};
use crate::sys::proc;

/// How many processes a tree is shown with.
const SHOWN: usize = 256;

/// One process of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Steps below the root, which is 0.
    pub depth: usize,
    /// Its number.
    pub pid: Pid,
    /// Its name, as bytes of its own choice.
    pub comm: Vec<u8>,
}

/// The tree below and with `root`, each parent before its children: best effort, at most 256 processes,
/// empty where the root is gone. From `/proc/PID/task/TID/children` (proc_pid_task(5), which needs
/// CONFIG_PROC_CHILDREN and may miss children of processes that exit meanwhile).
pub fn tree_of(root: Process) -> Vec<Branch> {
    let mut tree = Vec::new();
    if !Stat::read(root.pid).is_ok_and(|stat| stat.start == root.start) {
        return tree;
    }
    let mut open = vec![(0, root.pid)];
    while let Some((depth, pid)) = open.pop() {
        if tree.len() == SHOWN {
            break;
        }
        let Ok(comm) = procfs::comm(pid) else { continue };
        tree.push(Branch { depth, pid, comm });
        let mut below = children_of(pid);
        below.sort_unstable_by(|one, other| other.cmp(one));
        open.extend(below.into_iter().map(|child| (depth + 1, child)));
    }
    tree
}

/// Every thread has its own children.
fn children_of(pid: Pid) -> Vec<Pid> {
    let Ok(proc) = proc::own() else { return Vec::new() };
    let threads = proc.names(&format!("{pid}/task")).unwrap_or_default().into_iter();
    let lists =
        threads.filter_map(|thread| proc.read(&format!("{pid}/task/{}/children", thread.to_str()?)).ok());
    let parse = |list: String| -> Vec<Pid> {
        list.split_ascii_whitespace().filter_map(|number| Pid::new(number.parse().ok()?)).collect()
    };
    lists.flat_map(parse).take(SHOWN).collect()
}
