//! In which forms may a value stand in an output? As it is, line by line, and as programs commonly write text.

use std::collections::BTreeSet;

/// Bytes of a form, at least: what is shorter stands in too much that is no secret.
pub const SHORTEST: usize = 8;
/// Columns that base64(1) and OpenSSL, and `xxd -p`, break their lines after.
const COLUMNS: [usize; 2] = [76, 64];
const HEXADECIMAL_COLUMNS: usize = 60;

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Forms of one value, each once.
#[derive(Default)]
pub(super) struct Forms(BTreeSet<Vec<u8>>);

impl Forms {
    /// The value, without the line feeds that it ends with, and each of its lines, without blanks around it.
    pub(super) fn plain(value: &[u8]) -> Self {
        let mut forms = Self::default();
        forms.add(body(value));
        value.split(|byte| *byte == b'\n').for_each(|line| forms.add(line.trim_ascii()));
        forms
    }

    /// What else may stand for it.
    pub(super) fn encoded(value: &[u8]) -> Self {
        let (mut forms, value) = (Self::default(), body(value));
        if value.len() >= SHORTEST {
            forms.radix(value);
            forms.percent(value);
            forms.json(value);
            forms.shell(value);
            forms.html(value);
        }
        forms
    }

    /// Each of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(Vec::as_slice)
    }

    /// How many bytes all of them have.
    pub(super) fn size(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    fn add(&mut self, form: impl AsRef<[u8]>) {
        if form.as_ref().len() >= SHORTEST {
            self.0.insert(form.as_ref().to_vec());
        }
    }

    /// base64 and base32, behind 0 to 2 (0 to 4) bytes of something else: without the digits that also stand
    /// for bits of its neighbours. And hexadecimal.
    fn radix(&mut self, value: &[u8]) {
        for alphabet in [BASE64, BASE64_URL] {
            (0..3).for_each(|before| self.add(digits(value, before, 6, alphabet)));
            self.add(padded(value, 6, alphabet));
        }
        (0..5).for_each(|before| self.add(digits(value, before, 5, BASE32)));
        self.add(padded(value, 5, BASE32));
        for columns in COLUMNS {
            // In one piece, because its last line may be too short to be a form; and line by line.
            self.add(padded(value, 6, BASE64).chunks(columns).collect::<Vec<_>>().join(&b'\n'));
            digits(value, 0, 6, BASE64).chunks(columns).for_each(|line| self.add(line));
        }
        for digit in [b"0123456789abcdef", b"0123456789ABCDEF"] {
            let all = digits(value, 0, 4, digit);
            all.chunks(HEXADECIMAL_COLUMNS).for_each(|line| self.add(line));
            self.add(all);
        }
    }

    /// As parts of a URL, of a form, of all; and the same once more.
    fn percent(&mut self, value: &[u8]) {
        let kept: [&[u8]; 5] = [b"-_.~", b"-_.~/", b"-_.~!*'()", b"-_.~!*'();,/?:@&=+$#", b"*-._"];
        for upper in [true, false] {
            let hexadecimal = |byte: u8| if upper { format!("%{byte:02X}") } else { format!("%{byte:02x}") };
            for keep in kept {
                let part = |byte: u8| {
                    (!byte.is_ascii_alphanumeric() && !keep.contains(&byte)).then(|| hexadecimal(byte))
                };
                let once = mapped(value, part);
                self.add(mapped(&once, part));
                self.add(once);
            }
            let in_form = |byte: u8| match byte {
                b' ' => Some("+".to_owned()),
                byte => {
                    (!byte.is_ascii_alphanumeric() && !b"-_.~".contains(&byte)).then(|| hexadecimal(byte))
                }
            };
            let form = mapped(value, in_form);
            self.add(mapped(&form, in_form));
            self.add(form);
            let all = mapped(value, |byte| Some(hexadecimal(byte)));
            self.add(mapped(&all, |byte| (byte == b'%').then(|| "%25".to_owned())));
            self.add(all);
        }
    }

    /// In a string of JSON: as little as must be, beyond ASCII too, what HTML takes amiss too, everything.
    fn json(&mut self, value: &[u8]) {
        let text = String::from_utf8_lossy(value);
        let must = |c: char| match c {
            '"' => Some("\\\"".to_owned()),
            '\\' => Some("\\\\".to_owned()),
            '\n' => Some("\\n".to_owned()),
            '\r' => Some("\\r".to_owned()),
            '\t' => Some("\\t".to_owned()),
            '\u{8}' => Some("\\b".to_owned()),
            '\u{c}' => Some("\\f".to_owned()),
            _ => None,
        };
        for upper in [false, true] {
            let unicode = |c: char| Some(utf16(c, upper));
            let beyond = |c: char| (!c.is_ascii() || c.is_ascii_control()).then(|| utf16(c, upper));
            self.add(written(&text, |c| must(c).or_else(|| c.is_ascii_control().then(|| utf16(c, upper)))));
            self.add(written(&text, |c| must(c).or_else(|| beyond(c))));
            self.add(written(&text, |c| {
                must(c).or_else(|| (c == '/').then(|| "\\/".to_owned())).or_else(|| beyond(c))
            }));
            for amiss in ["<>&", "<>&'"] {
                self.add(written(&text, |c| must(c).or_else(|| amiss.contains(c).then(|| utf16(c, upper)))));
            }
            self.add(written(&text, unicode));
        }
    }

    /// In single quotes, two ways; in double quotes; without any; and as `$'…'`.
    fn shell(&mut self, value: &[u8]) {
        let plain =
            |byte: u8| byte.is_ascii_alphanumeric() || !byte.is_ascii() || b"_@%+=:,./-".contains(&byte);
        self.add(mapped(value, |byte| (byte == b'\'').then(|| "'\\''".to_owned())));
        self.add(mapped(value, |byte| (byte == b'\'').then(|| "'\"'\"'".to_owned())));
        let backslash = |byte: u8| Some(format!("\\{}", byte as char));
        self.add(mapped(value, |byte| if b"$`\"\\".contains(&byte) { backslash(byte) } else { None }));
        self.add(mapped(value, |byte| if b"$`\"\\!".contains(&byte) { backslash(byte) } else { None }));
        self.add(mapped(value, |byte| if plain(byte) { None } else { backslash(byte) }));
        self.add(by_bash(value));
        self.add(mapped(value, |byte| match byte {
            b'\n' => Some("\\n".to_owned()),
            b'\t' => Some("\\t".to_owned()),
            b'\r' => Some("\\r".to_owned()),
            b'\'' | b'\\' => backslash(byte),
            _ => None,
        }));
    }

    /// As HTML and XML: what must be, by each of its names, and everything by number.
    fn html(&mut self, value: &[u8]) {
        let text = String::from_utf8_lossy(value);
        for [quote, apostrophe, slash] in [
            ["\"", "'", "/"],
            ["&quot;", "'", "/"],
            ["&quot;", "&#39;", "/"],
            ["&quot;", "&#039;", "/"],
            ["&quot;", "&#x27;", "/"],
            ["&quot;", "&#x27;", "&#x2F;"],
            ["&quot;", "&apos;", "/"],
            ["&#34;", "&#39;", "/"],
        ] {
            self.add(written(&text, |c| match c {
                '&' => Some("&amp;".to_owned()),
                '<' => Some("&lt;".to_owned()),
                '>' => Some("&gt;".to_owned()),
                '"' => Some(quote.to_owned()),
                '\'' => Some(apostrophe.to_owned()),
                '/' => Some(slash.to_owned()),
                _ => None,
            }));
        }
        self.add(written(&text, |c| Some(format!("&#{};", u32::from(c)))));
        self.add(written(&text, |c| Some(format!("&#x{:x};", u32::from(c)))));
        self.add(written(&text, |c| Some(format!("&#x{:X};", u32::from(c)))));
    }
}

