//! How is text of any origin written, so that a line is JSON and harmless on a terminal?

use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of `2026-11-23T05:46:48.000000Z`, the form of every time in the record. It sorts as text.
pub(super) const TIME_LEN: usize = 27;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Members of one JSON object, written one after the other: `,"key":value`.
///
/// Whatever goes in, printable ASCII comes out: everything else is `\uXXXX`, bytes that are not UTF-8
/// are `\\xNN`. So no control, C1, bidi or zero-width character reaches a terminal.
#[derive(Debug)]
pub(super) struct Members<'a>(pub(super) &'a mut Vec<u8>);

impl Members<'_> {
    fn key(&mut self, key: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    /// A word of ours: printable ASCII without quotes or backslashes.
    pub(super) fn word(&mut self, key: &str, word: &str) {
        debug_assert!(word.bytes().all(is_plain));
        self.key(key);
        self.0.push(b'"');
        self.0.extend_from_slice(word.as_bytes());
        self.0.push(b'"');
    }

    /// Text of any origin, at most `limit` bytes of it once escaped.
    pub(super) fn text(&mut self, key: &str, text: &[u8], limit: usize) {
        self.key(key);
        quoted(self.0, text, limit);
    }

    /// Text, or null.
    pub(super) fn maybe_text(&mut self, key: &str, text: Option<&[u8]>, limit: usize) {
        match text {
            Some(text) => self.text(key, text, limit),
            None => self.null(key),
        }
    }

    /// A number.
    pub(super) fn number(&mut self, key: &str, number: u64) {
        self.key(key);
        decimal(self.0, number);
    }

    /// A number, or null.
    pub(super) fn maybe_number(&mut self, key: &str, number: Option<u64>) {
        match number {
            Some(number) => self.number(key, number),
            None => self.null(key),
        }
    }

    /// True or false.
    pub(super) fn flag(&mut self, key: &str, flag: bool) {
        self.raw(key, if flag { b"true" } else { b"false" });
    }

    /// Bytes, as a text of lower-case hexadecimal digits.
    pub(super) fn hexadecimal(&mut self, key: &str, bytes: &[u8]) {
        self.raw(key, b"\"");
        hex(self.0, bytes);
        self.0.push(b'"');
    }

    /// Nothing.
    pub(super) fn null(&mut self, key: &str) {
        self.raw(key, b"null");
    }

    /// A value that is JSON already.
    pub(super) fn raw(&mut self, key: &str, json: &[u8]) {
        self.key(key);
        self.0.extend_from_slice(json);
    }

    /// A wall-clock time.
    pub(super) fn time(&mut self, key: &str, time: SystemTime) {
        self.key(key);
        self.0.push(b'"');
        self.0.extend_from_slice(&utc(time));
        self.0.push(b'"');
    }

    /// An object of texts, as many as fit into `limit` bytes; how many did not is returned.
    pub(super) fn map<'t>(
        &mut self,
        key: &str,
        entries: impl Iterator<Item = (&'t str, &'t str)>,
        limit: usize,
    ) -> u64 {
        self.key(key);
        self.0.push(b'{');
        let (start, mut elided) = (self.0.len(), 0);
        for (name, value) in entries {
            let before = self.0.len();
            if before > start {
                self.0.push(b',');
            }
            quoted(self.0, name.as_bytes(), usize::MAX);
            self.0.push(b':');
            quoted(self.0, value.as_bytes(), usize::MAX);
            if self.0.len() - start > limit {
                self.0.truncate(before);
                elided += 1;
            }
        }
        self.0.push(b'}');
        elided
    }
}

/// What JSON and terminals take as it is.
const fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

/// A JSON string of at most `limit` bytes between its quotes; where more was cut, it ends in `…`.
pub(super) fn quoted(out: &mut Vec<u8>, text: &[u8], limit: usize) {
    out.push(b'"');
    if text.len() <= limit && text.iter().copied().all(is_plain) {
        out.extend_from_slice(text);
    } else {
        escaped(out, text, limit);
    }
    out.push(b'"');
}

fn escaped(out: &mut Vec<u8>, text: &[u8], limit: usize) {
    const CUT: &[u8] = b"\\u2026";
    let (start, mut fits) = (out.len(), out.len());
    for chunk in text.utf8_chunks() {
        let bad = chunk.invalid().iter().map(|byte| Piece::Byte(*byte));
        for piece in chunk.valid().chars().map(Piece::Char).chain(bad) {
            piece.write(out);
            if out.len() - start > limit {
                out.truncate(fits);
                out.extend_from_slice(CUT);
                return;
            }
            if out.len() - start + CUT.len() <= limit {
                fits = out.len();
            }
        }
    }
}

enum Piece {
    Char(char),
    Byte(u8),
}

