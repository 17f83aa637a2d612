//! What is in a store of pass? Each .gpg file is opened by the user's own gpg, one after the other.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kin_broker::control::MAX_VALUE;
use kin_broker::{Class, Error, Plaintext, Result, describe};
use kin_policy::Reference;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::names;
use super::staging::Entry;
use crate::cli::{bad_usage, output};

/// How long one file may take: its agent may ask the person for a passphrase.
const DEADLINE: Duration = Duration::from_secs(60);
/// Directories in each other, and entries of a store, at most.
const DEPTH: usize = 32;
const MOST: usize = 10_000;
/// What the name of a secret with the lines after the first ends with.
const REST: &str = ".rest";

/// The entries of the store in `directory`. What is hidden there, and links, are no entries.
///
/// # Errors
/// `file_unreadable`, `gpg_failed` (Locked), `timeout`, `bad_name`; nothing is repeated of what gpg says.
pub(super) fn read(directory: &Path, prefix: Option<&Reference>) -> Result<Vec<Entry>> {
    let mut files = Vec::new();
    find(directory, &mut files, 0)?;
    files.sort();
    let mut entries = Vec::new();
    for file in files {
        let below = file.strip_prefix(directory).unwrap_or(&file).with_extension("");
        let keys: Vec<&str> = below.iter().map(|part| part.to_str().unwrap_or_default()).collect();
        let name = names::reference(prefix, &keys)?;
        entries.extend(split(name, &decrypt(&file)?)?);
    }
    Ok(entries)
}

fn find(directory: &Path, files: &mut Vec<PathBuf>, depth: usize) -> Result<()> {
    let unreadable = |why: String| {
        let message = format!("could not read {}: {why}", output::printable_path(directory));
        bad_usage("file_unreadable", message, "name the directory of a store of pass")
    };
    if depth > DEPTH || files.len() > MOST {
        return Err(unreadable("it is too large for a store".into()));
    }
    for entry in std::fs::read_dir(directory).map_err(|error| unreadable(describe(&error)))? {
        let entry = entry.map_err(|error| unreadable(describe(&error)))?;
        let kind = entry.file_type().map_err(|error| unreadable(describe(&error)))?;
        let (path, hidden) = (entry.path(), entry.file_name().as_encoded_bytes().starts_with(b"."));
        if kind.is_dir() && !hidden {
            find(&path, files, depth + 1)?;
        } else if kind.is_file() && !hidden && path.extension().is_some_and(|ending| ending == "gpg") {
            files.push(path);
        }
    }
    Ok(())
}

/// The first line is the secret; what comes after it, where that is not blank, is another one. It is no note:
/// people keep answers and one-time keys there.
fn split(reference: Reference, content: &Plaintext) -> Result<Vec<Entry>> {
    let bytes = content.bytes();
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let rest = bytes.get(end + 1..).unwrap_or_default();
    let mut entries = Vec::new();
    if !rest.trim_ascii().is_empty() {
        let name = Reference::new(format!("{reference}{REST}"))?;
        entries.push(Entry { reference: name, value: Plaintext::copy_of(rest) });
    }
    entries.insert(0, Entry { reference, value: Plaintext::copy_of(&bytes[..end]) });
    Ok(entries)
}

fn decrypt(file: &Path) -> Result<Plaintext> {
    let shown = output::printable_path(file);
    let failed = |why: &str| {
        Error::new(Class::Locked, "gpg_failed", format!("gpg did not open {shown}: {why}"))
            .hint(format!("`gpg --decrypt {shown}` shows why"))
    };
    let mut child = Command::new("gpg")
        .args(["--batch", "--quiet", "--decrypt", "--"])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| failed(&describe(&error)))?;
    let content = output_of(&mut child, Instant::now() + DEADLINE);
    if content.as_ref().is_ok_and(Option::is_some) {
        let status = child.wait().map_err(|error| failed(&describe(&error)))?;
        return match (content, status.success()) {
            (Ok(Some(content)), true) => Ok(content),
            _ => Err(failed("it refused")),
        };
    }
    // Its own group: what it started for this goes too.
    let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
    let _ = child.wait();
    match content {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            let message = format!("gpg did not open {shown} within {} s", DEADLINE.as_secs());
            Err(Error::new(Class::Timeout, "timeout", message).hint("see `gpg-connect-agent`"))
        }
        Err(error) => Err(failed(&describe(&error))),
        Ok(_) => Err(bad_usage("value_too_large", format!("{shown} holds over 1 MiB"), "import the others")),
    }
}

/// All that it prints, straight into locked memory; `None` where it is more than a value may have.
fn output_of(child: &mut Child, until: Instant) -> io::Result<Option<Plaintext>> {
    let pipe = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut content = Plaintext::zeroed(MAX_VALUE + 1);
    let mut length = 0;
    while length <= MAX_VALUE {
        let left = until.saturating_duration_since(Instant::now()).as_millis();
        let left = PollTimeout::try_from(i32::try_from(left).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], left) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
            Ok(_) => {}
        }
        match nix::unistd::read(&pipe, &mut content.bytes_mut()[length..]) {
            Ok(0) => {
                content.truncate(length);
                return Ok(Some(content));
            }
            Ok(got) => length += got,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_the_secret_and_the_rest_another() {
        for (content, parts) in [
            ("", &[""][..]),
            ("x", &["x"]),
            ("x\n", &["x"]),
            ("x\n\n \n", &["x"]),
            ("x\nuser: me\n", &["x", "user: me\n"]),
            ("\nurl: y", &["", "url: y"]),
        ] {
            let name = Reference::new("web/site").unwrap();
            let entries = split(name, &Plaintext::copy_of(content.as_bytes())).unwrap();
            let values: Vec<&[u8]> = entries.iter().map(|entry| entry.value.bytes()).collect();
            assert_eq!(values, parts.iter().map(|part| part.as_bytes()).collect::<Vec<_>>(), "{content:?}");
            let names: Vec<&str> = entries.iter().map(|entry| entry.reference.as_str()).collect();
            assert_eq!(names, ["web/site", "web/site.rest"][..parts.len()]);
        }
    }
}
