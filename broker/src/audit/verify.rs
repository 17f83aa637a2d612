//! Is the record what was written, all of it and in order?

use std::path::Path;

use jiff::Timestamp;

use super::anchor::{self, Anchor, Head, START};
use super::blocks::{self, Blocks};
use super::chain::{GENESIS, Key, MAX_LINE, Shape, Tag};
use super::overdue;
use super::seals::{self, PublicKey, Seal};
use super::storage::{self, Segment};
use crate::sys::error::{Class, Error, Result};

const TOO_LONG: &str = "is longer than a record can be";

/// What a whole record has.
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
    /// The last one's MAC.
    pub last_mac: [u8; 32],
    /// Bytes after the last record without a newline: one that is being written, or was torn by a
    /// crash and will be cut off by the next broker. 0 is the rule.
    pub partial: u64,
    /// How many seals.
    pub seals: u64,
    /// The last sealed record: up to it, today's key cannot have written anything.
    pub sealed_seq: u64,
    /// Files that hold records.
    pub segments: u32,
}

impl Verified {
    /// The last record, to be kept somewhere else and [compared](verify_against) later.
    pub fn head(&self) -> Head {
        Head { seq: self.last_seq, mac: self.last_mac }
    }
}

/// Checks the whole record in `dir`.
///
/// # Errors
/// `audit_broken` names the first bad record, `audit_truncated` says where it ends and where it must not
/// have ended before; `unsafe_file` and storage errors as [`AuditLog::open`](super::AuditLog::open).
pub fn verify(dir: &Path) -> Result<Verified> {
    verify_against(dir, None, &[])
}

/// As [`verify`], and that it began with this public key, and once had these heads.
///
/// # Errors
/// As [`verify`].
pub fn verify_against(dir: &Path, root: Option<&[u8; 32]>, heads: &[Head]) -> Result<Verified> {
    // In this order, because a broker may be writing: neither is ever ahead of the log.
    let epoch = seals::epoch_on_disk(dir)?;
    let anchor = anchor::read(dir)?;
    let segments = storage::segments(dir)?;
    let mut empty = true;
    for segment in &segments {
        empty &= segment.is_empty()?;
    }
    let mut heads = heads.to_vec();
    heads.extend(anchor.map(|anchor| anchor.head));
    let want = heads.iter().map(|head| head.seq).max().unwrap_or(0);
    if empty {
        let want = want.max(epoch.unwrap_or(0).min(1));
        return if want > 0 { Err(anchor::truncated(0, want)) } else { Ok(Verified::default()) };
    }
    let Some(key) = storage::load_key(dir)? else { return Err(seals::missing("audit.key")) };
    let own = seals::read_root(dir)?;
    if root.is_some_and(|root| *root != own) {
        return Err(Error::new(
            Class::Integrity,
            "audit_broken",
            "this is not the record that the vault knows",
        )
        .hint("it was begun anew, or replaced; put a copy back"));
    }
    let anchor = anchor.ok_or_else(|| seals::missing("audit.anchor"))?;
    let mut walk = Walk::new(key, own, anchor, heads);
    walk.pass(&START)?;
    let (current, ended) =
        segments.split_last().map_or((None, &segments[..]), |(last, rest)| (Some(last), rest));
    ended.iter().try_for_each(|segment| walk.through(segment, false))?;
    current.map_or(Ok(()), |segment| walk.through(segment, true))?;
    let verified = walk.end(want, epoch)?;
    // Asked again, because a broker that writes meanwhile seals and anchors.
    match anchor::read(dir)? {
        Some(anchor) if anchor.epoch + 1 < verified.seals => Err(anchor::left_behind()),
        _ => Ok(verified),
    }
}

