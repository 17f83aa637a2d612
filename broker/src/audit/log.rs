//! How does a record come to stand in the log, whole and in order?

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use std::{fmt, io};

use kin_policy::{Denial, Permit};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use parking_lot::{Mutex, MutexGuard};

use super::anchor::Head;
use super::chain::{self, Key, MAX_LINE, Tag};
use super::denials::Denials;
use super::fault::{Fault, Recording};
use super::json::Members;
use super::logged::Logged;
use super::overdue::Unsealed;
use super::record::{Denied, Event};
use super::seals;
use super::storage::{LogFile, Storage};
use super::upkeep::{self, Keeper};
use crate::sys::config::Sync;
use crate::sys::error::{Class, Error, Result};
use crate::sys::places::{Inode, inode};

/// How long an append waits for another that is stuck in the kernel.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes after which a segment ends, and the next begins.
const SEGMENT: u64 = 16 << 20;

thread_local! {
    /// The fields of the record that this thread writes; kept for its room.
    static FIELDS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How a log is written.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// When a record is on the disk.
    pub sync: Sync,
    /// Bytes after which a segment ends.
    pub segment: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { sync: Sync::default(), segment: SEGMENT }
    }
}

/// The append-only, chained record of one broker.
pub struct AuditLog {
    pub(super) dir: PathBuf,
    pub(super) settings: Settings,
    // Outside the lock: a sync must not hold up appends.
    pub(super) storage: Box<dyn Storage>,
    head: Mutex<Position>,
    pub(super) denials: Mutex<Denials>,
    pub(super) keeper: Mutex<Keeper>,
    /// Somebody waited in vain: nobody else waits until the lock has been released.
    stalled: AtomicBool,
    pub(super) dirty: AtomicBool,
    fault: Fault,
    /// The directory that it was opened in.
    place: Option<Inode>,
    pub(super) unsealed: Unsealed,
}

/// The end of the chain.
struct Position {
    key: Key,
    mac: Tag,
    seq: u64,
    /// Bytes of a record that failed and could not be cut off again.
    torn: u64,
    /// What is written next; kept for its room.
    lines: Vec<u8>,
}

/// Writes the fields of a record, which has this number and follows one with this MAC.
pub(super) type Fields<'a> = &'a mut dyn FnMut(u64, &Tag, &mut Vec<u8>);

impl Position {
    /// Begins anew behind the last record.
    fn begin(&mut self) -> (u64, Tag) {
        self.lines.clear();
        (self.seq, self.mac)
    }

    /// Adds the line that follows the one with this number and MAC.
    fn add(&mut self, (seq, mac): (u64, Tag), name: &str, fields: Fields<'_>) -> (u64, Tag) {
        let start = self.lines.len();
        chain::begin(&mut self.lines, seq + 1, SystemTime::now(), name);
        fields(seq + 1, &mac, &mut self.lines);
        let mac = self.key.seal(&mut self.lines, start, &mac);
        debug_assert!(self.lines.len() - start <= MAX_LINE, "a record of {} bytes", self.lines.len());
        (seq + 1, mac)
    }
}

/// Why something does not stand in the record. Nothing that depends on it may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotLogged {
    /// The file could not be written.
    Failed {
        /// errno(3) of the write.
        errno: i32,
    },
    /// Another write is stuck in the kernel.
    Stalled,
    /// The permit no longer held when its record was to be written.
    Denied(Denial),
}

impl fmt::Display for NotLogged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { errno } => {
                write!(f, "could not write the audit log: {}", Errno::from_raw(*errno).desc().to_lowercase())
            }
            Self::Stalled => f.write_str("the audit log does not take writes: one is stuck"),
            Self::Denied(_) => f.write_str("the permit ended before its use was recorded"),
        }
    }
}

impl std::error::Error for NotLogged {}

impl From<NotLogged> for Error {
    fn from(why: NotLogged) -> Self {
        match why {
            NotLogged::Failed { errno } => {
                Self::storage("write the audit log", &io::Error::from_raw_os_error(errno))
            }
            NotLogged::Stalled => Self::new(Class::Timeout, "audit_stalled", why.to_string())
                .hint("look at the disk that holds the state directory"),
            NotLogged::Denied(_) => Self::new(Class::Denied, "grant_ended", why.to_string()),
        }
    }
}

