//! What may a power cut leave, and what does a failing disk do? A vault on disks that remember and fail.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tempfile::TempDir;

use super::*;
use crate::files::NewFile;

/// One thing that was asked of the disk. Files have numbers; a name is what may point at one.
#[derive(Clone, Debug)]
enum Step {
    Create(PathBuf, usize),
    Write(usize, Vec<u8>),
    Sync(usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    SyncDirectory(PathBuf),
    /// The caller was told that this many changes are done.
    Acknowledged(usize),
}

/// A real disk that writes down what it was asked.
struct Recorder(Arc<Mutex<Vec<Step>>>);

struct RecordedFile(Box<dyn NewFile>, usize, Arc<Mutex<Vec<Step>>>);

impl Disk for Recorder {
    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        let file = RealDisk.create(path)?;
        let mut steps = self.0.lock();
        let number = steps.len();
        steps.push(Step::Create(path.to_owned(), number));
        Ok(Box::new(RecordedFile(file, number, self.0.clone())))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)?;
        self.0.lock().push(Step::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)?;
        self.0.lock().push(Step::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_directory(path)?;
        self.0.lock().push(Step::SyncDirectory(path.parent().unwrap().to_owned()));
        Ok(())
    }
}

impl NewFile for RecordedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Never all at once: a cut may fall between two writes.
        let written = self.0.write(&bytes[..bytes.len().div_ceil(2)])?;
        self.2.lock().push(Step::Write(self.1, bytes[..written].to_vec()));
        Ok(written)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync()?;
        self.2.lock().push(Step::Sync(self.1));
        Ok(())
    }
}

/// A name that goes, and one that comes with its file.
type Change = (Option<PathBuf>, Option<(PathBuf, usize)>);

/// What is known of a disk whose power may go at any moment.
#[derive(Default)]
struct Power {
    names: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    /// Changes of names that no directory was synced for: what goes, and what comes.
    pending: Vec<Change>,
    content: BTreeMap<usize, (Vec<u8>, bool)>,
}

type Files = BTreeMap<PathBuf, Vec<u8>>;

impl Power {
    fn take(&mut self, step: &Step) {
        match step {
            Step::Create(path, number) => {
                self.names.insert(path.clone(), *number);
                self.content.insert(*number, (Vec::new(), false));
                self.pending.push((None, Some((path.clone(), *number))));
            }
            Step::Write(number, bytes) => {
                let (content, synced) = self.content.get_mut(number).unwrap();
                content.extend_from_slice(bytes);
                *synced = false;
            }
            Step::Sync(number) => self.content.get_mut(number).unwrap().1 = true,
            Step::Rename(from, to) => {
                let number = self.names.remove(from).unwrap();
                self.names.insert(to.clone(), number);
                self.pending.push((Some(from.clone()), Some((to.clone(), number))));
            }
            Step::Remove(path) => {
                self.names.remove(path);
                self.pending.push((Some(path.clone()), None));
            }
            Step::SyncDirectory(directory) => {
                let (now, later) = std::mem::take(&mut self.pending).into_iter().partition(|change| {
                    let named = change.1.as_ref().map(|(path, _)| path).or(change.0.as_ref());
                    named.and_then(|path| path.parent()) == Some(directory)
                });
                self.pending = later;
                apply(&mut self.durable, now);
            }
            Step::Acknowledged(_) => {}
        }
    }

    /// Everything that may be there after a cut: any of the pending changes of names, and of a file that was
    /// not synced all, the beginning, zeroes, or nothing.
    fn after_a_cut(&self) -> BTreeSet<Files> {
        let mut states = BTreeSet::new();
        for chosen in 0_u32..1 << self.pending.len() {
            let mut names = self.durable.clone();
            let kept = self.pending.iter().enumerate().filter(|(n, _)| chosen & (1 << n) != 0);
            apply(&mut names, kept.map(|(_, change)| change.clone()).collect());
            for loss in 0..4 {
                let left = |number: &usize| match (&self.content[number], loss) {
                    ((content, true), _) | ((content, _), 0) => content.clone(),
                    ((content, _), 1) => content[..content.len() / 2].to_vec(),
                    ((content, _), 2) => vec![0; content.len()],
                    _ => Vec::new(),
                };
                states.insert(names.iter().map(|(path, number)| (path.clone(), left(number))).collect());
            }
        }
        states
    }
}

