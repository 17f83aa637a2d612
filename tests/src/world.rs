//! What does one user's kin live in? A KIN_HOME, a project, secrets, and the end of all of them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::canary::canary;
use crate::daemon::Daemon;
use crate::kin::Kin;
use crate::probe::{Actor, Probe, Remote};
use crate::process::{self, Process};
use crate::watchdog::Shared;

/// The system's own, never a version manager's wrapper: the process that is started is the probe.
pub(crate) const PYTHON: &str = "/usr/bin/python3";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const MANIFEST: &str = r#"schema = 1

[project]
name = "api"

[bindings]
DATABASE_URL = "db/url"
API_KEY = "api/key"
"#;

/// How the broker is to tell processes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// As well as the kernel allows.
    Native,
    /// By `/proc` alone, as on kernels before 6.13.
    Procfs,
}

/// The program under test: `KIN_BIN`, or the one that was built beside this suite.
///
/// # Panics
/// Where there is none.
pub fn binary() -> PathBuf {
    let given = std::env::var_os("KIN_BIN").map(PathBuf::from);
    let beside = || std::env::current_exe().ok()?.parent()?.parent().map(|target| target.join("kin"));
    let path = given.or_else(beside).expect("a path of our own");
    assert!(path.is_file(), "no program at {}: build it first (cargo build), or set KIN_BIN", path.display());
    path
}

