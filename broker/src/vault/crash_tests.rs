//! What may a power cut leave, and what does a failing disk do? A vault on disks that remember and fail.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use kin_policy::decide_reveal;
use parking_lot::Mutex;
use tempfile::TempDir;

use super::*;
use crate::admin::rekey_files::{self, Succession};
use crate::keys::KeyMethod;
use crate::keys::{self, keyring::Agent};
use crate::project::info::TrustState;
use crate::project::manifest::Manifest;
use crate::project::trust_store::TrustStore;
use crate::sys::files::NewFile;

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

/// A user's vault on a recording disk, which goes through every kind of write.
struct Recording {
    dir: TempDir,
    steps: Vec<Step>,
    /// What was there before the disk was watched: `key.json`.
    before: Files,
    /// What there is after each write.
    after: Vec<After>,
}

/// What a user has after so many writes.
#[derive(Clone)]
struct After {
    file: Vec<u8>,
    anchor: Vec<u8>,
    generation: u64,
    /// What `a` holds, and how many secrets there are.
    holds: (Option<Vec<u8>>, usize),
    /// What is trusted: whether the project is, and the store's file.
    trusts: (bool, Option<Vec<u8>>),
}

fn name(text: &str) -> Reference {
    Reference::new(text).unwrap()
}

fn value(text: &str) -> Plaintext {
    Plaintext::copy_of(text.as_bytes())
}

fn directories(dir: &TempDir) -> Directories {
    let home = dir.path().to_owned().into_os_string();
    Directories::from_variables(&|name| (name == "KIN_HOME").then(|| home.clone())).unwrap()
}

/// A vault with a key in a file, and the identity.
fn begin(dir: &TempDir, disk: Arc<dyn Disk>) -> (Place, Directories, Vault, Identity) {
    let directories = directories(dir);
    directories.create().unwrap();
    let method = KeyMethod::KeyFile { path: dir.path().join("key0") };
    let identity = keys::create(&directories, &method, None, None).unwrap();
    let place = Place { disk, ..Place::of(&directories) };
    let vault = Vault::made(&place, &identity).unwrap();
    let project = dir.path().join("project");
    std::fs::create_dir(&project).unwrap();
    std::fs::write(project.join("kin.toml"), "schema = 1\nproject.name = \"api\"\n").unwrap();
    (place, directories, vault, identity)
}

/// The kinds of write; each is one acknowledgement.
const WRITES: [&str; 12] = [
    "set", "trust", "rotate", "import", "untrust", "rm", "trust", "rekey", "share", "restore", "untrust",
    "rekey",
];

fn store(dir: &TempDir, vault: &Vault) -> Result<TrustStore> {
    let directories = directories(dir);
    TrustStore::open(&directories.trust_file(), &keys::load(&directories, None, None)?, vault.store_mark())
}

/// Whether the project is trusted, by a store that is in order.
fn trusts(dir: &TempDir, vault: &Vault) -> Result<bool> {
    let store = store(dir, vault)?;
    if let Some(refused) = store.refused() {
        return Err(Error::internal("trust", refused.as_str()));
    }
    Ok(store.check(&Manifest::read(&dir.path().join("project"))?) == TrustState::Trusted)
}

/// Does the write number `at`.
fn write(at: usize, dir: &TempDir, vault: &mut Vault, place: &Place) -> Result<()> {
    let directories = directories(dir);
    let facts = Facts::default;
    match WRITES[at] {
        "set" => drop(vault.set(&name("a"), &value("first"), facts(), 1)?),
        "rotate" => drop(vault.set(&name("a"), &value("second"), facts(), 2)?),
        "import" => {
            let value = value("many");
            vault.set_all((0..3).map(|n| (name(&format!("many/{n}")), &value, facts())), 3)?;
        }
        "rm" => drop(vault.remove(&name("many/0"))?),
        "share" => {
            let identity = keys::load(&directories, None, None)?;
            drop(vault.add_recipient(&identity, &recipient(), 4, true)?);
        }
        "restore" => vault.restore()?,
        "trust" | "untrust" => {
            let mut store = store(dir, vault)?;
            let manifest = Manifest::read(&dir.path().join("project"))?;
            let planned = match WRITES[at] {
                "trust" => Some(store.plan_trust(&manifest, 1)?),
                _ => store.plan_untrust(&manifest.directory)?,
            };
            store.commit(Logged::for_test(planned.expect("a change")), vault)?;
        }
        _ => {
            let method = KeyMethod::KeyFile { path: dir.path().join(format!("key{}", at + 1)) };
            let at = (place, &directories);
            let logged = Logged::for_test(Succession::rekey(vault.clone()));
            *vault = rekey_files::succeed(&Agent::own(), at, logged, (&method, None), None)?.1;
        }
    }
    Ok(())
}

