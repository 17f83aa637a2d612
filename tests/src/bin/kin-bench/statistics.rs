//! Which number stands for many: medians and percentiles of samples, and the clock they come from.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::Result;

/// CLOCK_MONOTONIC in nanoseconds: one clock for all processes of the machine (clock_gettime(2)).
pub(crate) fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(|time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
        .expect("CLOCK_MONOTONIC is always there")
}

/// So long.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The `percent`th percentile by nearest rank: the least sample that at least so many do not exceed.
pub(crate) fn percentile(samples: &mut [u64], percent: usize) -> Result<u64> {
    samples.sort_unstable();
    let rank = (samples.len() * percent).div_ceil(100).max(1);
    samples.get(rank - 1).copied().ok_or_else(|| "no samples".into())
}

/// The 50th percentile.
pub(crate) fn median(samples: &mut [u64]) -> Result<u64> {
    percentile(samples, 50)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let mut samples: Vec<u64> = (1..=200).rev().collect();
        assert_eq!(median(&mut samples), Ok(100));
        assert_eq!(percentile(&mut samples, 99), Ok(198));
        assert_eq!(percentile(&mut [7], 99), Ok(7));
        assert!(median(&mut []).is_err());
    }

    #[test]
    fn the_clock_does_not_go_back() {
        let first = monotonic_ns();
        assert!(monotonic_ns() >= first);
    }
}
