//! Which records does somebody want to see?

use std::borrow::Cow;
use std::path::Path;
use std::time::SystemTime;

use jiff::Timestamp;
use kin_policy::{DirectoryName, Reference};
use memchr::memmem::{self, Finder};
use serde::Deserialize;

use super::blocks::{self, Blocks};
use super::chain::Shape;
use super::{json, storage};
use crate::sys::error::{Class, Error, Result};

/// Which records; the default is all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this secret.
    pub reference: Option<Reference>,
    /// Of this version of it: deliveries alone.
    pub version: Option<u64>,
    /// Of this project, by its directory in the mount.
    pub project: Option<DirectoryName>,
    /// Of grants whose id begins with these hexadecimal digits.
    pub grant: Option<String>,
    /// Of this consumer: the reader's name, its program's path or file name, or a grant's command.
    pub consumer: Option<String>,
    /// Of this event: `open.allow`.
    pub event: Option<String>,
    /// Of a higher number than this.
    pub after: Option<u64>,
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
    /// Lines that were looked at and are no records; [`verify`](super::verify()) says more.
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
    #[serde(borrow)]
    references: Option<Vec<Text<'a>>>,
    project: Option<Text<'a>>,
    file: Option<Text<'a>>,
    grant: Option<Text<'a>>,
    #[serde(borrow)]
    exe: Option<Exe<'a>>,
    exe_proven: Option<bool>,
    comm: Option<Text<'a>>,
    program: Option<Text<'a>>,
    reason: Option<Text<'a>>,
    error: Option<Text<'a>>,
    version: Option<serde_json::Value>,
    tgid: Option<u32>,
    start: Option<u64>,
    root: Option<serde_json::Value>,
    root_start: Option<u64>,
    chain: Option<Vec<(u32, u64)>>,
    peer: Option<u32>,
    count: Option<u64>,
    readers: Option<u64>,
    cut_bytes: Option<u64>,
    refused: Option<u64>,
    #[serde(borrow)]
    change: Option<&'a str>,
    of: Option<u64>,
}

impl Fields<'_> {
    /// Older records of a reveal have it as a reason.
    fn version(&self) -> Option<u64> {
        let own = self.version.as_ref().and_then(serde_json::Value::as_u64);
        let revealed = || match self.event {
            "vault.reveal" => self.reason.as_ref()?.0.strip_prefix("version ")?.parse().ok(),
            _ => None,
        };
        own.or_else(revealed)
    }
}

/// The program of a reader; in a `grant.create` the pins of its bindings.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Exe<'a> {
    #[serde(borrow)]
    Program(Text<'a>),
    Pins(serde::de::IgnoredAny),
}

impl<'a> Fields<'a> {
    fn exe(&self) -> Option<&Text<'a>> {
        match &self.exe {
            Some(Exe::Program(path)) => Some(path),
            _ => None,
        }
    }
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
        self.fields.tgid.or(self.root().map(|root| root.0)).or(self.fields.peer)
    }

    /// The reader's process: its pid, and its start in clock ticks since boot.
    pub fn process(&self) -> Option<(u32, u64)> {
        self.fields.tgid.zip(self.fields.start)
    }

    /// The root of a grant that was made: its pid and start.
    pub fn root(&self) -> Option<(u32, u64)> {
        let pid = self.fields.root.as_ref().and_then(serde_json::Value::as_u64)?;
        u32::try_from(pid).ok().zip(self.fields.root_start)
    }

    /// The reader's ancestors, the parent first, each with its pid and start.
    pub fn chain(&self) -> &[(u32, u64)] {
        self.fields.chain.as_deref().unwrap_or_default()
    }

    /// The version of the secret that was delivered, or written.
    pub fn version(&self) -> Option<u64> {
        self.fields.version()
    }

    /// Every secret that was delivered, with its version: a file can be made of several.
    pub fn delivered(&self) -> Vec<(Cow<'_, str>, Option<u64>)> {
        let several = self.fields.references.iter().flatten();
        let several = several.filter_map(|named| shown(Some(named)).map(|named| with_version(&named)));
        let one = self.reference().map(|reference| (reference, self.version()));
        one.into_iter().chain(several.map(|(name, version)| (Cow::Owned(name), version))).collect()
    }

    /// Which change was not made after all: its event, and the number of its record.
    pub fn failed_change(&self) -> Option<(&'a str, u64)> {
        Some((self.fields.change?, self.fields.of?))
    }

    /// Whether it is a denial.
    pub fn is_denial(&self) -> bool {
        is_denial(self.fields.event.as_bytes())
    }

    /// The reader's program file.
    pub fn exe(&self) -> Option<Cow<'a, str>> {
        shown(self.fields.exe())
    }

    /// Whether the program file is the one that the kernel loaded. Else it is what the process says of itself, and
    /// so is that of every record of before there was this mark.
    pub fn is_exe_proven(&self) -> bool {
        self.fields.exe_proven == Some(true)
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

    /// How many bytes of a torn line were cut off.
    pub fn cut_bytes(&self) -> Option<u64> {
        self.fields.cut_bytes
    }

    /// How many records were refused while the record had failed.
    pub fn refused(&self) -> Option<u64> {
        self.fields.refused
    }

    /// How many readers it stands for, where it sums them up.
    pub fn readers(&self) -> Option<u64> {
        self.fields.readers
    }
}