/// The value as programs hand it on: without the line feeds at its end.
fn body(value: &[u8]) -> &[u8] {
    let end = value.iter().rposition(|byte| !b"\r\n".contains(byte)).map_or(0, |last| last + 1);
    &value[..end]
}

/// The digits of `width` bits that stand for nothing but bits of the value, which begins `before` bytes into
/// what is written.
fn digits(value: &[u8], before: usize, width: usize, alphabet: &[u8]) -> Vec<u8> {
    let (first, end) = ((8 * before).div_ceil(width), 8 * (before + value.len()) / width);
    let bit = |at: usize| value[at / 8 - before] >> (7 - at % 8) & 1;
    (first..end.max(first))
        .map(|digit| {
            let number = (digit * width..(digit + 1) * width).fold(0, |number, at| number << 1 | bit(at));
            alphabet[usize::from(number)]
        })
        .collect()
}

/// The value alone: with the last digit, whose other bits are 0, and padding to whole groups (RFC 4648).
fn padded(value: &[u8], width: usize, alphabet: &[u8]) -> Vec<u8> {
    let group = if width == 6 { 4 } else { 8 };
    let mut longer = value.to_vec();
    longer.push(0);
    let mut all = digits(&longer, 0, width, alphabet);
    all.truncate((8 * value.len()).div_ceil(width));
    all.resize(all.len().next_multiple_of(group), b'=');
    all
}

