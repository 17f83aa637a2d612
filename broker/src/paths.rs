//! Where things are: config, vault, audit, socket and mount, from the environment (XDG base
//! directories) or all under one `KIN_HOME`.

use std::ffi::OsString;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use kin_policy::{DirectoryName, FileName};

use crate::error::{Class, Error, Result};

/// The directories of one broker. Two with the same `runtime` are the same broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    /// How the vault is unlocked.
    pub config: PathBuf,
    /// The vault and the trust store.
    pub data: PathBuf,
    /// The audit log and its anchors.
    pub state: PathBuf,
    /// The socket, the lock and the mount.
    pub runtime: PathBuf,
}

impl Directories {
    /// From this process's environment.
    ///
    /// # Errors
    /// `unsafe_dir` where neither `HOME` nor `KIN_HOME` is an absolute path.
    pub fn from_environment() -> Result<Self> {
        Self::from_variables(&|name| std::env::var_os(name))
    }

    /// From any source of variables.
    ///
    /// # Errors
    /// As [`Self::from_environment`].
    pub fn from_variables(get: &dyn Fn(&str) -> Option<OsString>) -> Result<Self> {
        let absolute = |name: &str| get(name).map(PathBuf::from).filter(|path| path.is_absolute());
        if let Some(value) = get("KIN_HOME").filter(|value| !value.is_empty()) {
            let home = PathBuf::from(value);
            if !home.is_absolute() {
                return Err(Error::new(Class::Unsafe, "unsafe_dir", "KIN_HOME is not an absolute path"));
            }
            let under = |name: &str| home.join(name);
            return Ok(Self {
                config: under("config"),
                data: under("data"),
                state: under("state"),
                runtime: under("run"),
            });
        }
        let home = absolute("HOME").ok_or_else(|| {
            Error::new(Class::Unsafe, "unsafe_dir", "HOME is not set to an absolute path")
                .hint("set HOME, or KIN_HOME for everything of kin's")
        })?;
        let base =
            |name: &str, fallback: &str| absolute(name).unwrap_or_else(|| home.join(fallback)).join("kin");
        let state = base("XDG_STATE_HOME", ".local/state");
        let runtime = match absolute("XDG_RUNTIME_DIR") {
            Some(dir) => dir.join("kin"),
            None => login_runtime_dir().map_or_else(|| state.join("run"), |dir| dir.join("kin")),
        };
        Ok(Self {
            config: base("XDG_CONFIG_HOME", ".config"),
            data: base("XDG_DATA_HOME", ".local/share"),
            state,
            runtime,
        })
    }

    /// Where the file system is mounted.
    pub fn mountpoint(&self) -> PathBuf {
        self.runtime.join("mnt")
    }

    /// Where the files that can be written are mounted, while somebody may write any.
    pub fn writable_mountpoint(&self) -> PathBuf {
        self.runtime.join("rw")
    }

    /// The path of a file in the mount: in that where it can be written, if it may be.
    pub fn mounted_file(&self, project: &DirectoryName, file: &FileName, writable: bool) -> PathBuf {
        let mount = if writable { self.writable_mountpoint() } else { self.mountpoint() };
        mount.join(project.as_str()).join(file.as_str())
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("socket")
    }

    /// Held, by flock, for the broker's life.
    pub fn lock_file(&self) -> PathBuf {
        self.runtime.join("broker.lock")
    }

    /// How the vault is unlocked, and the recipient that its identity must have.
    pub fn key_config(&self) -> PathBuf {
        self.config.join("key.json")
    }

    /// The identity, where a passphrase guards it.
    pub fn identity_file(&self) -> PathBuf {
        self.data.join("identity.age")
    }

    /// The vault.
    pub fn vault_file(&self) -> PathBuf {
        self.data.join("vault.age")
    }

    /// What the newest vault was, outside of it.
    pub fn vault_anchor(&self) -> PathBuf {
        self.state.join("vault.anchor")
    }

    /// What the vault remembers of the record. It is not beside the record, so that a copy of that is not one of both.
    pub fn record_head(&self) -> PathBuf {
        self.data.join("record.head")
    }

    /// What is trusted.
    pub fn trust_file(&self) -> PathBuf {
        self.data.join("trust.json")
    }

    /// The links that kin made.
    pub fn links_file(&self) -> PathBuf {
        self.state.join("links.json")
    }

    /// Makes all four, each 0700 and ours; refuses what somebody else could have put there.
    ///
    /// # Errors
    /// `unsafe_dir` for a directory that is not ours alone, a storage error where it cannot be made.
    pub fn create(&self) -> Result<()> {
        [&self.config, &self.data, &self.state, &self.runtime]
            .into_iter()
            .try_for_each(|dir| create_private(dir))
    }
}

/// systemd's `/run/user/UID`, where it is ours (pam_systemd(8)).
fn login_runtime_dir() -> Option<PathBuf> {
    let uid = nix::unistd::geteuid();
    let dir = PathBuf::from(format!("/run/user/{uid}"));
    let meta = std::fs::symlink_metadata(&dir).ok()?;
    (meta.is_dir() && meta.uid() == uid.as_raw()).then_some(dir)
}

/// Makes `dir` (and what is missing above it) 0700, or accepts one that is.
fn create_private(dir: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| Error::storage(&format!("make {}", dir.display()), &error))?;
    check_private(dir)
}

/// Refuses a directory of credentials that somebody else than root and we may write.
///
/// # Errors
/// `unsafe_dir`.
pub(crate) fn check_credentials(dir: &Path) -> Result<()> {
    let meta = std::fs::symlink_metadata(dir)
        .map_err(|error| Error::storage(&format!("look at {}", dir.display()), &error))?;
    let owner = [0, nix::unistd::geteuid().as_raw()].contains(&meta.uid());
    if meta.is_dir() && owner && meta.mode() & 0o022 == 0 {
        return Ok(());
    }
    let message = format!("{} is not a directory that only root or you may write", dir.display());
    Err(Error::new(Class::Unsafe, "unsafe_dir", message).hint("take a directory that systemd made"))
}

/// Refuses a directory that is a symlink, another user's, or open to others.
///
/// # Errors
/// `unsafe_dir`.
pub fn check_private(dir: &Path) -> Result<()> {
    let refuse = |why: String, hint: String| {
        Err(Error::new(Class::Unsafe, "unsafe_dir", format!("{} {why}", dir.display())).hint(hint))
    };
    let meta = match std::fs::symlink_metadata(dir) {
        Ok(meta) => meta,
        Err(error) => return Err(Error::storage(&format!("look at {}", dir.display()), &error)),
    };
    if !meta.is_dir() {
        return refuse("is not a directory".into(), "move it away".into());
    }
    if meta.uid() != nix::unistd::geteuid().as_raw() {
        return refuse(format!("belongs to uid {}", meta.uid()), "move it away, or use KIN_HOME".into());
    }
    if meta.mode() & 0o077 != 0 {
        let hint = format!("chmod 700 {}", dir.display());
        return refuse(format!("has mode {:04o}", meta.mode() & 0o7777), hint);
    }
    Ok(())
}
