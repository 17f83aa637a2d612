//! Where values and passphrases come in without a terminal: standard input or a file, straight into locked
//! memory.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use kin_broker::control::MAX_VALUE;
use kin_broker::{Error, Plaintext, Result, describe};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::read;

use super::{bad_usage, output};

/// The longest passphrase, in bytes.
pub(super) const MAX_PASSPHRASE: usize = 4096;

/// A value from standard input, byte for byte.
///
/// # Errors
/// `empty_value`, `nul_in_value`, `value_too_large`, `stdin_unreadable`.
pub(super) fn from_stdin() -> Result<Plaintext> {
    let value = read_all(io::stdin().as_fd(), MAX_VALUE)
        .map_err(|error| bad_usage("stdin_unreadable", error, "give the value on standard input"))?
        .ok_or_else(too_large)?;
    checked(value)
}

/// A value from a file, byte for byte: any bytes, and none, are a value there.
///
/// # Errors
/// `value_too_large`, `file_unreadable`.
pub(super) fn from_file(path: &Path) -> Result<Plaintext> {
    let unreadable = |error: String| {
        let message = format!("could not read {}: {error}", output::printable_path(path));
        bad_usage("file_unreadable", message, "name a file that you can read")
    };
    let file = File::open(path).map_err(|error| unreadable(describe(&error)))?;
    read_all(file.as_fd(), MAX_VALUE).map_err(unreadable)?.ok_or_else(too_large)
}

/// A value from a file that is open, byte for byte.
///
/// # Errors
/// As [`from_file`].
pub(super) fn from_open(file: &File) -> Result<Plaintext> {
    let unreadable = |error| bad_usage("file_unreadable", error, "name a file that you can read");
    read_all(file.as_fd(), MAX_VALUE).map_err(unreadable)?.ok_or_else(too_large)
}

/// A value that was typed or piped: not empty, and text as far as NUL goes.
///
/// # Errors
/// `empty_value`, `nul_in_value`.
pub(super) fn checked(value: Plaintext) -> Result<Plaintext> {
    if value.is_empty() {
        let hint = "an empty value comes from an empty file: `--from-file F`";
        return Err(bad_usage("empty_value", "the value is empty", hint));
    }
    if value.bytes().contains(&0) {
        let hint = "a binary value comes from a file: `--from-file F`";
        return Err(bad_usage("nul_in_value", "the value holds a NUL byte", hint));
    }
    Ok(value)
}

/// The first line of standard input, without its end.
///
/// # Errors
/// `empty_passphrase`, `passphrase_too_long`, `stdin_unreadable`.
pub(super) fn passphrase_from_stdin() -> Result<Plaintext> {
    let text = read_all(io::stdin().as_fd(), MAX_PASSPHRASE)
        .map_err(|error| bad_usage("stdin_unreadable", error, "give the passphrase on standard input"))?;
    passphrase(text.ok_or_else(|| {
        bad_usage("passphrase_too_long", "the passphrase is too long", "4096 bytes are the most")
    })?)
}

/// The first line of standard input that is no comment, as age-keygen writes them, and the next one where there is
/// one, without their ends.
///
/// # Errors
/// As [`passphrase_from_stdin`]; also where a second line is begun and empty.
pub(super) fn two_lines_from_stdin() -> Result<(Plaintext, Option<Plaintext>)> {
    let text = read_all(io::stdin().as_fd(), MAX_PASSPHRASE)
        .map_err(|error| bad_usage("stdin_unreadable", error, "give both lines on standard input"))?;
    let text = text.ok_or_else(|| {
        bad_usage("passphrase_too_long", "standard input is too long", "4096 bytes are the most")
    })?;
    let text = Plaintext::copy_of(without_comments(text.bytes()));
    let rest = text.bytes().iter().position(|byte| *byte == b'\n').map(|at| &text.bytes()[at + 1..]);
    let second = rest.filter(|rest| !rest.is_empty()).map(Plaintext::copy_of).map(passphrase);
    let second = second.transpose()?;
    Ok((passphrase(text)?, second))
}

