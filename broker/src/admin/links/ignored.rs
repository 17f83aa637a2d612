//! Is a link kept out of git? One line of the project's own `.gitignore`, added once, and taken out by who
//! added it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kin_policy::FilePath;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::{Deserialize, Serialize};

use crate::sys::error::{Class, Error, Result};

const NAME: &str = ".gitignore";
/// What stands in its place for a moment while a line is taken out.
const BESIDE: &str = ".gitignore.kin-new";
/// Bytes of it that are looked at.
const LIMIT: u64 = 1 << 20;

/// A line that was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Line {
    /// The file was not there before.
    made: bool,
}

/// The pattern for exactly this path (gitignore(5)).
fn pattern(path: &FilePath) -> String {
    let mut line = String::from("/");
    for c in path.below().chars() {
        if matches!(c, '*' | '?' | '[' | '\\' | ' ') {
            line.push('\\');
        }
        line.push(c);
    }
    line
}

/// Adds the line of a path below `directory`; `None` where it is there already.
///
/// # Errors
/// `unsafe_target` where `.gitignore` is no regular file of ours; a storage error.
pub(super) fn add(directory: &Path, path: &FilePath) -> Result<Option<Line>> {
    let held = hold(directory)?;
    let line = pattern(path);
    let read_write = OFlag::O_RDWR | OFlag::O_APPEND;
    let (mut file, made) = match open(&held, read_write) {
        Ok(file) => (file, false),
        Err(Errno::ENOENT) => {
            let mode = Mode::from_bits_truncate(0o644);
            let flags = read_write | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
            let new = openat(&held, NAME, flags, mode).map_err(|errno| failed(directory, errno))?;
            // A broker makes files for its user alone; this one is to be committed.
            fchmod(&new, mode).map_err(|errno| failed(directory, errno))?;
            (File::from(new), true)
        }
        Err(errno) => return Err(failed(directory, errno)),
    };
    let text = read(&mut file, directory)?;
    if has_line(&text, &line) {
        return Ok(None);
    }
    let between = if text.is_empty() || text.ends_with(b"\n") { "" } else { "\n" };
    file.write_all(format!("{between}{line}\n").as_bytes())
        .map_err(|error| Error::storage(&format!("write {NAME}"), &error))?;
    Ok(Some(Line { made }))
}

/// Whether the line of a path below `directory` is there.
///
/// # Errors
/// As [`add`].
pub(super) fn is_there(directory: &Path, path: &FilePath) -> Result<bool> {
    let held = hold(directory)?;
    match open(&held, OFlag::O_RDONLY) {
        Ok(mut file) => Ok(has_line(&read(&mut file, directory)?, &pattern(path))),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(failed(directory, errno)),
    }
}

fn has_line(text: &[u8], line: &str) -> bool {
    text.split(|byte| *byte == b'\n').any(|own| own.trim_ascii_end() == line.as_bytes())
}

/// Takes the line out again, where it is still there; the file too, where it was made for it and has no other.
///
/// # Errors
/// As [`add`].
pub(super) fn remove(directory: &Path, path: &FilePath, added: &Line) -> Result<()> {
    let held = hold(directory)?;
    let mut file = match open(&held, OFlag::O_RDONLY) {
        Ok(file) => file,
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(failed(directory, errno)),
    };
    let text = read(&mut file, directory)?;
    let line = pattern(path);
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let Some(at) = lines.iter().rposition(|own| own.trim_ascii_end() == line.as_bytes()) else {
        return Ok(());
    };
    let rest = [&lines[..at], &lines[at + 1..]].concat().concat();
    if rest.is_empty() && added.made {
        return unlinkat(&held, NAME, UnlinkatFlags::NoRemoveDir).map_err(|errno| failed(directory, errno));
    }
    let mode = file.metadata().map_or(0o644, |meta| meta.mode());
    rewrite(&held, &rest, mode)
        .inspect_err(|_| {
            let _ = unlinkat(&held, BESIDE, UnlinkatFlags::NoRemoveDir);
        })
        .map_err(|error| Error::storage(&format!("write {NAME}"), &error))
}

fn rewrite(held: &File, text: &[u8], mode: u32) -> std::io::Result<()> {
    let _ = unlinkat(held, BESIDE, UnlinkatFlags::NoRemoveDir);
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let mut new = File::from(openat(held, BESIDE, flags, Mode::from_bits_truncate(0o644))?);
    new.write_all(text)?;
    fchmod(&new, Mode::from_bits_truncate(mode & 0o777))?;
    renameat(held, BESIDE, held, NAME)?;
    Ok(())
}

fn hold(directory: &Path) -> Result<File> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat(AT_FDCWD, directory, flags, Mode::empty()).map(File::from).map_err(|e| failed(directory, e))
}

/// Never a link: a checkout could have one that leads out of the project.
fn open(held: &File, flags: OFlag) -> Result<File, Errno> {
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    openat(held, NAME, flags, Mode::empty()).map(File::from)
}

fn read(file: &mut File, directory: &Path) -> Result<Vec<u8>> {
    let looked = |error| Error::storage(&format!("read {NAME}"), &error);
    let meta = file.metadata().map_err(looked)?;
    if !meta.is_file() || meta.size() > LIMIT || meta.nlink() != 1 {
        return Err(refused(directory, "is no plain file of at most 1 MiB"));
    }
    let mut text = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut text).map_err(looked)?;
    Ok(text)
}

fn failed(directory: &Path, errno: Errno) -> Error {
    match errno {
        Errno::ELOOP => refused(directory, "is a symbolic link"),
        Errno::ENXIO | Errno::EISDIR => refused(directory, "is no plain file of at most 1 MiB"),
        errno => Error::storage(&format!("write {}", directory.join(NAME).display()), &errno.into()),
    }
}

fn refused(directory: &Path, why: &str) -> Error {
    let message = format!("{} {why}", directory.join(NAME).display());
    Error::new(Class::Unsafe, "unsafe_target", message).hint("make it a file of your own")
}
