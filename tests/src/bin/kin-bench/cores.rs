//! How is a reader held on the core of those who answer it? There a cycle is what all of them compute, and not where
//! the scheduler happens to wake whom: a waking of another core costs a virtual machine more than all the rest.

use std::fs;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::Result;

/// Several processes, this one, and what it starts, on one core; where they were again on drop.
pub(crate) struct OneCore {
    servers: Vec<u32>,
    before: CpuSet,
}

impl OneCore {
    /// Takes the last core that this process may use.
    pub(crate) fn take(servers: &[u32]) -> Result<Self> {
        let own = std::process::id();
        let before = sched_getaffinity(Pid::this()).map_err(|errno| format!("ask for the cores: {errno}"))?;
        let last = (0..CpuSet::count()).rev().find(|core| before.is_set(*core).unwrap_or(false));
        let mut core = CpuSet::new();
        core.set(last.ok_or("no core")?).map_err(|errno| format!("choose a core: {errno}"))?;
        let taken = Self { servers: [servers, &[own]].concat(), before };
        taken.servers.iter().try_for_each(|server| hold(*server, &core))?;
        Ok(taken)
    }
}

impl Drop for OneCore {
    fn drop(&mut self) {
        for server in &self.servers {
            hold(*server, &self.before).unwrap_or_else(|why| eprintln!("warning: {why}"));
        }
    }
}

/// All threads of a process: each has cores of its own (sched_setaffinity(2)).
fn hold(process: u32, cores: &CpuSet) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| format!("hold process {process} on a core: {error}");
    for thread in fs::read_dir(format!("/proc/{process}/task")).map_err(|error| failed(&error))? {
        let name = thread.map_err(|error| failed(&error))?.file_name();
        let tid = name.to_str().and_then(|name| name.parse().ok()).ok_or_else(|| failed(&"no thread"))?;
        sched_setaffinity(Pid::from_raw(tid), cores).map_err(|errno| failed(&errno))?;
    }
    Ok(())
}
