//! What does an open handle hold? One version of one value, until it is closed or withdrawn.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kin_policy::{FileName, Reference};
use parking_lot::{RwLock, RwLockReadGuard};

use crate::grants::LiveGrant;
use crate::sys::memory::Plaintext;

/// One open file. It is wiped when its grant is withdrawn, whoever holds a descriptor of it.
#[derive(Debug)]
pub struct Delivery {
    /// The grant that it was opened under.
    pub live: Arc<LiveGrant>,
    /// The file.
    pub file: FileName,
    /// The secrets that it is of, and their versions.
    pub versions: Vec<(Reference, u64)>,
    number: AtomicU64,
    value: RwLock<Held>,
}

/// The value, or that it was wiped. Its `Debug` shows neither.
struct Held(Option<Plaintext>);

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "held" } else { "wiped" })
    }
}

/// A value while it is being read; withdrawal waits for it.
pub struct Reading<'d>(RwLockReadGuard<'d, Held>);

impl Reading<'_> {
    /// All of it.
    pub(crate) fn whole(&self) -> &[u8] {
        self.0.0.as_ref().map_or(&[][..], Plaintext::bytes)
    }

    /// Up to `size` bytes from `offset`; none beyond the end.
    pub fn range(&self, offset: u64, size: u32) -> &[u8] {
        let bytes = self.whole();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let end = start.saturating_add(size as usize).min(bytes.len());
        &bytes[start..end]
    }
}

impl Delivery {
    /// A value of these versions, delivered under `live`.
    pub fn new(
        live: Arc<LiveGrant>,
        file: FileName,
        versions: Vec<(Reference, u64)>,
        value: Plaintext,
    ) -> Arc<Self> {
        let (number, value) = (AtomicU64::new(0), RwLock::new(Held(Some(value))));
        let delivery = Arc::new(Self { live: live.clone(), file, versions, number, value });
        live.delivered(&delivery);
        delivery
    }

    /// For its grant alone: the number it is known by there.
    pub(crate) fn numbered(&self, number: u64) {
        self.number.store(number, Ordering::Relaxed);
    }

    /// The value, where it was not withdrawn.
    pub(crate) fn reading(&self) -> Option<Reading<'_>> {
        let guard = self.value.read();
        guard.0.is_some().then_some(Reading(guard))
    }

    /// Wipes the value; waits for reads that are under way.
    pub(crate) fn wipe(&self) {
        self.value.write().0 = None;
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.live.closed(self.number.load(Ordering::Relaxed));
    }
}
