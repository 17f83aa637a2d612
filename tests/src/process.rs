//! Which processes are there, and which of them did a test start?

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// One process of this boot: its number and field 22 of `/proc/PID/stat`, so that a reused number is
/// never taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Clock ticks from boot to its start.
    pub start: u64,
}

/// The fields of `/proc/PID/stat` after the name: state, parent, … (proc_pid_stat(5)).
fn fields(pid: u32) -> Option<Vec<String>> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after = stat.iter().rposition(|byte| *byte == b')')?;
    Some(String::from_utf8_lossy(&stat[after + 1..]).split_whitespace().map(str::to_owned).collect())
}

impl Process {
    /// The process that has this number now.
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, start: fields(pid)?.get(19)?.parse().ok()? })
    }

    /// Whether it runs: a zombie does not.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
            && fields(self.pid).is_some_and(|f| !matches!(f[0].as_str(), "Z" | "X"))
    }

    /// Kills it where it still is.
    pub fn kill(self) {
        if self.is_alive() {
            signal(self.pid, Signal::SIGKILL);
        }
    }

    /// Its parent's number.
    pub fn parent(self) -> Option<u32> {
        fields(self.pid)?.get(1)?.parse().ok()
    }
}

/// How many of a process's threads bear this name.
pub fn threads_named(pid: u32, name: &str) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let named = |comm: std::io::Result<String>| comm.is_ok_and(|comm| comm.trim_end() == name);
    tasks.filter(|task| named(std::fs::read_to_string(task.path().join("comm")))).count()
}

/// The most memory that a process has had resident, in KiB: VmHWM (proc_pid_status(5)).
pub fn most_resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Sends a signal to a process of the test's.
pub fn signal(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
}

/// Every process there is.
pub fn all() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Process::of(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// `root` and everything below it.
pub fn tree(root: u32) -> Vec<Process> {
    let all: Vec<(Process, Option<u32>)> = all().into_iter().map(|p| (p, p.parent())).collect();
    let mut found: Vec<Process> = Process::of(root).into_iter().collect();
    let mut next = 0;
    while let Some(above) = found.get(next).copied() {
        found
            .extend(all.iter().filter(|(_, parent)| *parent == Some(above.pid)).map(|(process, _)| *process));
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_its_children_and_a_zombie_is_dead() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let process = Process::of(child.id()).expect("it runs");
        assert!(tree(std::process::id()).contains(&process));
        assert_eq!(process.parent(), Some(std::process::id()));
        process.kill();
        while process.is_alive() {
            std::thread::yield_now();
        }
        child.wait().expect("reaped");
        assert_eq!(Process::of(process.pid).filter(|again| *again == process), None);
    }
}
