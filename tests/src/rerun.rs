//! How does a test run as somebody else? It starts itself again: as another user, in a namespace of its
//! own, or as a member of a grant.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crate::program;
use crate::world::{World, binary};

/// Says to a test that was started again that this is the inner run.
const INNER: &str = "KIN_SUITE_INNER";

/// What a test has to do, after it may have been run again elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Go on: here is where it belongs.
    Here,
    /// It was run where it belongs, and passed there.
    Done,
}

/// Whether this process is root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// For the few rows that only root can stage (another uid, a tmpfs).
///
/// # Panics
/// For anybody else, and says so.
pub fn needs_root() {
    assert!(is_root(), "only root can stage this row: scripts/test runs it in its pass as root");
}

/// Root may do to any process what these rows forbid to others: as root, the test `name` is run again
/// as nobody.
///
/// # Panics
/// Where it does not pass there.
pub fn as_nobody(name: &str) -> Role {
    if !is_root() {
        return Role::Here;
    }
    let place = tempfile::Builder::new().prefix("kin-suite").tempdir_in("/tmp").expect("a directory");
    std::fs::set_permissions(place.path(), Permissions::from_mode(0o755)).expect("a mode");
    let kin = program::copied(&binary(), place.path().join("kin"));
    let suite = std::env::current_exe().expect("our own path");
    let suite = program::copied(&suite, place.path().join("suite"));
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(suite);
    again(command.env("KIN_BIN", kin).current_dir("/"), name);
    Role::Done
}

/// As [`as_nobody`], where `/proc` is mounted with hidepid=2; root alone can mount it so.
///
/// # Panics
/// As there.
pub fn as_nobody_under_hidepid(name: &str) -> Role {
    if std::env::var_os(INNER).is_some() {
        return Role::Here;
    }
    needs_root();
    let place = tempfile::Builder::new().prefix("kin-suite").tempdir_in("/tmp").expect("a directory");
    std::fs::set_permissions(place.path(), Permissions::from_mode(0o755)).expect("a mode");
    let kin = program::copied(&binary(), place.path().join("kin"));
    let suite = std::env::current_exe().expect("our own path");
    let suite = program::copied(&suite, place.path().join("suite"));
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--", "sh", "-c"]);
    command.arg("mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid=65534 --regid=65534 --clear-groups -- \"$0\" \"$@\"");
    again(command.arg(suite).env("KIN_BIN", kin).current_dir("/"), name);
    Role::Done
}

/// Runs the test `name` again as root of a user and mount namespace of its own, where it may mount.
///
/// # Panics
/// Where the kernel gives no such namespace, or the test does not pass there.
pub fn in_user_namespace(name: &str) -> Role {
    if std::env::var_os(INNER).is_some() {
        return Role::Here;
    }
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "--propagation", "private", "--"]);
    command.arg(std::env::current_exe().expect("our own path"));
    again(&mut command, name);
    Role::Done
}

fn again(command: &mut Command, name: &str) {
    let output = command
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INNER, "1")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    // Indented: its summary is not one of this run's.
    let said = said.lines().map(|line| format!("  | {line}\n")).collect::<String>();
    assert!(output.status.success() && said.contains("1 passed"), "{command:?}: {}\n{said}", output.status);
}

/// Runs the test `name` again below `kin run`, with `argument` in its environment; what it then prints
/// after `answer: ` is returned. In the inner run, it is the argument that is returned as `Err`.
///
/// # Errors
/// The argument, in the inner run.
///
/// # Panics
/// Where the inner run fails or does not answer.
pub fn as_member(name: &str, start: impl FnOnce() -> (World, String)) -> Result<(World, String), String> {
    if let Ok(argument) = std::env::var(INNER) {
        return Err(argument);
    }
    let (world, argument) = start();
    let suite = std::env::current_exe().expect("our own path");
    let suite = suite.to_str().expect("a path in UTF-8");
    let output = world
        .kin(["run", "--", suite, name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INNER, argument)
        .run();
    let text = output.text();
    let answer = text.lines().find_map(|line| Some(line.split_once("answer: ")?.1.to_owned()));
    let answer = answer.unwrap_or_else(|| panic!("no answer: {output}"));
    output.exits(0);
    Ok((world, answer))
}

/// In the inner run of [`as_member`]: what the outer one gets.
///
/// # Panics
/// Where nobody takes it.
pub fn answer(text: &str) {
    writeln!(std::io::stdout(), "answer: {text}").expect("somebody who listens");
}
