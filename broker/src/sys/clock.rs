//! What time is it: since boot for deadlines, of the wall for people.

use kin_policy::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// Now, on `CLOCK_BOOTTIME` (clock_gettime(2)): it counts through suspend and nobody can set it.
pub fn now() -> Timestamp {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME exists since Linux 2.6.39");
    let nanos = i128::from(time.tv_sec()) * 1_000_000_000 + i128::from(time.tv_nsec());
    Timestamp::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

/// How long the machine has been suspended since it booted: what `CLOCK_BOOTTIME` has and `CLOCK_MONOTONIC`
/// has not (clock_gettime(2)). Never more than that; of three looks the one that was least disturbed.
pub fn asleep() -> std::time::Duration {
    let look = || {
        let boot = now();
        let awake = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC always exists");
        std::time::Duration::from_nanos(boot.as_nanos()).saturating_sub(awake.into())
    };
    (0..3).map(|_| look()).max().unwrap_or_default()
}

/// Seconds of Unix time.
pub fn unix_seconds() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
