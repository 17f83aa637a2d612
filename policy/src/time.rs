//! Time, as the decision sees it: an argument.

use serde::{Deserialize, Serialize};

/// Nanoseconds of `CLOCK_BOOTTIME`: it keeps counting through suspend and nobody can set it, so a
/// wall clock moved by a year moves no deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// From nanoseconds since boot.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since boot.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// This much later; saturates at the end of time.
    #[must_use]
    pub fn after(self, duration: core::time::Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }

    /// The time from `earlier` to here; zero where `earlier` is not earlier.
    pub fn since(self, earlier: Self) -> core::time::Duration {
        core::time::Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
