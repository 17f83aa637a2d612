//! What was written to the segment and is not known to be on the disk? It stays in memory, so that it can be written
//! again without asking the file that may have lost it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes that are kept, at most: what is more is left to the file.
const MOST: usize = 8 << 20;
/// Bytes of memory that are kept for what comes next.
const READY: usize = 64 << 10;

/// The end of a segment.
pub(super) struct Tail {
    /// What stands behind `from`.
    bytes: Vec<u8>,
    /// Where in the segment that begins: what stands before is on the disk, or was more than is kept.
    from: u64,
    /// Bytes ever written, and those of them that are on the disk.
    written: u64,
    durable: u64,
}

/// How far a sync that succeeds will have come: in the segment, and of all bytes ever written.
pub(super) struct Reached {
    offset: u64,
    written: u64,
}

impl Tail {
    /// Nothing, behind so many bytes of a segment.
    pub(super) fn behind(length: u64) -> Self {
        Self { bytes: Vec::new(), from: length, written: 0, durable: 0 }
    }

    /// These bytes were appended.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.written += bytes.len() as u64;
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > MOST {
            self.from += self.bytes.len() as u64;
            self.bytes = Vec::new();
        }
    }

    /// So many were cut off again.
    pub(super) fn cut(&mut self, bytes: u64) {
        let kept = (self.bytes.len() as u64).saturating_sub(bytes);
        let beyond = bytes.saturating_sub(self.bytes.len() as u64);
        self.bytes.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
        self.from = self.from.saturating_sub(beyond);
        self.written = self.written.saturating_sub(bytes);
        self.durable = self.durable.min(self.written);
    }

    /// How much there is: a sync that begins now reaches it. Nobody appends at this moment.
    pub(super) fn reach(&self) -> Reached {
        Reached { offset: self.from + self.bytes.len() as u64, written: self.written }
    }

    /// Whether all that there was then is on the disk.
    pub(super) fn has(&self, reached: &Reached) -> bool {
        self.durable >= reached.written
    }

    /// A sync of the segment that came so far has succeeded.
    pub(super) fn synced(&mut self, reached: &Reached) {
        let done = reached.offset.saturating_sub(self.from).min(self.bytes.len() as u64);
        self.bytes.drain(..usize::try_from(done).unwrap_or(0));
        self.bytes.shrink_to(READY);
        self.from += done;
        self.durable = reached.written.min(self.written);
    }

    /// All of it is on the disk, and the segment that goes on from here has so many bytes.
    pub(super) fn begin(&mut self, length: u64) {
        self.bytes.clear();
        self.bytes.shrink_to(READY);
        (self.from, self.durable) = (length, self.written);
    }

    /// All that the segment holds: from the file what is on the disk, from memory the rest.
    pub(super) fn content(&self, segment: &File) -> io::Result<Vec<u8>> {
        let length = segment.metadata()?.len();
        // Where somebody else has changed the file, it is as it is: the chain says so.
        let kept = if self.from + self.bytes.len() as u64 == length { &self.bytes[..] } else { &[] };
        let mut content = vec![0; usize::try_from(length).map_err(io::Error::other)? - kept.len()];
        segment.read_exact_at(&mut content, 0)?;
        content.extend_from_slice(kept);
        Ok(content)
    }
}
