//! What does a .env file say? As the loaders of several languages agree, and nothing expanded.
//!
//! dotenvy, which Rust programs use, puts the environment's own variables in the place of `$NAME`: a password
//! with a dollar in it would be stored as another one. So this reads them itself, straight into locked memory.

use kin_broker::project::render::Escape;
use kin_broker::{Error, Plaintext, Result};
use kin_policy::Reference;

use super::names;
use super::staging::Entry;
use crate::cli::bad_usage;

/// The keys of a file, with their values.
///
/// # Errors
/// `bad_dotenv` with the line, never with what stands there; `bad_name`.
pub(super) fn read(file: &Plaintext, prefix: Option<&Reference>) -> Result<Vec<Entry>> {
    let entry = |(key, value): (String, Plaintext)| {
        Ok(Entry { reference: names::reference(prefix, &[&key])?, value })
    };
    pairs(file.bytes())?.into_iter().map(entry).collect()
}

/// The same, as keys and values.
///
/// # Errors
/// `bad_dotenv`, as there.
pub(in crate::cli) fn pairs(text: &[u8]) -> Result<Vec<(String, Plaintext)>> {
    let mut reader = Reader::new(text);
    let mut pairs = Vec::new();
    while let Some(pair) = reader.next()? {
        pairs.push(pair);
    }
    Ok(pairs)
}

/// Whether a file that is made of it by the format `dotenv` gives the same value back to all loaders: what has quotes
/// of several kinds is put together from parts there, which a shell alone takes.
pub(super) fn reads_back(value: &Plaintext) -> bool {
    let Ok(written) = Escape::Dotenv.apply(value.bytes()) else { return false };
    let mut line = Plaintext::zeroed(2 + written.len());
    line.bytes_mut()[..2].copy_from_slice(b"A=");
    line.bytes_mut()[2..].copy_from_slice(written.bytes());
    matches!(read(&line, None).as_deref(), Ok([entry]) if entry.value.bytes() == value.bytes())
}

struct Reader<'f> {
    text: &'f [u8],
    at: usize,
}

