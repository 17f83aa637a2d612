//! Which records does somebody want to see?

use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::time::SystemTime;

use jiff::Timestamp;
use kin_policy::{DirectoryName, Reference};
use serde::Deserialize;

use super::chain::{MAX_LINE, Shape};
use super::{json, storage};
use crate::error::{Class, Error, Result};

/// Which records; the default is all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this secret.
    pub reference: Option<Reference>,
    /// Of this project, by its directory in the mount.
    pub project: Option<DirectoryName>,
    /// Of grants whose id begins with these hexadecimal digits.
    pub grant: Option<String>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Not after.
    pub until: Option<Timestamp>,
    /// Denials alone.
    pub denied: bool,
}

/// What a query went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queried {
    /// Records that were shown.
    pub matched: u64,
    /// Lines that are no records; [`verify`](super::verify()) says more.
    pub skipped: u64,
}

/// One record. What it says of a reader is the reader's own claim; texts come out escaped, so that a
/// terminal can be sent them.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    json: &'a str,
    fields: &'a Fields<'a>,
}

#[derive(Debug, Deserialize)]
struct Fields<'a> {
    seq: u64,
    time: &'a str,
    event: &'a str,
    #[serde(borrow)]
    op: Option<Text<'a>>,
    reference: Option<Text<'a>>,
    project: Option<Text<'a>>,
    file: Option<Text<'a>>,
    grant: Option<Text<'a>>,
    exe: Option<Text<'a>>,
    comm: Option<Text<'a>>,
    program: Option<Text<'a>>,
    reason: Option<Text<'a>>,
    error: Option<Text<'a>>,
    tgid: Option<u32>,
    root: Option<u32>,
    peer: Option<u32>,
    count: Option<u64>,
    readers: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Record<'a> {
    /// The line as it stands in the log, without the newline: one JSON object in printable ASCII.
    pub fn json(&self) -> &'a str {
        self.json
    }

    /// Its number.
    pub fn seq(&self) -> u64 {
        self.fields.seq
    }

    /// When it was written; the epoch where that does not read as a time.
    pub fn time(&self) -> Timestamp {
        self.fields.time.parse().unwrap_or_default()
    }

    /// What happened: `open.allow`.
    pub fn event(&self) -> &'a str {
        self.fields.event
    }

    /// What the file system was asked: `open`.
    pub fn op(&self) -> Option<Cow<'a, str>> {
        shown(self.fields.op.as_ref())
    }

    /// The secret.
    pub fn reference(&self) -> Option<Cow<'a, str>> {
        shown(self.fields.reference.as_ref())
    }

    /// The project's directory in the mount.
    pub fn project(&self) -> Option<Cow<'a, str>> {
        shown(self.fields.project.as_ref())
    }

    /// The file.
    pub fn file(&self) -> Option<Cow<'a, str>> {
        shown(self.fields.file.as_ref())
    }

    /// The grant's id.
    pub fn grant(&self) -> Option<Cow<'a, str>> {
        shown(self.fields.grant.as_ref())
    }

    /// The process: the reader, a grant's root, or who asked on the socket.
    pub fn pid(&self) -> Option<u32> {
        self.fields.tgid.or(self.fields.root).or(self.fields.peer)
    }

    /// The reader's program file.
    pub fn exe(&self) -> Option<Cow<'a, str>> {
        shown(self.fields.exe.as_ref())
    }

    /// The reader's name.
    pub fn comm(&self) -> Option<Cow<'a, str>> {
        shown(self.fields.comm.as_ref())
    }

    /// What a grant was made to run.
    pub fn program(&self) -> Option<Cow<'a, str>> {
        shown(self.fields.program.as_ref())
    }

    /// Why it was denied or ended, or which fault it was.
    pub fn reason(&self) -> Option<Cow<'a, str>> {
        shown(self.fields.reason.as_ref().or(self.fields.error.as_ref()))
    }

    /// How many accesses it stands for.
    pub fn count(&self) -> u64 {
        self.fields.count.unwrap_or(1)
    }

    /// How many readers it stands for, where it sums them up.
    pub fn readers(&self) -> Option<u64> {
        self.fields.readers
    }
}

/// Nothing that moves a cursor, hides or reorders text.
fn shown<'a>(text: Option<&'a Text<'_>>) -> Option<Cow<'a, str>> {
    let text: &str = text?.0.as_ref();
    let plain = |c: char| c == ' ' || c.is_ascii_graphic();
    if text.chars().all(plain) {
        return Some(Cow::Borrowed(text));
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if plain(c) { safe.push(c) } else { safe.extend(c.escape_debug()) }
    }
    Some(Cow::Owned(safe))
}

