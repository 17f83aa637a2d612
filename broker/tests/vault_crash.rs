//! Is a vault whole after its writer was killed at any system call, or after any of them failed? strace kills and
//! fails; this program is both the writer and who looks afterwards.

#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use kin_broker::admin::rekey_files;
use kin_broker::admin::rekey_files::Succession;
use kin_broker::audit::{AuditLog, Change, Logged};
use kin_broker::control::protocol::KeyMethod;
use kin_broker::keys::keyring::Agent;
use kin_broker::sys::paths::Directories;
use kin_broker::vault::{Facts, Making, Place, Planned, Vault};
use kin_broker::{Class, Plaintext, keys};
use kin_policy::Reference;

/// Says that this is the run that writes.
const WRITER: &str = "write";
/// What a write of a vault calls; the counts of strace are for each name.
const CALLS: [&str; 9] =
    ["openat", "write", "fsync", "rename", "unlink", "close", "read", "statx", "getrandom"];
/// Of these, those that fail on a disk.
const FAILING: [&str; 5] = ["openat", "write", "fsync", "rename", "unlink"];
const ERRORS: [&str; 5] = ["ENOSPC", "EIO", "EDQUOT", "EROFS", "EINTR"];
/// The kinds of write.
const KINDS: [&str; 7] = ["set", "rotate", "import", "rm", "rekey", "rekey-passphrase", "restore"];
/// Points for each kind, where `KIN_SOAK` does not ask for all of them. scrypt makes each of one kind slow.
fn sampled(kind: &str) -> usize {
    if kind == "rekey-passphrase" { 4 } else { 12 }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [verb, kind, home] = &arguments[..]
        && verb == WRITER
    {
        return write(kind, Path::new(home));
    }
    let mut points = Points::from_environment();
    x01_a_writer_killed_at_any_call_leaves_the_old_vault_or_the_new(&mut points);
    x03_a_call_that_fails_is_a_storage_error_and_leaves_the_old_vault_or_the_new(&mut points);
    println!("test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
    ExitCode::SUCCESS
}

/// Which of many points are tried.
struct Points {
    seed: u64,
    all: bool,
}

impl Points {
    fn from_environment() -> Self {
        let seed = std::env::var("KIN_SOAK_SEED").map_or_else(
            |_| std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_secs()),
            |text| text.parse().expect("a number"),
        );
        Self { seed, all: std::env::var_os("KIN_SOAK").is_some() }
    }

    /// All of them, or some; the generator is splitmix64.
    fn of<T>(&mut self, mut all: Vec<T>, some: usize) -> Vec<T> {
        let mut chosen = Vec::new();
        while !all.is_empty() && (self.all || chosen.len() < some) {
            self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.seed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chosen.push(all.swap_remove(((z ^ (z >> 31)) % all.len() as u64) as usize));
        }
        chosen
    }
}

fn x01_a_writer_killed_at_any_call_leaves_the_old_vault_or_the_new(points: &mut Points) {
    let (seed, mut kills, mut of) = (points.seed, 0, 0);
    for kind in KINDS {
        let counted = calls_of(kind);
        let all: Vec<_> =
            counted.iter().flat_map(|(call, count)| (1..=*count).map(move |at| (call, at))).collect();
        assert!(all.len() >= 20, "{kind}: only {} calls", all.len());
        of += all.len();
        for (call, at) in points.of(all, sampled(kind)) {
            let what = format!("{kind}, killed at {call} {at}, seed {seed}");
            let scene = Scene::new();
            let output = scene.write_under(kind, &format!("inject={call}:signal=KILL:when={at}"));
            let killed = output.status.signal() == Some(9) || output.status.code() == Some(128 + 9);
            assert!(killed || output.status.success(), "{what}: {output:?}");
            scene.holds_the_old_or_the_new(kind, !output.stdout.is_empty(), &what);
            kills += usize::from(killed);
        }
    }
    println!("x01: seed={seed} kinds={} kills={kills} points={of} torn=0 lost=0", KINDS.len());
}