/// One recipient for all of a test.
fn recipient() -> String {
    static RECIPIENT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    RECIPIENT.get_or_init(|| Identity::generate().recipient().to_owned()).clone()
}

fn state(dir: &TempDir, vault: &Vault, place: &Place) -> After {
    let read = |path: &Path| std::fs::read(path).unwrap();
    let (file, anchor) = (read(&place.file), read(&place.anchor));
    let trusts = (trusts(dir, vault).unwrap(), std::fs::read(directories(dir).trust_file()).ok());
    After { file, anchor, generation: vault.generation(), holds: holds(vault), trusts }
}

fn holds(vault: &Vault) -> (Option<Vec<u8>>, usize) {
    let permit = Logged::for_test(decide_reveal(&name("a"), false, true).unwrap());
    (vault.unseal(&permit).ok().map(|value| value.bytes().to_vec()), vault.list().len())
}

fn record() -> Recording {
    let dir = TempDir::new().unwrap();
    let steps = Arc::new(Mutex::new(Vec::new()));
    let (place, directories, mut vault, _) = begin(&dir, Arc::new(Recorder(steps.clone())));
    let config = directories.key_config();
    let before = [(config.clone(), std::fs::read(config).unwrap())].into();
    let mut after = vec![state(&dir, &vault, &place)];
    steps.lock().push(Step::Acknowledged(0));
    for at in 0..WRITES.len() {
        write(at, &dir, &mut vault, &place).unwrap();
        after.push(state(&dir, &vault, &place));
        steps.lock().push(Step::Acknowledged(at + 1));
    }
    let steps = steps.lock().clone();
    Recording { dir, steps, before, after }
}

impl Recording {
    /// How many states a cut at any moment may leave, or what is wrong with one; the disk never did the steps that
    /// `forgotten` picks.
    fn replay(&self, forgotten: impl Fn(&Step) -> bool) -> Result<usize, String> {
        let mut power = Power::default();
        let (mut acknowledged, mut seen, mut states) = (None, BTreeSet::new(), 0);
        for (at, step) in self.steps.iter().enumerate() {
            match step {
                Step::Acknowledged(done) => {
                    acknowledged = Some(*done);
                    seen.clear();
                }
                step if forgotten(step) => continue,
                step => power.take(step),
            }
            let Some(done) = acknowledged else { continue };
            let new = power.after_a_cut().into_iter().filter(|files| seen.insert(files.clone()));
            for files in new.collect::<Vec<_>>() {
                states += 1;
                if let Some(why) = self.wrong(&files, done) {
                    return Err(format!("after step {at}, {step:?}: {why}"));
                }
            }
        }
        Ok(states)
    }

    /// Lays out what the cut left.
    fn lay_out(&self, files: &Files) {
        let directories = directories(&self.dir);
        for directory in [&directories.config, &directories.data, &directories.state] {
            for entry in std::fs::read_dir(directory).unwrap() {
                std::fs::remove_file(entry.unwrap().path()).unwrap();
            }
        }
        for (path, content) in self.before.iter().chain(files) {
            write_private(path, content);
        }
    }

    fn open(&self) -> Result<Vault> {
        let directories = directories(&self.dir);
        let place = Place::of(&directories);
        rekey_files::settle(&place, &directories)?;
        Vault::open(&place, &keys::load(&directories, None, None)?)
    }