impl<'f> Reader<'f> {
    fn new(text: &'f [u8]) -> Self {
        Self { text, at: if text.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 } }
    }

    /// The next key and its value.
    fn next(&mut self) -> Result<Option<(String, Plaintext)>> {
        while self.skip(b" \t\r\n") || self.peek() == Some(b'#') {
            if self.peek() == Some(b'#') {
                self.line();
            }
        }
        if self.peek().is_none() {
            return Ok(None);
        }
        if self.text[self.at..].starts_with(b"export ") {
            self.at += b"export ".len();
            self.skip(b" \t");
        }
        let key = self.take(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        if key.is_empty() {
            return Err(self.bad("a line begins with a key"));
        }
        let key = String::from_utf8_lossy(key).into_owned();
        self.skip(b" \t");
        if self.peek() != Some(b'=') {
            return Err(self.bad("after a key comes '='"));
        }
        self.at += 1;
        self.skip(b" \t");
        let value = match self.peek() {
            Some(quote @ (b'\'' | b'"' | b'`')) => self.quoted(quote)?,
            _ => self.bare(),
        };
        Ok(Some((key, value)))
    }

    /// To the end of the line, or to a '#' behind white space; without the white space around it.
    fn bare(&mut self) -> Plaintext {
        let line = self.line();
        let comment =
            (0..line.len()).find(|at| line[*at] == b'#' && (*at == 0 || line[*at - 1].is_ascii_whitespace()));
        Plaintext::copy_of(line[..comment.unwrap_or(line.len())].trim_ascii())
    }

    /// To the next quote of the kind. Between '"' a backslash may stand before n, r, t, '"', '$' and itself.
    fn quoted(&mut self, quote: u8) -> Result<Plaintext> {
        let start = self.at;
        let rest = &self.text[start + 1..];
        let mut value = Plaintext::zeroed(rest.len());
        let (mut at, mut length) = (0, 0);
        loop {
            let (byte, used) = match (rest.get(at), rest.get(at + 1)) {
                (None, _) => return Err(self.bad("a quote is not closed")),
                (Some(byte), _) if *byte == quote => break,
                (Some(b'\\'), Some(next)) if quote == b'"' => match next {
                    b'n' => (b'\n', 2),
                    b'r' => (b'\r', 2),
                    b't' => (b'\t', 2),
                    b'"' | b'\\' | b'$' => (*next, 2),
                    _ => (b'\\', 1),
                },
                (Some(byte), _) => (*byte, 1),
            };
            value.bytes_mut()[length] = byte;
            (at, length) = (at + used, length + 1);
        }
        value.truncate(length);
        self.at = start + at + 2;
        let after = self.line().trim_ascii();
        match after.first() {
            None | Some(b'#') => Ok(value),
            Some(_) => {
                self.at = start;
                Err(self.bad("something follows a closed quote"))
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self, wanted: impl Fn(u8) -> bool) -> &'f [u8] {
        let rest = &self.text[self.at..];
        let length = rest.iter().take_while(|byte| wanted(**byte)).count();
        self.at += length;
        &rest[..length]
    }

    /// Whether there was something to skip.
    fn skip(&mut self, bytes: &[u8]) -> bool {
        !self.take(|byte| bytes.contains(&byte)).is_empty()
    }

    /// What is left of the line, whose end is skipped.
    fn line(&mut self) -> &'f [u8] {
        let line = self.take(|byte| byte != b'\n');
        self.at = (self.at + 1).min(self.text.len());
        line
    }

    fn bad(&self, why: &str) -> Error {
        let line = self.text[..self.at].iter().filter(|byte| **byte == b'\n').count() + 1;
        bad_usage("bad_dotenv", format!("line {line} is not KEY=value: {why}"), "nothing was imported")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(String, String)> {
        let file = Plaintext::copy_of(text.as_bytes());
        let entries = read(&file, None).unwrap();
        let text = |entry: &Entry| String::from_utf8(entry.value.bytes().to_vec()).unwrap();
        entries.iter().map(|entry| (entry.reference.to_string(), text(entry))).collect()
    }

    #[test]
    fn lines_are_read_as_loaders_read_them() {
        for (text, value) in [
            ("A=x", "x"),
            ("\u{feff}A=x\r\n", "x"),
            ("# c\n\n  A = x y \n", "x y"),
            ("export A=x", "x"),
            ("A=", ""),
            ("A=\nB=", ""),
            ("A=x # c", "x"),
            ("A=x#y", "x#y"),
            ("A=# c", ""),
            ("A='x # y' # c", "x # y"),
            ("A='a\nb'", "a\nb"),
            ("A='a\\n$B'", "a\\n$B"),
            ("A=\"a\\nb\\t\\\"\\\\\\$\\x\"", "a\nb\t\"\\$\\x"),
            ("A=\"a\nb\"\n", "a\nb"),
            ("A=`a'\"b`", "a'\"b"),
            ("A=pa$$word${X}", "pa$$word${X}"),
            ("A=a=b==", "a=b=="),
            ("A=a'b\"c", "a'b\"c"),
        ] {
            assert_eq!(parsed(text).first(), Some(&("A".to_owned(), value.to_owned())), "{text:?}");
        }
        assert_eq!(parsed("A=1\nB.c-d=2\n").len(), 2);
        assert!(parsed("# nothing\n\n").is_empty());
    }

    #[test]
    fn what_can_be_written_again_reads_back() {
        for value in ["", "x", "a b#c", "it's", "a\nb", "$X${Y}`z`", "\"", "a\"$b"] {
            assert!(reads_back(&Plaintext::copy_of(value.as_bytes())), "{value:?}");
        }
        for value in [&b"it's $X"[..], b"'\"", b"end\\", b"a\0b", b"\xff"] {
            assert!(!reads_back(&Plaintext::copy_of(value)), "{value:?}");
        }
    }

    #[test]
    fn what_is_no_line_is_named_by_its_number_and_not_repeated() {
        for (text, line) in [
            ("CANARY", 1),
            ("A=1\nCANARY x", 2),
            ("A=1\n\n=CANARY", 3),
            ("A='CANARY", 1),
            ("A=1\nB=\"CANARY\" x", 2),
            ("A: CANARY", 1),
        ] {
            let error = read(&Plaintext::copy_of(text.as_bytes()), None).err().expect(text);
            assert_eq!((error.exit_code(), &*error.code), (2, "bad_dotenv"), "{text:?}");
            assert!(error.message.starts_with(&format!("line {line} ")), "{text:?}: {}", error.message);
            assert!(!format!("{error:?}").contains("CANARY"), "{error:?}");
        }
    }
}