/// Shows `each` record in `dir` that passes `filter`, oldest first. Whether they are what was written is
/// not asked here; a line that is no record is passed over and counted.
///
/// # Errors
/// `bad_grant` for a beginning of a grant's id that is none; `unsafe_file` and storage errors.
pub fn query(dir: &Path, filter: &Filter, mut each: impl FnMut(&Record<'_>)) -> Result<Queried> {
    let sieve = Sieve::new(filter)?;
    let mut queried = Queried::default();
    let Some(log) = storage::open_log(dir)? else {
        return Ok(queried);
    };
    let mut log = BufReader::with_capacity(256 * 1024, log);
    let mut line = Vec::with_capacity(MAX_LINE + 1);
    let failed = |error: std::io::Error| Error::storage("read the audit log", &error);
    loop {
        line.clear();
        (&mut log).take(MAX_LINE as u64).read_until(b'\n', &mut line).map_err(failed)?;
        if line.last() == Some(&b'\n') {
            line.pop();
            sieve.pass(&line, &mut queried, &mut each);
        } else if line.len() < MAX_LINE {
            // The end, or a record that is being written.
            return Ok(queried);
        } else {
            queried.skipped += 1;
            log.skip_until(b'\n').map_err(failed)?;
        }
    }
}

/// A filter, ready to look at raw lines.
struct Sieve<'f> {
    filter: &'f Filter,
    grant: Option<String>,
    since: Option<[u8; json::TIME_LEN]>,
    until: Option<[u8; json::TIME_LEN]>,
    needles: Vec<String>,
}

impl<'f> Sieve<'f> {
    fn new(filter: &'f Filter) -> Result<Self> {
        let grant = filter.grant.as_ref().map(|prefix| prefix.to_ascii_lowercase());
        if grant.as_ref().is_some_and(|prefix| !prefix.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            return Err(Error::new(Class::Usage, "bad_grant", "a grant's id is hexadecimal digits")
                .hint("`kin status` and `kin audit` show ids"));
        }
        let mut needles = Vec::new();
        needles.extend(filter.reference.as_ref().map(|name| format!("\"reference\":\"{name}\"")));
        needles.extend(filter.project.as_ref().map(|name| format!("\"project\":\"{name}\"")));
        needles.extend(grant.as_ref().map(|prefix| format!("\"grant\":\"{prefix}")));
        let text = |time: Timestamp| json::utc(SystemTime::from(time));
        let (since, until) = (filter.since.map(text), filter.until.map(text));
        Ok(Self { filter, grant, since, until, needles })
    }

    fn pass(&self, line: &[u8], queried: &mut Queried, each: &mut impl FnMut(&Record<'_>)) {
        let Some((shape, text)) = Shape::read(line).zip(printable(line)) else {
            queried.skipped += 1;
            return;
        };
        if !self.may_pass(&shape, text) {
            return;
        }
        match serde_json::from_str::<Fields<'_>>(text) {
            Err(_) => queried.skipped += 1,
            Ok(fields) if self.passes(&fields) => {
                queried.matched += 1;
                each(&Record { json: text, fields: &fields });
            }
            Ok(_) => {}
        }
    }

    /// A cheap look; what it lets pass is looked at again.
    fn may_pass(&self, shape: &Shape<'_>, line: &str) -> bool {
        let time = shape.time.as_bytes();
        self.since.is_none_or(|since| time >= &since[..])
            && self.until.is_none_or(|until| time <= &until[..])
            && (!self.filter.denied || shape.event.split(|byte| *byte == b'"').next().is_some_and(is_denial))
            && self.needles.iter().all(|needle| line.contains(needle.as_str()))
    }

    fn passes(&self, fields: &Fields<'_>) -> bool {
        let same = |field: &Option<Text<'_>>, wanted: Option<&str>| match wanted {
            None => true,
            Some(wanted) => field.as_ref().is_some_and(|text| text.0 == wanted),
        };
        same(&fields.reference, self.filter.reference.as_ref().map(Reference::as_str))
            && same(&fields.project, self.filter.project.as_ref().map(DirectoryName::as_str))
            && self.grant.as_ref().is_none_or(|prefix| {
                fields.grant.as_ref().is_some_and(|grant| grant.0.starts_with(prefix.as_str()))
            })
    }
}

fn is_denial(event: &[u8]) -> bool {
    event.ends_with(b".deny")
}

/// The line as text, where it is what the log writes: printable ASCII.
fn printable(line: &[u8]) -> Option<&str> {
    // No early exit, so that the loop is one over whole vectors.
    let plain = line.iter().fold(true, |plain, byte| plain & (b' '..=b'~').contains(byte));
    if plain { std::str::from_utf8(line).ok() } else { None }
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