    fn wrong(&self, files: &Files, done: usize) -> Option<String> {
        self.lay_out(files);
        let vault = match self.open() {
            Ok(vault) => vault,
            Err(error) => return Some(format!("{done} are done, and it does not open: {error}")),
        };
        // The old or the new; and no older one is taken for the newest, put there afterwards.
        let known = &self.after[done..self.after.len().min(done + 2)];
        if !known.iter().any(|after| after.generation == vault.generation() && after.holds == holds(&vault)) {
            return Some(format!("{done} are done, and generation {} is there", vault.generation()));
        }
        let now = known.iter().find(|after| after.generation == vault.generation())?;
        match trusts(&self.dir, &vault) {
            Ok(trusted) if trusted == now.trusts.0 => {}
            other => return Some(format!("{done} are done, and the project is trusted: {other:?}")),
        }
        let directories = directories(&self.dir);
        // An older store that is put back is refused.
        let other = |older: &&After| older.trusts.1 != now.trusts.1;
        for old in self.after[..done].iter().filter(other).filter_map(|older| older.trusts.1.as_ref()) {
            write_private(&directories.trust_file(), old);
            let store = store(&self.dir, &vault).unwrap();
            if store.refused().is_none() {
                return Some(format!("{done} are done, and an old trust store is accepted"));
            }
        }
        let anchor = std::fs::read(directories.vault_anchor()).unwrap_or_default();
        let older = self.after[..done].iter().skip(1).filter(|older| older.anchor != anchor);
        for older in older.rev().take(2) {
            write_private(&directories.vault_file(), &older.file);
            write_private(&directories.vault_anchor(), &anchor);
            if self.open().is_ok() {
                return Some(format!("{done} are done, and generation {} is accepted", older.generation));
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
    let states = recording.replay(|_| false).unwrap_or_else(|why| panic!("{why}"));
    assert!(states > 100, "only {states} states");
    eprintln!("x02: writes={} steps={} states={states} torn=0 lost=0", WRITES.len(), recording.steps.len());
}

#[test]
fn x02_a_sync_that_was_forgotten_is_caught() {
    let recording = record();
    let directories = directories(&recording.dir);
    let made = |number: usize, file: &Path| {
        let made = |step: &Step| matches!(step, Step::Create(path, of) if *of == number && *path == files::beside(file, ".tmp"));
        recording.steps.iter().any(made)
    };
    let next = |path: PathBuf| files::beside(&path, ".next");
    let (config, vault, anchor) =
        (directories.key_config(), directories.vault_file(), directories.vault_anchor());
    let announced = files::beside(&directories.trust_file(), ".announced");
    for file in [&vault, &anchor, &next(anchor.clone()), &next(config.clone()), &config, &announced] {
        let found = recording.replay(|step| matches!(step, Step::Sync(of) if made(*of, file)));
        assert!(found.is_err(), "without a sync of {}", file.display());
    }
    for directory in [&directories.data, &directories.state, &directories.config] {
        let found = recording.replay(|step| matches!(step, Step::SyncDirectory(of) if of == directory));
        assert!(found.is_err(), "without a sync of {}", directory.display());
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

/// The write number `which` with the operation number `at` failing: whether that many were needed.
fn a_write_fails(which: usize, at: usize, errno: i32) -> bool {
    let what = format!("{} by {errno} at {at}", WRITES[which]);
    let dir = TempDir::new().unwrap();
    let left = Arc::new(AtomicUsize::new(usize::MAX));
    let (place, directories, mut vault, _) = begin(&dir, Arc::new(Failing { left: left.clone(), errno }));
    for before in (0..which).filter(|before| !["rekey", "share"].contains(&WRITES[*before])) {
        write(before, &dir, &mut vault, &place).unwrap();
    }
    let (before, held, trusted) = (vault.generation(), holds(&vault), trusts(&dir, &vault).unwrap());
    left.store(at, Ordering::Relaxed);
    let outcome = write(which, &dir, &mut vault, &place);
    // Counted down past 0: that operation took place.
    let reached = left.swap(usize::MAX, Ordering::Relaxed) > usize::MAX / 2;
    match &outcome {
        // Once the vault names a trust store, that is the one, whether its file has its place already or not.
        Ok(()) if WRITES[which].ends_with("trust") => {}
        Ok(()) => assert!(!reached || errno == libc::EINTR, "{what} was acknowledged"),
        Err(error) => {
            assert_eq!((error.class, vault.generation()), (Class::Storage, before), "{what}");
            assert_eq!(holds(&vault), held, "{what}");
        }
    }
    rekey_files::settle(&place, &directories).unwrap();
    let identity = keys::load(&directories, None, None).unwrap();
    let mut again = Vault::open(&place, &identity).unwrap();
    let found = again.generation();
    assert!([before, before + 1].contains(&found), "{what} tore it: {found} after {before}");
    assert!(outcome.is_err() || found == before + 1, "{what} was acknowledged and lost");
    let changed = found > before && WRITES[which].ends_with("trust");
    assert_eq!(trusts(&dir, &again).unwrap(), trusted != changed, "{what}");
    // The disk works again, and so does the vault.
    again.set(&name("a"), &value("newer"), Facts::default(), 9).unwrap();
    assert_eq!(holds(&Vault::open(&place, &identity).unwrap()).0, Some(b"newer".to_vec()), "{what}");
    reached
}

#[test]
fn x03_a_failing_disk_is_a_storage_error_and_leaves_a_whole_vault() {
    // Every operation with one of them; with the others every third, where `scripts/soak` does not ask for all.
    let others = if std::env::var_os("KIN_SOAK").is_some() { 1 } else { 3 };
    let mut failures = 0;
    for which in (0..WRITES.len()).filter(|which| !WRITES[..*which].contains(&WRITES[*which])) {
        for errno in [libc::ENOSPC, libc::EIO, libc::EDQUOT, libc::EROFS, libc::EINTR] {
            let step = if errno == libc::ENOSPC { 1 } else { others };
            let needed = (0..400).step_by(step).find(|at| !a_write_fails(which, *at, errno)).expect("an end");
            assert!(needed >= 12, "{needed} operations are too few for two files and two directories");
            failures += needed / step;
        }
    }
    eprintln!("x03: operations failed={failures} torn=0 lost=0");
}
