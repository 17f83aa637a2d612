//! One frame: two little-endian lengths, a JSON document, and raw bytes that only ever hold a value.
//!
//! Values travel beside the JSON, never in it, so that no parser's buffers see them. An answer of any size goes in
//! parts, each a frame of its own: the highest bit of its first length says that more of the document follows, and
//! the value comes with the last. A request is one frame.

use std::io::{self, BufReader, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::sys::error::Error;
use crate::sys::memory::Plaintext;

/// The most JSON that one frame may carry, in bytes.
pub(crate) const MAX_DOCUMENT: usize = 256 << 10;
/// The most that all parts of an answer may, in bytes: a vault's names are far below.
const MAX_ANSWER: usize = 512 << 20;
/// As much room as is made for a document before any of it has come, in bytes.
const ROOM: usize = 64 << 10;
/// The value's length where a frame has none: an empty value is a value too.
const NO_VALUE: u32 = u32::MAX;
/// In the document's length: another part follows.
const CONTINUED: u32 = 1 << 31;
/// The most value that one frame may carry, in bytes: the largest secret.
pub const MAX_VALUE: usize = 1 << 20;
/// The most values (objects, lists, what is in them) that a request may have, and how deep they may lie: a parser
/// makes up to a hundred bytes of three.
const MAX_ITEMS: usize = 16 << 10;
const MAX_DEPTH: usize = 16;

/// What the broker sends back.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer<T> {
    /// It was done.
    Done(T),
    /// It was refused or failed.
    Failed(Error),
}

/// Writes one frame.
///
/// # Errors
/// Those of the stream; `InvalidData` where the document or the value is over its limit.
pub fn write_frame(
    stream: &mut impl Write,
    document: &impl Serialize,
    value: Option<&Plaintext>,
) -> io::Result<()> {
    let json = serde_json::to_vec(document)?;
    limited(json.len(), MAX_DOCUMENT)?;
    let mut parts = Parts::new(stream);
    parts.push(&json)?;
    parts.end(value)
}

/// A document that is written in as many parts as it takes; one at a time is in memory.
pub(crate) struct Parts<'s, S> {
    stream: &'s mut S,
    part: Vec<u8>,
}

/// Bytes of the two lengths.
const HEAD: usize = 8;

impl<'s, S: Write> Parts<'s, S> {
    /// The beginning of a document.
    pub(crate) fn new(stream: &'s mut S) -> Self {
        Self { stream, part: vec![0; HEAD] }
    }

    /// More of it.
    ///
    /// # Errors
    /// Those of the stream.
    pub(crate) fn push(&mut self, mut json: &[u8]) -> io::Result<()> {
        while self.part.len() - HEAD + json.len() > MAX_DOCUMENT {
            let (now, later) = json.split_at(MAX_DOCUMENT - (self.part.len() - HEAD));
            self.part.extend_from_slice(now);
            self.send(CONTINUED, NO_VALUE)?;
            json = later;
        }
        self.part.extend_from_slice(json);
        Ok(())
    }

    /// The end of it, and the value that comes with it.
    ///
    /// # Errors
    /// As [`Self::push`]; `InvalidData` where the value is over its limit.
    pub(crate) fn end(mut self, value: Option<&Plaintext>) -> io::Result<()> {
        let length = value.map_or(Ok(NO_VALUE), |value| limited(value.len(), MAX_VALUE))?;
        self.send(0, length)?;
        value.map_or(Ok(()), |value| self.stream.write_all(value.bytes()))
    }

    fn send(&mut self, more: u32, value: u32) -> io::Result<()> {
        let length = limited(self.part.len() - HEAD, MAX_DOCUMENT)? | more;
        self.part[..4].copy_from_slice(&length.to_le_bytes());
        self.part[4..HEAD].copy_from_slice(&value.to_le_bytes());
        self.stream.write_all(&self.part)?;
        self.part.truncate(HEAD);
        Ok(())
    }
}

