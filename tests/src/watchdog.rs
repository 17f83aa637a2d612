//! What ends a test that hangs? A thread that, at the deadline, aborts the mount and kills what the test
//! started, so that no reader stays in state D for ever.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::mount;
use crate::process::{self, Process};
use crate::soak::deadline;

/// How long one world may last.
const DEADLINE: Duration = Duration::from_secs(60);

/// What a world and those it started share.
pub(crate) struct Shared {
    runtime: PathBuf,
    started: Mutex<Vec<Process>>,
    heard: Mutex<String>,
    over: Mutex<bool>,
    wake: Condvar,
    fired: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Shared {
    /// `runtime` is the directory of socket, lock and mount.
    pub(crate) fn new(runtime: PathBuf) -> Self {
        Self {
            runtime,
            started: Mutex::default(),
            heard: Mutex::default(),
            over: Mutex::default(),
            wake: Condvar::new(),
            fired: AtomicBool::new(false),
        }
    }

    /// Begins to watch.
    pub(crate) fn watch(self: &Arc<Self>) {
        let shared = self.clone();
        std::thread::spawn(move || {
            let over = locked(&shared.over);
            let (over, _) = shared
                .wake
                .wait_timeout_while(over, deadline(DEADLINE), |over| !*over)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if !*over {
                shared.fired.store(true, Ordering::SeqCst);
                drop(over);
                shared.clear();
            }
        });
    }

    /// The world is over: the deadline no longer holds.
    pub(crate) fn over(&self) {
        *locked(&self.over) = true;
        self.wake.notify_all();
    }

    /// Whether the deadline passed.
    pub(crate) fn has_fired(&self) -> bool {
        self.fired.load(Ordering::SeqCst)
    }

    /// Has the process killed, with all below it, where the test does not end it.
    pub(crate) fn track(&self, pid: u32) {
        locked(&self.started).extend(Process::of(pid));
    }

    /// Keeps what a command said on stderr, for the sweep and for the report of a failure.
    pub(crate) fn heard(&self, text: &str) {
        locked(&self.heard).push_str(text);
    }

    /// All that was said.
    pub(crate) fn all_heard(&self) -> String {
        locked(&self.heard).clone()
    }

    /// Whether a broker runs: it holds the lock for its life.
    pub(crate) fn is_broker_running(&self) -> bool {
        let Ok(lock) = File::open(self.runtime.join("broker.lock")) else { return false };
        Flock::lock(lock, FlockArg::LockExclusiveNonblock).is_err()
    }

    /// The process that listens at the socket (`SO_PEERCRED`, socket(7)).
    pub(crate) fn listener(&self) -> Option<Process> {
        let stream = UnixStream::connect(self.runtime.join("socket")).ok()?;
        let peer = getsockopt(&stream, PeerCredentials).ok()?;
        Process::of(peer.pid().cast_unsigned())
    }

    /// Takes the mount away, kills the broker and all that was started.
    pub(crate) fn clear(&self) {
        if let Some(broker) = self.listener() {
            broker.kill();
        }
        mount::clear(&self.runtime.join("mnt"));
        mount::clear(&self.runtime.join("rw"));
        for started in locked(&self.started).drain(..) {
            if started.is_alive() {
                process::tree(started.pid).iter().for_each(|process| process.kill());
            }
        }
    }
}
