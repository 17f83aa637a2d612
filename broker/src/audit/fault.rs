//! What does the log say of its own failures?

use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU64, Ordering};

use nix::errno::Errno;

use crate::sys::clock;

/// What `audit.fault` will say: the last error, and the records refused since the last that succeeded.
#[derive(Default)]
pub(super) struct Fault {
    pub(super) errno: AtomicI32,
    pub(super) refused: AtomicU64,
    /// When the first of them was refused: seconds of Unix time.
    since: AtomicI64,
}

/// Whether the record is being written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// Records that were refused since the last that succeeded, and with them what they stood for.
    pub refused: u64,
    /// When the first of them was: seconds of Unix time.
    pub since: Option<i64>,
    /// The last error that no record has told yet: `ENOSPC`.
    pub error: Option<String>,
}

impl Fault {
    pub(super) fn seen(&self, errno: i32) {
        self.errno.store(errno, Ordering::Release);
    }

    pub(super) fn one_more(&self) {
        if self.refused.fetch_add(1, Ordering::AcqRel) == 0 {
            self.since.store(clock::unix_seconds(), Ordering::Release);
        }
    }

    pub(super) fn refuse(&self, errno: i32) {
        self.one_more();
        self.seen(errno);
    }

    pub(super) fn recording(&self) -> Recording {
        let refused = self.refused.load(Ordering::Acquire);
        let errno = self.errno.load(Ordering::Acquire);
        Recording {
            refused,
            since: (refused > 0).then(|| self.since.load(Ordering::Acquire)),
            error: (errno != 0).then(|| format!("{:?}", Errno::from_raw(errno))),
        }
    }
}
