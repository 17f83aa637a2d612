//! What is left of an output once every form of a value in it is masked, however it is cut into pieces?
//!
//! Masked is each byte that is part of a form. Where forms overlap they are one span, and one name stands for it.
//! What may yet become a form is held back.

use std::sync::Arc;
use std::time::Duration;

use super::forms::SHORTEST;
use super::patterns::{Patterns, Walk};

/// What stands where a value was cut off.
const PARTIAL: &[u8] = b"[REDACTED:partial]";
/// How long what may be the beginning of a value is held back, once nothing more comes: as long as nobody
/// notices, where less than 4 bytes fit; longer, where less than 8 do. With 8 bytes it is held back until it is
/// decided, or ends.
const UNNOTICED: Duration = Duration::from_millis(20);
const NOTICED: Duration = Duration::from_secs(1);
const LIKELY: usize = 4;

/// One output. Positions count its bytes from the first.
pub struct Redactor {
    patterns: Arc<Patterns>,
    /// The bytes that are not decided, and where they begin.
    held: Vec<u8>,
    base: u64,
    /// What fits from `base` on, where that may go on.
    walk: Option<Walk>,
    /// Up to where the output was shown or masked, and up to where the last span goes.
    shown: u64,
    masked: u64,
}

impl Redactor {
    /// Before the first byte.
    pub fn new(patterns: Arc<Patterns>) -> Self {
        Self { patterns, held: Vec::new(), base: 0, walk: None, shown: 0, masked: 0 }
    }

    /// Masks other values from now on, and in what is held back.
    pub fn adopt(&mut self, patterns: &Arc<Patterns>) {
        if !Arc::ptr_eq(patterns, &self.patterns) {
            self.patterns = patterns.clone();
            self.walk = None;
        }
    }

    /// Takes in a piece; what is decided now is appended to `output`.
    pub fn feed(&mut self, piece: &[u8], output: &mut Vec<u8>) {
        if self.held.is_empty() {
            let decided = self.decide(piece, false, output);
            self.held.extend_from_slice(&piece[decided..]);
            return;
        }
        self.held.extend_from_slice(piece);
        let mut bytes = std::mem::take(&mut self.held);
        let decided = self.decide(&bytes, false, output);
        bytes.drain(..decided);
        self.held = bytes;
    }

    /// How long to wait for the next piece before [`Self::show`]; `None` is for ever.
    pub fn patience(&self) -> Option<Duration> {
        match self.held.len() {
            _ if self.shown >= self.end() => None,
            0..LIKELY => Some(UNNOTICED),
            LIKELY..SHORTEST => Some(NOTICED),
            _ => None,
        }
    }

    /// Shows what is held back. Should it become a value, only the rest of that is masked.
    pub fn show(&mut self, output: &mut Vec<u8>) {
        let from = self.held.len() - usize::try_from(self.end() - self.shown.min(self.end())).unwrap_or(0);
        output.extend_from_slice(&self.held[from..]);
        self.shown = self.shown.max(self.end());
    }

    /// Nothing more comes: what has 8 bytes of a value is masked too.
    pub fn finish(&mut self, output: &mut Vec<u8>) {
        let bytes = std::mem::take(&mut self.held);
        self.decide(&bytes, true, output);
    }

    fn end(&self) -> u64 {
        self.base + self.held.len() as u64
    }

    /// Decides as much as can be: how many bytes. `bytes` begin at `base`.
    fn decide(&mut self, bytes: &[u8], last: bool, output: &mut Vec<u8>) -> usize {
        let patterns = self.patterns.clone();
        let mut next = match self.walk.take() {
            Some(walk) => Some((0, walk)),
            None => begin(&patterns, bytes, 0),
        };
        let mut decided = bytes.len();
        while let Some((start, mut walk)) = next {
            let from = start + walk.length;
            let alive = patterns.advance(&mut walk, &bytes[from..]);
            if alive && !last {
                (decided, self.walk) = (start, Some(walk));
                break;
            }
            let fits = if alive { walk.length } else { 0 };
            if let Some((length, which)) = walk.longest {
                self.mask(bytes, start, length, patterns.name(which), output);
            }
            if fits >= SHORTEST {
                self.mask(bytes, start, fits, PARTIAL, output);
            }
            next = begin(&patterns, bytes, start + 1);
        }
        self.show_up_to(bytes, decided, output);
        self.base += decided as u64;
        decided
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
