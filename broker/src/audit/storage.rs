//! Which files are the record, and are they safe to use?

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chacha20poly1305::aead::{OsRng, rand_core::RngCore};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use parking_lot::RwLock;
use zeroize::Zeroizing;

use super::chain::Key;
use super::seals;
use crate::error::{Class, Error, Result};
use crate::places;

/// What the log needs of its files: a joint, so that tests can make them fail.
pub(super) trait Storage: Send + Sync {
    /// Appends some of `bytes`: one write(2).
    fn write(&self, bytes: &[u8]) -> io::Result<usize>;
    /// Cuts `bytes` off the end.
    fn cut(&self, bytes: u64) -> io::Result<()>;
    /// Waits until what was written is on the disk.
    fn sync(&self) -> io::Result<()>;
    /// The bytes of the segment that is written.
    fn len(&self) -> io::Result<u64>;
    /// Ends the segment that is written, and begins the next.
    fn rotate(&self) -> io::Result<()>;
}

/// The log's files, locked against a second writer.
pub(super) struct LogFile {
    dir: PathBuf,
    written: RwLock<Written>,
    _lock: Lock,
}

struct Written {
    current: Arc<File>,
    /// Segments that ended since the last sync.
    ended: Vec<Arc<File>>,
    /// The number that the current one gets when it ends.
    number: u32,
}

impl LogFile {
    /// Opens the log, or makes it.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let lock = lock(dir)?;
        let path = log_path(dir);
        let new = !path.try_exists().unwrap_or(true);
        let file = open_private(&path, OpenOptions::new().read(true).append(true).create(true))?
            .ok_or_else(|| Error::internal("open the audit log", "it is missing"))?;
        if new {
            sync_dir(dir).map_err(|error| Error::storage(&format!("sync {}", dir.display()), &error))?;
        }
        let number = ended_numbers(dir)?.last().map_or(1, |last| last + 1);
        let written = Written { current: Arc::new(file), ended: Vec::new(), number };
        Ok(Self { dir: dir.to_owned(), written: RwLock::new(written), _lock: lock })
    }
}

/// How long a broker that was told to stop, or was killed, may still hold the log: its threads end one by one.
const LAST_MOMENTS: Duration = Duration::from_secs(2);

/// Held for a writer's life: the log's own files are replaced. The directory is held too, because the lock's file can
/// be taken away.
struct Lock {
    _file: Flock<File>,
    _directory: Option<Flock<File>>,
}

fn lock(dir: &Path) -> Result<Lock> {
    let path = dir.join("audit.lock");
    let file = open_private(&path, OpenOptions::new().write(true).create(true).truncate(false))?
        .ok_or_else(|| Error::internal("open the audit log's lock", "it is missing"))?;
    let deadline = Instant::now() + LAST_MOMENTS;
    let mut file = Some(file);
    let file = until(deadline, || {
        let Some(own) = file.take() else { return Err(Errno::EBADF) };
        Flock::lock(own, FlockArg::LockExclusiveNonblock).map_err(|(unlocked, errno)| {
            file = Some(unlocked);
            errno
        })
    })?;
    Ok(Lock { _file: file, _directory: until(deadline, || places::hold(dir))? })
}

