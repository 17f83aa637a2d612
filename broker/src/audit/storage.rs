//! Which files are the record, and are they safe to use?

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use chacha20poly1305::aead::{OsRng, rand_core::RngCore};
use nix::fcntl::{Flock, FlockArg};
use zeroize::Zeroizing;

use super::chain::Key;
use crate::error::{Class, Error, Result};

/// What the log needs of its file: a joint, so that tests can make it fail.
pub(super) trait Storage: Send + Sync {
    /// Appends some of `bytes`: one write(2).
    fn write(&self, bytes: &[u8]) -> io::Result<usize>;
    /// Cuts `bytes` off the end.
    fn cut(&self, bytes: u64) -> io::Result<()>;
    /// Waits until what was written is on the disk.
    fn sync(&self) -> io::Result<()>;
}

/// The log, locked against a second writer.
pub(super) struct LogFile(Flock<File>);

impl LogFile {
    /// Opens the log, or makes it.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let path = log_path(dir);
        let new = !path.try_exists().unwrap_or(true);
        let file = open_private(&path, OpenOptions::new().read(true).append(true).create(true))?
            .ok_or_else(|| Error::internal("open the audit log", "it is missing"))?;
        if new {
            sync_dir(dir)?;
        }
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => Ok(Self(locked)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                Err(Error::new(Class::Unreachable, "already_running", "another broker writes the audit log")
                    .hint("`kin stop` stops it"))
            }
            Err((_, errno)) => Err(Error::storage("lock the audit log", &errno.into())),
        }
    }

    pub(super) fn file(&self) -> &File {
        &self.0
    }
}

impl Storage for LogFile {
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        // The length is asked for, not remembered: what somebody else cut off must not come back as zeroes.
        self.0.set_len(self.0.metadata()?.len().saturating_sub(bytes))
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// The log's path.
pub(super) fn log_path(dir: &Path) -> PathBuf {
    dir.join("audit.jsonl")
}

fn key_path(dir: &Path) -> PathBuf {
    dir.join("audit.key")
}

/// Opens the log to read it; `None` where there is none.
pub(super) fn open_log(dir: &Path) -> Result<Option<File>> {
    open_private(&log_path(dir), OpenOptions::new().read(true))
}

/// The key, which is made where the log is empty still. For the holder of the log's lock.
pub(super) fn load_or_make_key(dir: &Path, log_is_empty: bool) -> Result<Key> {
    match load_key(dir) {
        Ok(Some(key)) => Ok(key),
        Ok(None) if log_is_empty => make_key(dir),
        // A crash at first use can leave a key that is not whole; nothing was written under it.
        Err(error) if log_is_empty && error.class == Class::Integrity => {
            std::fs::remove_file(key_path(dir))
                .map_err(|error| Error::storage("remove a torn audit key", &error))?;
            make_key(dir)
        }
        Ok(None) => Err(key_missing()),
        Err(error) => Err(error),
    }
}

/// The key; `None` where there is none.
pub(super) fn load_key(dir: &Path) -> Result<Option<Key>> {
    let Some(file) = open_private(&key_path(dir), OpenOptions::new().read(true))? else {
        return Ok(None);
    };
    let mut bytes = Zeroizing::new([0; 33]);
    let mut have = 0;
    while have < bytes.len() {
        match (&file).read(&mut bytes[have..]) {
            Ok(0) => break,
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::storage("read the audit key", &error)),
        }
    }
    match (have, bytes.first_chunk()) {
        (32, Some(key)) => Ok(Some(Key::new(key))),
        _ => Err(Error::new(Class::Integrity, "audit_broken", "audit.key is not 32 bytes long")
            .hint("restore it from a backup, or move it and audit.jsonl away to begin a new record")),
    }
}

/// A log without its key proves nothing.
pub(super) fn key_missing() -> Error {
    Error::new(Class::Integrity, "audit_broken", "audit.key is missing, but there is a log")
        .hint("restore it from a backup, or move audit.jsonl away to begin a new record")
}

fn make_key(dir: &Path) -> Result<Key> {
    let mut bytes = Zeroizing::new([0; 32]);
    OsRng.try_fill_bytes(&mut *bytes).map_err(|error| Error::internal("draw random bytes", error))?;
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(key_path(dir))?;
        file.write_all(&*bytes)?;
        file.sync_all()
    };
    write().map_err(|error| Error::storage("make the audit key", &error))?;
    sync_dir(dir)?;
    Ok(Key::new(&bytes))
}

fn sync_dir(dir: &Path) -> Result<()> {
    let sync = || File::open(dir)?.sync_all();
    sync().map_err(|error| Error::storage(&format!("sync {}", dir.display()), &error))
}

/// Opens a regular file that is this user's alone; `None` where it does not exist. Never blocks, and
/// never opens a device, which may act on being opened.
fn open_private(path: &Path, options: &mut OpenOptions) -> Result<Option<File>> {
    let failed = |error: &io::Error| Error::storage(&format!("open {}", path.display()), error);
    match std::fs::symlink_metadata(path) {
        Ok(meta) => check_private(path, &meta)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(&error)),
    }
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = match options.mode(0o600).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // open(2): what O_NOFOLLOW answers to a symlink.
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Err(unsafe_file(path, "is a symlink"));
        }
        Err(error) => return Err(failed(&error)),
    };
    check_private(path, &file.metadata().map_err(|error| failed(&error))?)?;
    Ok(Some(file))
}

fn check_private(path: &Path, meta: &std::fs::Metadata) -> Result<()> {
    if meta.is_symlink() {
        return Err(unsafe_file(path, "is a symlink"));
    }
    if !meta.is_file() {
        return Err(unsafe_file(path, "is not a regular file"));
    }
    if meta.uid() != nix::unistd::geteuid().as_raw() {
        return Err(unsafe_file(path, &format!("belongs to uid {}", meta.uid())));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(unsafe_file(path, &format!("has mode {:04o}", meta.mode() & 0o7777))
            .hint(format!("chmod 600 {}", path.display())));
    }
    Ok(())
}

fn unsafe_file(path: &Path, why: &str) -> Error {
    Error::new(Class::Unsafe, "unsafe_file", format!("{} {why}", path.display()))
        .hint("move it away; kin makes a new one")
}

#[cfg(test)]
#[path = "storage_tests.rs"]
mod tests;