fn apply(names: &mut BTreeMap<PathBuf, usize>, changes: Vec<Change>) {
    for (goes, comes) in changes {
        goes.map(|path| names.remove(&path));
        comes.map(|(path, number)| names.insert(path, number));
    }
}

/// A vault on a recording disk, in two directories as a user's is.
struct Recording {
    dir: TempDir,
    identity: Identity,
    steps: Vec<Step>,
    /// The vault's file after each change.
    files: Vec<Vec<u8>>,
}

/// What `a` holds after each change; the last one removes it.
const VALUES: [&str; 3] = ["", "first", "second"];

fn record() -> Recording {
    let dir = TempDir::new().unwrap();
    let identity = Identity::generate();
    let steps = Arc::new(Mutex::new(Vec::new()));
    let place = Place { disk: Arc::new(Recorder(steps.clone())), ..place(&dir) };
    let mut vault = Vault::create(&place, &identity).unwrap();
    let mut files = vec![std::fs::read(&place.file).unwrap()];
    steps.lock().push(Step::Acknowledged(0));
    for done in 1..=VALUES.len() {
        let name = Reference::new("a").unwrap();
        match VALUES.get(done) {
            Some(value) => {
                drop(vault.set(&name, &Plaintext::copy_of(value.as_bytes()), Facts::default(), 1).unwrap())
            }
            None => drop(vault.remove(&name).unwrap()),
        }
        files.push(std::fs::read(&place.file).unwrap());
        steps.lock().push(Step::Acknowledged(done));
    }
    let steps = steps.lock().clone();
    Recording { dir, identity, steps, files }
}

fn place(dir: &TempDir) -> Place {
    let (data, state) = (dir.path().join("data"), dir.path().join("state"));
    let _ = std::fs::create_dir(&data);
    let _ = std::fs::create_dir(&state);
    Place::new(data.join("vault.age"), state.join("vault.anchor"))
}

impl Recording {
    /// What is wrong after a cut at any moment, where the disk never did the steps that `forgotten` picks.
    fn violations(&self, forgotten: impl Fn(&Step) -> bool) -> Vec<String> {
        let mut power = Power::default();
        let (mut acknowledged, mut violations) = (None, Vec::new());
        for (at, step) in self.steps.iter().enumerate() {
            match step {
                Step::Acknowledged(done) => acknowledged = Some(*done),
                step if forgotten(step) => continue,
                step => power.take(step),
            }
            for files in power.after_a_cut() {
                if let Some(why) = acknowledged.and_then(|done| self.violation(&files, done)) {
                    violations.push(format!("after step {at}, {step:?}: {why}"));
                }
            }
        }
        violations
    }

    fn violation(&self, files: &Files, done: usize) -> Option<String> {
        let place = place(&self.dir);
        for path in [&place.file, &place.anchor] {
            match files.get(path) {
                Some(content) => write_private(path, content),
                None => drop(std::fs::remove_file(path)),
            }
        }
        // The old or the new; and no older one is taken for the newest, put there afterwards.
        let found = match Vault::open(&place, &self.identity) {
            Ok(vault) => usize::try_from(vault.generation()).unwrap() - 1,
            Err(error) => return Some(format!("{done} are done, and it does not open: {error}")),
        };
        if found != done && found != done + 1 {
            return Some(format!("{done} are done, and {found} are there"));
        }
        let anchor = files.get(&place.anchor).cloned().unwrap_or_default();
        for (older, file) in self.files[..done].iter().enumerate().skip(1) {
            write_private(&place.file, file);
            write_private(&place.anchor, &anchor);
            if Vault::open(&place, &self.identity).is_ok() {
                return Some(format!("{done} are done, and the vault after {older} is accepted"));
            }
        }
        None
    }
}

fn write_private(path: &Path, content: &[u8]) {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut open = std::fs::OpenOptions::new();
    let mut file = open.write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(content).unwrap();
}

#[test]
fn x02_a_power_cut_at_any_moment_leaves_the_old_vault_or_the_new() {
    let recording = record();
    assert_eq!(recording.violations(|_| false), Vec::<String>::new());
}