impl AuditLog {
    /// Opens the log in `dir`, or begins it; cuts off and records lines torn by a crash. Makes
    /// this process ignore SIGXFSZ, which would kill it where EFBIG is an error like others.
    ///
    /// # Errors
    /// `unsafe_file` for a log or key that others could have put there or can read, `audit_broken`
    /// where the records since the last anchor are not what was written, `audit_truncated` where they are
    /// fewer than there were, `already_running` where another process has the log, and storage errors.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::open_with(dir, Settings::default())
    }

    /// As [`Self::open`], written as `settings` say.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(dir: &Path, settings: Settings) -> Result<Self> {
        // A write beyond RLIMIT_FSIZE is to fail with EFBIG instead (setrlimit(2)).
        crate::sys::process::ignore(Signal::SIGXFSZ)
            .map_err(|errno| Error::internal("ignore SIGXFSZ", errno))?;
        Self::resume(dir, settings, LogFile::open(dir)?)
    }

    /// Takes up, or begins, the log that `log` has locked.
    pub(super) fn resume(dir: &Path, settings: Settings, log: LogFile) -> Result<Self> {
        let (key, keeper, last) = upkeep::resume(dir)?;
        if last.partial > 0 {
            log.cut(last.partial).map_err(|error| Error::storage("cut the audit log", &error))?;
        }
        if last.partial > 0 || keeper.is_behind(&last.head) {
            log.distrust().map_err(|error| Error::storage("write the audit log", &error))?;
        }
        let lines = Vec::with_capacity(2 * MAX_LINE);
        let opened = Self {
            dir: dir.to_owned(),
            settings,
            storage: Box::new(log),
            head: Mutex::new(Position { key, mac: last.head.mac, seq: last.head.seq, torn: 0, lines }),
            denials: Mutex::default(),
            keeper: Mutex::new(keeper),
            stalled: AtomicBool::new(false),
            dirty: AtomicBool::new(false),
            fault: Fault::default(),
            place: inode(dir),
            unsealed: Unsealed::since(last.unsealed),
        };
        if last.partial > 0 {
            opened.append(&Event::AuditRecover { cut_bytes: last.partial })?;
        }
        Ok(opened)
    }

    /// Writes one record; its sequence number is returned.
    ///
    /// # Errors
    /// [`NotLogged::Failed`] and [`NotLogged::Stalled`]; the log is then as it was before.
    pub fn append(&self, event: &Event<'_>) -> Result<u64, NotLogged> {
        self.seal_what_is_overdue()?;
        let seq = rendered(event, |fields| {
            let mut head = self.lock().inspect_err(|_| self.fault.refuse(libc::ETIMEDOUT))?;
            self.put(&mut head, event.name(), fields).inspect_err(|_| self.fault.one_more())
        })?;
        self.make_durable().map(|()| seq)
    }

    /// Writes the record of a permit's use. `still_valid` is asked under the lock that orders all
    /// records, so where a withdrawal takes effect before it is recorded, no allow follows its record.
    /// `written` is called under it too, once the record stands: what it counts is what the log shows.
    ///
    /// # Errors
    /// [`NotLogged`]; nothing may be delivered then.
    pub fn append_permit(
        &self,
        permit: Permit,
        event: &Event<'_>,
        still_valid: impl FnOnce() -> Result<(), Denial>,
        written: impl FnOnce(),
    ) -> Result<Logged<Permit>, NotLogged> {
        self.seal_what_is_overdue()?;
        let seq = rendered(event, |fields| {
            let mut head = self.lock().inspect_err(|_| self.fault.refuse(libc::ETIMEDOUT))?;
            still_valid().map_err(NotLogged::Denied)?;
            let seq = self.put(&mut head, event.name(), fields).inspect_err(|_| self.fault.one_more())?;
            written();
            Ok(seq)
        })?;
        self.make_durable()?;
        Ok(Logged::new(permit, seq))
    }

    /// Records that an access was denied. The first denial of a kind is written at once, repeats within
    /// a second are summed up; [`Self::flush`] writes the sums. Where the log fails the count is kept.
    pub fn deny(&self, denied: &Denied<'_>) {
        self.deny_at(denied, Instant::now(), SystemTime::now());
    }

    /// Writes the sums of repeated denials that are due, or all of them. To be called each second,
    /// before a query and at the end.
    pub fn flush(&self, all: bool) {
        self.flush_at(all, Instant::now());
    }

    /// Makes all records durable; costs nothing where there is nothing new. [`Self::tend`] does it too.
    ///
    /// # Errors
    /// A storage error of fdatasync(2), which `audit.fault` will name too.
    pub fn sync(&self) -> Result<()> {
        if !self.dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        self.storage.sync().map_err(|error| {
            self.dirty.store(true, Ordering::Release);
            self.fault.seen(error.raw_os_error().unwrap_or(libc::EIO));
            Error::storage("sync the audit log", &error)
        })
    }

    /// Where each record is to be on the disk before anything depends on it, waits for that.
    fn make_durable(&self) -> Result<(), NotLogged> {
        if self.settings.sync == Sync::Group {
            return Ok(());
        }
        self.storage.sync().map_err(|error| {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            self.fault.refuse(errno);
            NotLogged::Failed { errno }
        })
    }

    /// Whether the record is being written.
    pub fn recording(&self) -> Recording {
        self.fault.recording()
    }

    /// Whether the directory of this name is still the one that it was opened in: another has another record.
    pub fn is_in_place(&self) -> bool {
        inode(&self.dir) == self.place
    }

    /// The last record's number; 0 before the first. A log that ends earlier was cut.
    ///
    /// # Errors
    /// [`NotLogged::Stalled`].
    pub fn last_seq(&self) -> Result<u64, NotLogged> {
        self.lock().map(|head| head.seq)
    }

    /// The last record.
    pub(super) fn position(&self) -> Result<Head, NotLogged> {
        self.lock().map(|head| Head { seq: head.seq, mac: head.mac })
    }

    /// Counts a record that was refused because of something else than its own write.
    pub(super) fn refuse(&self, errno: i32) -> NotLogged {
        self.fault.refuse(errno);
        NotLogged::Failed { errno }
    }

    /// Writes a record whose failure refuses nothing, because it is tried again.
    pub(super) fn append_again(&self, name: &str, fields: Fields<'_>) -> Result<u64, NotLogged> {
        if name != seals::NAME {
            self.seal_what_is_overdue()?;
        }
        self.put(&mut *self.lock()?, name, fields)
    }

    /// Ends the segment: what is written from now on goes to the next.
    pub(super) fn rotate(&self) -> Result<()> {
        let head = self.lock()?;
        if head.torn == 0 {
            self.storage
                .rotate()
                .map_err(|error| Error::storage("begin a segment of the audit log", &error))?;
            self.dirty.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Puts something between the log and its file.
    #[cfg(test)]
    pub(super) fn with_storage(self, wrap: impl FnOnce(Box<dyn Storage>) -> Box<dyn Storage>) -> Self {
        Self { storage: wrap(self.storage), ..self }
    }

    fn lock(&self) -> Result<MutexGuard<'_, Position>, NotLogged> {
        let patience = if self.stalled.load(Ordering::Acquire) { Duration::ZERO } else { PATIENCE };
        match self.head.try_lock_for(patience) {
            Some(head) => {
                self.stalled.store(false, Ordering::Release);
                Ok(head)
            }
            None => {
                self.stalled.store(true, Ordering::Release);
                Err(NotLogged::Stalled)
            }
        }
    }

    /// Writes one record, and with it what failed before, where something did: a fault is told together
    /// with the first success.
    fn put(&self, head: &mut Position, name: &str, fields: Fields<'_>) -> Result<u64, NotLogged> {
        let refused = self.fault.refused.load(Ordering::Acquire);
        let errno = self.fault.errno.swap(0, Ordering::AcqRel);
        let mut end = head.begin();
        if (errno, refused) != (0, 0) {
            // Those who waited in vain count without the lock, and so may come between the two.
            let error = Errno::from_raw(if errno == 0 { libc::ETIMEDOUT } else { errno });
            let event = Event::AuditFault { error: &format!("{error:?}"), refused };
            end = head.add(end, event.name(), &mut |_, _, out| event.write(&mut Members(out)));
        }
        end = head.add(end, name, fields);
        let done = self.write(head);
        self.stalled.store(false, Ordering::Release);
        if let Err(errno) = done {
            self.fault.seen(errno);
            return Err(NotLogged::Failed { errno });
        }
        self.fault.refused.fetch_sub(refused, Ordering::AcqRel);
        self.dirty.store(true, Ordering::Release);
        self.unsealed.note(name == seals::NAME);
        (head.seq, head.mac) = end;
        Ok(head.seq)
    }

    /// Writes the lines of `head`, all or none.
    fn write(&self, head: &mut Position) -> Result<(), i32> {
        self.cut_torn(head)?;
        self.write_all(&head.lines).map_err(|(written, errno)| {
            head.torn = written;
            // Where this fails too, the next append tries it again before it writes.
            let _ = self.cut_torn(head);
            errno
        })
    }

    /// One write(2), and more only where the kernel took less than all.
    fn write_all(&self, line: &[u8]) -> Result<(), (u64, i32)> {
        let mut written = 0;
        while written < line.len() {
            match self.storage.write(&line[written..]) {
                Ok(0) => return Err((written as u64, libc::EIO)),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err((written as u64, error.raw_os_error().unwrap_or(libc::EIO))),
            }
        }
        Ok(())
    }

    fn cut_torn(&self, head: &mut Position) -> Result<(), i32> {
        if head.torn > 0 {
            self.storage.cut(head.torn).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
            head.torn = 0;
        }
        Ok(())
    }
}

/// The fields are written before the log is locked.
fn rendered<T>(event: &Event<'_>, then: impl FnOnce(Fields<'_>) -> T) -> T {
    let mut fields = FIELDS.take();
    fields.clear();
    event.write(&mut Members(&mut fields));
    let done = then(&mut |_, _, out| out.extend_from_slice(&fields));
    FIELDS.set(fields);
    done
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
