//! Is this file safe to read, and is what was written there for good?

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;
use zeroize::{Zeroize, Zeroizing};

use crate::error::{Class, Error, Result};

/// Never follows a link, never waits for a FIFO's other end, never becomes a terminal's owner.
const READ: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_CLOEXEC)
    .union(OFlag::O_NOCTTY);

/// Reads a file of ours alone into memory that is wiped; `None` where there is none. `limit` is in bytes.
///
/// # Errors
/// `unsafe_file` for anything but a regular file with one link, our own, without group and other bits, of
/// at most `limit` bytes; a storage error where it cannot be read. It never blocks.
pub fn read_private(path: &Path, limit: u64) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let Some(file) = open(AT_FDCWD, path, path)? else { return Ok(None) };
    let meta = regular(&file, path, limit)?;
    if meta.uid() != nix::unistd::geteuid().as_raw() {
        return Err(unsafe_file(path, &format!("belongs to uid {}", meta.uid())));
    }
    if meta.nlink() != 1 {
        return Err(unsafe_file(path, &format!("has {} hard links", meta.nlink())));
    }
    if meta.mode() & 0o077 != 0 {
        let hint = format!("chmod 600 {}", path.display());
        return Err(unsafe_file(path, &format!("has mode {:04o}", meta.mode() & 0o7777)).hint(hint));
    }
    read_all(file, path, meta.size(), limit).map(Some)
}

/// Reads a file that others may read but not write, from a directory of the same kind; `None` where there
/// is none. `limit` is in bytes.
///
/// # Errors
/// `unsafe_file` for anything but a regular file of at most `limit` bytes; `unsafe_owner` where it or its
/// directory is neither ours nor root's, or can be written by everybody; a storage error where it cannot be
/// read. It never blocks.
pub fn read_shared(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(unsafe_file(path, "is not a regular file"));
    };
    let looked = |error: std::io::Error| Error::storage(&format!("look at {}", directory.display()), &error);
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let held = openat(AT_FDCWD, directory, flags, Mode::empty()).map_err(|e| looked(e.into()))?;
    let held = File::from(held);
    owned(&held.metadata().map_err(looked)?, directory)?;
    let Some(file) = open(&held, Path::new(name), path)? else { return Ok(None) };
    let meta = regular(&file, path, limit)?;
    owned(&meta, path)?;
    Ok(Some(std::mem::take(&mut *read_all(file, path, meta.size(), limit)?)))
}

/// Writes a file of ours alone so that at any instant, a power cut included, it is the old one or the new.
///
/// # Errors
/// A storage error. The old file is then still there, except where only the last step, making the rename
/// durable, failed.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |error: std::io::Error| Error::storage(&format!("write {}", path.display()), &error);
    let temporary = beside(path, ".tmp");
    let written = write_new(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, path));
    if let Err(error) = written {
        let _ = std::fs::remove_file(&temporary);
        return Err(failed(error));
    }
    sync_directory(path).map_err(failed)
}

/// Moves a file out of the way, to its name with `suffix`, in the same directory.
///
/// # Errors
/// A storage error.
pub fn move_aside(path: &Path, suffix: &str) -> Result<()> {
    std::fs::rename(path, beside(path, suffix))
        .and_then(|()| sync_directory(path))
        .map_err(|error| Error::storage(&format!("move {} aside", path.display()), &error))
}

/// Whether something has that name, whatever it is.
pub fn exists(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

/// A broker is alone with its files (it holds a lock), so one temporary name is enough, and what a killed
/// one left behind is replaced.
fn write_new(temporary: &Path, bytes: &[u8]) -> std::io::Result<()> {
    match std::fs::remove_file(temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).custom_flags(flags).open(temporary)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A rename is durable once its directory is (fsync(2)).
fn sync_directory(path: &Path) -> std::io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn open(directory: impl AsFd, name: &Path, shown: &Path) -> Result<Option<File>> {
    match openat(directory, name, READ, Mode::empty()) {
        Ok(file) => Ok(Some(File::from(file))),
        Err(Errno::ENOENT) => Ok(None),
        Err(Errno::ELOOP) => Err(unsafe_file(shown, "is a symbolic link")),
        Err(Errno::ENXIO | Errno::ENODEV) => Err(unsafe_file(shown, "is not a regular file")),
        Err(errno) => Err(Error::storage(&format!("read {}", shown.display()), &errno.into())),
    }
}

fn regular(file: &File, path: &Path, limit: u64) -> Result<std::fs::Metadata> {
    let meta =
        file.metadata().map_err(|error| Error::storage(&format!("look at {}", path.display()), &error))?;
    if !meta.is_file() {
        return Err(unsafe_file(path, "is not a regular file"));
    }
    if meta.size() > limit {
        return Err(unsafe_file(path, &format!("is larger than {limit} bytes")));
    }
    Ok(meta)
}

/// Ours or root's, and not for everybody to write. A group may: with a umask of 002 every file is so.
fn owned(meta: &std::fs::Metadata, path: &Path) -> Result<()> {
    let refuse = |why: String| Error::new(Class::Unsafe, "unsafe_owner", format!("{} {why}", path.display()));
    if meta.uid() != 0 && meta.uid() != nix::unistd::geteuid().as_raw() {
        return Err(refuse(format!("belongs to uid {}", meta.uid())).hint("use a copy of your own"));
    }
    if meta.mode() & 0o002 != 0 {
        let hint = format!("chmod o-w {}", path.display());
        return Err(refuse("can be written by everybody".into()).hint(hint));
    }
    Ok(())
}

/// The buffer never grows, so that no copy of a key stays behind; a file that does is refused.
fn read_all(mut file: File, path: &Path, size: u64, limit: u64) -> Result<Zeroizing<Vec<u8>>> {
    let room = usize::try_from(size.min(limit)).unwrap_or(usize::MAX).saturating_add(1);
    let mut bytes = Zeroizing::new(vec![0; room]);
    let mut filled = 0;
    loop {
        match file.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::storage(&format!("read {}", path.display()), &error)),
        }
    }
    if filled == room {
        return Err(unsafe_file(path, "grew while it was read"));
    }
    bytes[filled..].zeroize();
    bytes.truncate(filled);
    Ok(bytes)
}

fn unsafe_file(path: &Path, why: &str) -> Error {
    Error::new(Class::Unsafe, "unsafe_file", format!("{} {why}", path.display()))
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
