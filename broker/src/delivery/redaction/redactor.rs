//! What is left of an output once every form of a value in it is masked, however it is cut into pieces?
//!
//! Masked is each byte that is part of a form. Where forms overlap they are one span, and one name stands for it.
//! Where a value was cut off, what was there of it is masked in steps that stand for 8 bytes of it, with what is printed
//! right behind it. What is seen, and when, never depends on less: whoever may write into an output and sees what
//! becomes of it would learn a value byte by byte.

use std::sync::Arc;
use std::time::Duration;

use super::patterns::{Patterns, UNDECIDED, Walk, has_beside};

/// What stands where a value was cut off.
const PARTIAL: &[u8] = b"[REDACTED:partial]";
/// How long the last bytes are held back, whatever they are, once nothing more comes: as long as nobody notices.
const UNNOTICED: Duration = Duration::from_millis(20);
/// How long a line is held back that ends within what was a value up to there.
const NOTICED: Duration = Duration::from_secs(1);

/// One output. Positions count its bytes from the first.
pub struct Redactor {
    patterns: Arc<Patterns>,
    /// The bytes that are not decided, and where they begin.
    held: Vec<u8>,
    base: u64,
    /// The place that is looked at next, and what fits from there on, where that may go on.
    next: u64,
    walk: Option<Walk>,
    /// Up to where the output was shown or masked, and up to where the last span goes.
    shown: u64,
    masked: u64,
    /// All was shown that may be without more.
    settled: bool,
}

impl Redactor {
    /// Before the first byte.
    pub fn new(patterns: Arc<Patterns>) -> Self {
        let (held, walk) = (Vec::new(), None);
        Self { patterns, held, base: 0, next: 0, walk, shown: 0, masked: 0, settled: true }
    }

    /// Masks other values from now on, and in what is held back.
    pub fn adopt(&mut self, patterns: &Arc<Patterns>) {
        if !Arc::ptr_eq(patterns, &self.patterns) {
            self.patterns = patterns.clone();
            self.walk = None;
            self.next = self.base;
        }
    }

    /// Takes in a piece; what is decided now is appended to `output`.
    pub fn feed(&mut self, piece: &[u8], output: &mut Vec<u8>) {
        self.held.extend_from_slice(piece);
        self.settled = self.held.is_empty();
        let mut bytes = std::mem::take(&mut self.held);
        let decided = self.decide(&bytes, false, output);
        bytes.drain(..decided);
        self.held = bytes;
    }

    /// How long to wait for the next piece before [`Self::show`]; `None` is for ever.
    pub fn patience(&self) -> Option<Duration> {
        match self.settled {
            false => Some(UNNOTICED),
            true if self.shown < self.end() && self.held.ends_with(b"\n") => Some(NOTICED),
            true => None,
        }
    }

    /// Shows what is held back, but for what is 8 bytes of a value. Should the rest become one, only what follows is
    /// masked. What was shown up to there by an earlier call is decided.
    pub fn show(&mut self, output: &mut Vec<u8>) {
        if self.settled {
            return self.finish(output);
        }
        self.settled = true;
        let bytes = std::mem::take(&mut self.held);
        self.show_up_to(&bytes, self.taken(&bytes), output);
        self.held = bytes;
    }

    /// Nothing more comes: what has 8 bytes of a value is masked too.
    pub fn finish(&mut self, output: &mut Vec<u8>) {
        let bytes = std::mem::take(&mut self.held);
        self.decide(&bytes, true, output);
        self.settled = true;
    }

    fn end(&self) -> u64 {
        self.base + self.held.len() as u64
    }

    fn at(&self, place: u64) -> usize {
        usize::try_from(place.saturating_sub(self.base)).unwrap_or(usize::MAX)
    }

    /// Where the first form begins, of what is not decided, that is there in part, and enough to be masked.
    fn taken(&self, bytes: &[u8]) -> usize {
        let mut next = begin(&self.patterns, bytes, self.at(self.next));
        while let Some((start, mut walk)) = next {
            self.patterns.advance(&mut walk, &bytes[start..]);
            if walk.is_taken() {
                return start;
            }
            next = begin(&self.patterns, bytes, start + 1);
        }
        bytes.len()
    }

    /// Decides as much as can be: how many bytes. `bytes` begin at `base`.
    fn decide(&mut self, bytes: &[u8], last: bool, output: &mut Vec<u8>) -> usize {
        let patterns = self.patterns.clone();
        let from = self.at(self.next);
        let mut next = match self.walk.take() {
            Some(walk) => Some((from, walk)),
            None => begin(&patterns, bytes, from),
        };
        let mut undecided = bytes.len();
        while let Some((start, mut walk)) = next {
            let from = start + walk.length;
            patterns.advance(&mut walk, &bytes[from..]);
            // Whether the next step is there too, which is not so, shows with its last byte, not before.
            let asks = walk.cut().is_some_and(|cut| !has_beside(&bytes[start + cut..], walk.cut_step));
            if !last && (walk.is_alive() || asks) {
                (undecided, self.walk) = (start, Some(walk));
                break;
            }
            self.mask_all(bytes, start, &walk, output);
            next = begin(&patterns, bytes, start + 1);
        }
        self.next = self.base + undecided as u64;
        let decided = if last { bytes.len() } else { undecided.min(bytes.len().saturating_sub(UNDECIDED)) };
        self.show_up_to(bytes, decided, output);
        self.base += decided as u64;
        decided
    }

    /// What fits from `start` on.
    fn mask_all(&mut self, bytes: &[u8], start: usize, walk: &Walk, output: &mut Vec<u8>) {
        let patterns = self.patterns.clone();
        if let Some((length, which)) = walk.longest {
            self.mask(bytes, start, length, patterns.name(which), output);
        }
        if walk.fits() {
            // The end of the output, or nothing was decided yet.
            self.mask(bytes, start, walk.length, PARTIAL, output);
        } else if let Some(cut) = walk.cut() {
            let behind = bytes[start + cut..].iter().take(walk.cut_step - 1);
            let more = behind.take_while(|byte| byte.is_ascii_graphic()).count();
            self.mask(bytes, start, cut + more, PARTIAL, output);
        }
    }

    fn mask(&mut self, bytes: &[u8], start: usize, length: usize, name: &[u8], output: &mut Vec<u8>) {
        let (from, to) = (self.base + start as u64, self.base + (start + length) as u64);
        if from >= self.masked {
            self.show_up_to(bytes, start, output);
            output.extend_from_slice(name);
        }
        self.masked = self.masked.max(to);
        self.shown = self.shown.max(to);
    }

    fn show_up_to(&mut self, bytes: &[u8], end: usize, output: &mut Vec<u8>) {
        let from = usize::try_from(self.shown - self.base.min(self.shown)).unwrap_or(usize::MAX);
        if from < end {
            output.extend_from_slice(&bytes[from..end]);
            self.shown = self.base + end as u64;
        }
    }
}

fn begin(patterns: &Patterns, bytes: &[u8], from: usize) -> Option<(usize, Walk)> {
    Some((patterns.next_start(bytes, from)?, patterns.begin()))
}

#[cfg(test)]
#[path = "redactor_tests.rs"]
mod tests;
