//! In which forms may a value stand in an output? As it is, line by line, and as programs commonly write text.

use std::collections::BTreeMap;

/// Bytes of a form, at least: what is shorter stands in too much that is no secret.
pub const SHORTEST: usize = 8;
/// Columns that base64(1) and OpenSSL, and `xxd -p`, break their lines after.
const COLUMNS: [usize; 2] = [76, 64];
const HEXADECIMAL_COLUMNS: [usize; 2] = [60, 2 * DUMPED];
/// Bytes in a row of `xxd`, `hexdump -C` and `od`.
const DUMPED: usize = 16;

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// What stands between two parts of a form that a program broke: fold(1) and base64(1), with CRLF too; `grep --color`
/// before and behind what it found.
const BREAKS: [&[u8]; 4] = [b"\n", b"\r\n", b"\x1b[01;31m", b"\x1b[m\x1b[K"];

/// Where a form comes from, and so what may stand in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The value itself, or digits that stand for it: often in lines of some width.
    Broken,
    /// Hexadecimal digits: in lines, and in groups with a blank between.
    Hexadecimal,
    /// Escaped in some way.
    Written,
}

/// How a form is matched, beside its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    pub(super) kind: Kind,
    /// Bytes of the form that stand for at least 8 of the value. Nothing that is seen depends on less.
    pub(super) step: u16,
    /// From how many bytes on the beginning alone is masked: a multiple of `step`.
    pub(super) first: u16,
}

/// Forms of one value, each once.
#[derive(Default)]
pub(super) struct Forms {
    all: BTreeMap<Vec<u8>, How>,
    /// The value has parts: its beginning is often no secret.
    document: bool,
    /// Bytes of what the forms stand for.
    length: usize,
}

/// The widest step: `&#x41;` for a byte.
const WIDEST: usize = 48;
/// Bytes of a document that are masked where it was cut off.
const BEGINNING: usize = 64;

