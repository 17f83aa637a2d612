//! Where does the log end, and is what came after its anchor what was written?

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use jiff::Timestamp;
use memchr::memmem;

use super::anchor::{self, Head, START};
use super::blocks;
use super::chain::{Key, MAX_LINE, Shape};
use super::record::Event;
use super::seals::{self, Seal};
use super::storage::{self, Segment};
use crate::sys::error::{Class, Error, Result};

/// The end of a log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Last {
    /// The last record.
    pub(super) head: Head,
    /// Bytes after it: what a crash left of lines that were not whole.
    pub(super) partial: u64,
    /// The last seal, and its record's number.
    pub(super) seal: Option<(u64, Seal)>,
    /// The time of the first record behind it, where there is one.
    pub(super) unsealed: Option<Timestamp>,
}

/// Finds the last record. What was written since the anchor is checked; the rest is left to
/// [`verify`](super::verify()).
pub(super) fn examine(segments: &[Segment], key: &Key, anchored: &Head) -> Result<Last> {
    let Some((current, ended)) = segments.split_last() else {
        return Ok(Last { head: START, partial: 0, seal: None, unsealed: None });
    };
    let bytes = current.read()?;
    let before = last_of(ended)?;
    let whole = memchr::memrchr(b'\n', &bytes).map_or(0, |at| at + 1);
    let (begin, previous) = first_to_check(&bytes[..whole], anchored.seq, before)?;
    let (end, head) = check(&bytes, begin..whole, previous, key, anchored)?;
    if head.seq < anchored.seq {
        return Err(anchor::truncated(head.seq, anchored.seq));
    }
    let seal = match last_seal(&bytes[..end]) {
        None => {
            ended.iter().rev().find_map(|segment| segment.read().map(|bytes| last_seal(&bytes)).transpose())
        }
        seal => seal.map(Ok),
    };
    let seal = seal.transpose()?;
    let first = seal.map_or(1, |(seq, _)| seq + 1);
    let unsealed = if first > head.seq { None } else { time_of(&bytes[..end], first)? };
    Ok(Last { head, partial: (bytes.len() - end) as u64, seal, unsealed })
}

/// The time of a record; of an earlier segment's it is that of the first here.
fn time_of(lines: &[u8], seq: u64) -> Result<Option<Timestamp>> {
    let start = memmem::find(lines, number(seq).as_bytes()).unwrap_or(0);
    let shape = Shape::read(blocks::line_around(lines, start).0);
    shape.map(|shape| shape.time.parse().map_err(|_| broken("a record has no time"))).transpose()
}

/// What the line of a record begins with: no text in one has quotes that are not escaped.
fn number(seq: u64) -> String {
    format!("{{\"v\":1,\"seq\":{seq},\"time\":\"")
}

/// Where the first record stands that is not before the anchor, and what it follows.
fn first_to_check(lines: &[u8], anchored: u64, before: Head) -> Result<(usize, Head)> {
    let mut begin = lines.len();
    while begin > 0 {
        let start = memchr::memrchr(b'\n', &lines[..begin - 1]).map_or(0, |at| at + 1);
        match Shape::read(&lines[start..begin - 1]) {
            Some(shape) if shape.seq < anchored => {
                let mac = shape.tag().ok_or_else(|| broken("a line is not a record"))?;
                return Ok((begin, Head { seq: shape.seq, mac }));
            }
            _ => begin = start,
        }
    }
    Ok((0, before))
}

/// Follows the chain through `range`; where it ends, and with which record.
fn check(
    bytes: &[u8],
    range: std::ops::Range<usize>,
    mut head: Head,
    key: &Key,
    anchored: &Head,
) -> Result<(usize, Head)> {
    let mut at = range.start;
    for line in blocks::lines(&bytes[range]) {
        let shape = Shape::read(line);
        let mac = shape.and_then(|shape| shape.authentic(key, &head.mac));
        match shape.zip(mac).filter(|(shape, _)| shape.seq == head.seq + 1) {
            Some((shape, mac)) if shape.seq != anchored.seq || mac == anchored.mac => {
                head = Head { seq: shape.seq, mac };
                at += line.len() + 1;
            }
            // A power cut may leave blocks that were never written, which read as zeroes.
            None if head.seq >= anchored.seq && bytes[at..].contains(&0) => break,
            _ => return Err(broken(&format!("record {} is not what was written", head.seq + 1))),
        }
    }
    Ok((at, head))
}

/// The last record of segments that have ended.
fn last_of(ended: &[Segment]) -> Result<Head> {
    let Some(segment) = ended.last() else { return Ok(START) };
    let read = || -> io::Result<Vec<u8>> {
        let size = segment.file.metadata()?.len();
        let start = size.saturating_sub(MAX_LINE as u64);
        let mut bytes = vec![0; (size - start) as usize];
        segment.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| Error::storage("read the audit log", &error))?;
    let line = bytes.strip_suffix(b"\n").and_then(|bytes| bytes.rsplit(|byte| *byte == b'\n').next());
    let head = line.and_then(Shape::read).and_then(|shape| Some(Head { seq: shape.seq, mac: shape.tag()? }));
    head.ok_or_else(|| broken(&format!("{} does not end with a record", segment.name())))
}

fn last_seal(bytes: &[u8]) -> Option<(u64, Seal)> {
    let needle = format!("\"event\":\"{}\"", seals::NAME);
    memmem::rfind(bytes, needle.as_bytes()).and_then(|at| {
        let shape = Shape::read(blocks::line_around(bytes, at).0)?;
        Some((shape.seq, Seal::read(shape.event)?))
    })
}

/// Whether the record in `dir` has had this head. It is looked for from the end on, where it is as a rule.
pub(super) fn has(dir: &Path, head: &Head) -> Result<bool> {
    let needle = number(head.seq);
    for segment in storage::segments(dir)?.iter().rev() {
        let bytes = segment.read()?;
        if let Some(at) = memmem::rfind(&bytes, needle.as_bytes()) {
            let shape = Shape::read(blocks::line_around(&bytes, at).0);
            return Ok(shape.is_some_and(|shape| shape.seq == head.seq && shape.tag() == Some(head.mac)));
        }
    }
    Ok(*head == START)
}

/// Whether the record says that a vault remembers it.
pub(super) fn was_remembered(dir: &Path) -> Result<bool> {
    let event = Event::AuditAnchor { root: "" };
    let needle = format!("\"event\":\"{}\"", event.name());
    for segment in storage::segments(dir)? {
        if memmem::find(&segment.read()?, needle.as_bytes()).is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn broken(why: &str) -> Error {
    Error::new(Class::Integrity, "audit_broken", format!("the audit log's end is broken: {why}")).hint(
        "`kin audit verify` names the first bad record; move all files audit.* away to begin a new record",
    )
}