/// `stripe/test_key@2`, as records of several secrets have it.
fn with_version(named: &str) -> (String, Option<u64>) {
    match named.rsplit_once('@') {
        Some((name, version)) => (name.to_owned(), version.parse().ok()),
        None => (named.to_owned(), None),
    }
}

/// Nothing that moves a cursor, hides or reorders text, or looks like another character.
fn shown<'a>(text: Option<&'a Text<'_>>) -> Option<Cow<'a, str>> {
    let text: &str = text?.0.as_ref();
    let plain = |c: char| c == ' ' || c.is_ascii_graphic();
    if text.chars().all(plain) {
        return Some(Cow::Borrowed(text));
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if plain(c) { safe.push(c) } else { safe.extend(c.escape_default()) }
    }
    Some(Cow::Owned(safe))
}

/// Shows `each` record in `dir` that passes `filter`, oldest first. Whether they are what was written is
/// not asked here; a line that is no record is passed over and counted.
///
/// # Errors
/// `bad_grant` for a beginning of a grant's id that is none; `unsafe_file` and storage errors.
pub fn query(dir: &Path, filter: &Filter, mut each: impl FnMut(&Record<'_>)) -> Result<Queried> {
    let mut skipped = 0;
    let mut queried = query_lines(dir, filter, |line| match parsed(line, &mut each) {
        true => {}
        false => skipped += 1,
    })?;
    queried.matched -= skipped;
    queried.skipped += skipped;
    Ok(queried)
}

/// Shows a record's line to `each` as a record; `false` where it is none.
pub fn parsed(line: &str, each: impl FnOnce(&Record<'_>)) -> bool {
    let Ok(fields) = serde_json::from_str::<Fields<'_>>(line) else { return false };
    each(&Record { json: line, fields: &fields });
    true
}

/// As [`query`], each line as it stands in the log: printable ASCII, read by position alone.
///
/// # Errors
/// As [`query`].
pub fn query_lines(dir: &Path, filter: &Filter, mut each: impl FnMut(&str)) -> Result<Queried> {
    let sieve = Sieve::new(filter)?;
    let mut queried = Queried::default();
    for segment in storage::segments(dir)? {
        let mut blocks = Blocks::new(&segment.file);
        while let Some(block) = blocks.next().map_err(|error| Error::storage("read the audit log", &error))? {
            sieve.through(block, &mut queried, &mut each);
        }
    }
    Ok(queried)
}

/// Shows each record since the broker last started.
///
/// # Errors
/// `unsafe_file` and storage errors.
pub fn query_last_run(dir: &Path, mut each: impl FnMut(&Record<'_>)) -> Result<()> {
    let segments = storage::segments(dir)?;
    let mut texts = Vec::new();
    for segment in segments.iter().rev() {
        let bytes = segment.read()?;
        let start = memmem::rfind(&bytes, b"\"event\":\"broker.start\"");
        let begin = start.map(|at| memchr::memrchr(b'\n', &bytes[..at]).map_or(0, |before| before + 1));
        texts.push((bytes, begin.unwrap_or(0)));
        if begin.is_some() {
            break;
        }
    }
    for (bytes, begin) in texts.iter().rev() {
        for line in blocks::lines(&bytes[*begin..]).filter_map(printable) {
            parsed(line, &mut each);
        }
    }
    Ok(())
}

/// A filter, ready to look at raw lines.
struct Sieve<'f> {
    filter: &'f Filter,
    grant: Option<String>,
    since: Option<[u8; json::TIME_LEN]>,
    until: Option<[u8; json::TIME_LEN]>,
    needles: Vec<Finder<'static>>,
    /// The secret as a record of one has it.
    flat: Option<Finder<'static>>,
}

impl<'f> Sieve<'f> {
    fn new(filter: &'f Filter) -> Result<Self> {
        let grant = filter.grant.as_ref().map(|prefix| prefix.to_ascii_lowercase());
        if grant.as_ref().is_some_and(|prefix| !prefix.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            return Err(Error::new(Class::Usage, "bad_grant", "a grant's id is hexadecimal digits")
                .hint("`kin status` and `kin audit` show ids"));
        }
        let mut needles = Vec::new();
        needles.extend(filter.consumer.as_ref().map(|name| escaped(name)));
        needles.extend(grant.as_ref().map(|prefix| format!("\"grant\":\"{prefix}")));
        needles.extend(filter.reference.as_ref().map(|name| format!("\"{name}")));
        needles.extend(filter.project.as_ref().map(|name| format!("\"project\":\"{name}\"")));
        needles.extend(filter.event.as_ref().map(|name| format!("\"event\":{}", escaped_whole(name))));
        let needles = needles.iter().map(|needle| Finder::new(needle).into_owned()).collect();
        let flat = filter.reference.as_ref().map(|name| format!("\"reference\":\"{name}\""));
        let flat = flat.map(|needle| Finder::new(&needle).into_owned());
        let text = |time: Timestamp| json::utc(SystemTime::from(time));
        let (since, until) = (filter.since.map(text), filter.until.map(text));
        Ok(Self { filter, grant, since, until, needles, flat })
    }

    /// Only lines with the first needle are looked at, where there is one.
    fn through(&self, block: &[u8], queried: &mut Queried, each: &mut impl FnMut(&str)) {
        let Some(first) = self.needles.first() else {
            return blocks::lines(block).for_each(|line| self.pass(line, queried, each));
        };
        let mut from = 0;
        while let Some(at) =
            block.get(from..).filter(|rest| !rest.is_empty()).and_then(|rest| first.find(rest))
        {
            let (line, next) = blocks::line_around(block, from + at);
            self.pass(line, queried, each);
            from = next;
        }
    }

    fn pass(&self, line: &[u8], queried: &mut Queried, each: &mut impl FnMut(&str)) {
        let Some((shape, text)) = Shape::read(line).zip(printable(line)) else {
            queried.skipped += 1;
            return;
        };
        if self.may_pass(&shape, line) && self.passes(&shape, text) {
            queried.matched += 1;
            each(text);
        }
    }

    fn may_pass(&self, shape: &Shape<'_>, line: &[u8]) -> bool {
        let time = shape.time.as_bytes();
        self.since.is_none_or(|since| time >= &since[..])
            && self.until.is_none_or(|until| time <= &until[..])
            && self.filter.after.is_none_or(|after| shape.seq > after)
            && (!self.filter.denied || shape.event.split(|byte| *byte == b'"').next().is_some_and(is_denial))
            && self.needles.iter().all(|needle| needle.find(line).is_some())
    }

    /// A text between quotes cannot hold a quote that is not escaped, so a needle with a key is that
    /// member, except where a record has an object inside: a grant's bindings. A list of secrets is looked into.
    fn passes(&self, shape: &Shape<'_>, text: &str) -> bool {
        let exact = self.filter.consumer.is_none()
            && self.filter.version.is_none()
            && !shape.event.starts_with(b"grant.create\"")
            && self.flat.as_ref().is_none_or(|flat| flat.find(text.as_bytes()).is_some());
        if exact || self.needles.is_empty() && self.filter.version.is_none() {
            return true;
        }
        serde_json::from_str::<Fields<'_>>(text).is_ok_and(|fields| self.fits(&fields))
    }

    fn fits(&self, fields: &Fields<'_>) -> bool {
        let same = |field: &Option<Text<'_>>, wanted: Option<&str>| match wanted {
            None => true,
            Some(wanted) => field.as_ref().is_some_and(|text| text.0 == wanted),
        };
        self.is_about(fields)
            && same(&fields.project, self.filter.project.as_ref().map(DirectoryName::as_str))
            && self.filter.event.as_deref().is_none_or(|event| fields.event == event)
            && self.filter.consumer.as_deref().is_none_or(|name| is_consumer(fields, name))
            && self.grant.as_ref().is_none_or(|prefix| {
                fields.grant.as_ref().is_some_and(|grant| grant.0.starts_with(prefix.as_str()))
            })
    }
}

impl Sieve<'_> {
    /// Whether it is about the secret, and the version of it, that is asked for.
    fn is_about(&self, fields: &Fields<'_>) -> bool {
        let version = self.filter.version;
        let of_version = |own: Option<u64>| version.is_none() || own == version;
        let own = fields.version();
        let Some(wanted) = self.filter.reference.as_ref().map(Reference::as_str) else {
            return of_version(own);
        };
        let one = fields.reference.as_ref().is_some_and(|text| text.0 == wanted) && of_version(own);
        let mut several = fields.references.iter().flatten().map(|named| with_version(&named.0));
        one || several.any(|(name, version)| name == wanted && of_version(version))
    }
}

fn is_consumer(fields: &Fields<'_>, name: &str) -> bool {
    let file_name = |path: &str| path.rsplit('/').next() == Some(name);
    let is = |text: Option<&Text<'_>>| text.is_some_and(|text| text.0 == name || file_name(&text.0));
    is(fields.comm.as_ref()) || is(fields.exe()) || is(fields.program.as_ref())
}

/// The text as it stands between quotes in the log.
fn escaped(text: &str) -> String {
    let quoted = escaped_whole(text);
    quoted[1..quoted.len() - 1].to_owned()
}

fn escaped_whole(text: &str) -> String {
    let mut quoted = Vec::new();
    json::quoted(&mut quoted, text.as_bytes(), usize::MAX);
    String::from_utf8_lossy(&quoted).into_owned()
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
