//! What does a record cost beside the bare write of its bytes, and how long is the answer to a question to a million?

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kin_broker::audit::{AuditLog, Event, NotLogged, Op, ReaderFacts};
use kin_broker::process::ancestry::Ancestry;
use kin_broker::sys::paths::Directories;
use kin_policy::{DirectoryName, FileName, GrantId, Pid, Process, Reference, Tid};

use crate::Result;
use crate::children;
use crate::statistics::{median, nanoseconds};
use crate::world::{directories, temporary};

/// Records in the log.
pub(crate) const RECORDS: u32 = 1_000_000;
/// Appends, and bare writes, for which one of them has its turn.
const TURN: u32 = 20_000;
/// One record in so many is of the secret that is asked for first; the others are of the second.
const RARE: u32 = 1000;
const SECRETS: [&str; 2] = ["rare/one", "db/url"];
/// Times that each question is asked.
const ROUNDS: usize = 5;

/// What was measured, in nanoseconds.
#[derive(Default)]
pub(crate) struct Audit {
    /// One append, and one write(2) of as many bytes to the same file system: medians of turns.
    pub(crate) append_ns: u64,
    /// The write.
    pub(crate) write_ns: u64,
    /// `kin audit --ref` from fork to exit, of a secret in one record of a thousand, and in all the others.
    pub(crate) query_ns: [u64; 2],
    /// Reading the files of the log, and nothing else.
    pub(crate) read_ns: u64,
    /// Bytes of a record.
    pub(crate) bytes: u64,
    /// Files of the log.
    pub(crate) segments: usize,
}

impl Audit {
    /// An append may take so much longer than the write.
    pub(crate) const APPEND_LIMIT_US: f64 = 3.0;
    /// A question may take so long.
    pub(crate) const QUERY_LIMIT_MS: f64 = 1000.0;

    /// What the slower question took.
    pub(crate) fn slower_ns(&self) -> u64 {
        self.query_ns[0].max(self.query_ns[1])
    }
}

/// Writes a log as a broker does, and asks it.
pub(crate) fn measure(kin: &Path) -> Result<Audit> {
    let home = temporary("ka")?;
    let directories = directories(home.path())?;
    let mut audit = append(&directories)?;
    let fault = |error: io::Error| format!("read the log: {error}");
    let logs = segments(&directories.state).map_err(fault)?;
    audit.segments = logs.len();
    (audit.read_ns, audit.query_ns) = (u64::MAX, [u64::MAX; 2]);
    for _ in 0..ROUNDS {
        audit.read_ns = audit.read_ns.min(read(&logs).map_err(fault)?);
        for (best, secret) in audit.query_ns.iter_mut().zip(SECRETS) {
            let mut ask = Command::new(kin);
            ask.args(["audit", "--ref", secret]).env("KIN_HOME", home.path()).env_remove("KIN_DIR");
            *best = (*best).min(nanoseconds(children::time(&mut ask)?));
        }
    }
    Ok(audit)
}

/// Appends [`RECORDS`], in turns with bare writes.
fn append(directories: &Directories) -> Result<Audit> {
    let failed = |why: NotLogged| format!("append a record: {why:?}");
    let log = AuditLog::open(&directories.state).map_err(|error| error.to_string())?;
    let (mut appends, mut writes) = (Vec::new(), Vec::new());
    let mut bare = Bare::new(&directories.runtime.join("bare"))?;
    let opens = Opens::new()?;
    let mut bytes = 0;
    for turn in 0..RECORDS / TURN {
        let started = Instant::now();
        for n in 0..TURN {
            log.append(&opens.of(&opens.secrets[usize::from(n % RARE > 0)])).map_err(failed)?;
        }
        appends.push(each(started.elapsed()));
        // A thread of the broker does this, beside the appends.
        log.tend(turn == RECORDS / TURN - 1).map_err(|error| error.to_string())?;
        let all = size(&directories.state).map_err(|error| format!("look at the log: {error}"))?;
        bytes = all / u64::from((turn + 1) * TURN);
        writes.push(bare.turn(bytes as usize)?);
    }
    let (append_ns, write_ns) = (median(&mut appends)?, median(&mut writes)?);
    Ok(Audit { append_ns, write_ns, bytes, ..Audit::default() })
}

fn each(took: Duration) -> u64 {
    nanoseconds(took) / u64::from(TURN)
}

/// A file that is written as the log is, without what makes a log of it.
struct Bare(File);

impl Bare {
    fn new(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path);
        file.map(Self).map_err(|error| format!("make {}: {error}", path.display()))
    }

    /// Nanoseconds of one write.
    fn turn(&mut self, bytes: usize) -> Result<u64> {
        let line = vec![b'x'; bytes];
        let started = Instant::now();
        let written = (0..TURN).try_for_each(|_| self.0.write_all(&line));
        let took = each(started.elapsed());
        written.and_then(|()| self.0.sync_data()).map_err(|error| format!("write bare lines: {error}"))?;
        Ok(took)
    }
}

/// What a record of an open says.
struct Opens {
    chain: Ancestry,
    project: DirectoryName,
    file: FileName,
    secrets: [Reference; 2],
}

fn process(pid: u32) -> Option<Process> {
    Some(Process { pid: Pid::new(pid)?, start: 123_456_789 })
}

impl Opens {
    fn new() -> Result<Self> {
        let ancestors: Vec<_> = [1002, 1001, 1000, 999].into_iter().filter_map(process).collect();
        let secret = |name: &str| Reference::new(name).map_err(|error| error.to_string());
        Ok(Self {
            chain: Ancestry::of(&ancestors),
            project: DirectoryName::new("api").map_err(|error| error.to_string())?,
            file: FileName::new("DATABASE_URL").map_err(|error| error.to_string())?,
            secrets: [secret(SECRETS[0])?, secret(SECRETS[1])?],
        })
    }

    fn of<'a>(&'a self, reference: &'a Reference) -> Event<'a> {
        let reader = ReaderFacts {
            tid: Tid::new(1003),
            process: process(1003),
            uid: Some(1000),
            exe: Some(b"/usr/bin/python3.11"),
            proven: false,
            comm: b"python3",
            chain: &self.chain,
        };
        let (op, grant) = (Op::Open, GrantId::from_bytes([7; 16]));
        let (project, file) = (&self.project, &self.file);
        Event::Allow { op, grant, project, file, reference, version: 1, elsewhere: false, reader }
    }
}

/// The files that hold records.
fn segments(state: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(state)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "jsonl") {
            found.push(path);
        }
    }
    Ok(found)
}

fn size(state: &Path) -> io::Result<u64> {
    segments(state)?.iter().map(|path| Ok(fs::metadata(path)?.len())).sum()
}

/// Nanoseconds of reading all of them.
fn read(logs: &[PathBuf]) -> io::Result<u64> {
    let (started, mut block) = (Instant::now(), vec![0; 1 << 20]);
    for log in logs {
        let mut file = File::open(log)?;
        while file.read(&mut block)? > 0 {}
    }
    Ok(nanoseconds(started.elapsed()))
}