/// One code unit of UTF-16 after the other, as JSON and JavaScript write them.
fn utf16(c: char, upper: bool) -> String {
    let mut units = [0; 2];
    let units = c.encode_utf16(&mut units).iter().map(|unit| match upper {
        true => format!("\\u{unit:04X}"),
        false => format!("\\u{unit:04x}"),
    });
    units.collect()
}

/// As bash's `printf %q` has it (sh_backslash_quote, lib/sh/shquote.c): a comma has a backslash, a tilde only where a
/// word could begin, and a '#' at the beginning, where the rest is masked all the same.
fn by_bash(value: &[u8]) -> Vec<u8> {
    let mut before = 0;
    let mut word = Vec::with_capacity(2 * value.len());
    for byte in value {
        let special = match byte {
            b'~' => b":=".contains(&before),
            byte => b" !\"$&'()*,;<>?[\\]^`{|}".contains(byte),
        };
        word.extend(special.then_some(b'\\'));
        word.push(*byte);
        before = *byte;
    }
    word
}

fn mapped(value: &[u8], other: impl Fn(u8) -> Option<String>) -> Vec<u8> {
    value.iter().flat_map(|byte| other(*byte).map_or_else(|| vec![*byte], String::into_bytes)).collect()
}

fn written(text: &str, other: impl Fn(char) -> Option<String>) -> Vec<u8> {
    let mut all = String::with_capacity(text.len());
    text.chars().for_each(|c| match other(c) {
        Some(instead) => all.push_str(&instead),
        None => all.push(c),
    });
    all.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(forms: &Forms, form: &str) -> bool {
        forms.iter().any(|known| known == form.as_bytes())
    }

    #[test]
    fn r02_the_encodings_are_those_of_other_programs() {
        // As Python's base64, binascii, urllib.parse, json, shlex and html have them.
        let forms = Forms::encoded(b"s3cr&t/+'\"<ok>\\ \xc3\xa9");
        for form in [
            "czNjciZ0LysnIjxvaz5cIMOp",
            "OMZWG4RGOQXSWJZCHRXWWPS4EDB2S===",
            "7333637226742f2b27223c6f6b3e5c20c3a9",
            "s3cr%26t%2F%2B%27%22%3Cok%3E%5C%20%C3%A9",
            "s3cr%26t/%2B%27%22%3Cok%3E%5C%20%C3%A9",
            "s3cr%2526t%252F%252B%2527%2522%253Cok%253E%255C%2520%25C3%25A9",
            "s3cr%26t%2F%2B%27%22%3Cok%3E%5C+%C3%A9",
            "s3cr&t/+'\\\"<ok>\\\\ \\u00e9",
            "s3cr&t/+'\"'\"'\"<ok>\\ é",
            "s3cr&amp;t/+&#x27;&quot;&lt;ok&gt;\\ é",
        ] {
            assert!(has(&forms, form), "{form}");
        }
    }

    #[test]
    fn r02_base64_is_found_behind_any_bytes() {
        let value = b"correct horse battery";
        let forms = Forms::encoded(value);
        for before in 0..6_usize {
            for after in 0..4_usize {
                let text = [&vec![b'x'; before][..], value, &vec![b'y'; after][..]].concat();
                let all = String::from_utf8(padded(&text, 6, BASE64)).unwrap();
                let longest =
                    forms.iter().filter(|form| all.as_bytes().windows(form.len()).any(|part| part == *form));
                let longest = longest.map(<[u8]>::len).max().unwrap_or(0);
                assert!(longest >= 8 * value.len() / 6 - 1, "{before} {after}: {longest}");
            }
        }
    }

    #[test]
    fn r03_a_key_has_its_lines() {
        let forms = Forms::plain(b"-----BEGIN KEY-----\r\n  MIIBVgIBADAN\nshort\n-----END KEY-----\n");
        for line in ["-----BEGIN KEY-----", "MIIBVgIBADAN", "-----END KEY-----"] {
            assert!(has(&forms, line), "{line}");
        }
        assert!(!has(&forms, "short"));
    }

    #[test]
    fn r04_what_is_short_has_no_form() {
        for value in [&b""[..], b"{", b"true", b"1234567", b"1234567\n", b"a\nb\nc\nd\n"] {
            assert_eq!(Forms::encoded(value).size(), 0, "{value:?}");
        }
        assert_eq!(Forms::plain(b"1234567\n").size(), 0);
        assert_eq!(Forms::plain(b"12345678").size(), 8);
    }
}
