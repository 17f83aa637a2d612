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

use crate::sys::error::{Class, Error, Result};

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
        let why = format!("belongs to uid {}", meta.uid());
        return Err(unsafe_file(path, &why).hint("put a copy of your own there"));
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

/// Reads a credential as systemd.exec(5) lays it out: root's or ours, nobody's to write, and not everybody's to
/// read; an access list for the service's user shows as bits of the group. `limit` is in bytes.
///
/// # Errors
/// `unsafe_file`, `unsafe_owner`, or a storage error. It never blocks.
pub fn read_credential(path: &Path, limit: u64) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let Some(file) = open(AT_FDCWD, path, path)? else { return Ok(None) };
    let meta = regular(&file, path, limit)?;
    owned(&meta, path)?;
    if meta.mode() & 0o027 != 0 {
        let hint = format!("chmod 400 {}", path.display());
        return Err(unsafe_file(path, &format!("has mode {:04o}", meta.mode() & 0o7777)).hint(hint));
    }
    read_all(file, path, meta.size(), limit).map(Some)
}

/// What writing for good needs of a file system: a joint, so that tests can make it fail, or cut its power.
pub(crate) trait Disk: Send + Sync {
    /// Makes a file that was not there, for its owner alone, to write.
    fn create(&self, path: &Path) -> std::io::Result<Box<dyn NewFile>>;
    /// Gives a file another name, in the place of what had that name.
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()>;
    /// Takes a name away.
    fn remove(&self, path: &Path) -> std::io::Result<()>;
    /// Makes the names beside `path` durable: a rename is once its directory is (fsync(2)).
    fn sync_directory(&self, path: &Path) -> std::io::Result<()>;
}

/// A file that is being written.
pub(crate) trait NewFile {
    /// Appends some of `bytes`: one write(2).
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize>;
    /// Makes what was written durable.
    fn sync(&mut self) -> std::io::Result<()>;
}

/// The real one.
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> std::io::Result<Box<dyn NewFile>> {
        let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).custom_flags(flags).open(path)?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> std::io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_directory(&self, path: &Path) -> std::io::Result<()> {
        sync_directory(path)
    }
}

impl NewFile for File {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Write::write(self, bytes)
    }

    fn sync(&mut self) -> std::io::Result<()> {
        self.sync_all()
    }
}

/// Writes a file of ours alone so that at any instant, a power cut included, it is the old one or the new.
///
/// # Errors
/// A storage error. The old file is then still there, except where only the last step, making the rename
/// durable, failed.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    Prepared::new(&RealDisk, path, bytes)?.put_in_place()
}

/// Writes the small file that is there once more, for good: whoever wrote it may have failed to make it durable.
///
/// # Errors
/// As [`read_private`] and [`write_atomic`].
pub(crate) fn renew(path: &Path) -> Result<()> {
    read_private(path, 4096)?.map_or(Ok(()), |bytes| write_atomic(path, &bytes))
}

/// A file that is written beside the one that it will replace, and durable there.
#[must_use]
pub(crate) struct Prepared<'d> {
    disk: &'d dyn Disk,
    path: PathBuf,
    temporary: PathBuf,
    in_place: bool,
}

impl<'d> Prepared<'d> {
    /// Writes `bytes` beside `path`. A broker is alone with its files (it holds a lock), so one temporary
    /// name is enough, and what a killed one left behind is replaced.
    ///
    /// # Errors
    /// A storage error, and then nothing has changed.
    pub(crate) fn new(disk: &'d dyn Disk, path: &Path, bytes: &[u8]) -> Result<Self> {
        let temporary = beside(path, ".tmp");
        let prepared = Self { disk, path: path.to_owned(), temporary, in_place: false };
        prepared.write(bytes).map_err(|error| prepared.failed(&error))?;
        Ok(prepared)
    }

    fn write(&self, mut bytes: &[u8]) -> std::io::Result<()> {
        match self.disk.remove(&self.temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = self.disk.create(&self.temporary)?;
        while !bytes.is_empty() {
            match file.write(bytes) {
                Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        file.sync()
    }

    /// Puts it in the place of the old one, for good.
    ///
    /// # Errors
    /// As [`write_atomic`].
    pub(crate) fn put_in_place(mut self) -> Result<()> {
        self.disk.rename(&self.temporary, &self.path).map_err(|error| self.failed(&error))?;
        self.in_place = true;
        self.disk.sync_directory(&self.path).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &std::io::Error) -> Error {
        Error::storage(&format!("write {}", self.path.display()), error)
    }
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        if !self.in_place {
            let _ = self.disk.remove(&self.temporary);
        }
    }
}

/// Moves a file out of the way, to its name with `suffix`, in the same directory.
///
/// # Errors
/// A storage error.
pub fn move_aside(path: &Path, suffix: &str) -> Result<()> {
    move_file(&RealDisk, path, &beside(path, suffix))
}

/// Gives a file another name in the same directory, for good.
///
/// # Errors
/// A storage error.
pub(crate) fn move_file(disk: &dyn Disk, from: &Path, to: &Path) -> Result<()> {
    disk.rename(from, to)
        .and_then(|()| disk.sync_directory(to))
        .map_err(|error| Error::storage(&format!("move {} to {}", from.display(), to.display()), &error))
}

/// Takes a file away, for good, where it is there.
///
/// # Errors
/// A storage error.
pub(crate) fn remove(disk: &dyn Disk, path: &Path) -> Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        removed => removed,
    }
    .and_then(|()| disk.sync_directory(path))
    .map_err(|error| Error::storage(&format!("remove {}", path.display()), &error))
}

/// Whether something has that name, whatever it is.
pub fn exists(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

/// Refuses a place for a new file where one is already, by this code.
///
/// # Errors
/// `bad_path` (Usage) where the path is not absolute; the code (Denied).
pub(crate) fn check_vacant(path: &Path, code: &'static str) -> Result<()> {
    if !path.is_absolute() {
        let message = format!("{} is not an absolute path", path.display());
        return Err(Error::new(Class::Usage, "bad_path", message));
    }
    if exists(path) {
        let message = format!("{} is there already", path.display());
        return Err(Error::new(Class::Denied, code, message).hint("name a file that is not there"));
    }
    Ok(())
}

/// A rename is durable once its directory is (fsync(2)).
fn sync_directory(path: &Path) -> std::io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

/// The path with more at its end.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
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
