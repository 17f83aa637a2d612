//! Where does the log end, and is its last record what was written?

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::chain::{GENESIS, Key, MAX_LINE, Shape, Tag};
use crate::error::{Class, Error, Result};

/// The end of a log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Last {
    /// The last record's number; 0 where there is none.
    pub(super) seq: u64,
    /// Its MAC.
    pub(super) mac: Tag,
    /// Bytes after it: a line that was torn.
    pub(super) partial: u64,
}

/// Finds the last record by reading backwards, and checks its MAC.
pub(super) fn last_record(file: &File, key: &Key) -> Result<Last> {
    let read = || -> io::Result<(Vec<u8>, u64)> {
        let size = file.metadata()?.len();
        let end = end_of_lines(file, size)?;
        let start = end.saturating_sub(2 * MAX_LINE as u64);
        let mut bytes = vec![0; (end - start) as usize];
        file.read_exact_at(&mut bytes, start)?;
        Ok((bytes, size - end))
    };
    let (bytes, partial) = read().map_err(|error| Error::storage("read the audit log", &error))?;
    if bytes.is_empty() {
        return Ok(Last { seq: 0, mac: GENESIS, partial });
    }
    let mut lines = bytes[..bytes.len() - 1].rsplit(|byte| *byte == b'\n');
    let last = lines.next().and_then(Shape::read).ok_or_else(|| broken("the last line is not a record"))?;
    let previous = match last.seq {
        1 => GENESIS,
        _ => lines
            .next()
            .and_then(Shape::read)
            .and_then(|shape| shape.tag())
            .ok_or_else(|| broken("the line before the last is not a record"))?,
    };
    let mac = last
        .authentic(key, &previous)
        .ok_or_else(|| broken(&format!("record {} does not authenticate", last.seq)))?;
    Ok(Last { seq: last.seq, mac, partial })
}

fn broken(why: &str) -> Error {
    Error::new(Class::Integrity, "audit_broken", format!("the audit log's end is broken: {why}"))
        .hint("`kin audit verify` names the first bad record; move audit.jsonl away to begin a new record")
}

/// The offset behind the last newline.
fn end_of_lines(file: &File, size: u64) -> io::Result<u64> {
    let mut block = vec![0; 64 * 1024];
    let mut end = size;
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let part = &mut block[..(end - start) as usize];
        file.read_exact_at(part, start)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}
