//! Tests of a disk that loses what it was told to keep, says so once, and is content from then on.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::storage::{self, LogFile};
use super::testing::{self, Scene, events};
use super::{AuditLog, NotLogged, Settings, verify};
use crate::sys::config::Sync;

/// Its number is used again, and so its birth tells an inode from one before.
type Inode = (u64, SystemTime);

fn inode(file: &File) -> Inode {
    let meta = file.metadata().unwrap();
    (meta.ino(), meta.created().unwrap())
}

/// What such a disk holds, by inode: the content that is there after a power cut.
#[derive(Default)]
struct Disk {
    holds: HashMap<Inode, Vec<u8>>,
    /// What it has taken for written, and lost, by inode.
    lost: HashMap<Inode, Vec<(usize, usize)>>,
    syncs: usize,
    fails_at: Vec<usize>,
}

type Shared = Arc<Mutex<Disk>>;

impl Disk {
    /// fsync(2) as Linux has it: an error is told once, and the pages that it was about are clean.
    fn sync(&mut self, file: &File) -> io::Result<()> {
        let meta = file.metadata()?;
        let mut bytes = vec![0; meta.len() as usize];
        file.read_exact_at(&mut bytes, 0)?;
        let held = self.holds.entry(inode(file)).or_default();
        let lost = self.lost.entry(inode(file)).or_default();
        self.syncs += 1;
        if self.fails_at.contains(&self.syncs) {
            lost.push((held.len(), bytes.len()));
            held.resize(bytes.len(), 0);
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        for (from, to) in lost {
            let to = (*to).min(bytes.len());
            bytes[(*from).min(to)..to].fill(0);
        }
        *held = bytes;
        Ok(())
    }

    /// The power goes: what is in the page cache is gone.
    fn cut(&self, dir: &Path) {
        for segment in storage::segments(dir).unwrap() {
            std::fs::write(
                &segment.path,
                self.holds.get(&inode(&segment.file)).map_or(&[][..], Vec::as_slice),
            )
            .unwrap();
        }
    }
}

fn open(dir: &Path, settings: Settings, fails_at: &[usize]) -> (AuditLog, Shared) {
    let disk = Shared::new(Mutex::new(Disk { fails_at: fails_at.to_vec(), ..Disk::default() }));
    let own = Arc::clone(&disk);
    let log = LogFile::open_on(dir, Box::new(move |file| own.lock().sync(file))).unwrap();
    (AuditLog::resume(dir, settings, log).unwrap(), disk)
}

const EACH: Settings = Settings { sync: Sync::Each, segment: 16 << 20 };
const GROUP: Settings = Settings { sync: Sync::Group, segment: 3000 };

#[test]
fn l21_with_sync_each_nothing_is_delivered_that_a_lying_disk_has_lost() {
    // The first sync to fail, a later one, two in a row, and the one of the new file.
    for fails_at in [&[1][..], &[3], &[2, 3], &[2, 3, 4, 6]] {
        let dir = testing::dir();
        let (log, disk) = open(dir.path(), EACH, fails_at);
        let mut delivered = Vec::new();
        for n in 1..=9 {
            let permit = log.append_permit(testing::permit(), &Scene::new().allow(), || Ok(()), || ());
            match permit {
                Ok(logged) => delivered.push(logged.seq()),
                Err(NotLogged::Failed { errno }) => assert_eq!(errno, libc::EIO),
                Err(other) => panic!("{n}: {other}"),
            }
            // At each moment: what was delivered is on the disk.
            let crashed = testing::dir();
            for entry in std::fs::read_dir(dir.path()).unwrap().map(Result::unwrap) {
                std::fs::copy(entry.path(), crashed.path().join(entry.file_name())).unwrap();
            }
            let segment = inode(&File::open(storage::log_path(dir.path())).unwrap());
            let held = disk.lock().holds.get(&segment).cloned();
            std::fs::write(storage::log_path(crashed.path()), held.unwrap_or_default()).unwrap();
            let log = AuditLog::open(crashed.path()).unwrap();
            assert!(
                log.last_seq().unwrap() >= delivered.last().copied().unwrap_or(0),
                "{fails_at:?}, at {n}"
            );
            drop(log);
            verify(crashed.path()).unwrap();
        }
        assert_eq!(delivered.len(), 9 - fails_at.len(), "{fails_at:?}");
        assert!(events(dir.path()).contains(&"audit.fault".into()));
    }
}

#[test]
fn l21_what_a_failed_sync_may_have_lost_is_written_again_elsewhere() {
    // Every sync of the life once, segments and seals included.
    let mut at = 1;
    loop {
        let dir = testing::dir();
        let (log, disk) = open(dir.path(), GROUP, &[at]);
        for n in 0..16 {
            log.append(&Scene::new().allow()).unwrap();
            if n % 3 == 2 {
                // What has failed is tried again by the next call.
                let _ = log.tend(n % 6 == 5);
            }
        }
        if log.tend(true).is_err() {
            log.tend(true).unwrap();
        }
        drop(log);
        let reached = disk.lock().syncs >= at;
        disk.lock().cut(dir.path());
        let verified = verify(dir.path()).unwrap();
        assert_eq!(verified.partial, 0);
        assert!(verified.records >= 16 && verified.sealed_seq == verified.last_seq, "{at}: {verified:?}");
        AuditLog::open(dir.path()).unwrap();
        if !reached {
            break;
        }
        at += 1;
    }
    assert!(at > 10, "only {at} syncs");
}

#[test]
fn l21_what_another_process_left_unsynced_is_written_again() {
    let dir = testing::dir();
    let log = AuditLog::open(dir.path()).unwrap();
    log.append(&Scene::new().allow()).unwrap();
    log.tend(false).unwrap();
    let inode = || std::fs::metadata(storage::log_path(dir.path())).unwrap().ino();
    let before = inode();
    drop(log);
    drop(AuditLog::open(dir.path()).unwrap());
    assert_eq!(inode(), before, "the anchor knows all of it");
    AuditLog::open(dir.path()).unwrap().append(&Scene::new().allow()).unwrap();
    drop(AuditLog::open(dir.path()).unwrap());
    assert_ne!(inode(), before);
    assert_eq!(verify(dir.path()).unwrap().records, 2);
}
