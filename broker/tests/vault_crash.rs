//! Is a vault whole after its writer was killed at any system call? strace kills; this program is both the
//! writer and who looks afterwards.

#![allow(clippy::print_stdout)]

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use kin_broker::control::protocol::KeyMethod;
use kin_broker::paths::Directories;
use kin_broker::vault::{Facts, Place, Vault};
use kin_broker::{Plaintext, keys};
use kin_policy::Reference;

/// Says that this is the run that writes.
const WRITER: &str = "write";
/// What a write of a vault calls; the counts of strace are for each name.
const CALLS: [&str; 8] = ["openat", "write", "fsync", "rename", "unlink", "close", "read", "statx"];
/// Kills for each name and operation, at most: they are far fewer.
const MOST: u32 = 400;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [verb, home] = &arguments[..]
        && verb == WRITER
    {
        write(Path::new(home));
        return ExitCode::SUCCESS;
    }
    x01_a_writer_killed_at_any_call_leaves_the_old_vault_or_the_new();
    println!("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
    ExitCode::SUCCESS
}

/// One point in three, where `KIN_SOAK` does not ask for all of them.
fn x01_a_writer_killed_at_any_call_leaves_the_old_vault_or_the_new() {
    let step = std::env::var("KIN_SOAK").map_or(3, |_| 1);
    let mut kills = 0;
    for call in CALLS {
        let points = (1..=MOST).step_by(step).take_while(|at| killed_at(call, *at)).count();
        assert!(points < MOST as usize / step, "{call} has no end");
        kills += points;
    }
    assert!(kills >= 20, "only {kills} kills");
    println!("x01: a writer was killed at {kills} calls, and left the old vault or the new");
}

fn directories(home: &Path) -> Directories {
    let home = home.as_os_str().to_owned();
    Directories::from_variables(&|name| (name == "KIN_HOME").then(|| home.clone())).expect("directories")
}

fn name() -> Reference {
    Reference::new("a").expect("a name")
}

/// Three changes, each acknowledged on standard output once it is done.
fn write(home: &Path) {
    let directories = directories(home);
    let identity = keys::load(&directories, None, None).expect("the identity");
    let mut vault = Vault::open(&Place::of(&directories), &identity).expect("the vault");
    let acknowledge = |done: &str| std::io::stdout().write_all(done.as_bytes()).expect("a pipe");
    vault.set(&name(), &Plaintext::copy_of(b"first"), Facts::default(), 1).expect("set");
    acknowledge("1\n");
    vault.set(&name(), &Plaintext::copy_of(b"second"), Facts::default(), 2).expect("set");
    acknowledge("2\n");
    vault.remove(&name()).expect("rm");
    acknowledge("3\n");
}

/// Kills a writer at its `at`-th `call`, and looks; whether it was reached.
fn killed_at(call: &str, at: u32) -> bool {
    let home = tempfile::TempDir::new().expect("a directory");
    let directories = directories(home.path());
    directories.create().expect("directories");
    let method = KeyMethod::KeyFile { path: home.path().join("key") };
    let identity = keys::create(&directories, &method, None, None).expect("an identity");
    drop(Vault::create(&Place::of(&directories), &identity).expect("a vault"));
    let output = Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "-e", &format!("trace={call}")])
        .args(["-e", &format!("inject={call}:signal=KILL:when={at}"), "--"])
        .arg(std::env::current_exe().expect("this program"))
        .arg(WRITER)
        .arg(home.path())
        .stderr(Stdio::inherit())
        .output()
        .expect("strace must be installed");
    let killed = output.status.signal() == Some(9) || output.status.code() == Some(128 + 9);
    assert!(killed || output.status.success(), "{call} {at}: {output:?}");
    let acknowledged = output.stdout.iter().filter(|byte| **byte == b'\n').count() as u64;
    let vault = Vault::open(&Place::of(&directories), &identity)
        .unwrap_or_else(|error| panic!("{call} {at}, {acknowledged} acknowledged: {error}"));
    let done = vault.generation() - 1;
    assert!((acknowledged..=acknowledged + 1).contains(&done), "{call} {at}: {acknowledged}, found {done}");
    let expected = [None, Some(5), Some(6), None][done as usize];
    assert_eq!(vault.info(&name()).map(|info| info.size), expected, "{call} {at}");
    killed
}
