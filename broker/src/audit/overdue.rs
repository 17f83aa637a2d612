//! Since when is there a record that no seal covers? Where that is too long ago, there is no other before a seal.

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;

use super::log::{AuditLog, NotLogged, PATIENCE};
use super::upkeep::moved;
use crate::sys::clock;

/// Seconds after which an append seals first, by the wall clock, which the records have.
const OVERDUE: i64 = 40;
/// Seconds after the first record that is not sealed within which every other is. What is between the two is for an
/// append that waits for the disk.
pub(super) const MOST: i64 = 60;

/// The time of the first record behind the last seal: seconds of Unix time, and 0 where there is none.
pub(super) struct Unsealed(AtomicI64);

impl Unsealed {
    pub(super) fn since(time: Option<Timestamp>) -> Self {
        Self(AtomicI64::new(time.map_or(0, Timestamp::as_second)))
    }

    /// A record was written.
    pub(super) fn note(&self, is_seal: bool) {
        if is_seal {
            self.0.store(0, Ordering::Release);
        } else if self.0.load(Ordering::Acquire) == 0 {
            self.0.store(clock::unix_seconds(), Ordering::Release);
        }
    }

    fn is_overdue(&self) -> bool {
        let since = self.0.load(Ordering::Acquire);
        since != 0 && clock::unix_seconds() - since > OVERDUE
    }
}

impl AuditLog {
    /// To be called before a record is written. The recorder seals in time, unless the machine was asleep, the clock
    /// was set, or the disk does not do what it should.
    ///
    /// # Errors
    /// [`NotLogged`]: then nothing more is written, and nothing delivered, until it can be sealed.
    pub(super) fn seal_what_is_overdue(&self) -> Result<(), NotLogged> {
        if !self.unsealed.is_overdue() {
            return Ok(());
        }
        let mut keeper = self.keeper.try_lock_for(PATIENCE).ok_or_else(|| {
            let _ = self.refuse(libc::ETIMEDOUT);
            NotLogged::Stalled
        })?;
        // Another one may have sealed meanwhile.
        if !self.unsealed.is_overdue() {
            return Ok(());
        }
        let sealed = if self.is_in_place() { self.seal_and_anchor(&mut keeper, true) } else { Err(moved()) };
        sealed.map_err(|error| self.refuse(if error.code == "disk_full" { libc::ENOSPC } else { libc::EIO }))
    }

    /// As if the oldest record that is not sealed were so many seconds old.
    #[cfg(test)]
    pub(super) fn age_unsealed(&self, seconds: i64) {
        self.unsealed.0.fetch_sub(seconds, Ordering::AcqRel);
    }
}

#[cfg(test)]
#[path = "overdue_tests.rs"]
mod tests;
