//! What must be so when a world ends? No secret anywhere, a record that verifies, nothing left behind.

use std::time::{Duration, Instant};

use crate::world::World;
use crate::{mount, sweep};

impl World {
    /// Every place where a canary stands and should not: KIN_HOME, what was said, `kin status --json`,
    /// arguments and environments of all processes.
    pub fn leaks(&self) -> Vec<String> {
        let secrets = self.canaries.borrow().clone();
        let mut found = sweep::of_files(&self.home(), &self.mountpoint(), &secrets);
        found.extend(sweep::of_bytes("what was said", self.shared.all_heard().as_bytes(), &secrets));
        found.extend(sweep::of_processes(&secrets));
        if self.is_broker_running()
            && let Ok(status) = self.kin(["status", "--json"]).attempt()
        {
            found.extend(sweep::of_bytes("kin status --json", &status.stdout, &secrets));
        }
        found
    }

    /// What is wrong with this world, now that it ends.
    fn faults(&self) -> Vec<String> {
        let mut faults = self.leaks();
        if self.record_is_whole.get() && self.path("kin/state").exists() {
            match self.kin(["audit", "verify"]).attempt() {
                Ok(output) if output.status.success() => {}
                Ok(output) => faults.push(format!("the record does not verify: {output}")),
                Err(why) => faults.push(why),
            }
        }
        faults
    }

    fn stop(&self) -> Vec<String> {
        let mut faults = Vec::new();
        // A test may end in the ruins of its crash: then the next start has to clear them.
        let mounted = || self.mountpoints().iter().any(|point| !mount::mounts_on(point).is_empty());
        let ruins = self.crashed.get() && mounted();
        if ruins
            && !self.is_broker_running()
            && let Err(why) = self.kin(["daemon"]).attempt()
        {
            faults.push(why);
        }
        if self.is_broker_running()
            && let Err(why) = self.kin(["stop"]).within(Duration::from_secs(8)).attempt()
        {
            faults.push(why);
        }
        let end = Instant::now() + Duration::from_secs(3);
        let left = || (self.is_broker_running(), mounted());
        while left() != (false, false) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        match left() {
            (false, false) => {}
            (broker, mount) => faults.push(format!("left behind: broker {broker}, mount {mount}")),
        }
        faults
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let mut faults = if std::thread::panicking() { Vec::new() } else { self.faults() };
        if self.shared.has_fired() {
            faults.push("the test was over its deadline".into());
        }
        self.shared.over();
        faults.extend(self.stop());
        self.shared.clear();
        self.unmount_disks();
        if std::thread::panicking() {
            eprintln!("{}{}", self.transcript.borrow(), faults.join("\n"));
        } else if !faults.is_empty() {
            panic!("{}\nat the end:\n{}", self.transcript.borrow(), faults.join("\n"));
        }
    }
}