impl Forms {
    /// The value, without the line feeds that it ends with, and each of its lines, without blanks around it.
    pub(super) fn plain(value: &[u8], document: bool) -> Self {
        let mut forms = Self { document, ..Self::default() };
        forms.stand_for(body(value)).add(Kind::Broken, body(value));
        for line in value.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
            forms.stand_for(line).add(Kind::Broken, line);
        }
        forms
    }

    /// What else may stand for it.
    pub(super) fn encoded(value: &[u8], document: bool) -> Self {
        let (mut forms, value) = (Self { document, ..Self::default() }, body(value));
        if value.len() >= SHORTEST {
            forms.stand_for(value).radix(value);
            // What has nothing to escape is written as it is.
            let plain = value.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(byte));
            forms.percent(value, plain);
            forms.json(value, plain);
            forms.html(value, plain);
            if !plain {
                forms.shell(value);
            }
        }
        forms
    }

    /// Each of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], How)> {
        self.all.iter().map(|(form, how)| (form.as_slice(), *how))
    }

    /// How many bytes all of them have.
    pub(super) fn size(&self) -> usize {
        self.all.keys().map(Vec::len).sum()
    }

    fn stand_for(&mut self, part: &[u8]) -> &mut Self {
        self.length = part.len().max(1);
        self
    }

    fn add(&mut self, kind: Kind, form: impl AsRef<[u8]>) {
        let form = form.as_ref();
        if form.len() >= SHORTEST && !self.all.contains_key(form) {
            let how = self.how(kind, form);
            self.all.insert(form.to_vec(), how);
        }
    }

    /// The beginning of a word of prose, of a scheme, of a PEM file is no secret: unless letters and digits are mixed
    /// it has to be twice as long.
    fn how(&self, kind: Kind, form: &[u8]) -> How {
        let step = (SHORTEST * form.len()).div_ceil(self.length).next_multiple_of(SHORTEST).min(WIDEST);
        let head = &form[..SHORTEST];
        let first = match (self.document, is_mixed(head)) {
            (true, _) => BEGINNING.next_multiple_of(step),
            (false, true) => step,
            (false, false) => 2 * step,
        };
        let narrow = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX);
        How { kind, step: narrow(step), first: narrow(first) }
    }

    /// base64 and base32, behind 0 to 2 (0 to 4) bytes of something else: without the digits that also stand
    /// for bits of its neighbours. And hexadecimal.
    fn radix(&mut self, value: &[u8]) {
        // That of URLs is not broken into lines, nor is base32.
        for (alphabet, kind) in [(BASE64, Kind::Broken), (BASE64_URL, Kind::Written)] {
            (0..3).for_each(|before| self.add(kind, digits(value, before, 6, alphabet)));
            self.add(kind, padded(value, 6, alphabet));
        }
        (0..5).for_each(|before| self.add(Kind::Written, digits(value, before, 5, BASE32)));
        self.add(Kind::Written, padded(value, 5, BASE32));
        // The first line or row alone is masked as what was cut off is.
        let skipped = usize::from(!self.document);
        for columns in COLUMNS {
            let lines = digits(value, 0, 6, BASE64);
            lines.chunks(columns).skip(skipped).for_each(|line| self.add(Kind::Broken, line));
        }
        for digit in [b"0123456789abcdef", b"0123456789ABCDEF"] {
            let all = digits(value, 0, 4, digit);
            for columns in HEXADECIMAL_COLUMNS {
                all.chunks(columns).skip(skipped).for_each(|line| self.add(Kind::Hexadecimal, line));
            }
            self.add(Kind::Hexadecimal, all);
        }
        // The column of text in a dump: a '.' for what is not printable.
        let rows = if self.document { &[] } else { value };
        for row in rows.chunks(DUMPED).skip(1).filter(|row| is_mixed(row)) {
            let shown = |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { *byte } else { b'.' };
            self.add(Kind::Written, row.iter().map(shown).collect::<Vec<_>>());
        }
    }

    /// As parts of a URL, of a form, of all; and the same once more.
    fn percent(&mut self, value: &[u8], plain: bool) {
        // The last three: JavaScript's escape(); WHATWG's password of a URL, and its query.
        let kept: [&[u8]; 8] = [
            b"-_.~",
            b"-_.~/",
            b"-_.~!*'()",
            b"-_.~!*'();,/?:@&=+$#",
            b"*-._",
            b"@*_+-./",
            b"-_.~!$&'()*+,%",
            b"!$%&()*+,-./:;=?@[\\]^_`{|}~",
        ];
        // Of a form: RFC 3986 and Python; PHP; WHATWG, so browsers and Node; Java; Ruby's and Go's keep the first.
        let in_form: [&[u8]; 4] = [b"-_.~", b"-_.", b"*-._", b"*-._~"];
        for upper in [true, false] {
            let hexadecimal = |byte: u8| if upper { format!("%{byte:02X}") } else { format!("%{byte:02x}") };
            let is_kept = |byte: u8, keep: &[u8]| byte.is_ascii_alphanumeric() || keep.contains(&byte);
            for keep in kept.iter().copied().filter(|_| !plain) {
                let part = |byte: u8| (!is_kept(byte, keep)).then(|| hexadecimal(byte));
                let once = mapped(value, part);
                self.add(Kind::Written, mapped(&once, part));
                self.add(Kind::Written, once);
            }
            for keep in in_form.iter().copied().filter(|_| !plain) {
                let part = |byte: u8| match byte {
                    b' ' => Some("+".to_owned()),
                    byte => (!is_kept(byte, keep)).then(|| hexadecimal(byte)),
                };
                let once = mapped(value, part);
                self.add(Kind::Written, mapped(&once, part));
                self.add(Kind::Written, once);
            }
            let all = mapped(value, |byte| Some(hexadecimal(byte)));
            self.add(Kind::Written, mapped(&all, |byte| (byte == b'%').then(|| "%25".to_owned())));
            self.add(Kind::Written, all);
        }
    }

    /// In a string of JSON: as little as must be, beyond ASCII too, what HTML takes amiss too, everything.
    /// And each of those but the last in a string of JSON once more.
    fn json(&mut self, value: &[u8], plain: bool) {
        let text = String::from_utf8_lossy(value);
        for upper in [false, true] {
            self.add(Kind::Written, written(&text, |c| Some(utf16(c, upper))));
            if plain {
                continue;
            }
            let beyond = |c: char| (!c.is_ascii() || c.is_ascii_control()).then(|| utf16(c, upper));
            let amiss = |c: char, which: &str| which.contains(c).then(|| utf16(c, upper));
            let ways: [&dyn Fn(char) -> Option<String>; 5] = [
                &|c| c.is_ascii_control().then(|| utf16(c, upper)),
                &beyond,
                &|c| (c == '/').then(|| "\\/".to_owned()).or_else(|| beyond(c)),
                &|c| amiss(c, "<>&"),
                &|c| amiss(c, "<>&'"),
            ];
            for way in ways {
                let once = written(&text, |c| must(c).or_else(|| way(c)));
                let twice = String::from_utf8_lossy(&once).into_owned();
                self.add(Kind::Written, written(&twice, |c| must(c).or_else(|| way(c))));
                self.add(Kind::Written, once);
            }
        }
    }

    /// In single quotes, two ways; in double quotes; without any; as `$'…'`; and as a string of JavaScript, Python,
    /// PHP, Perl, TOML in any of three quotes.
    fn shell(&mut self, value: &[u8]) {
        let plain =
            |byte: u8| byte.is_ascii_alphanumeric() || !byte.is_ascii() || b"_@%+=:,./-".contains(&byte);
        self.add(Kind::Written, mapped(value, |byte| (byte == b'\'').then(|| "'\\''".to_owned())));
        self.add(Kind::Written, mapped(value, |byte| (byte == b'\'').then(|| "'\"'\"'".to_owned())));
        let backslash = |byte: u8| Some(format!("\\{}", byte as char));
        self.add(
            Kind::Written,
            mapped(value, |byte| if b"$`\"\\".contains(&byte) { backslash(byte) } else { None }),
        );
        self.add(
            Kind::Written,
            mapped(value, |byte| if b"$`\"\\!".contains(&byte) { backslash(byte) } else { None }),
        );
        self.add(Kind::Written, mapped(value, |byte| if plain(byte) { None } else { backslash(byte) }));
        self.add(Kind::Written, by_bash(value));
        for quotes in [&b"'"[..], b"\"", b"`", b""] {
            for beyond in [false, true] {
                self.add(
                    Kind::Written,
                    mapped(value, |byte| match byte {
                        b'\n' => Some("\\n".to_owned()),
                        b'\t' => Some("\\t".to_owned()),
                        b'\r' => Some("\\r".to_owned()),
                        b'\\' => backslash(byte),
                        _ if quotes.contains(&byte) => backslash(byte),
                        _ if beyond && !(b' '..=b'~').contains(&byte) => Some(format!("\\x{byte:02x}")),
                        _ => None,
                    }),
                );
            }
        }
        // Perl's and Ruby's: what would be a variable too.
        self.add(
            Kind::Written,
            mapped(value, |byte| if b"$@\"\\".contains(&byte) { backslash(byte) } else { None }),
        );
        self.add(
            Kind::Written,
            mapped(value, |byte| if b"'\\".contains(&byte) { backslash(byte) } else { None }),
        );
    }

    /// As HTML and XML: what must be, by each of its names, and everything by number.
    fn html(&mut self, value: &[u8], plain: bool) {
        let text = String::from_utf8_lossy(value);
        self.add(Kind::Written, written(&text, |c| Some(format!("&#{};", u32::from(c)))));
        self.add(Kind::Written, written(&text, |c| Some(format!("&#x{:x};", u32::from(c)))));
        self.add(Kind::Written, written(&text, |c| Some(format!("&#x{:X};", u32::from(c)))));
        if plain {
            return;
        }
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
            self.add(
                Kind::Written,
                written(&text, |c| match c {
                    '&' => Some("&amp;".to_owned()),
                    '<' => Some("&lt;".to_owned()),
                    '>' => Some("&gt;".to_owned()),
                    '"' => Some(quote.to_owned()),
                    '\'' => Some(apostrophe.to_owned()),
                    '/' => Some(slash.to_owned()),
                    _ => None,
                }),
            );
        }
    }
}

