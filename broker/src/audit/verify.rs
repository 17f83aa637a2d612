//! Is the record what was written, all of it and in order?

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use jiff::Timestamp;

use super::chain::{GENESIS, Key, MAX_LINE, Shape, Tag};
use super::storage;
use crate::error::{Class, Error, Result};

const TOO_LONG: &str = "is longer than a record can be";

/// What a whole record has. A tail that was cut off between two records does not show here: compare
/// `last_seq` with [`AuditLog::last_seq`](super::AuditLog::last_seq) of the broker that writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// How many records.
    pub records: u64,
    /// The first one's number; 0 where there is none.
    pub first_seq: u64,
    /// The last one's number; 0 where there is none.
    pub last_seq: u64,
    /// The last one's time.
    pub last_time: Option<Timestamp>,
    /// Bytes after the last record without a newline: one that is being written, or was torn by a
    /// crash and will be cut off by the next broker. 0 is the rule.
    pub partial: u64,
}

/// Checks the whole record in `dir`.
///
/// # Errors
/// `audit_broken` names the first bad record; `unsafe_file` and storage errors as
/// [`AuditLog::open`](super::AuditLog::open).
pub fn verify(dir: &Path) -> Result<Verified> {
    let Some(log) = storage::open_log(dir)? else {
        return Ok(Verified::default());
    };
    let Some(key) = storage::load_key(dir)? else {
        let size = log.metadata().map_err(|error| Error::storage("look at the audit log", &error))?.len();
        return if size == 0 { Ok(Verified::default()) } else { Err(storage::key_missing()) };
    };
    verify_lines(BufReader::with_capacity(256 * 1024, log), &key)
}

fn verify_lines(mut log: impl BufRead, key: &Key) -> Result<Verified> {
    let (mut verified, mut previous) = (Verified::default(), GENESIS);
    let mut time = [0; 32];
    let mut line = Vec::with_capacity(MAX_LINE + 1);
    loop {
        line.clear();
        (&mut log)
            .take(MAX_LINE as u64 + 1)
            .read_until(b'\n', &mut line)
            .map_err(|error| Error::storage("read the audit log", &error))?;
        let expected = verified.last_seq + 1;
        if line.last() != Some(&b'\n') {
            verified.partial = torn(&line, expected)?;
            verified.last_time = std::str::from_utf8(&time[..27]).ok().and_then(|time| time.parse().ok());
            return Ok(verified);
        }
        line.pop();
        let shape = Shape::read(&line).ok_or_else(|| no_record(&line, expected))?;
        previous = link(&shape, key, &previous, expected)?;
        time[..shape.time.len()].copy_from_slice(shape.time.as_bytes());
        verified.records += 1;
        verified.first_seq = verified.first_seq.max(1);
        verified.last_seq = expected;
    }
}

/// The MAC of the line that should be record `expected`. Lines and records are counted alike, because
/// the first record is number 1 on line 1.
fn link(shape: &Shape<'_>, key: &Key, previous: &Tag, expected: u64) -> Result<Tag> {
    match shape.authentic(key, previous) {
        Some(tag) if shape.seq == expected => Ok(tag),
        // It stands behind the line that it was written behind, so it is not what was written.
        _ if shape.follows(previous) || shape.seq == expected => {
            Err(broken(expected, expected, "was changed: its mac is wrong"))
        }
        _ if shape.seq > expected => {
            let why = format!("is missing: record {} stands in its place", shape.seq);
            Err(broken(expected, expected, &why))
        }
        _ => {
            let why = format!("stands where record {expected} should be");
            Err(broken(shape.seq, expected, &why))
        }
    }
}

fn no_record(line: &[u8], expected: u64) -> Error {
    let why = if line.len() > MAX_LINE - 1 {
        TOO_LONG
    } else if serde_json::from_slice::<serde::de::IgnoredAny>(line).is_err() {
        "is not JSON"
    } else {
        "is not a record"
    };
    broken(expected, expected, why)
}

/// The length of what follows the last newline. A write that was cut short leaves less than a line.
fn torn(rest: &[u8], expected: u64) -> Result<u64> {
    let end = rest.windows(9).rposition(|piece| piece == b"\",\"mac\":\"").map(|at| at + 9 + 64 + 2);
    if rest.len() >= MAX_LINE {
        return Err(broken(expected, expected, TOO_LONG));
    }
    if end.is_some_and(|end| rest.len() > end) {
        return Err(broken(expected, expected, "was changed: it does not end where it ended"));
    }
    Ok(rest.len() as u64)
}

fn broken(seq: u64, line: u64, why: &str) -> Error {
    Error::new(Class::Integrity, "audit_broken", format!("record {seq} (line {line}) {why}"))
        .hint("what stands before it is as it was written; nothing behind it can be relied on")
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
