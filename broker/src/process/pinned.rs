//! Which processes are pinned already? Those that walks pass again and again: shells, keepers, terminals.
//!
//! Unlike a known reader this says nothing of any tree, so it holds for outsiders too and outlives grants: a
//! process that is pinned and lives owns its number, and opening that number again would pin the same one.

use std::num::NonZeroUsize;
use std::sync::Arc;

use kin_policy::Pid;
use lru::LruCache;
use parking_lot::Mutex;

use super::table::{Absent, Held, ProcessTable};

pub(super) struct Pinned {
    by_number: Mutex<LruCache<Pid, Arc<Held>>>,
}

impl Pinned {
    pub(super) fn new(capacity: NonZeroUsize) -> Self {
        Self { by_number: Mutex::new(LruCache::new(capacity)) }
    }

    /// As [`ProcessTable::open`]; a poll where the process is pinned already.
    pub(super) fn open(&self, table: &dyn ProcessTable, pid: Pid) -> Result<Arc<Held>, Absent> {
        let pinned = self.by_number.lock().get(&pid).map(Arc::clone);
        if let Some(held) = pinned.filter(|held| held.is_alive()) {
            return Ok(held);
        }
        let held = Arc::new(table.open(pid)?);
        let evicted = self.by_number.lock().push(pid, Arc::clone(&held));
        // Its descriptor is closed after the lock is released.
        drop(evicted);
        Ok(held)
    }
}