/// Whether it has letters and digits, or capitals behind small letters, as words of prose have not.
fn is_mixed(text: &[u8]) -> bool {
    let rises = |pair: &[u8]| pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase();
    let digits = text.iter().any(u8::is_ascii_digit) && text.iter().any(u8::is_ascii_alphabetic);
    digits || text.windows(2).any(rises)
}

/// The first 8 bytes of a text that a form begins in: its own, and what they are where it was broken within them.
pub(super) fn heads(form: &[u8], kind: Kind, mut each: impl FnMut([u8; SHORTEST])) {
    let Some(own) = form.first_chunk::<SHORTEST>() else { return };
    each(*own);
    let mut broken = |at: usize, by: &[u8]| {
        let mut head = *own;
        let all = form[..at].iter().chain(by).chain(&form[at..]);
        head.iter_mut().zip(all).for_each(|(to, from)| *to = *from);
        each(head);
    };
    match kind {
        Kind::Broken => (1..SHORTEST).for_each(|at| BREAKS.iter().for_each(|by| broken(at, by))),
        Kind::Hexadecimal => {
            (1..SHORTEST).for_each(|at| BREAKS[..2].iter().for_each(|by| broken(at, by)));
            // Groups of two bytes, of which the first may be cut in half; and of one.
            broken(4, b" ");
            for groups in [[2, 6], [2, 4]] {
                let mut head = [b' '; SHORTEST];
                let [one, two] = groups;
                let pieces = [&own[..one], b" ", &own[one..two], b" ", &own[two..]].concat();
                head.copy_from_slice(&pieces[..SHORTEST]);
                each(head);
            }
        }
        Kind::Written => {}
    }
}