fn x03_a_call_that_fails_is_a_storage_error_and_leaves_the_old_vault_or_the_new(points: &mut Points) {
    let (seed, mut failures) = (points.seed, 0);
    for kind in KINDS {
        let counted = calls_of(kind);
        let mut all = Vec::new();
        for call in FAILING {
            let count = counted.get(call).copied().unwrap_or(0);
            all.extend((1..=count).flat_map(|at| ERRORS.map(|error| (call, at, error))));
        }
        for (call, at, error) in points.of(all, sampled(kind) / 3) {
            let what = format!("{kind}, {error} at {call} {at}, seed {seed}");
            let scene = Scene::new();
            let output = scene.write_under(kind, &format!("inject={call}:error={error}:when={at}"));
            // Reading what is there fails as a storage error too; 127 is the loader's, before there is a program.
            let known = [0, Class::Storage as i32, 127];
            assert!(output.status.code().is_some_and(|code| known.contains(&code)), "{what}: {output:?}");
            scene.holds_the_old_or_the_new(kind, !output.stdout.is_empty(), &what);
            failures += 1;
        }
    }
    println!("x03: seed={seed} kinds={} failures={failures} torn=0 lost=0", KINDS.len());
}

fn directories(home: &Path) -> Directories {
    let home = home.as_os_str().to_owned();
    Directories::from_variables(&|name| (name == "KIN_HOME").then(|| home.clone())).expect("directories")
}

fn name(text: &str) -> Reference {
    Reference::new(text).expect("a name")
}

fn passphrase() -> Plaintext {
    Plaintext::copy_of(b"correct horse")
}

/// One write, acknowledged on standard output once it is done. The exit code is the class of its error.
fn write(kind: &str, home: &Path) -> ExitCode {
    match attempt(kind, home) {
        Ok(()) => {
            let _ = std::io::stdout().write_all(b"1");
            ExitCode::SUCCESS
        }
        Err(error) => ExitCode::from(error.exit_code()),
    }
}

/// Writes a change down, in a record of its own.
fn log<C: Change>(directories: &Directories, change: C) -> kin_broker::Result<Logged<C>> {
    let log = AuditLog::open(&directories.state)?;
    log.append_change(change, None).map_err(|unlogged| unlogged.why.into())
}

fn commit(
    directories: &Directories,
    vault: &mut Vault,
    plan: impl FnOnce(&Vault) -> kin_broker::Result<Planned>,
) -> kin_broker::Result<()> {
    let planned = plan(vault)?;
    vault.commit(log(directories, planned)?)
}

fn attempt(kind: &str, home: &Path) -> kin_broker::Result<()> {
    let directories = directories(home);
    let (place, value) = (Place::of(&directories), Plaintext::copy_of(b"second"));
    let mut vault = open(&directories)?;
    match kind {
        "set" => commit(&directories, &mut vault, |vault| {
            vault.plan_set(&name("new"), &value, Facts::default(), 2)
        })?,
        "rotate" => {
            commit(&directories, &mut vault, |vault| vault.plan_set(&name("a"), &value, Facts::default(), 2))?
        }
        "import" => commit(&directories, &mut vault, |vault| {
            let new = (0..9).map(|n| (name(&format!("b/{n}")), &value, Facts::default()));
            vault.plan_set_all(new, 2, None)
        })?,
        "rm" => commit(&directories, &mut vault, |vault| {
            vault.plan_remove(&name("a")).map(|(planned, _)| planned)
        })?,
        "restore" => commit(&directories, &mut vault, |vault| Ok(vault.plan_restore(Path::new("/backup"))))?,
        _ => {
            let (method, secret) = match kind {
                "rekey" => (KeyMethod::KeyFile { path: home.join("key2") }, None),
                _ => (KeyMethod::Passphrase, Some(passphrase())),
            };
            let at = (&place, &directories);
            let logged = log(&directories, Succession::rekey(vault))?;
            drop(rekey_files::succeed(&Agent::own(), at, logged, (&method, secret.as_ref()), None)?);
        }
    }
    Ok(())
}