/// A verification under way.
struct Walk {
    key: Key,
    anchor: Anchor,
    heads: Vec<Head>,
    /// The number of the lowest head that was not passed yet.
    next_head: u64,
    /// What signs in the epoch that was reached.
    signer: PublicKey,
    previous: Tag,
    time: [u8; 27],
    /// The time of the first record that no seal covers; where seals are in time, so is what comes until the next.
    unsealed: Option<[u8; 27]>,
    timely: bool,
    /// The file, where it is not the one that is written, and the line of it that was reached.
    file: Option<String>,
    line: u64,
    verified: Verified,
}

impl Walk {
    fn new(key: Key, signer: PublicKey, anchor: Anchor, heads: Vec<Head>) -> Self {
        let verified = Verified::default();
        let (previous, time, file) = (GENESIS, [0; 27], None);
        let (unsealed, timely) = (None, false);
        Self {
            key,
            anchor,
            heads,
            next_head: 0,
            signer,
            previous,
            time,
            unsealed,
            timely,
            file,
            line: 0,
            verified,
        }
    }

    fn through(&mut self, segment: &Segment, last: bool) -> Result<()> {
        let failed = |error: std::io::Error| Error::storage("read the audit log", &error);
        self.file = (!last).then(|| segment.name());
        self.line = 0;
        let mut blocks = Blocks::new(&segment.file);
        while let Some(block) = blocks.next().map_err(failed)? {
            blocks::lines(block).try_for_each(|line| self.line(line))?;
        }
        self.verified.segments += u32::from(self.line > 0);
        let rest = blocks.rest();
        self.line += 1;
        if !last && !rest.is_empty() {
            return Err(self.broken(self.expected(), "is not whole"));
        }
        self.verified.partial = self.torn(rest)?;
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<()> {
        self.line += 1;
        if line.len() > MAX_LINE - 1 {
            return Err(self.broken(self.expected(), TOO_LONG));
        }
        let shape = Shape::read(line).ok_or_else(|| self.no_record(line))?;
        let tag = self.link(&shape)?;
        if shape.event.starts_with(b"audit.seal\"") {
            self.seal(&shape)?;
        } else {
            self.in_time(&shape)?;
        }
        self.previous = tag;
        self.time.copy_from_slice(shape.time.as_bytes());
        self.verified.records += 1;
        self.verified.first_seq = 1;
        self.verified.last_seq = shape.seq;
        if shape.seq == self.next_head {
            self.pass(&Head { seq: shape.seq, mac: tag })?;
        }
        Ok(())
    }

    /// The MAC of the line that should be the next record. Lines and records are counted alike.
    fn link(&self, shape: &Shape<'_>) -> Result<Tag> {
        let expected = self.expected();
        match shape.authentic(&self.key, &self.previous) {
            Some(tag) if shape.seq == expected => Ok(tag),
            // It stands behind the line that it was written behind, so it is not what was written.
            _ if shape.follows(&self.previous) || shape.seq == expected => {
                Err(self.broken(expected, "was changed: its mac is wrong"))
            }
            _ if shape.seq > expected => {
                Err(self.broken(expected, &format!("is missing: record {} stands in its place", shape.seq)))
            }
            _ => Err(self.broken(shape.seq, &format!("stands where record {expected} should be"))),
        }
    }

    /// A record that no seal covers yet comes soon after the first one of them.
    fn in_time(&mut self, shape: &Shape<'_>) -> Result<()> {
        let Some(first) = &self.unsealed else {
            self.unsealed = shape.time.as_bytes().try_into().ok();
            return Ok(());
        };
        if self.timely && later(first, shape.time.as_bytes()) > overdue::MOST {
            let why = "came too long after one that no seal covers: it was not written by a broker, or a seal was taken away";
            return Err(self.broken(shape.seq, why));
        }
        Ok(())
    }

    fn seal(&mut self, shape: &Shape<'_>) -> Result<()> {
        let first = self.verified.sealed_seq + 1;
        let signed = |seal: &Seal| {
            let whole = seal.first.map_or(!self.timely, |sealed| sealed == first);
            let is_next = seal.epoch == self.verified.seals;
            is_next && whole && seal.is_signed(&self.signer, shape.seq, &self.previous)
        };
        match Seal::read(shape.event).filter(signed) {
            None => Err(self.broken(
                shape.seq,
                "is not signed by the key of its time: it, or what it seals, was rewritten",
            )),
            Some(seal) => {
                self.signer = seal.next;
                self.verified.seals += 1;
                self.verified.sealed_seq = shape.seq;
                (self.unsealed, self.timely) = (None, seal.first.is_some());
                Ok(())
            }
        }
    }

    /// A record that is known from elsewhere was reached.
    fn pass(&mut self, reached: &Head) -> Result<()> {
        if self.heads.iter().any(|head| head.seq == reached.seq && head.mac != reached.mac) {
            return Err(self.broken(reached.seq, "was rewritten: it is not the one that was anchored"));
        }
        let anchor = &self.anchor;
        if anchor.head.seq == reached.seq
            && !(anchor.epoch == self.verified.seals && anchor.is_signed(&self.signer))
        {
            return Err(Error::new(
                Class::Integrity,
                "audit_broken",
                "audit.anchor is not signed by the key of its time",
            )
            .hint(seals::RESTORE));
        }
        let later = self.heads.iter().map(|head| head.seq).filter(|seq| *seq > reached.seq);
        self.next_head = later.min().unwrap_or(0);
        Ok(())
    }

    fn end(mut self, want: u64, epoch: Option<u64>) -> Result<Verified> {
        let have = self.verified.last_seq;
        // A key of a later epoch than the log's shows a cut behind a seal, whatever the anchor says.
        let want =
            want.max(if epoch.is_some_and(|epoch| epoch > self.verified.seals) { have + 1 } else { 0 });
        if have < want {
            return Err(anchor::truncated(have, want));
        }
        self.verified.last_mac = self.previous;
        self.verified.last_time = std::str::from_utf8(&self.time).ok().and_then(|time| time.parse().ok());
        Ok(self.verified)
    }

    fn expected(&self) -> u64 {
        self.verified.last_seq + 1
    }

    fn no_record(&self, line: &[u8]) -> Error {
        let json = serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok();
        self.broken(self.expected(), if json { "is not a record" } else { "is not JSON" })
    }

    /// The length of what follows the last newline. A write that was cut short leaves less than a line.
    fn torn(&self, rest: &[u8]) -> Result<u64> {
        let end = rest.windows(9).rposition(|piece| piece == b"\",\"mac\":\"").map(|at| at + 9 + 64 + 2);
        if rest.len() >= MAX_LINE {
            return Err(self.broken(self.expected(), TOO_LONG));
        }
        if end.is_some_and(|end| rest.len() > end) {
            return Err(self.broken(self.expected(), "was changed: it does not end where it ended"));
        }
        Ok(rest.len() as u64)
    }

    /// The refusal at the line that was reached; `seq` is the record that it is about.
    fn broken(&self, seq: u64, why: &str) -> Error {
        let place = match &self.file {
            None => format!("line {}", self.line),
            Some(file) => format!("line {} of {file}", self.line),
        };
        Error::new(Class::Integrity, "audit_broken", format!("record {seq} ({place}) {why}"))
            .hint("what stands before it is as it was written; nothing behind it can be relied on")
    }
}

/// How many seconds the second time is after the first. On one day that is told by its digits.
fn later(first: &[u8; 27], second: &[u8]) -> i64 {
    let same_day = first[..11] == second[..11];
    let digits = |text: &[u8], at: usize| i64::from(text[at] & 15) * 10 + i64::from(text[at + 1] & 15);
    let of_day = |text: &[u8]| digits(text, 11) * 3600 + digits(text, 14) * 60 + digits(text, 17);
    if same_day {
        return of_day(second) - of_day(first);
    }
    let parsed = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<Timestamp>().ok();
    parsed(second).zip(parsed(first)).map_or(0, |(second, first)| second.as_second() - first.as_second())
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