impl Piece {
    fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Char(c @ ('"' | '\\')) => out.extend_from_slice(&[b'\\', c as u8]),
            Self::Char(c) if c.is_ascii() && is_plain(c as u8) => out.push(c as u8),
            Self::Char(c) => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                out.extend_from_slice(b"\\u");
                hex(out, &unit.to_be_bytes());
            }),
            Self::Byte(byte) => {
                out.extend_from_slice(b"\\\\x");
                hex(out, &[byte]);
            }
        }
    }
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + 2 * bytes.len(), 0);
    for (pair, byte) in out[start..].chunks_exact_mut(2).zip(bytes) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 15)];
    }
}

/// Reads what [`hex`] wrote.
pub(super) fn unhex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// Decimal digits.
pub(super) fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut text = [0; 20];
    let mut start = text.len();
    loop {
        start -= 1;
        text[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break out.extend_from_slice(&text[start..]);
        }
    }
}

/// RFC 3339, UTC, microseconds. Years beyond four digits are shown as the last moment of 9999.
pub(super) fn utc(time: SystemTime) -> [u8; TIME_LEN] {
    const LAST: u64 = 253_402_300_799;
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, micros) = match since.as_secs() {
        seconds if seconds > LAST => (LAST, 999_999),
        seconds => (seconds, since.subsec_micros()),
    };
    let (year, month, day) = civil(seconds / 86_400);
    let of_day = (seconds % 86_400) as u32;
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    digits(&mut text[0..4], year);
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], day);
    digits(&mut text[11..13], of_day / 3600);
    digits(&mut text[14..16], of_day / 60 % 60);
    digits(&mut text[17..19], of_day % 60);
    digits(&mut text[20..26], micros);
    text
}

fn digits(out: &mut [u8], mut number: u32) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Year, month and day of the proleptic Gregorian calendar, from days since 1970-01-01 (Howard
/// Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`).
fn civil(days: u64) -> (u32, u32, u32) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year as u32, month as u32, day as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::time::Duration;

    use super::*;

    fn json(text: &[u8], limit: usize) -> String {
        let mut out = Vec::new();
        quoted(&mut out, text, limit);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn l11_hostile_text_is_escaped() {
        for (text, expected) in [
            (&b"plain text"[..], r#""plain text""#),
            (b"a\nb\x1b[31m\x7f\0", r#""a\u000ab\u001b[31m\u007f\u0000""#),
            ("\u{9b}\u{202e}\u{200b}ж😀".as_bytes(), r#""\u009b\u202e\u200b\u0436\ud83d\ude00""#),
            (b"\"\\", r#""\"\\""#),
            (b"a\xff\xfe", r#""a\\xff\\xfe""#),
        ] {
            assert_eq!(json(text, 1000), expected);
        }
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(json(b"0123456789", 10), r#""0123456789""#);
        assert_eq!(json(b"0123456789a", 10), r#""0123\u2026""#);
        assert_eq!(json("жжж".as_bytes(), 12), r#""\u0436\u2026""#);
    }

    #[test]
    fn a_map_says_how_many_did_not_fit() {
        let mut out = Vec::new();
        let entries = [("a", "1"), ("b", "2"), ("c", "3")];
        let elided = Members(&mut out).map("m", entries.into_iter(), 15);
        assert_eq!((String::from_utf8(out).unwrap().as_str(), elided), (r#","m":{"a":"1","b":"2"}"#, 1));
    }

    proptest! {
        #[test]
        fn any_text_is_plain_json_within_its_limit(text: Vec<u8>, limit in 6usize..200) {
            let out = json(&text, limit);
            prop_assert!(out.len() <= limit + 2);
            prop_assert!(out.bytes().all(|b| (b' '..=b'~').contains(&b)));
            serde_json::from_str::<String>(&out).unwrap();
        }

        #[test]
        fn text_that_fits_reads_back(text: String) {
            prop_assert_eq!(serde_json::from_str::<String>(&json(text.as_bytes(), usize::MAX)).unwrap(), text);
        }

        #[test]
        fn times_agree_with_jiff(seconds in 0u64..253_402_300_800, micros in 0u32..1_000_000) {
            let time = UNIX_EPOCH + Duration::new(seconds, micros * 1000);
            let expected = jiff::Timestamp::try_from(time).map(|time| format!("{time:.6}"));
            // jiff's last moment is some hours before the end of 9999.
            if let Ok(expected) = expected {
                prop_assert_eq!(String::from_utf8(utc(time).to_vec()).unwrap(), expected);
            }
        }

        #[test]
        fn numbers_agree_with_rust(number: u64, shift in 0u32..64) {
            let mut out = Vec::new();
            decimal(&mut out, number >> shift);
            prop_assert_eq!(String::from_utf8(out).unwrap(), (number >> shift).to_string());
        }

        #[test]
        fn hexadecimal_reads_back(bytes: [u8; 8]) {
            let mut out = Vec::new();
            hex(&mut out, &bytes);
            prop_assert_eq!(unhex::<8>(&out), Some(bytes));
            prop_assert_eq!(unhex::<7>(&out), None);
        }
    }
}