/// Opens it as a broker does that starts after a crash.
fn open(directories: &Directories) -> kin_broker::Result<Vault> {
    let place = Place::of(directories);
    rekey_files::settle(&place, directories)?;
    let identity = keys::load(directories, Some(&passphrase()), None)?;
    Vault::open(&place, &identity)
}

/// How often a write of this kind makes each call, as strace counts.
fn calls_of(kind: &str) -> BTreeMap<&'static str, u32> {
    let scene = Scene::new();
    let log = scene.home.path().join("strace");
    let filter = format!("trace={}", CALLS.join(","));
    let output = scene.strace(kind, &["-o", log.to_str().expect("UTF-8"), "-e", &filter]);
    assert!(output.status.success(), "{kind}: {output:?}");
    let text = String::from_utf8_lossy(&std::fs::read(&log).expect("the log of strace")).into_owned();
    let count = |call: &str| text.lines().filter(|line| line.contains(&format!("{call}("))).count() as u32;
    CALLS.into_iter().map(|call| (call, count(call))).collect()
}

/// A vault with one secret, whose key is in a file.
struct Scene {
    home: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let home = tempfile::TempDir::new().expect("a directory");
        let directories = directories(home.path());
        directories.create().expect("directories");
        let method = KeyMethod::KeyFile { path: home.path().join("key") };
        let identity = keys::create(&directories, &method, None, None).expect("an identity");
        let making = log(&directories, Making::at(&Place::of(&directories))).expect("a record");
        let mut vault = Vault::create(making, &identity).expect("a vault");
        let first = Plaintext::copy_of(b"first");
        let plan = |vault: &Vault| vault.plan_set(&name("a"), &first, Facts::default(), 1);
        commit(&directories, &mut vault, plan).expect("a secret");
        Self { home }
    }

    fn write_under(&self, kind: &str, injection: &str) -> Output {
        let call = injection.trim_start_matches("inject=").split(':').next().unwrap_or_default();
        self.strace(kind, &["-o", "/dev/null", "-e", &format!("trace={call}"), "-e", injection])
    }

    fn strace(&self, kind: &str, options: &[&str]) -> Output {
        let program: PathBuf = std::env::current_exe().expect("this program");
        let mut command = Command::new("strace");
        command.args(["-qq", "-f"]).args(options).arg("--").arg(program).args([WRITER, kind]);
        command.arg(self.home.path()).output().expect("strace must be installed")
    }

    /// Old or new, whole; and new where it was acknowledged.
    fn holds_the_old_or_the_new(&self, kind: &str, acknowledged: bool, what: &str) {
        let directories = directories(self.home.path());
        let vault = open(&directories).unwrap_or_else(|error| panic!("{what}: {error}"));
        let new = vault.generation() == 3;
        assert!(new || vault.generation() == 2, "{what}: generation {}", vault.generation());
        assert!(new || !acknowledged, "{what}: acknowledged and lost");
        let size = |reference: &str| vault.info(&name(reference)).map(|info| info.size);
        let (a, all) = match kind {
            _ if !new => (Some(5), 1),
            "set" => (Some(5), 2),
            "rotate" => (Some(6), 1),
            "import" => (Some(5), 10),
            "rm" => (None, 0),
            _ => (Some(5), 1),
        };
        assert_eq!((size("a"), vault.list().len()), (a, all), "{what}");
        let left = std::fs::read_dir(&directories.config).expect("a listing").flatten();
        assert!(!left.into_iter().any(|entry| entry.file_name() == "key.json.next"), "{what}: it is settled");
    }
}