/// Tries until another broker's last moments must be over.
fn until<T>(deadline: Instant, mut lock: impl FnMut() -> nix::Result<T>) -> Result<T> {
    loop {
        match lock() {
            Ok(lock) => return Ok(lock),
            Err(Errno::EWOULDBLOCK) if Instant::now() < deadline => {}
            Err(Errno::EWOULDBLOCK) => {
                let message = "another broker writes the audit log";
                return Err(
                    Error::new(Class::Unreachable, "already_running", message).hint("`kin stop` stops it")
                );
            }
            Err(errno) => return Err(Error::storage("lock the audit log", &errno.into())),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Storage for LogFile {
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.written.read().current).write(bytes)
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        // The length is asked for, not remembered: what somebody else cut off must not come back as zeroes.
        let written = self.written.read();
        written.current.set_len(written.current.metadata()?.len().saturating_sub(bytes))
    }

    fn sync(&self) -> io::Result<()> {
        // The lock is not held meanwhile: appends go on.
        let (current, ended) = {
            let written = self.written.read();
            (written.current.clone(), written.ended.clone())
        };
        if ended.is_empty() {
            return current.sync_data();
        }
        ended.iter().try_for_each(|file| file.sync_all())?;
        sync_dir(&self.dir)?;
        current.sync_data()?;
        self.written.write().ended.retain(|file| !ended.iter().any(|synced| Arc::ptr_eq(synced, file)));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.written.read().current.metadata()?.len())
    }

    fn rotate(&self) -> io::Result<()> {
        let mut written = self.written.write();
        let (path, made) = (log_path(&self.dir), self.dir.join("audit.jsonl.new"));
        let mut options = OpenOptions::new();
        // What a crash left of an earlier attempt holds nothing.
        let _ = std::fs::remove_file(&made);
        options.read(true).append(true).create_new(true).mode(0o600);
        let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(&made)?;
        let ended = ended_path(&self.dir, written.number);
        std::fs::rename(&path, &ended)?;
        std::fs::rename(&made, &path).inspect_err(|_| drop(std::fs::rename(&ended, &path)))?;
        let ended = std::mem::replace(&mut written.current, Arc::new(file));
        written.ended.push(ended);
        written.number += 1;
        Ok(())
    }
}

/// The path of the segment that is written.
pub(super) fn log_path(dir: &Path) -> PathBuf {
    dir.join("audit.jsonl")
}

/// The path of a segment that has ended; the first one's number is 1.
pub(super) fn ended_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("audit.{number:06}.jsonl"))
}

fn ended_numbers(dir: &Path) -> Result<Vec<u32>> {
    let failed = |error: io::Error| Error::storage(&format!("read {}", dir.display()), &error);
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("audit.")?.strip_suffix(".jsonl"));
        let digits = number.filter(|text| text.len() >= 6 && text.bytes().all(|byte| byte.is_ascii_digit()));
        numbers.extend(digits.and_then(|text| text.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// One file of the log, to be read.
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: File,
}

/// The log's files, oldest first.
pub(super) fn segments(dir: &Path) -> Result<Vec<Segment>> {
    // First the one that is written: where it ends meanwhile, it is found again under its other name.
    let path = log_path(dir);
    let current = open_private(&path, OpenOptions::new().read(true))?.map(|file| Segment { path, file });
    let mut segments = Vec::new();
    for number in ended_numbers(dir)? {
        let path = ended_path(dir, number);
        if let Some(file) = open_private(&path, OpenOptions::new().read(true))? {
            segments.push(Segment { path, file });
        }
    }
    let place = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
    segments.extend(current);
    let mut seen = std::collections::HashSet::new();
    segments.retain(|segment| place(&segment.file).is_none_or(|place| seen.insert(place)));
    Ok(segments)
}

impl Segment {
    /// All of it.
    pub(super) fn read(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        (&self.file).read_to_end(&mut bytes).map_err(|error| Error::storage("read the audit log", &error))?;
        Ok(bytes)
    }

    pub(super) fn is_empty(&self) -> Result<bool> {
        let meta = self.file.metadata().map_err(|error| Error::storage("look at the audit log", &error))?;
        Ok(meta.len() == 0)
    }

    /// Its name, for people.
    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

fn key_path(dir: &Path) -> PathBuf {
    dir.join("audit.key")
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
        Ok(None) => Err(seals::missing("audit.key")),
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
            .hint(seals::RESTORE)),
    }
}

fn make_key(dir: &Path) -> Result<Key> {
    let mut bytes = Zeroizing::new([0; 32]);
    OsRng.try_fill_bytes(&mut *bytes).map_err(|error| Error::internal("draw random bytes", error))?;
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(key_path(dir))?;
        file.write_all(&*bytes)?;
        file.sync_all()
    };
    write().and_then(|()| sync_dir(dir)).map_err(|error| Error::storage("make the audit key", &error))?;
    Ok(Key::new(&bytes))
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
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
