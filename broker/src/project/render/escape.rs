//! How is a value written so that a reader of this syntax reads the same value back? What cannot be is refused.

use base64ct::{Base64, Encoding};

use crate::Plaintext;

/// A way to write a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// For a `.env` file: as sh(1) and dotenv readers take it.
    Dotenv,
    /// A string of JSON, quotes included (RFC 8259).
    Json,
    /// A double-quoted scalar of YAML 1.2.
    Yaml,
    /// A basic string of TOML 1.0.
    Toml,
    /// What follows `key = ` on its line.
    Ini,
    /// One word of a POSIX shell.
    Shell,
    /// A part of a URL: all but the unreserved characters percent-encoded (RFC 3986).
    Url,
    /// Base64 with padding (RFC 4648).
    Base64,
    /// Without blanks and line ends before and after.
    Trim,
    /// One word of a `.netrc`.
    Netrc,
    /// One field of a `.pgpass`.
    Pgpass,
    /// A token that needs no quotes anywhere.
    Token,
    /// A name before a colon.
    User,
}

/// Those that a template may name.
pub(super) const FILTERS: [(&str, Escape); 9] = [
    ("dotenv", Escape::Dotenv),
    ("json", Escape::Json),
    ("yaml", Escape::Yaml),
    ("toml", Escape::Toml),
    ("ini", Escape::Ini),
    ("shell", Escape::Shell),
    ("url", Escape::Url),
    ("base64", Escape::Base64),
    ("trim", Escape::Trim),
];

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Takes the bytes one piece after the other.
type Sink<'s> = &'s mut dyn FnMut(&[u8]);

impl Escape {
    /// The value, written: in locked memory, and nowhere else.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn apply(self, value: &[u8]) -> Result<Plaintext, &'static str> {
        self.check(value)?;
        let mut len = 0;
        self.write(value, &mut |bytes| len += bytes.len());
        let (mut written, mut at) = (Plaintext::zeroed(len), 0);
        self.write(value, &mut |bytes| {
            written.bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        });
        Ok(written)
    }

    fn check(self, value: &[u8]) -> Result<(), &'static str> {
        let has = |bad: &[u8]| value.iter().any(|byte| bad.contains(byte));
        let control = || value.iter().any(|byte| *byte < b' ' || *byte == 0x7f);
        match self {
            Self::Url | Self::Base64 | Self::Trim => Ok(()),
            Self::Json | Self::Yaml | Self::Toml => utf8(value),
            Self::Shell if has(b"\0") => Err("it has a NUL byte"),
            Self::Shell => Ok(()),
            Self::Dotenv if has(b"\0") => Err("it has a NUL byte"),
            Self::Dotenv => utf8(value),
            Self::Pgpass if has(b"\0\n\r") => Err("it has a line end or a NUL byte"),
            Self::Pgpass => Ok(()),
            Self::Ini | Self::Netrc if control() => Err("it has a line end or a control character"),
            Self::Ini => ini(value),
            Self::Netrc if value.is_empty() => Err("it is empty"),
            Self::Netrc => utf8(value),
            Self::Token if value.is_empty() || !value.iter().all(|byte| is_token(*byte)) => {
                Err("it is not made of letters, digits and -._~+/= alone")
            }
            Self::Token => Ok(()),
            Self::User if has(b":") => Err("it has a colon"),
            Self::User => Ok(()),
        }
    }

    fn write(self, value: &[u8], out: Sink<'_>) {
        let text = || std::str::from_utf8(value).unwrap_or_default();
        match self {
            Self::Dotenv => dotenv(value, out),
            Self::Json => quoted(text(), out, |c| c < ' ', json_escape),
            Self::Yaml => quoted(text(), out, yaml_special, json_escape),
            Self::Toml => quoted(text(), out, |c| c < ' ' || c == '\u{7f}', json_escape),
            Self::Shell => shell(value, out),
            Self::Url => value.iter().for_each(|byte| percent(*byte, out)),
            Self::Base64 => base64(value, out),
            Self::Trim => out(value.trim_ascii()),
            Self::Netrc => netrc(value, out),
            Self::Pgpass => with_backslashes(value, b":\\", out),
            Self::Ini | Self::Token | Self::User => out(value),
        }
    }
}

