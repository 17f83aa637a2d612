//! How are many denials written in few lines, without losing one from the count?

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kin_policy::GrantId;
use lru::LruCache;

use super::json::Members;
use super::log::AuditLog;
use super::record::{Denied, Op};
use super::written::write_crowd;

/// A repeat within this time of the last record is summed up.
const WINDOW: Duration = Duration::from_secs(1);
/// Series that are told apart at a time.
const SERIES: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// Crowds that are told apart by project; beyond that a crowd has no project.
const CROWDS: usize = 64;
/// Readers that a crowd tells apart: beyond that `readers` is a lower bound.
const CROWD_READERS: usize = 4096;

/// Bytes a second that records of single readers may take, and as many in one burst: in ten seconds
/// of flood 3 MiB.
const RATE: u64 = 256 * 1024;
const BURST: u64 = 512 * 1024;
/// What a record takes beside its fields: number, time, MACs, and count, first and last.
const OVERHEAD: u64 = 320;

/// Denials that are not written yet, or that a repeat would be summed up with.
pub(super) struct Denials {
    series: LruCache<Key, Series>,
    crowds: HashMap<CrowdKey, Crowd>,
    crowds_written: Option<Instant>,
    budget: Budget,
}

/// What makes two denials repeats of one.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    reader: ReaderKey,
    exe: Option<Box<[u8]>>,
    op: Op,
    project: Box<[u8]>,
    file: Option<Box<[u8]>>,
    grant: Option<GrantId>,
    reason: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum ReaderKey {
    Proven(kin_policy::Process),
    Thread(Option<kin_policy::Tid>),
}

/// Repeated denials of one reader.
struct Series {
    fields: Arc<[u8]>,
    comm: Box<[u8]>,
    tally: Tally,
    written: Instant,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct CrowdKey {
    op: Op,
    project: Option<Box<[u8]>>,
    reason: &'static str,
}

/// Denials of more readers than can have a record each.
struct Crowd {
    comm: Box<[u8]>,
    tally: Tally,
    readers: HashSet<ReaderKey>,
}

/// How many, from when to when.
#[derive(Clone, Copy)]
struct Tally {
    count: u64,
    first: SystemTime,
    last: SystemTime,
}

impl Tally {
    fn one(time: SystemTime) -> Self {
        Self { count: 1, first: time, last: time }
    }

    fn add(&mut self, other: Self) {
        match (self.count, other.count) {
            (_, 0) => {}
            (0, _) => *self = other,
            _ => {
                self.count += other.count;
                self.first = self.first.min(other.first);
                self.last = self.last.max(other.last);
            }
        }
    }

    fn take(&mut self) -> Self {
        std::mem::replace(self, Self { count: 0, ..*self })
    }
}

/// A record to be written.
enum Due {
    Series { key: Key, fields: Arc<[u8]>, comm: Box<[u8]>, tally: Tally },
    Crowd { key: CrowdKey, crowd: Crowd },
}

impl Due {
    fn name(&self) -> &'static str {
        match self {
            Self::Series { key, .. } => key.op.denial(),
            Self::Crowd { key, .. } => key.op.denial(),
        }
    }

    fn write(&self, out: &mut Members<'_>) {
        let tally = match self {
            Self::Series { fields, tally, .. } => {
                out.0.extend_from_slice(fields);
                tally
            }
            Self::Crowd { key, crowd } => {
                write_crowd(out, key.op, key.project.as_deref(), key.reason, &crowd.comm);
                out.number("readers", crowd.readers.len() as u64);
                &crowd.tally
            }
        };
        out.number("count", tally.count);
        out.time("first", tally.first);
        out.time("last", tally.last);
    }
}

impl AuditLog {
    pub(super) fn deny_at(&self, denied: &Denied<'_>, now: Instant, time: SystemTime) {
        let due = self.denials.lock().note(denied, now, time);
        self.write_due(due);
    }

    pub(super) fn flush_at(&self, all: bool, now: Instant) {
        let due = self.denials.lock().due(all, now);
        self.write_due(due);
    }

    /// The lock on the denials is never held over a write.
    fn write_due(&self, due: Vec<Due>) {
        let mut due = due.into_iter();
        while let Some(next) = due.next() {
            if self.append_again(next.name(), &mut |_, _, out| next.write(&mut Members(out))).is_err() {
                let mut denials = self.denials.lock();
                std::iter::once(next).chain(due).for_each(|due| denials.put_back(due));
                return;
            }
        }
    }
}

impl Default for Denials {
    fn default() -> Self {
        Self {
            series: LruCache::new(SERIES),
            crowds: HashMap::new(),
            crowds_written: None,
            budget: Budget { left: BURST, since: None },
        }
    }
}