/// What comes after the comments and the empty lines at the beginning.
fn without_comments(mut text: &[u8]) -> &[u8] {
    while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
        let line = text[..end].trim_ascii();
        if !line.is_empty() && !line.starts_with(b"#") {
            break;
        }
        text = &text[end + 1..];
    }
    text
}

/// The first line, without its end.
///
/// # Errors
/// `empty_passphrase`.
pub(super) fn passphrase(mut text: Plaintext) -> Result<Plaintext> {
    let line = text.bytes().split(|byte| *byte == b'\n').next().unwrap_or_default();
    let length = line.strip_suffix(b"\r").unwrap_or(line).len();
    text.truncate(length);
    match length {
        0 => {
            Err(bad_usage("empty_passphrase", "the passphrase is empty", "give one of at least a few words"))
        }
        _ => Ok(text),
    }
}

fn too_large() -> Error {
    bad_usage("value_too_large", "the value is over 1 MiB", "keep the file elsewhere, and its key here")
}

/// Everything until the end, without a buffer in between; `None` where it is more than `limit`.
fn read_all(from: BorrowedFd<'_>, limit: usize) -> Result<Option<Plaintext>, String> {
    let mut value = Plaintext::zeroed(limit + 1);
    let mut length = 0;
    while length <= limit {
        match read(from, &mut value.bytes_mut()[length..]) {
            Ok(0) => {
                value.truncate(length);
                return Ok(Some(value));
            }
            Ok(got) => length += got,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let _ = poll(&mut [PollFd::new(from, PollFlags::POLLIN)], PollTimeout::NONE);
            }
            Err(error) => return Err(error.desc().to_lowercase()),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn code<T>(result: Result<T>) -> String {
        result.err().map(|error| error.code.into_owned()).unwrap_or_default()
    }

    #[test]
    fn a_file_is_a_value_byte_for_byte() {
        for bytes in [&b""[..], b"x\n", b"\0\xff\r\n", &vec![7; MAX_VALUE]] {
            assert!(from_file(file(bytes).path()).unwrap().bytes() == bytes);
        }
    }

    #[test]
    fn z03_empty_nul_and_too_large_are_refused() {
        assert_eq!(code(from_file(file(&vec![7; MAX_VALUE + 1]).path())), "value_too_large");
        assert_eq!(code(from_file(Path::new("/dev/zero"))), "value_too_large");
        assert_eq!(code(checked(Plaintext::copy_of(b""))), "empty_value");
        assert_eq!(code(checked(Plaintext::copy_of(b"a\0b"))), "nul_in_value");
        assert_eq!(code(from_file(Path::new("/nonexistent"))), "file_unreadable");
        assert_eq!(code(from_file(Path::new("/"))), "file_unreadable");
    }

    #[test]
    fn comments_are_passed_over_at_the_beginning_alone() {
        for (text, left) in [
            ("KEY\n#p\n", "KEY\n#p\n"),
            ("# a\n\n # b\r\nKEY\n#p", "KEY\n#p"),
            ("# a\n", ""),
            ("KEY", "KEY"),
            ("", ""),
        ] {
            assert_eq!(without_comments(text.as_bytes()), left.as_bytes(), "{text:?}");
        }
    }

    #[test]
    fn a_passphrase_is_the_first_line_without_its_end() {
        for (text, expected) in
            [("a b", "a b"), ("a b\n", "a b"), ("a\r\n", "a"), ("a\nb\n", "a"), (" a ", " a ")]
        {
            let line = passphrase(Plaintext::copy_of(text.as_bytes())).unwrap();
            assert!(line.bytes() == expected.as_bytes(), "{text:?}");
        }
        for empty in ["", "\n", "\r\n", "\nx"] {
            assert_eq!(code(passphrase(Plaintext::copy_of(empty.as_bytes()))), "empty_passphrase");
        }
    }
}
