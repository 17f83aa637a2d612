//! One frame: two little-endian lengths, a JSON document, and raw bytes that only ever hold a value.
//!
//! Values travel beside the JSON, never in it, so that no parser's buffers see them.

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};

use crate::Plaintext;

/// The most JSON that one frame may carry, in bytes.
const MAX_DOCUMENT: usize = 8 << 20;
/// As much room as is made for a document before any of it has come, in bytes.
const ROOM: usize = 64 << 10;
/// The value's length where a frame has none: an empty value is a value too.
const NO_VALUE: u32 = u32::MAX;
/// The most value that one frame may carry, in bytes: the largest secret.
pub const MAX_VALUE: usize = 1 << 20;

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
    let value_length = value.map_or(Ok(NO_VALUE), |value| limited(value.len(), MAX_VALUE))?;
    let lengths = (limited(json.len(), MAX_DOCUMENT)?, value_length);
    let mut head = Vec::with_capacity(8 + json.len());
    head.extend_from_slice(&lengths.0.to_le_bytes());
    head.extend_from_slice(&lengths.1.to_le_bytes());
    head.extend_from_slice(&json);
    stream.write_all(&head)?;
    value.map_or(Ok(()), |value| stream.write_all(value.bytes()))
}

/// Reads one frame; `Ok(None)` where the stream ended before it began.
///
/// # Errors
/// Those of the stream; `InvalidData` where a length is over its limit or the document does not parse.
pub fn read_frame<T: DeserializeOwned>(stream: &mut impl Read) -> io::Result<Option<(T, Option<Plaintext>)>> {
    let mut head = [0; 8];
    match stream.read(&mut head)? {
        0 => return Ok(None),
        got => stream.read_exact(&mut head[got..])?,
    }
    let length = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let document = limited(length(0) as usize, MAX_DOCUMENT)? as usize;
    let value = match length(4) {
        NO_VALUE => None,
        value => Some(limited(value as usize, MAX_VALUE)? as usize),
    };
    let mut json = Vec::with_capacity(document.min(ROOM));
    stream.take(document as u64).read_to_end(&mut json)?;
    if json.len() != document {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let parsed = serde_json::from_slice(&json)?;
    let Some(value) = value else { return Ok(Some((parsed, None))) };
    let mut plaintext = Plaintext::zeroed(value);
    stream.read_exact(plaintext.bytes_mut())?;
    Ok(Some((parsed, Some(plaintext))))
}

fn limited(len: usize, limit: usize) -> io::Result<u32> {
    match u32::try_from(len) {
        Ok(short) if len <= limit => Ok(short),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is over its limit")),
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
        ] {
            assert!(read_frame::<u8>(&mut &bad[..]).is_err(), "{bad:?}");
        }
    }
}