impl Denials {
    fn note(&mut self, denied: &Denied<'_>, now: Instant, time: SystemTime) -> Vec<Due> {
        let (key, tally) = (Key::of(denied), Tally::one(time));
        if let Some(series) = self.series.get_mut(&key) {
            series.tally.add(tally);
            let due = series.is_due(now) && self.budget.take(series.cost(), now);
            return if due { vec![series.due(key, now)] } else { Vec::new() };
        }
        let fields = rendered(denied);
        let mut series = Series { fields, comm: denied.reader.comm.into(), tally, written: now };
        if !self.budget.take(series.cost(), now) {
            self.join_crowd(&key, &series.comm, tally);
            return Vec::new();
        }
        let mut due = vec![series.due(key.clone(), now)];
        due.extend(self.keep(key, series, now));
        due
    }

    /// Keeps a series; one that has to go for it and has something to say is returned.
    fn keep(&mut self, key: Key, series: Series, now: Instant) -> Option<Due> {
        let (key, mut series) = self.series.push(key, series)?;
        if series.tally.count == 0 {
            return None;
        }
        if self.budget.take(series.cost(), now) {
            return Some(series.due(key, now));
        }
        self.join_crowd(&key, &series.comm, series.tally);
        None
    }

    fn due(&mut self, all: bool, now: Instant) -> Vec<Due> {
        let (mut due, mut crowded) = (Vec::new(), Vec::new());
        for (key, series) in &mut self.series {
            if series.tally.count == 0 || !(all || series.is_due(now)) {
                continue;
            }
            if self.budget.take(series.cost(), now) {
                due.push(series.due(key.clone(), now));
            } else if all {
                crowded.push((key.clone(), series.comm.clone(), series.tally.take()));
            }
        }
        for (key, comm, tally) in crowded {
            self.join_crowd(&key, &comm, tally);
        }
        if all || self.crowds_written.is_none_or(|written| now.duration_since(written) >= WINDOW) {
            due.extend(self.crowds.drain().map(|(key, crowd)| Due::Crowd { key, crowd }));
            self.crowds_written = Some(now);
        }
        due
    }

    fn join_crowd(&mut self, key: &Key, comm: &[u8], tally: Tally) {
        let mut crowd = Crowd { comm: comm.into(), tally, readers: HashSet::new() };
        crowd.readers.insert(key.reader);
        let key = CrowdKey { op: key.op, project: Some(key.project.clone()), reason: key.reason };
        self.merge_crowd(key, crowd);
    }

    fn merge_crowd(&mut self, mut key: CrowdKey, crowd: Crowd) {
        if self.crowds.len() >= CROWDS && !self.crowds.contains_key(&key) {
            key.project = None;
        }
        match self.crowds.get_mut(&key) {
            None => {
                self.crowds.insert(key, crowd);
            }
            Some(there) => {
                there.tally.add(crowd.tally);
                let room = CROWD_READERS.saturating_sub(there.readers.len());
                there.readers.extend(crowd.readers.into_iter().take(room));
            }
        }
    }

    /// What could not be written stays pending.
    fn put_back(&mut self, due: Due) {
        match due {
            Due::Crowd { key, crowd } => self.merge_crowd(key, crowd),
            Due::Series { key, comm, tally, .. } => match self.series.peek_mut(&key) {
                Some(series) => series.tally.add(tally),
                None => self.join_crowd(&key, &comm, tally),
            },
        }
    }
}

impl Key {
    fn of(denied: &Denied<'_>) -> Self {
        Self {
            reader: match denied.reader.process {
                Some(process) => ReaderKey::Proven(process),
                None => ReaderKey::Thread(denied.reader.tid),
            },
            exe: denied.reader.exe.map(Box::from),
            op: denied.op,
            project: denied.project.into(),
            file: denied.file.map(Box::from),
            grant: denied.grant,
            reason: denied.reason,
        }
    }
}

impl Series {
    fn cost(&self) -> u64 {
        self.fields.len() as u64 + OVERHEAD
    }

    fn is_due(&self, now: Instant) -> bool {
        now.duration_since(self.written) >= WINDOW
    }

    fn due(&mut self, key: Key, now: Instant) -> Due {
        self.written = now;
        Due::Series { key, fields: self.fields.clone(), comm: self.comm.clone(), tally: self.tally.take() }
    }
}

fn rendered(denied: &Denied<'_>) -> Arc<[u8]> {
    let mut fields = Vec::with_capacity(512);
    denied.write(&mut Members(&mut fields));
    fields.into()
}

/// A token bucket, in bytes.
struct Budget {
    left: u64,
    since: Option<Instant>,
}

impl Budget {
    fn take(&mut self, cost: u64, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let nanos = now.duration_since(since).as_nanos().min(u128::from(u32::MAX));
        let earned = nanos as u64 * RATE / 1_000_000_000;
        if earned > 0 {
            self.left = (self.left + earned).min(BURST);
            self.since = Some(now);
        }
        match self.left.checked_sub(cost) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
#[path = "denials_tests.rs"]
mod tests;
