//! How is a log of hundreds of megabytes read in one pass, without a copy of each line?

use std::io::{self, Read};

/// Bytes of a block.
const BLOCK: usize = 1 << 20;

/// A file in blocks that end at the end of a line.
pub(super) struct Blocks<R> {
    source: R,
    buffer: Vec<u8>,
    /// What the buffer has of the file, and how much of that was given away.
    filled: usize,
    given: usize,
}

impl<R: Read> Blocks<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, buffer: vec![0; BLOCK], filled: 0, given: 0 }
    }

    /// Whole lines with their newlines; a line that is longer than a block comes in pieces. `None` at the
    /// end: [`Self::rest`] is what follows the last newline.
    pub(super) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        self.buffer.copy_within(self.given..self.filled, 0);
        self.filled -= self.given;
        self.given = 0;
        while self.filled < self.buffer.len() {
            match self.source.read(&mut self.buffer[self.filled..]) {
                Ok(0) => break,
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let whole = memchr::memrchr(b'\n', &self.buffer[..self.filled]).map_or(0, |at| at + 1);
        self.given = if whole == 0 && self.filled == self.buffer.len() { self.filled } else { whole };
        Ok((self.given > 0).then(|| &self.buffer[..self.given]))
    }

    /// What follows the last newline, once there is no block any more.
    pub(super) fn rest(&self) -> &[u8] {
        &self.buffer[self.given..self.filled]
    }
}

/// The lines of a block, without their newlines.
pub(super) fn lines(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut left = block;
    std::iter::from_fn(move || {
        if left.is_empty() {
            return None;
        }
        let end = memchr::memchr(b'\n', left).unwrap_or(left.len());
        let line = &left[..end];
        left = left.get(end + 1..).unwrap_or_default();
        Some(line)
    })
}

/// The line of a block that the byte at `at` belongs to, and where the next one begins.
pub(super) fn line_around(block: &[u8], at: usize) -> (&[u8], usize) {
    let start = memchr::memrchr(b'\n', &block[..at]).map_or(0, |before| before + 1);
    let end = memchr::memchr(b'\n', &block[at..]).map_or(block.len(), |after| at + after);
    (&block[start..end], end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_comes_once_whatever_its_length() {
        let lengths = [0, 1, 500, BLOCK - 1, 3, BLOCK, 7, 2 * BLOCK + 5, 9, 0, 8000];
        let mut text = Vec::new();
        for length in lengths {
            text.extend(std::iter::repeat_n(b'x', length));
            text.push(b'\n');
        }
        text.extend_from_slice(b"torn");
        let mut blocks = Blocks::new(&text[..]);
        let mut seen = Vec::new();
        while let Some(block) = blocks.next().unwrap() {
            seen.extend_from_slice(block);
        }
        assert_eq!(blocks.rest(), b"torn");
        seen.extend_from_slice(blocks.rest());
        assert!(seen == text);
    }

    #[test]
    fn a_line_is_found_by_any_of_its_bytes() {
        let block = b"ab\n\ncde\n";
        assert_eq!(lines(block).collect::<Vec<_>>(), [&b"ab"[..], b"", b"cde"]);
        assert_eq!(line_around(block, 1), (&b"ab"[..], 3));
        assert_eq!(line_around(block, 4), (&b"cde"[..], 8));
        assert_eq!(line_around(block, 6), (&b"cde"[..], 8));
    }
}
