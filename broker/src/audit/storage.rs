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
use parking_lot::{Mutex, MutexGuard, RwLock};
use zeroize::Zeroizing;

use super::chain::Key;
use super::log::PATIENCE;
use super::seals;
use super::unsynced::Tail;
use crate::sys::error::{Class, Error, Result};
use crate::sys::files;
use crate::sys::places;

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

/// Makes what a file holds durable: a joint, so that tests can make it fail, and lie afterwards.
pub(super) type SyncFile = Box<dyn Fn(&File) -> io::Result<()> + Send + Sync>;

/// The log's files, locked against a second writer.
///
/// A sync that failed is never tried again on the same file. The kernel tells of a failed write once, takes the pages
/// for clean, and answers the next fsync with success (errseq_t, lib/errseq.c; fsync(2), EIO): all of the segment is
/// written to a new file instead, what was not synced from memory.
pub(super) struct LogFile {
    dir: PathBuf,
    /// Held while something is made durable: of two that sync at a time the kernel tells one of an error.
    durability: Mutex<Durability>,
    written: RwLock<Written>,
    tail: Mutex<Tail>,
    sync_file: SyncFile,
    _lock: Lock,
}

struct Written {
    current: Arc<File>,
    /// The number that the current one gets when it ends.
    number: u32,
}

#[derive(Default)]
struct Durability {
    /// The segment may have lost what is behind its last sync, whatever the kernel says from now on.
    suspect: bool,
    /// A segment has ended since the directory was synced.
    renamed: bool,
}

impl LogFile {
    /// Opens the log, or makes it.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        Self::open_on(dir, Box::new(File::sync_data))
    }

    /// As [`Self::open`], on a disk of one's own.
    pub(super) fn open_on(dir: &Path, sync_file: SyncFile) -> Result<Self> {
        let lock = lock(dir)?;
        let path = log_path(dir);
        let file = open_private(&path, OpenOptions::new().read(true).append(true).create(true))?
            .ok_or_else(|| Error::internal("open the audit log", "it is missing"))?;
        // Also where it was there already: the one that made it may have failed here.
        sync_dir(dir).map_err(|error| Error::storage(&format!("sync {}", dir.display()), &error))?;
        let length = file.metadata().map_err(|error| Error::storage("look at the audit log", &error))?.len();
        let number = ended_numbers(dir)?.last().map_or(1, |last| last + 1);
        Ok(Self {
            dir: dir.to_owned(),
            durability: Mutex::default(),
            written: RwLock::new(Written { current: Arc::new(file), number }),
            tail: Mutex::new(Tail::behind(length)),
            sync_file,
            _lock: lock,
        })
    }

    /// What is in the segment was written by another process, whose syncs nobody knows of: all of it is written again.
    pub(super) fn distrust(&self) -> io::Result<()> {
        let mut durability = self.durability.lock();
        durability.suspect = true;
        self.renew(&mut durability)
    }

    /// Puts a new file in the segment's place, with the same content. Appends wait meanwhile.
    fn renew(&self, durability: &mut Durability) -> io::Result<()> {
        let mut written = self.written.write();
        let mut tail = self.tail.lock();
        let content = tail.content(&written.current)?;
        let (file, made) = self.make_next()?;
        (&file).write_all(&content)?;
        (self.sync_file)(&file)?;
        std::fs::rename(&made, log_path(&self.dir))?;
        written.current = Arc::new(file);
        // Where this fails, the whole is done once more: another rename makes the directory dirty again.
        sync_dir(&self.dir)?;
        *durability = Durability::default();
        tail.begin(content.len() as u64);
        Ok(())
    }

    /// An empty file for what comes next, under a name of its own. What a crash left of an earlier one holds nothing.
    fn make_next(&self) -> io::Result<(File, PathBuf)> {
        let made = self.dir.join("audit.jsonl.new");
        let _ = std::fs::remove_file(&made);
        let mut options = OpenOptions::new();
        options.read(true).append(true).create_new(true).mode(0o600);
        let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(&made)?;
        Ok((file, made))
    }

    fn durability(&self) -> io::Result<MutexGuard<'_, Durability>> {
        self.durability.try_lock_for(PATIENCE).ok_or_else(|| Errno::ETIMEDOUT.into())
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
        let written = self.written.read();
        let count = (&*written.current).write(bytes)?;
        self.tail.lock().add(&bytes[..count]);
        Ok(count)
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        // The length is asked for, not remembered: what somebody else cut off must not come back as zeroes.
        let written = self.written.read();
        written.current.set_len(written.current.metadata()?.len().saturating_sub(bytes))?;
        self.tail.lock().cut(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let asked = self.tail.lock().reach();
        let mut durability = self.durability()?;
        if durability.suspect {
            return self.renew(&mut durability);
        }
        // Another one may have synced it while this one waited. The lock on what is written is not held over the
        // sync itself: appends go on.
        let (current, reached) = {
            let written = self.written.write();
            let tail = self.tail.lock();
            if tail.has(&asked) && !durability.renamed {
                return Ok(());
            }
            (written.current.clone(), tail.reach())
        };
        let synced = (self.sync_file)(&current)
            .and_then(|()| if durability.renamed { sync_dir(&self.dir) } else { Ok(()) });
        match synced {
            Ok(()) => {
                durability.renamed = false;
                self.tail.lock().synced(&reached);
            }
            Err(_) => durability.suspect = true,
        }
        synced
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.written.read().current.metadata()?.len())
    }

    fn rotate(&self) -> io::Result<()> {
        let mut durability = self.durability()?;
        if durability.suspect {
            self.renew(&mut durability)?;
        }
        let mut written = self.written.write();
        // Nothing is appended to it any more, so this is its last sync.
        (self.sync_file)(&written.current).inspect_err(|_| durability.suspect = true)?;
        let (path, (file, made)) = (log_path(&self.dir), self.make_next()?);
        let ended = ended_path(&self.dir, written.number);
        std::fs::rename(&path, &ended)?;
        std::fs::rename(&made, &path).inspect_err(|_| drop(std::fs::rename(&ended, &path)))?;
        *written = Written { current: Arc::new(file), number: written.number + 1 };
        self.tail.lock().begin(0);
        durability.renamed = true;
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
        Ok(Some(key)) if log_is_empty => {
            // The start that made it may have failed at its sync.
            files::renew(&key_path(dir))?;
            Ok(key)
        }
        Ok(Some(key)) => Ok(key),
        Ok(None) if log_is_empty => make_key(dir),
        // A crash at first use can leave a key that is not whole; nothing was written under it.
        Err(error) if log_is_empty && error.class == Class::Integrity => make_key(dir),
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
    files::write_atomic(&key_path(dir), &*bytes)?;
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
