//! When does the broker give back what a burst took? Once it is over: when much is free that was in use, and it gets
//! no more.

use crate::sys::allocator;

/// Bytes that are free beyond those that were free the last time, before it is worth the while.
const WORTH: u64 = 1 << 20;

/// What was free in the allocator's arenas, in bytes. To be looked at once a second.
#[derive(Debug, Default)]
pub(crate) struct Ebb {
    /// When memory was given back the last time: that is free still, but no memory any more.
    left: u64,
    /// A second ago.
    before: u64,
}

impl Ebb {
    /// Gives memory back where a burst is over.
    pub(crate) fn look(&mut self) {
        if self.is_over(allocator::unused()) {
            allocator::give_back();
            self.left = self.before;
        }
    }

    /// Whether much more is free than was left, and no more than a second ago.
    fn is_over(&mut self, now: u64) -> bool {
        self.left = self.left.min(now);
        let over = now <= self.before && now >= self.left + WORTH;
        self.before = now;
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_after_a_burst() {
        const MIB: u64 = 1 << 20;
        let mut ebb = Ebb::default();
        let mut over = |seen: &[u64]| {
            let found: Vec<bool> = seen.iter().map(|now| ebb.is_over(now * MIB / 10)).collect();
            if found.ends_with(&[true]) {
                ebb.left = ebb.before;
            }
            found
        };
        assert_eq!(over(&[3, 3, 3, 40, 90, 90]), [false, false, false, false, false, true]);
        assert_eq!(over(&[90, 95, 95, 90]), [false; 4], "once");
        // What was taken into use again counts again.
        assert_eq!(over(&[20, 88, 88]), [false, false, true]);
    }
}