/// What JSON does not let stand in a string, by the names that it has.
fn must(c: char) -> Option<String> {
    let name = match c {
        '"' => "\\\"",
        '\\' => "\\\\",
        '\n' => "\\n",
        '\r' => "\\r",
        '\t' => "\\t",
        '\u{8}' => "\\b",
        '\u{c}' => "\\f",
        _ => return None,
    };
    Some(name.to_owned())
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
    let mut all = Vec::with_capacity(value.len());
    for byte in value {
        match other(*byte) {
            Some(instead) => all.extend_from_slice(instead.as_bytes()),
            None => all.push(*byte),
        }
    }
    all
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
        forms.iter().any(|(known, _)| known == form.as_bytes())
    }

    #[test]
    fn r02_the_encodings_are_those_of_other_programs() {
        // As Python's base64, binascii, urllib.parse, json, shlex and html have them.
        let forms = Forms::encoded(b"s3cr&t/+'\"<ok>\\ \xc3\xa9", false);
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
        let forms = Forms::encoded(value, false);
        for before in 0..6_usize {
            for after in 0..4_usize {
                let text = [&vec![b'x'; before][..], value, &vec![b'y'; after][..]].concat();
                let all = String::from_utf8(padded(&text, 6, BASE64)).unwrap();
                let longest = forms
                    .iter()
                    .map(|(form, _)| form)
                    .filter(|form| all.as_bytes().windows(form.len()).any(|part| part == *form));
                let longest = longest.map(<[u8]>::len).max().unwrap_or(0);
                assert!(longest >= 8 * value.len() / 6 - 1, "{before} {after}: {longest}");
            }
        }
    }

    #[test]
    fn r03_a_key_has_its_lines() {
        let forms = Forms::plain(b"-----BEGIN KEY-----\r\n  MIIBVgIBADAN\nshort\n-----END KEY-----\n", false);
        for line in ["-----BEGIN KEY-----", "MIIBVgIBADAN", "-----END KEY-----"] {
            assert!(has(&forms, line), "{line}");
        }
        assert!(!has(&forms, "short"));
    }

    #[test]
    fn r04_what_is_short_has_no_form() {
        for value in [&b""[..], b"{", b"true", b"1234567", b"1234567\n", b"a\nb\nc\nd\n"] {
            assert_eq!(Forms::encoded(value, false).size(), 0, "{value:?}");
        }
        assert_eq!(Forms::plain(b"1234567\n", false).size(), 0);
        assert_eq!(Forms::plain(b"12345678", false).size(), 8);
    }
}
