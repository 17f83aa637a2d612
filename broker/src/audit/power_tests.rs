//! Tests of a power cut: what was synced is there, and the rest is cut off in the open.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::storage::{self, Storage};
use super::testing::{self, Scene};
use super::{AuditLog, Settings, verify};
use crate::sys::config::Sync;

/// What was on the disk, and in the page cache, at one instant.
struct Moment {
    /// The small files: each is written anew, synced and put in its place, so it is always whole.
    small: BTreeMap<OsString, Vec<u8>>,
    /// The segments, oldest first.
    segments: Vec<Vec<u8>>,
    /// Bytes of all segments together that a sync has covered.
    durable: usize,
    /// A segment was begun, and the directory not synced since.
    renamed: bool,
}

/// A log file that remembers each instant.
struct Recorder {
    inner: Box<dyn Storage>,
    dir: PathBuf,
    moments: Arc<Mutex<Vec<Moment>>>,
    durable: Mutex<(usize, bool)>,
}

impl Recorder {
    fn open(dir: &Path, settings: Settings) -> (AuditLog, Arc<Mutex<Vec<Moment>>>) {
        let moments = Arc::default();
        let log = AuditLog::open_with(dir, settings).unwrap();
        let log = log.with_storage(|inner| {
            let durable = Mutex::new((0, false));
            Box::new(Self { inner, dir: dir.to_owned(), moments: Arc::clone(&moments), durable })
        });
        (log, moments)
    }

    fn snapshot(&self) {
        let (durable, renamed) = *self.durable.lock();
        let segments = segments(&self.dir);
        let entries = std::fs::read_dir(&self.dir).unwrap().map(|entry| entry.unwrap());
        let small = entries
            .map(|entry| (entry.file_name(), entry.path()))
            .filter(|(name, _)| !name.to_str().unwrap().contains(".jsonl"))
            .map(|(name, path)| (name, std::fs::read(path).unwrap()))
            .collect();
        self.moments.lock().push(Moment { small, segments, durable, renamed });
    }
}

fn segments(dir: &Path) -> Vec<Vec<u8>> {
    storage::segments(dir).unwrap().iter().map(|segment| segment.read().unwrap()).collect()
}

impl Storage for Recorder {
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.snapshot();
        let done = self.inner.write(bytes);
        self.snapshot();
        done
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        self.inner.cut(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        let written = segments(&self.dir).iter().map(Vec::len).sum();
        self.inner.sync()?;
        *self.durable.lock() = (written, false);
        self.snapshot();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn rotate(&self) -> io::Result<()> {
        self.inner.rotate()?;
        self.durable.lock().1 = true;
        self.snapshot();
        Ok(())
    }
}

impl Moment {
    /// The states that a power cut may leave of the segments: any end of what was not synced, blocks of it
    /// that were never written, and the segment that was begun last not there yet.
    fn states(&self) -> Vec<Vec<Vec<u8>>> {
        let before: usize = self.segments.iter().rev().skip(1).map(Vec::len).sum();
        let last = self.segments.last().cloned().unwrap_or_default();
        let safe = self.durable.saturating_sub(before);
        let with = |last: Vec<u8>| {
            let mut segments = self.segments.clone();
            segments.pop();
            segments.push(last);
            segments
        };
        let mut states = Vec::new();
        for end in (safe..=last.len()).step_by(97).chain([last.len()]) {
            states.push(with(last[..end].to_vec()));
            let mut holed = last.clone();
            holed[safe..end].fill(0);
            states.push(with(holed));
            let mut holed = last.clone();
            holed[end..].fill(0);
            states.push(with(holed));
        }
        if self.renamed {
            states.push(self.segments[..self.segments.len() - 1].to_vec());
        }
        states
    }

    fn synced(&self) -> Vec<u8> {
        self.segments.concat()[..self.durable].to_vec()
    }

    fn put(&self, segments: &[Vec<u8>]) -> tempfile::TempDir {
        let dir = testing::dir();
        let write = |path: &Path, bytes: &[u8]| crate::sys::files::write_atomic(path, bytes).unwrap();
        self.small.iter().for_each(|(name, bytes)| write(&dir.path().join(name), bytes));
        let (last, ended) = segments.split_last().unwrap();
        for (number, bytes) in (1..).zip(ended) {
            write(&storage::ended_path(dir.path(), number), bytes);
        }
        write(&storage::log_path(dir.path()), last);
        dir
    }
}

#[test]
fn x02_a_power_cut_loses_no_synced_record() {
    let dir = testing::dir();
    let settings = Settings { sync: Sync::Group, segment: 3000 };
    let (log, moments) = Recorder::open(dir.path(), settings);
    for n in 0..18 {
        log.append(&Scene::new().allow()).unwrap();
        if n % 4 == 3 {
            log.tend(n % 8 == 7).unwrap();
        }
    }
    drop(log);
    let (mut states, mut rotated) = (0, 0);
    for moment in moments.lock().iter() {
        rotated += usize::from(moment.renamed);
        for segments in moment.states() {
            let crashed = moment.put(&segments);
            let log = AuditLog::open_with(crashed.path(), settings).unwrap();
            log.append(&Scene::new().allow()).unwrap();
            log.tend(true).unwrap();
            let verified = verify(crashed.path()).unwrap();
            let synced = moment.synced();
            let there = self::segments(crashed.path()).concat();
            assert!(there.starts_with(&synced), "synced records are not there");
            assert!(verified.records > memchr::memchr_iter(b'\n', &synced).count() as u64);
            states += 1;
        }
    }
    assert!(states > 200 && rotated > 0, "{states} states, {rotated} of them behind a rotation");
}

#[test]
fn x02_with_sync_each_a_record_is_on_the_disk_before_anything_depends_on_it() {
    for (sync, expected) in [(Sync::Each, true), (Sync::Group, false)] {
        let dir = testing::dir();
        let (log, moments) = Recorder::open(dir.path(), Settings { sync, ..Settings::default() });
        log.append(&Scene::new().allow()).unwrap();
        for _ in 0..3 {
            log.append_permit(testing::permit(), &Scene::new().allow(), || Ok(()), || ()).unwrap();
            let moments = moments.lock();
            let last = moments.last().unwrap();
            assert_eq!(last.durable == last.segments.concat().len(), expected, "{sync:?}");
        }
    }
}
