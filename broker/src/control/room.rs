//! How much may be asked at once? Small requests always; of large ones a few, so that no crowd of connections makes
//! the broker large.

use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// Requests of so many bytes, their values included, are small.
const SMALL: usize = 4 << 10;
/// Large requests that are read, understood and answered at the same time, at most.
const LARGE: usize = 8;

/// Room for large requests.
pub(super) struct Room {
    left: Mutex<usize>,
    freed: Condvar,
}

/// A place in it, until it is dropped.
pub(super) struct Place<'r>(&'r Room);

impl Room {
    pub(super) fn new() -> Self {
        Self { left: Mutex::new(LARGE), freed: Condvar::new() }
    }

    /// Waits for a place, where a request of `size` bytes needs one; `Err` where there was none until then.
    pub(super) fn take(&self, size: usize, until: Instant) -> Result<Option<Place<'_>>, ()> {
        if size <= SMALL {
            return Ok(None);
        }
        let mut left = self.left.lock();
        while *left == 0 {
            if self.freed.wait_until(&mut left, until).timed_out() {
                return Err(());
            }
        }
        *left -= 1;
        Ok(Some(Place(self)))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.left.lock() += 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn large_requests_wait_for_each_other_and_small_ones_for_nobody() {
        let room = Room::new();
        let soon = || Instant::now() + Duration::from_millis(20);
        let held: Vec<_> = (0..LARGE).map(|_| room.take(SMALL + 1, soon()).ok().flatten().unwrap()).collect();
        assert!(room.take(SMALL + 1, soon()).is_err());
        assert!(room.take(SMALL, soon()).is_ok_and(|place| place.is_none()));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| room.take(1 << 20, Instant::now() + Duration::from_secs(20)).is_ok());
            drop(held);
            assert!(waits.join().unwrap());
        });
    }
}
