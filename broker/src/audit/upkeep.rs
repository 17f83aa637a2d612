//! What does the record need beside its records? Once a second: a sync, an anchor, sometimes a seal or the
//! next segment.

use std::path::Path;
use std::time::{Duration, Instant};

use super::anchor::{self, Head, START};
use super::chain::Key;
use super::json::Members;
use super::log::{AuditLog, NotLogged, PATIENCE};
use super::remembered::Memory;
use super::seals::{self, Sealer};
use super::storage;
use super::tail::{self, Last};
use crate::sys::error::{Class, Error, Result};

/// Records and time that one key may be left to seal.
const RECORDS: u64 = 4096;
const AGE: Duration = Duration::from_secs(30);

/// What the recorder's thread has.
pub(super) struct Keeper {
    sealer: Sealer,
    /// The head that stands in the anchor.
    anchored: Head,
    /// The number of the last seal.
    sealed: u64,
    /// Since when there has been a record behind it.
    unsealed: Option<Instant>,
    /// The vault's memory of the record, while the vault is open.
    pub(super) memory: Option<Memory>,
}

/// Takes up what is in `dir`, or begins it. For the holder of the log's lock.
pub(super) fn resume(dir: &Path) -> Result<(Key, Keeper, Last)> {
    let segments = storage::segments(dir)?;
    let mut empty = true;
    for segment in &segments {
        empty &= segment.is_empty()?;
    }
    if empty {
        refuse_a_lost_log(dir)?;
        let (key, sealer) = (storage::load_or_make_key(dir, true)?, Sealer::begin(dir)?);
        anchor::write(dir, &START, &sealer)?;
        let keeper = Keeper { sealer, anchored: START, sealed: 0, unsealed: None, memory: None };
        return Ok((key, keeper, Last { head: START, partial: 0, seal: None, unsealed: None }));
    }
    let key = storage::load_or_make_key(dir, false)?;
    let anchor = anchor::read(dir)?.ok_or_else(|| seals::missing("audit.anchor"))?;
    let anchored = anchor.head;
    let last = tail::examine(&segments, &key, &anchored)?;
    let (epoch, signer) = match &last.seal {
        Some((_, seal)) => (seal.epoch + 1, seal.next),
        None => (0, seals::read_root(dir)?),
    };
    if anchor.epoch + 1 < epoch {
        return Err(anchor::left_behind());
    }
    let sealer = Sealer::resume(dir, epoch, &signer)?;
    let sealed = last.seal.map_or(0, |(seq, _)| seq);
    Ok((key, Keeper { sealer, anchored, sealed, unsealed: None, memory: None }, last))
}

impl Keeper {
    /// Whether there are records that the anchor does not know: whether they are on the disk, nobody knows.
    pub(super) fn is_behind(&self, head: &Head) -> bool {
        self.anchored != *head
    }
}

/// There are no records: then there must never have been any.
fn refuse_a_lost_log(dir: &Path) -> Result<()> {
    // Where its making was interrupted, the anchor may be damaged; nothing was recorded then.
    let anchored = anchor::read(dir).ok().flatten().map_or(0, |anchor| anchor.head.seq);
    let sealed = seals::epoch_on_disk(dir)?.unwrap_or(0).min(1);
    match anchored.max(sealed) {
        0 => Ok(()),
        want => Err(anchor::truncated(0, want)),
    }
}

impl AuditLog {
    /// To be called each second from a thread that may wait for the disk: writes sums of repeated denials,
    /// seals what is due, makes all of it durable, puts the anchor behind it, and begins the next segment.
    /// `last` says that the log is about to be closed: all that is held back is written and sealed.
    ///
    /// # Errors
    /// Storage errors. What failed is tried again by the next call.
    pub fn tend(&self, last: bool) -> Result<()> {
        self.flush(last);
        if !self.is_in_place() {
            return Err(moved());
        }
        let mut keeper = self.keeper.try_lock_for(PATIENCE).ok_or(NotLogged::Stalled)?;
        let sealed = self.seal_and_anchor(&mut keeper, last);
        let head = keeper.anchored;
        sealed?;
        if let Some(memory) = &mut keeper.memory {
            memory.advance(&head)?;
        }
        let size = self.storage.len().map_err(|error| Error::storage("look at the audit log", &error))?;
        if size >= self.settings.segment { self.rotate() } else { Ok(()) }
    }

    /// Seals what is due, or all that there is, and puts the anchor behind it. Never are there two seals without an
    /// anchor between them.
    pub(super) fn seal_and_anchor(&self, keeper: &mut Keeper, all: bool) -> Result<()> {
        // The key of an ended epoch goes before another is drawn.
        self.sync()?;
        keeper.sealer.finish()?;
        if keeper.anchored.seq < keeper.sealed {
            self.anchor(keeper)?;
        }
        let sealed = self.seal_if_due(keeper, all);
        self.anchor(keeper)?;
        sealed
    }

    /// Makes everything durable, and puts the anchor behind it.
    fn anchor(&self, keeper: &mut Keeper) -> Result<()> {
        let head = self.position()?;
        self.sync()?;
        keeper.sealer.finish()?;
        if head != keeper.anchored {
            anchor::write(&self.dir, &head, &keeper.sealer)?;
            keeper.anchored = head;
        }
        Ok(())
    }

    fn seal_if_due(&self, keeper: &mut Keeper, last: bool) -> Result<()> {
        let behind = self.position()?.seq - keeper.sealed;
        if behind == 0 {
            return Ok(());
        }
        let since = *keeper.unsealed.get_or_insert_with(Instant::now);
        if !(last || behind >= RECORDS || since.elapsed() >= AGE) {
            return Ok(());
        }
        let sealer = &mut keeper.sealer;
        let (next, first) = (sealer.prepare()?, keeper.sealed + 1);
        let seq = self.append_again(seals::NAME, &mut |seq, previous, out| {
            sealer.seal(seq, previous, &next, first).write(&mut Members(out));
        })?;
        sealer.advance(next);
        (keeper.sealed, keeper.unsealed) = (seq, None);
        Ok(())
    }
}

/// What is written by name would be written into another record.
pub(super) fn moved() -> Error {
    Error::new(Class::Unsafe, "unsafe_dir", "the directory of the audit log was moved or replaced")
}

#[cfg(test)]
#[path = "upkeep_tests.rs"]
mod tests;