fn utf8(value: &[u8]) -> Result<(), &'static str> {
    std::str::from_utf8(value).map(drop).map_err(|_| "it is not UTF-8")
}

/// There is no quoting that all readers of INI files share; of what follows the equals sign all take away blanks
/// at both ends, and many a comment after a blank.
fn ini(value: &[u8]) -> Result<(), &'static str> {
    utf8(value)?;
    if value.trim_ascii() != value {
        return Err("it begins or ends with a blank");
    }
    let begins_comment = |pair: &[u8]| pair[0].is_ascii_whitespace() && matches!(pair[1], b'#' | b';');
    if value.windows(2).any(begins_comment) || value.first().is_some_and(|byte| b"#;\"'".contains(byte)) {
        return Err("it has what readers of INI files take for a comment or a quote");
    }
    Ok(())
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)
}

/// In single quotes all is literal, for sh and for dotenv readers. A value with a single quote in it is put in
/// double quotes where nothing else in it has a meaning there; else quotes and backslashes stand outside of quotes,
/// as for sh. A backslash before a closing quote would hold that open for some readers.
fn dotenv(value: &[u8], out: Sink<'_>) {
    let has = |special: &[u8]| value.iter().any(|byte| special.contains(byte));
    if !has(b"'") && value.last() != Some(&b'\\') {
        return shell(value, out);
    }
    if !has(b"\"$`\\") {
        out(b"\"");
        out(value);
        return out(b"\"");
    }
    let outside = |byte: &u8| matches!(byte, b'\'' | b'\\');
    for run in value.chunk_by(|one, other| !outside(one) && !outside(other)) {
        match run {
            b"'" => out(b"\\'"),
            b"\\" => out(b"\\\\"),
            run => shell(run, out),
        }
    }
}

fn shell(value: &[u8], out: Sink<'_>) {
    out(b"'");
    for (index, part) in value.split(|byte| *byte == b'\'').enumerate() {
        if index > 0 {
            out(b"'\\''");
        }
        out(part);
    }
    out(b"'");
}

/// Between double quotes; `escape` writes what is `special`.
fn quoted(text: &str, out: Sink<'_>, special: fn(char) -> bool, escape: fn(char, Sink<'_>)) {
    out(b"\"");
    let mut plain = 0;
    for (at, c) in text.char_indices().filter(|(_, c)| matches!(c, '"' | '\\') || special(*c)) {
        out(&text.as_bytes()[plain..at]);
        escape(c, out);
        plain = at + c.len_utf8();
    }
    out(&text.as_bytes()[plain..]);
    out(b"\"");
}

/// The escapes that JSON, YAML and TOML share. All that comes here is in the first plane.
fn json_escape(c: char, out: Sink<'_>) {
    match c {
        '"' => out(b"\\\""),
        '\\' => out(b"\\\\"),
        '\n' => out(b"\\n"),
        '\r' => out(b"\\r"),
        '\t' => out(b"\\t"),
        c => {
            let digit = |shift: u32| HEX[(u32::from(c) >> shift & 15) as usize];
            out(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
        }
    }
}

/// What is no printable character (YAML 1.2.2, 5.1), and what is a line end to readers of YAML 1.1.
fn yaml_special(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

fn percent(byte: u8, out: Sink<'_>) {
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
        out(&[byte]);
    } else {
        out(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
}

fn base64(value: &[u8], out: Sink<'_>) {
    for chunk in value.chunks(48) {
        let mut digits = zeroize::Zeroizing::new([0; 64]);
        // 48 bytes are 64 digits, and only the last chunk is padded.
        out(Base64::encode(chunk, &mut *digits).unwrap_or_default().as_bytes());
    }
}

/// Words end at a blank. Quotes and backslashes are for readers that know them: curl, git, Python 3.11.
fn netrc(value: &[u8], out: Sink<'_>) {
    if value.iter().all(|byte| !b" \"\\#".contains(byte)) {
        return out(value);
    }
    out(b"\"");
    with_backslashes(value, b"\"\\", out);
    out(b"\"");
}

fn with_backslashes(value: &[u8], special: &[u8], out: Sink<'_>) {
    for byte in value {
        if special.contains(byte) {
            out(b"\\");
        }
        out(&[*byte]);
    }
}

#[cfg(test)]
#[path = "escape_tests.rs"]
mod tests;
