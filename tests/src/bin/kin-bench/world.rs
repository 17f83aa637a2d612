//! Where kin is measured: a throwaway KIN_HOME with a broker, a vault of one secret and a trusted project.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use kin_broker::sys::paths::Directories;
use serde_json::Value;
use tempfile::TempDir;

use crate::Result;
use crate::children::{self, Responder};
use crate::floor::SIZE;

/// The file that is measured, as a member's `KIN_DIR` has it.
pub(crate) const FILE: &str = "value";

const MANIFEST: &str = "schema = 1\n\n[project]\nname = \"bench\"\n\n[bindings]\nvalue = \"bench/value\"\n";

/// Directories short enough for a Unix socket's path below them (108 bytes, unix(7)).
pub(crate) fn temporary(prefix: &str) -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix(prefix)
        .tempdir_in("/tmp")
        .map_err(|error| format!("make a directory in /tmp: {error}"))
}

/// Where a broker of this home has its files; made.
pub(crate) fn directories(home: &Path) -> Result<Directories> {
    let get = |name: &str| (name == "KIN_HOME").then(|| home.as_os_str().to_owned());
    let directories = Directories::from_variables(&get).map_err(|error| error.to_string())?;
    directories.create().map_err(|error| error.to_string())?;
    Ok(directories)
}

/// Removes a mount that its server left behind.
pub(crate) fn unmount_if_mounted(mountpoint: &Path) {
    let device = |path: &Path| fs::symlink_metadata(path).map(|meta| meta.dev());
    let parent = mountpoint.parent().map(device);
    if matches!((device(mountpoint), parent), (Ok(own), Some(Ok(parent))) if own == parent) {
        return;
    }
    let status = Command::new("fusermount3").args(["-u", "-z", "-q", "--"]).arg(mountpoint).status();
    if !matches!(status, Ok(status) if status.success()) {
        eprintln!("warning: {} may still be mounted", mountpoint.display());
    }
}

/// One broker with all that belongs to it; gone on drop.
pub(crate) struct World {
    kin: PathBuf,
    identity: Option<&'static str>,
    broker: Option<Child>,
    home: TempDir,
    project: TempDir,
}

impl World {
    /// Starts a broker, with `KIN_IDENTITY` where `identity` is given, and makes the vault and the project.
    pub(crate) fn start(kin: &Path, identity: Option<&'static str>) -> Result<Self> {
        let (home, project) = (temporary("kb")?, temporary("kbp")?);
        let mut world = Self { kin: kin.to_owned(), identity, broker: None, home, project };
        let spawned =
            world.kin(&["daemon", "--foreground"]).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        world.broker = Some(spawned.map_err(|error| format!("start the broker: {error}"))?);
        world.wait_for_broker()?;

        let key = world.home.path().join("identity");
        children::run(world.kin(&["init", "--key-file"]).arg(key), b"")?;
        children::run(&mut world.kin(&["set", "bench/value", "--stdin"]), &[b'x'; SIZE])?;
        fs::write(world.project.path().join("kin.toml"), MANIFEST)
            .map_err(|error| format!("write kin.toml: {error}"))?;
        children::run(&mut world.kin(&["trust", "--yes"]), b"")?;
        Ok(world)
    }

    fn wait_for_broker(&mut self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            if let Some(Ok(Some(status))) = self.broker.as_mut().map(Child::try_wait) {
                return Err(format!("the broker ended: {status}"));
            }
            if self.home().join("run/socket").exists() && self.status().is_ok() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err("the broker does not answer within 10 s".into())
    }

    /// `kin` in this world's home and project.
    pub(crate) fn kin(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.kin);
        command.args(arguments).env("KIN_HOME", self.home()).current_dir(self.project.path());
        for inherited in ["KIN_DIR", "KIN_IDENTITY"] {
            command.env_remove(inherited);
        }
        if let Some(identity) = self.identity {
            command.env("KIN_IDENTITY", identity);
        }
        command
    }

    /// This binary in a part, below `kin run` with `flags`.
    pub(crate) fn wrapped(&self, flags: &[&str], part: &[&str]) -> Result<Command> {
        let own = children::own([""; 0])?;
        let mut command = self.kin(&["run"]);
        command.args(flags).arg("--").arg(own.get_program()).args(part);
        Ok(command)
    }

    /// [`World::wrapped`], started.
    pub(crate) fn member(&self, part: &[&str]) -> Result<Responder> {
        Responder::start(&mut self.wrapped(&[], part)?)
    }

    /// `kin-load`, which was built beside kin, in a part and below nothing.
    pub(crate) fn load(&self, part: &[&str]) -> Result<Responder> {
        let program = self.kin.with_file_name("kin-load");
        let mut command = Command::new(program);
        Responder::start(command.args(part).env("KIN_HOME", self.home()).env_remove("KIN_DIR"))
    }

    /// The project's directory.
    pub(crate) fn project(&self) -> &Path {
        self.project.path()
    }

    /// How the broker identifies processes.
    pub(crate) fn identity(&self) -> Result<String> {
        let status = self.status()?;
        let identity = status.pointer("/broker/identity").and_then(Value::as_str);
        identity.map(str::to_owned).ok_or_else(|| "`kin status --json` has no broker.identity".into())
    }

    /// Live grants.
    pub(crate) fn grants(&self) -> Result<usize> {
        let status = self.status()?;
        let grants = status.get("grants").and_then(Value::as_array);
        grants.map(Vec::len).ok_or_else(|| "`kin status --json` has no grants".into())
    }

    fn status(&self) -> Result<Value> {
        let output = children::run(&mut self.kin(&["status", "--json"]), b"")?;
        serde_json::from_slice(&output.stdout).map_err(|error| format!("`kin status --json`: {error}"))
    }

    /// The directory that holds everything of this broker.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// The broker's pid.
    pub(crate) fn broker(&self) -> Result<u32> {
        self.broker.as_ref().map(Child::id).ok_or_else(|| "the broker was stopped".into())
    }

    /// Stops the broker; a broker that does not stop by itself is an error.
    pub(crate) fn stop(&mut self) -> Result<()> {
        children::run(&mut self.kin(&["stop"]), b"").map(drop)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut broker) = self.broker.take() {
            if matches!(broker.try_wait(), Ok(None)) {
                let _ = self.stop();
            }
            children::end(&mut broker, Duration::from_secs(5));
        }
        unmount_if_mounted(&self.home().join("run/mnt"));
    }
}