/// Reads one frame, and the parts that continue it; `Ok(None)` where the stream ended before it began.
///
/// # Errors
/// Those of the stream; `InvalidData` where a length is over its limit or the document does not parse.
pub fn read_frame<T: DeserializeOwned>(stream: &mut impl Read) -> io::Result<Option<(T, Option<Plaintext>)>> {
    let Some(head) = Head::read(stream)? else { return Ok(None) };
    if !head.continued {
        let (json, value) = head.body(stream)?;
        return Ok(Some((serde_json::from_slice(&json)?, value)));
    }
    let mut document = Continued { stream, left: head.document, total: head.document, last: None };
    let parsed = serde_json::from_reader(BufReader::with_capacity(ROOM, &mut document))?;
    let value = document.last.and_then(|last| last.value);
    let value = value.map(|size| value_of(size, document.stream)).transpose()?;
    Ok(Some((parsed, value)))
}

/// What a frame says of itself.
pub(crate) struct Head {
    document: usize,
    value: Option<usize>,
    continued: bool,
}

impl Head {
    /// The beginning of a frame; `Ok(None)` where the stream ended before it.
    ///
    /// # Errors
    /// As [`read_frame`].
    pub(crate) fn read(stream: &mut impl Read) -> io::Result<Option<Self>> {
        let mut head = [0; HEAD];
        match stream.read(&mut head)? {
            0 => return Ok(None),
            got => stream.read_exact(&mut head[got..])?,
        }
        let length = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let document = limited((length(0) & !CONTINUED) as usize, MAX_DOCUMENT)? as usize;
        let value = match length(4) {
            NO_VALUE => None,
            value => Some(limited(value as usize, MAX_VALUE)? as usize),
        };
        let continued = length(0) & CONTINUED != 0;
        // A part that is empty, or has the value already, is none.
        if continued && (value.is_some() || document == 0) {
            return Err(over());
        }
        Ok(Some(Self { document, value, continued }))
    }

    /// Bytes that follow.
    pub(crate) fn size(&self) -> usize {
        self.document + self.value.unwrap_or(0)
    }

    /// Whether it is only a part of a document.
    pub(crate) fn is_continued(&self) -> bool {
        self.continued
    }

    /// What follows: the document's text, and the value.
    ///
    /// # Errors
    /// As [`read_frame`].
    pub(crate) fn body(&self, stream: &mut impl Read) -> io::Result<(Vec<u8>, Option<Plaintext>)> {
        let mut json = Vec::with_capacity(self.document.min(ROOM));
        (&mut *stream).take(self.document as u64).read_to_end(&mut json)?;
        if json.len() != self.document {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((json, self.value.map(|size| value_of(size, stream)).transpose()?))
    }
}

fn value_of(size: usize, stream: &mut impl Read) -> io::Result<Plaintext> {
    let mut plaintext = Plaintext::zeroed(size);
    stream.read_exact(plaintext.bytes_mut())?;
    Ok(plaintext)
}

/// A document over all of its parts.
struct Continued<'s, S> {
    stream: &'s mut S,
    left: usize,
    total: usize,
    last: Option<Head>,
}

impl<S: Read> Read for Continued<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 && self.last.is_none() {
            let head = Head::read(self.stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            self.left = head.document;
            self.total += head.document;
            limited(self.total, MAX_ANSWER)?;
            self.last = (!head.continued).then_some(head);
        }
        let most = buffer.len().min(self.left);
        if most == 0 {
            // A socket waits for data also where it is asked for none of it.
            return Ok(0);
        }
        let got = self.stream.read(&mut buffer[..most])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= got;
        Ok(got)
    }
}

/// Whether a request's text has no more in it than one may have. It need not be JSON.
pub(crate) fn is_bounded(json: &[u8]) -> bool {
    let (mut items, mut depth, mut in_text, mut escaped) = (1, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'[' | b'{' => (items, depth) = (items + 1, depth + 1),
            b']' | b'}' => depth -= 1,
            b',' => items += 1,
            _ => {}
        }
        if items > MAX_ITEMS || depth > MAX_DEPTH as isize {
            return false;
        }
    }
    true
}

