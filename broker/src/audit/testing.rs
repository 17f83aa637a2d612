//! What do the tests of the record share?

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::{Arc, mpsc};

use kin_policy::{DirectoryName, FileName, GrantId, Permit, Pid, Process, Reference, Tid, decide_reveal};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::record::{Denied, Event, Op, ReaderFacts};
use super::storage::{self, Storage};
use super::{AuditLog, Filter, query};
use crate::process::ancestry::Ancestry;

pub(super) fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

pub(super) fn process(pid: u32, start: u64) -> Process {
    Process { pid: Pid::new(pid).unwrap(), start }
}

pub(super) fn permit() -> Permit {
    decide_reveal(&Reference::new("db/url").unwrap(), false, true).unwrap()
}

/// The names and the reader that most records here are about.
pub(super) struct Scene {
    pub(super) grant: GrantId,
    pub(super) project: DirectoryName,
    pub(super) file: FileName,
    pub(super) reference: Reference,
    pub(super) chain: Ancestry,
}

impl Scene {
    pub(super) fn new() -> Self {
        Self {
            grant: GrantId::from_bytes([0xab; 16]),
            project: DirectoryName::new("api").unwrap(),
            file: FileName::new("DATABASE_URL").unwrap(),
            reference: Reference::new("db/url").unwrap(),
            chain: Ancestry::of(&[process(200, 10), process(100, 9)]),
        }
    }

    pub(super) fn reader(&self, pid: u32) -> ReaderFacts<'_> {
        ReaderFacts {
            tid: Tid::new(pid),
            process: Some(process(pid, 77)),
            uid: Some(1000),
            exe: Some(b"/usr/bin/cat"),
            proven: false,
            comm: b"cat",
            chain: &self.chain,
        }
    }

    pub(super) fn allow(&self) -> Event<'_> {
        Event::Allow {
            op: Op::Open,
            grant: self.grant,
            project: &self.project,
            file: &self.file,
            reference: &self.reference,
            version: 3,
            elsewhere: false,
            reader: self.reader(203),
        }
    }

    pub(super) fn denied(&self, pid: u32) -> Denied<'_> {
        Denied {
            op: Op::Open,
            project: b"api",
            file: Some(b"DATABASE_URL"),
            reference: None,
            grant: None,
            reason: "no_grant",
            reader: self.reader(pid),
        }
    }
}

/// Every line of the log, parsed.
pub(super) fn lines(dir: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(storage::log_path(dir)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(super) fn events(dir: &Path) -> Vec<String> {
    lines(dir).iter().map(|line| line["event"].as_str().unwrap().to_owned()).collect()
}

/// The denials that the log accounts for.
pub(super) fn denials(dir: &Path) -> u64 {
    let mut sum = 0;
    let filter = Filter { denied: true, ..Filter::default() };
    let queried = query(dir, &filter, |record| sum += record.count()).unwrap();
    assert_eq!(queried.skipped, 0);
    sum
}

/// What the next write does.
pub(super) enum Fault {
    /// It takes so many bytes.
    Short(usize),
    /// It fails.
    Errno(i32),
    /// It is stuck until told.
    Stuck(mpsc::Receiver<()>),
    /// The next cut fails.
    NoCut,
}

/// A log file that fails as it is told; without orders it works.
pub(super) struct Faulty {
    inner: Box<dyn Storage>,
    orders: Orders,
}

pub(super) type Orders = Arc<Mutex<VecDeque<Fault>>>;

impl Faulty {
    pub(super) fn open(dir: &Path) -> (AuditLog, Orders) {
        let orders = Orders::default();
        let log = AuditLog::open(dir).unwrap();
        (log.with_storage(|inner| Box::new(Self { inner, orders: orders.clone() })), orders)
    }
}

impl Storage for Faulty {
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let order = {
            let mut orders = self.orders.lock();
            if matches!(orders.front(), Some(Fault::NoCut)) { None } else { orders.pop_front() }
        };
        match order {
            None | Some(Fault::NoCut) => self.inner.write(bytes),
            Some(Fault::Short(count)) => self.inner.write(&bytes[..count.min(bytes.len())]),
            Some(Fault::Errno(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Fault::Stuck(released)) => {
                let _ = released.recv();
                self.inner.write(bytes)
            }
        }
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        let mut orders = self.orders.lock();
        if matches!(orders.front(), Some(Fault::NoCut)) {
            orders.pop_front();
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        drop(orders);
        self.inner.cut(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn rotate(&self) -> io::Result<()> {
        self.inner.rotate()
    }
}
