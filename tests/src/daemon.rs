//! How does a broker in the foreground end?

use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use crate::process;

/// A broker in the foreground.
pub struct Daemon {
    pub(crate) child: Child,
}

impl Daemon {
    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended.
    ///
    /// # Panics
    /// Where it has not after `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            assert!(Instant::now() < end, "the broker did not end within {deadline:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let end = Instant::now() + Duration::from_secs(3);
        process::signal(self.child.id(), nix::sys::signal::Signal::SIGTERM);
        while self.child.try_wait().is_ok_and(|status| status.is_none()) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