fn over() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a frame is over its limit")
}

fn limited(len: usize, limit: usize) -> io::Result<u32> {
    match u32::try_from(len) {
        Ok(short) if len <= limit => Ok(short),
        _ => Err(over()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_back() {
        let mut wire = Vec::new();
        write_frame(&mut wire, &"document", Some(&Plaintext::copy_of(b"value"))).unwrap();
        write_frame(&mut wire, &7, None).unwrap();
        let mut stream = &wire[..];
        let (document, value) = read_frame::<String>(&mut stream).unwrap().unwrap();
        assert_eq!((document.as_str(), value.unwrap().bytes()), ("document", &b"value"[..]));
        let (number, value) = read_frame::<u8>(&mut stream).unwrap().unwrap();
        assert_eq!((number, value.is_none()), (7, true));
        assert!(read_frame::<u8>(&mut stream).unwrap().is_none());
    }

    #[test]
    fn j03_bad_frames_are_errors_and_allocate_nothing() {
        let over = (MAX_DOCUMENT as u32 + 1).to_le_bytes();
        for bad in [
            &[1, 0, 0][..],
            &[0; 8],
            &[0xff; 8],
            &[2, 0, 0, 0, 1, 0, 16, 0],
            &[over, [0; 4]].concat(),
            &[1, 0, 0, 0, 0, 0, 0, 0, b'{'],
            // Continued: by nothing, without an end, with a value too early.
            &[0, 0, 0, 0x80, 0xff, 0xff, 0xff, 0xff],
            &[1, 0, 0, 0x80, 0xff, 0xff, 0xff, 0xff, b'7'],
            &[1, 0, 0, 0x80, 1, 0, 0, 0, b'7', b'v'],
        ] {
            assert!(read_frame::<u8>(&mut &bad[..]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_document_of_any_size_travels_in_parts_of_one() {
        let long: Vec<String> = (0..100_000).map(|number| format!("secret/{number}")).collect();
        let json = serde_json::to_vec(&long).unwrap();
        assert!(json.len() > 4 * MAX_DOCUMENT);
        let value = Plaintext::copy_of(b"value");
        for step in [1 << 10, MAX_DOCUMENT, 3 * MAX_DOCUMENT] {
            let mut wire = Vec::new();
            let mut parts = Parts::new(&mut wire);
            json.chunks(step).for_each(|piece| parts.push(piece).unwrap());
            assert!(parts.part.capacity() <= 2 * (MAX_DOCUMENT + HEAD));
            parts.end(Some(&value)).unwrap();
            write_frame(&mut wire, &"next", None).unwrap();
            let mut stream = &wire[..];
            let (read, with) = read_frame::<Vec<String>>(&mut stream).unwrap().unwrap();
            assert!(read == long && with.unwrap().bytes() == b"value");
            assert_eq!(read_frame::<String>(&mut stream).unwrap().unwrap().0, "next");
            for cut in [HEAD, MAX_DOCUMENT, wire.len() / 2] {
                assert!(read_frame::<Vec<String>>(&mut &wire[..cut]).is_err());
            }
        }
        assert!(write_frame(&mut Vec::new(), &long, None).is_err());
    }

    #[test]
    fn what_a_request_may_have_in_it_is_counted_outside_of_text() {
        assert!(is_bounded(br#"{"verb":"hello","x":["[[[[[[[[[[[[[[[[[[","\",[",{}]}"#));
        assert!(is_bounded(&vec![b','; MAX_ITEMS - 1]));
        for bad in [vec![b','; MAX_ITEMS], vec![b'['; MAX_DEPTH + 1], b"[],".repeat(MAX_ITEMS)] {
            assert!(!is_bounded(&bad));
        }
        assert!(is_bounded(&[b"\"".to_vec(), vec![b','; MAX_DOCUMENT]].concat()));
        assert!(is_bounded(b"]]]]]]]]]]]]]]]]]]]]]]]") && is_bounded(b""));
    }
}