/// Waits until something holds, and says what did not.
///
/// # Panics
/// Where it does not hold before the deadline.
#[track_caller]
pub fn eventually(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !holds() {
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// One user's kin. Its end checks that the record verifies, that no secret stands anywhere, and that
/// neither broker nor mount is left.
pub struct World {
    root: TempDir,
    identity: Identity,
    pub(crate) shared: Arc<Shared>,
    secrets: RefCell<BTreeMap<String, String>>,
    pub(crate) canaries: RefCell<Vec<String>>,
    pub(crate) transcript: RefCell<String>,
    pub(crate) record_is_whole: Cell<bool>,
    pub(crate) crashed: Cell<bool>,
    pub(crate) disks: RefCell<Vec<PathBuf>>,
    remotes: Cell<u32>,
}

impl World {
    /// Directories and nothing in them.
    ///
    /// # Panics
    /// Where `/dev/fuse` cannot be opened: nothing here can be shown without it.
    pub fn new() -> Self {
        Self::with(Identity::Native)
    }

    /// As [`Self::new`], with the identity of a choice.
    ///
    /// # Panics
    /// As there.
    pub fn with(identity: Identity) -> Self {
        if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/fuse") {
            panic!("these tests need /dev/fuse: {error} (scripts/test makes it usable)");
        }
        // Short, for a socket's path has at most 107 bytes (unix(7)).
        let mut builder = tempfile::Builder::new();
        let private = std::fs::Permissions::from_mode(0o700);
        let root = builder.prefix("kin").permissions(private).tempdir_in("/tmp").expect("a directory");
        for name in ["kin", "home", "xdg", "project"] {
            let dir = root.path().join(name);
            std::fs::DirBuilder::new().mode(0o700).create(dir).expect("a directory");
        }
        std::fs::write(root.path().join("probe.py"), include_str!("../fixtures/probe.py"))
            .expect("the probe");
        let shared = Arc::new(Shared::new(root.path().join("kin/run")));
        shared.watch();
        Self {
            root,
            identity,
            shared,
            secrets: RefCell::default(),
            canaries: RefCell::default(),
            transcript: RefCell::default(),
            record_is_whole: Cell::new(true),
            crashed: Cell::new(false),
            disks: RefCell::default(),
            remotes: Cell::new(0),
        }
    }

    /// A broker, an open vault with `db/url` and `api/key`, and the trusted project `api` that binds
    /// them as `DATABASE_URL` and `API_KEY`.
    pub fn ready() -> Self {
        Self::ready_with(Identity::Native)
    }

    /// As [`Self::ready`], with the identity of a choice.
    ///
    /// # Panics
    /// Where any of it fails.
    pub fn ready_with(identity: Identity) -> Self {
        let world = Self::with(identity).initialised();
        if identity == Identity::Procfs {
            assert_eq!(world.status()["broker"]["identity"], "procfs");
        }
        world.with_secrets()
    }

    /// With `db/url` and `api/key`, and the trusted project `api` that binds them.
    #[must_use]
    pub fn with_secrets(self) -> Self {
        self.furnish();
        self
    }

    /// Stores `db/url` and `api/key`, and trusts the project `api` that binds them; the vault is open.
    pub fn furnish(&self) {
        self.secret("db/url");
        self.secret("api/key");
        self.manifest(MANIFEST);
        self.trust();
    }

    /// As [`Self::ready`], with a broker that the test has started itself.
    ///
    /// # Panics
    /// Where any of it fails.
    #[must_use]
    pub fn furnished(self) -> Self {
        self.keyed();
        self.furnish();
        self
    }

    /// With a broker, and a vault whose identity is in a file.
    #[must_use]
    pub fn initialised(self) -> Self {
        self.kin(["daemon"]).run().exits(0);
        self.keyed();
        self
    }

    fn keyed(&self) {
        let key = self.path("identity");
        self.kin([OsStr::new("init"), OsStr::new("--key-file"), key.as_os_str()]).run().exits(0);
    }

    /// A path in the world's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// KIN_HOME.
    pub fn home(&self) -> PathBuf {
        self.path("kin")
    }

    /// The project's directory.
    pub fn project(&self) -> PathBuf {
        self.path("project")
    }

    /// Where the file system is mounted.
    pub fn mountpoint(&self) -> PathBuf {
        self.path("kin/run/mnt")
    }

    /// Where what can be written is mounted, while somebody may write.
    pub fn writable_mountpoint(&self) -> PathBuf {
        self.path("kin/run/rw")
    }

    /// Both.
    pub(crate) fn mountpoints(&self) -> [PathBuf; 2] {
        [self.mountpoint(), self.writable_mountpoint()]
    }

    /// A file of the project `api` where it can be written.
    pub fn writable(&self, name: &str) -> PathBuf {
        self.writable_mountpoint().join("api").join(name)
    }

    /// A file of the project `api` in the mount.
    pub fn file(&self, name: &str) -> PathBuf {
        self.mountpoint().join("api").join(name)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// A program in the world's environment, and nothing else of ours.
    pub fn program(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", PATH).env("LANG", "C.UTF-8");
        command.env("HOME", self.path("home")).env("XDG_RUNTIME_DIR", self.path("xdg"));
        command.env("KIN_HOME", self.home()).current_dir(self.project());
        if self.identity == Identity::Procfs {
            command.env("KIN_IDENTITY", "procfs");
        }
        command
    }

    /// A `kin` command.
    pub fn kin<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Kin<'_> {
        Kin::new(self, self.program(binary())).args(args)
    }

    /// Any other program, with the deadline and the ears of a `kin` command.
    pub fn other<A: AsRef<OsStr>>(&self, program: &str, args: impl IntoIterator<Item = A>) -> Kin<'_> {
        Kin::new(self, self.program(program)).args(args)
    }

    /// A random value that must never be seen, except in the mount.
    pub fn canary(&self) -> String {
        let value = canary();
        self.canaries.borrow_mut().push(value.clone());
        value
    }

    /// Every canary so far.
    pub fn canaries(&self) -> Vec<String> {
        self.canaries.borrow().clone()
    }

    /// Stores a new canary as the secret `reference`.
    ///
    /// # Panics
    /// Where `kin set` fails.
    pub fn secret(&self, reference: &str) -> String {
        let value = self.canary();
        self.set(reference, value.as_bytes());
        self.secrets.borrow_mut().insert(reference.into(), value.clone());
        value
    }

    /// Stores these bytes.
    ///
    /// # Panics
    /// Where `kin set` fails.
    pub fn set(&self, reference: &str, value: &[u8]) {
        self.kin(["set", reference, "--stdin"]).input(value).run().exits(0);
    }

    /// Stores these bytes, whatever they are.
    ///
    /// # Panics
    /// Where `kin set` fails.
    pub fn set_from_file(&self, reference: &str, value: &[u8]) {
        let file = self.path("value");
        std::fs::write(&file, value).expect("a file");
        let arguments = ["set".as_ref(), reference.as_ref(), "--from-file".as_ref(), file.as_os_str()];
        self.kin(arguments).run().exits(0);
        std::fs::remove_file(&file).expect("removed");
    }

    /// The bytes that [`Self::secret`] stored last.
    ///
    /// # Panics
    /// Where it stored none.
    pub fn value(&self, reference: &str) -> Vec<u8> {
        self.secrets.borrow()[reference].clone().into_bytes()
    }

    /// Writes the project's `kin.toml`.
    ///
    /// # Panics
    /// Where it cannot be written.
    pub fn manifest(&self, text: &str) {
        std::fs::write(self.project().join("kin.toml"), text).expect("kin.toml");
    }

    /// Writes the user's `config.toml`.
    ///
    /// # Panics
    /// Where it cannot be written.
    pub fn configure(&self, text: &str) {
        let config = self.path("kin/config");
        let mut private = std::fs::DirBuilder::new();
        private.recursive(true).mode(0o700).create(&config).expect("a directory");
        std::fs::write(config.join("config.toml"), text).expect("config.toml");
    }

    /// Trusts it.
    ///
    /// # Panics
    /// Where `kin trust --yes` fails.
    pub fn trust(&self) {
        self.kin(["trust", "--yes"]).run().exits(0);
    }

    /// The command line that starts a probe through `kin run`.
    pub fn run_line(&self, options: &[&str]) -> Vec<String> {
        let mut line = vec![text(&binary()), "run".into()];
        line.extend(options.iter().map(|option| (*option).to_owned()));
        line.push("--".into());
        line.extend(self.probe_line());
        line
    }

    /// The command line that starts a probe.
    pub fn probe_line(&self) -> Vec<String> {
        vec![PYTHON.into(), "-IS".into(), text(&self.path("probe.py"))]
    }

    /// A member: a probe started by `kin run` with these options.
    pub fn member(&self, options: &[&str]) -> Probe {
        self.member_in(&self.project(), options)
    }

    /// A member of another project.
    pub fn member_in(&self, directory: &Path, options: &[&str]) -> Probe {
        let line = self.run_line(options);
        let mut command = self.program(&line[0]);
        command.args(&line[1..]).current_dir(directory);
        Probe::start(command, &self.shared)
    }

    /// A process of the same user outside every tree.
    pub fn outsider(&self) -> Probe {
        self.outsider_with(&[])
    }

    /// As [`Self::outsider`], with more in its environment.
    pub fn outsider_with(&self, variables: &[(String, String)]) -> Probe {
        let mut command = self.program(PYTHON);
        command.arg("-IS").arg(self.path("probe.py")).envs(variables.iter().cloned());
        Probe::start(command, &self.shared)
    }

    /// A process that `member` leaves behind, in a session of its own.
    pub fn left_by(&self, member: &dyn Actor) -> Remote {
        self.remote(member, "daemon")
    }

    /// A child of `member` that can live on without it.
    pub fn served_below(&self, member: &dyn Actor) -> Remote {
        self.remote(member, "serve_below")
    }

    fn remote(&self, member: &dyn Actor, op: &str) -> Remote {
        let number = self.remotes.replace(self.remotes.get() + 1);
        Remote::below(member, op, &self.path(&format!("remote{number}")))
    }

    /// A process that `parent` makes and that outlives it: `fork`, `orphan`, or a `program` that is a probe.
    ///
    /// # Errors
    /// Where a program ended before it spoke.
    pub fn born_of(&self, parent: &dyn Actor, how: &str, argv: &[String]) -> Result<Remote, String> {
        let socket = self.path(&format!("remote{}", self.remotes.replace(self.remotes.get() + 1)));
        let arguments = serde_json::json!({ "how": how, "path": socket, "argv": argv });
        let bear = || parent.ask("bear", arguments).expect("a process").as_u64().map(|pid| pid as u32);
        Remote::born(&socket, bear)
    }

    /// A broker in the foreground, as a child of the test.
    ///
    /// # Panics
    /// Where it does not answer within 10 s.
    pub fn foreground(&self) -> Daemon {
        self.foreground_by(self.program(binary()))
    }

    /// As [`Self::foreground`], below a program that execs it: `prlimit … kin`.
    ///
    /// # Panics
    /// As there.
    pub fn foreground_by(&self, mut command: Command) -> Daemon {
        command.args(["daemon", "--foreground"]).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(Stdio::null()).spawn().expect("a broker");
        self.shared.track(child.id());
        let daemon = Daemon { child };
        eventually("the broker answers", Duration::from_secs(10), || self.shared.listener().is_some());
        daemon
    }

    /// `kin status --json`.
    pub fn status(&self) -> Value {
        self.kin(["status", "--json"]).run().exits(0).json()
    }

    /// The live grants, oldest first.
    pub fn grants(&self) -> Vec<Value> {
        self.status()["grants"].as_array().cloned().unwrap_or_default()
    }

    /// The keeper of a live grant, counted from the oldest.
    ///
    /// # Panics
    /// Where there is no such grant.
    pub fn keeper(&self, index: usize) -> u32 {
        let status = self.status();
        let tree = &status["grants"][index]["tree"];
        tree[0]["pid"].as_u64().unwrap_or_else(|| panic!("no grant {index}: {status:#}")) as u32
    }

    /// The broker's process.
    ///
    /// # Panics
    /// Where none runs.
    pub fn broker(&self) -> Process {
        let status = self.status();
        let pid = status["broker"]["pid"].as_u64().expect("a pid") as u32;
        Process::of(pid).expect("a broker that runs")
    }

    /// How many threads of the broker bear this name.
    pub fn broker_threads(&self, name: &str) -> usize {
        process::threads_named(self.broker().pid, name)
    }

    /// Whether a broker runs: it holds its lock.
    pub fn is_broker_running(&self) -> bool {
        self.shared.is_broker_running()
    }

    /// Kills the broker where it stands, as a crash would.
    pub fn crash(&self) {
        self.crashed.set(true);
        let broker = self.broker();
        broker.kill();
        // Its threads end one by one; the last one takes its lock and its socket along.
        let gone = || !broker.is_alive() && !self.is_broker_running();
        eventually("a killed broker is gone", Duration::from_secs(5), gone);
    }

    /// The record: one JSON object a line.
    ///
    /// # Panics
    /// Where a line is none.
    pub fn audit(&self) -> Vec<Value> {
        let text = self.kin(["audit", "--json"]).run().exits(0).text();
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        text.lines().map(parse).collect()
    }

    /// The file that the record is in.
    pub fn log_file(&self) -> PathBuf {
        self.path("kin/state/audit.jsonl")
    }

    /// The test has damaged the record: at the end it need not verify.
    pub fn record_was_damaged(&self) {
        self.record_is_whole.set(false);
    }

    pub(crate) fn note(&self, what: &str, status: Option<ExitStatus>, said: &str) {
        let status = status.map_or_else(|| "no end".to_owned(), |status| status.to_string());
        self.transcript.borrow_mut().push_str(&format!("$ {what}\n{said}({status})\n"));
        self.shared.heard(said);
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}
