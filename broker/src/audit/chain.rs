//! How does each line hang on the one before it?
//!
//! A line is `{"v":1,"seq":N,"time":"…","event":"…",…,"prev":"16 hex","mac":"64 hex"}`. The MAC is
//! HMAC-SHA256 over the previous line's whole MAC (32 zero bytes before the first) and this line up to
//! `,"mac":`. `prev` repeats the first bytes of the previous MAC, so that a line that was changed can be
//! told from one that was moved.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use super::json;

/// The MAC of a line.
pub(super) type Tag = [u8; 32];

/// Before the first line.
pub(super) const GENESIS: Tag = [0; 32];

/// The longest line, with its newline, in bytes.
pub(super) const MAX_LINE: usize = 8192;

/// What every line begins with, up to the digits of its number.
pub(super) const HEAD: &[u8] = b"{\"v\":1,\"seq\":";

const TIME: &[u8] = b",\"time\":\"";
const EVENT: &[u8] = b"\",\"event\":\"";
const PREV: &[u8] = b",\"prev\":\"";
const MAC: &[u8] = b"\",\"mac\":\"";
const END: &[u8] = b"\"}";

/// Bytes of the previous MAC in `prev`.
const PREV_BYTES: usize = 8;
/// Bytes from `,"mac":` to the end of the line: what the MAC does not cover.
const TRAILER: usize = MAC.len() - 1 + 64 + END.len();
/// Bytes from `,"prev":` to the end of the line.
const TAIL: usize = PREV.len() + 2 * PREV_BYTES + MAC.len() + 64 + END.len();

/// The keyed hash; cloning it is cheaper than keying it again.
#[derive(Clone)]
pub(super) struct Key(Hmac<Sha256>);

impl Key {
    pub(super) fn new(bytes: &[u8; 32]) -> Self {
        // HMAC takes keys of every length (RFC 2104), so this is a matter of types only.
        Self(Hmac::new_from_slice(bytes).expect("a key of any length"))
    }

    fn tag(&self, previous: &Tag, covered: &[u8]) -> Tag {
        let mut hash = self.0.clone();
        hash.update(previous);
        hash.update(covered);
        hash.finalize().into_bytes().into()
    }

    /// Ends the line that begins at `start`: `prev`, `mac`, brace and newline.
    pub(super) fn seal(&self, line: &mut Vec<u8>, start: usize, previous: &Tag) -> Tag {
        line.extend_from_slice(PREV);
        json::hex(line, &previous[..PREV_BYTES]);
        line.push(b'"');
        let tag = self.tag(previous, &line[start..]);
        line.extend_from_slice(&MAC[1..]);
        json::hex(line, &tag);
        line.extend_from_slice(b"\"}\n");
        tag
    }
}

/// Begins a line, up to the event's name.
pub(super) fn begin(line: &mut Vec<u8>, seq: u64, time: std::time::SystemTime, event: &str) {
    line.extend_from_slice(HEAD);
    json::decimal(line, seq);
    line.extend_from_slice(TIME);
    line.extend_from_slice(&json::utc(time));
    line.extend_from_slice(EVENT);
    line.extend_from_slice(event.as_bytes());
    line.push(b'"');
}

/// A line, read by position alone: no JSON is parsed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape<'a> {
    /// Its number.
    pub(super) seq: u64,
    /// Its time.
    pub(super) time: &'a str,
    /// Its event, and all that follows it.
    pub(super) event: &'a [u8],
    /// What it says of the line before it.
    prev: &'a [u8],
    /// Its MAC, as hexadecimal digits.
    mac: &'a [u8],
    covered: &'a [u8],
}

impl<'a> Shape<'a> {
    /// Reads a line without its newline; `None` where it is none of ours.
    pub(super) fn read(line: &'a [u8]) -> Option<Self> {
        let rest = line.strip_prefix(HEAD)?;
        let digits = rest.iter().take(20).take_while(|byte| byte.is_ascii_digit()).count();
        let seq = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
        let (time, event) = rest[digits..].strip_prefix(TIME)?.split_at_checked(json::TIME_LEN)?;
        let event = event.strip_prefix(EVENT)?;
        let (covered, trailer) = line.split_at(line.len().checked_sub(TRAILER)?);
        let mac = trailer.strip_prefix(&MAC[1..])?.strip_suffix(END)?;
        let tail = event.get(event.len().checked_sub(TAIL)?..)?;
        let prev = tail.strip_prefix(PREV)?.get(..2 * PREV_BYTES)?;
        let shape = Self { seq, time: std::str::from_utf8(time).ok()?, event, prev, mac, covered };
        (tail[PREV.len() + 2 * PREV_BYTES] == b'"').then_some(shape)
    }

    /// Its MAC; `None` where that is not hexadecimal.
    pub(super) fn tag(&self) -> Option<Tag> {
        json::unhex(self.mac)
    }

    /// Whether it says that it follows the line with the MAC `previous`.
    pub(super) fn follows(&self, previous: &Tag) -> bool {
        json::unhex::<PREV_BYTES>(self.prev).is_some_and(|prev| prev == previous[..PREV_BYTES])
    }

    /// Its MAC, where that is right for a line after `previous`.
    pub(super) fn authentic(&self, key: &Key, previous: &Tag) -> Option<Tag> {
        // The file is no oracle: who can offer lines to this can read the key as well, so the
        // comparison need not take constant time.
        self.tag().filter(|tag| *tag == key.tag(previous, self.covered))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(key: &Key, seq: u64, previous: &Tag) -> (Vec<u8>, Tag) {
        let mut line = Vec::new();
        begin(&mut line, seq, std::time::SystemTime::now(), "mount.lost");
        let tag = key.seal(&mut line, 0, previous);
        assert_eq!(line.pop(), Some(b'\n'));
        (line, tag)
    }

    #[test]
    fn a_sealed_line_reads_back() {
        let key = Key::new(&[7; 32]);
        let (line, tag) = line(&key, 41, &[9; 32]);
        let shape = Shape::read(&line).unwrap();
        assert_eq!((shape.seq, shape.tag()), (41, Some(tag)));
        assert!(shape.event.starts_with(b"mount.lost\""));
        assert!(shape.follows(&[9; 32]) && !shape.follows(&GENESIS));
        assert_eq!(shape.authentic(&key, &[9; 32]), Some(tag));
        assert_eq!(shape.authentic(&key, &GENESIS), None);
        assert_eq!(shape.authentic(&Key::new(&[8; 32]), &[9; 32]), None);
        serde_json::from_slice::<serde::de::IgnoredAny>(&line).unwrap();
    }

    #[test]
    fn every_changed_byte_shows() {
        let key = Key::new(&[7; 32]);
        let (good, _) = line(&key, 41, &GENESIS);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let passes = Shape::read(&bad).and_then(|shape| shape.authentic(&key, &GENESIS));
            assert_eq!(passes, None, "byte {at}");
        }
    }

    #[test]
    fn a_cut_line_is_none() {
        let (good, _) = line(&Key::new(&[7; 32]), 41, &GENESIS);
        assert!((0..good.len()).all(|len| Shape::read(&good[..len]).is_none()));
    }
}
