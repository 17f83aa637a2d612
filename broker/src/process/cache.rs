//! Which readers are known already? Bounded, of readers inside a tree alone.

use std::num::NonZeroUsize;
use std::sync::Arc;

use kin_policy::{Process, Tid};
use lru::LruCache;
use parking_lot::Mutex;

use super::known::Known;

/// How many ancestors all entries together may name: 16 bytes each.
const LINKS: usize = 1 << 17;

/// The walks that began before and after a change of the roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Generation(u64);

pub(super) struct Cache {
    entries: Mutex<Entries>,
}

struct Entries {
    by_thread: LruCache<Tid, Arc<Known>>,
    links: usize,
    generation: u64,
}

impl Cache {
    pub(super) fn new(capacity: NonZeroUsize) -> Self {
        let by_thread = LruCache::new(capacity);
        Self { entries: Mutex::new(Entries { by_thread, links: 0, generation: 0 }) }
    }

    pub(super) fn get(&self, tid: Tid) -> Option<Arc<Known>> {
        self.entries.lock().by_thread.get(&tid).map(Arc::clone)
    }

    /// To be taken before a walk begins, and shown when its result is remembered.
    pub(super) fn generation(&self) -> Generation {
        Generation(self.entries.lock().generation)
    }

    /// Remembers readers inside a tree, unless something was forgotten since the walk began: then the
    /// walk may have passed a root that it did not know for one.
    pub(super) fn insert(&self, began: Generation, readers: impl IntoIterator<Item = Arc<Known>>) {
        // Descriptors are closed after the lock is released.
        let mut evicted = Vec::new();
        let mut entries = self.entries.lock();
        if entries.generation != began.0 {
            return;
        }
        for reader in readers.into_iter().filter(|reader| reader.root().is_some()) {
            entries.links += reader.lineage().ancestors.len();
            evicted.extend(entries.by_thread.push(reader.lineage().tid, reader));
        }
        entries.links -= links_of(&evicted);
        while entries.links > LINKS
            && let Some(oldest) = entries.by_thread.pop_lru()
        {
            entries.links -= oldest.1.lineage().ancestors.len();
            evicted.push(oldest);
        }
        drop(entries);
    }

    /// Drops this very entry.
    pub(super) fn remove(&self, stale: &Arc<Known>) {
        let mut entries = self.entries.lock();
        let tid = stale.lineage().tid;
        if entries.by_thread.peek(&tid).is_some_and(|entry| Arc::ptr_eq(entry, stale)) {
            let dropped = entries.by_thread.pop(&tid);
            entries.links -= stale.lineage().ancestors.len();
            drop(entries);
            drop(dropped);
        }
    }

    /// Drops every entry that is `process` or descends from it, and voids the walks under way.
    pub(super) fn forget_below(&self, process: Process) {
        let mut entries = self.entries.lock();
        entries.generation += 1;
        let below = |(_, known): &(&Tid, &Arc<Known>)| known.involves(process);
        let tids: Vec<Tid> = entries.by_thread.iter().filter(below).map(|(tid, _)| *tid).collect();
        let dropped: Vec<_> = tids.iter().filter_map(|tid| entries.by_thread.pop_entry(tid)).collect();
        entries.links -= links_of(&dropped);
        drop(entries);
    }

    pub(super) fn forget_all(&self) {
        let mut entries = self.entries.lock();
        entries.generation += 1;
        entries.links = 0;
        let empty = LruCache::new(entries.by_thread.cap());
        let dropped = std::mem::replace(&mut entries.by_thread, empty);
        drop(entries);
        drop(dropped);
    }

    pub(super) fn len(&self) -> usize {
        self.entries.lock().by_thread.len()
    }
}

fn links_of(entries: &[(Tid, Arc<Known>)]) -> usize {
    entries.iter().map(|(_, known)| known.lineage().ancestors.len()).sum()
}