#[test]
fn x02_a_sync_that_was_forgotten_is_caught() {
    let recording = record();
    let place = place(&recording.dir);
    let lies_beside = |number: usize, file: &Path| {
        let made = |step: &Step| matches!(step, Step::Create(path, of) if *of == number && path.parent() == file.parent());
        recording.steps.iter().any(made)
    };
    for file in [&place.file, &place.anchor] {
        let found = recording.violations(|step| matches!(step, Step::Sync(of) if lies_beside(*of, file)));
        assert!(!found.is_empty(), "without a sync of {}", file.display());
        let directory = file.parent().unwrap();
        let found = recording.violations(|step| matches!(step, Step::SyncDirectory(of) if of == directory));
        assert!(!found.is_empty(), "without a sync of {}", directory.display());
    }
}

/// A disk whose `at`-th operation fails, counted from 0 once it is set.
struct Failing {
    left: Arc<AtomicUsize>,
    errno: i32,
}

impl Failing {
    fn next(&self) -> io::Result<()> {
        // Below 0 it wraps to a number that is never reached: one operation fails.
        match self.left.fetch_sub(1, Ordering::Relaxed) {
            0 => Err(io::Error::from_raw_os_error(self.errno)),
            _ => Ok(()),
        }
    }

    fn same(&self) -> Self {
        Self { left: self.left.clone(), errno: self.errno }
    }
}

struct FailingFile(Box<dyn NewFile>, Failing);

impl Disk for Failing {
    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        self.next()?;
        Ok(Box::new(FailingFile(RealDisk.create(path)?, self.same())))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.next()?;
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.next()?;
        RealDisk.remove(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.next()?;
        RealDisk.sync_directory(path)
    }
}

impl NewFile for FailingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.next()?;
        self.0.write(&bytes[..bytes.len().div_ceil(2)])
    }

    fn sync(&mut self) -> io::Result<()> {
        self.1.next()?;
        self.0.sync()
    }
}

/// One `set` with the operation number `at` failing: whether that many were needed.
fn a_set_fails(at: usize, errno: i32) -> bool {
    let dir = TempDir::new().unwrap();
    let identity = Identity::generate();
    let left = Arc::new(AtomicUsize::new(usize::MAX));
    let place = Place { disk: Arc::new(Failing { left: left.clone(), errno }), ..place(&dir) };
    let mut vault = Vault::create(&place, &identity).unwrap();
    let name = Reference::new("a").unwrap();
    vault.set(&name, &Plaintext::copy_of(b"old"), Facts::default(), 1).unwrap();
    let before = std::fs::read(&place.file).unwrap();
    left.store(at, Ordering::Relaxed);
    let outcome = vault.set(&name, &Plaintext::copy_of(b"new"), Facts::default(), 2);
    // Counted down past 0: that operation took place.
    let reached = left.swap(usize::MAX, Ordering::Relaxed) > usize::MAX / 2;
    let after = std::fs::read(&place.file).unwrap();
    match &outcome {
        Ok(info) => assert_eq!((info.version, errno), (2, if reached { libc::EINTR } else { errno })),
        Err(error) => {
            assert_eq!(
                (error.class, vault.info(&name).unwrap().version),
                (Class::Storage, 1),
                "{at} {errno}"
            );
        }
    }
    let again = Vault::open(&place, &identity).unwrap();
    let found = again.info(&name).unwrap().version;
    assert_eq!(found, if after == before { 1 } else { 2 }, "torn by {errno} at {at}");
    assert!(outcome.is_err() || found == 2, "acknowledged and lost by {errno} at {at}");
    // The disk works again, and so does the vault.
    vault.set(&name, &Plaintext::copy_of(b"newer"), Facts::default(), 3).unwrap();
    assert_eq!(Vault::open(&place, &identity).unwrap().info(&name).unwrap().size, 5);
    reached
}

#[test]
fn x03_a_failing_disk_is_a_storage_error_and_leaves_a_whole_vault() {
    for errno in [libc::ENOSPC, libc::EIO, libc::EDQUOT, libc::EROFS, libc::EINTR] {
        let needed = (0..100).find(|at| !a_set_fails(*at, errno)).expect("a set has an end");
        assert!(needed >= 12, "{needed} operations are too few for two files and two directories");
    }
}
