//! Where things are: config, vault, audit, socket and mount, from the environment (XDG base
//! directories) or all under one `KIN_HOME`.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use kin_policy::{DirectoryName, FileName};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat};

use crate::sys::error::{Class, Error, Result};

/// The name of the lock that a broker holds.
pub(crate) const LOCK: &str = "broker.lock";

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

    /// Held, by flock(2) and by a record lock that shows its holder, for the broker's life.
    pub fn lock_file(&self) -> PathBuf {
        self.runtime.join(LOCK)
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

/// Makes `dir` (and what is missing above it) 0700, or accepts one that is; the way there is checked first.
fn create_private(dir: &Path) -> Result<()> {
    reach(dir, Missing::Made).and_then(|held| private(dir, &held))
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

/// Refuses a directory that is a symlink, another user's, open to others, or below somebody else's.
///
/// # Errors
/// `unsafe_dir`; a storage error where it is missing.
pub fn check_private(dir: &Path) -> Result<()> {
    open_private(dir).map(drop)
}

/// As [`check_private`], and holds it (`O_PATH`): what is reached through it is in the directory that was looked at.
///
/// # Errors
/// As there.
pub(crate) fn open_private(dir: &Path) -> Result<OwnedFd> {
    let held = reach(dir, Missing::Refused)?;
    private(dir, &held).map(|()| held)
}

/// Refuses a directory that is not there, or that somebody else than root and we could replace on the way to it.
///
/// # Errors
/// `unsafe_dir`; a storage error where it is missing.
pub(crate) fn check_way(dir: &Path) -> Result<()> {
    // By one name more, its own, so that it is looked at as what is above it is.
    let ahead = std::iter::once(".".into()).chain(names(dir)).collect();
    walk(dir, ahead, Missing::Refused).map(drop)
}

/// Refuses what `dir` turned out to be, unless it is a directory of ours alone.
fn private(dir: &Path, held: &OwnedFd) -> Result<()> {
    let refuse = |why: String, hint: String| {
        Err(Error::new(Class::Unsafe, "unsafe_dir", format!("{} {why}", dir.display())).hint(hint))
    };
    let meta = looked_at(held, dir)?;
    if kind(&meta) != SFlag::S_IFDIR {
        return refuse("is not a directory".into(), "move it away".into());
    }
    if meta.st_uid != nix::unistd::geteuid().as_raw() {
        return refuse(format!("belongs to uid {}", meta.st_uid), "move it away, or use KIN_HOME".into());
    }
    if meta.st_mode & 0o077 != 0 {
        let hint = format!("chmod 700 {}", dir.display());
        return refuse(format!("has mode {:04o}", meta.st_mode & 0o7777), hint);
    }
    Ok(())
}

/// What becomes of a directory on the way that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Made,
    Refused,
}

/// Links that a way may have, as the kernel counts them (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Goes to `path` one name at a time, each from the directory before it, which is held and [`trusted`]: so nothing
/// is made in a directory of somebody else's, and no other user can turn the way afterwards, however often it is
/// taken. The last name is not followed where it is a link.
fn reach(path: &Path, missing: Missing) -> Result<OwnedFd> {
    walk(path, names(path), missing)
}

/// By the names that are `ahead`, the first at the end.
fn walk(path: &Path, mut ahead: Vec<OsString>, missing: Missing) -> Result<OwnedFd> {
    let top = || {
        open_at(AT_FDCWD, OsStr::new("/"))
            .map_err(|errno| Error::storage(&format!("look at {}", path.display()), &errno.into()))
    };
    let mut held = top()?;
    let mut shown = PathBuf::from("/");
    let everywhere = looked_at(&held, &shown)?.st_uid;
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        trusted(&looked_at(&held, &shown)?, everywhere, &shown, path)?;
        let next = match open_at(&held, &name) {
            Err(Errno::ENOENT) if missing == Missing::Made => make_at(&held, &name),
            opened => opened,
        };
        let there = shown.join(&name);
        let fault = |errno: Errno| {
            let verb = if missing == Missing::Made { "make" } else { "look at" };
            Error::storage(&format!("{verb} {}", there.display()), &errno.into())
        };
        let next = next.map_err(fault)?;
        let meta = looked_at(&next, &there)?;
        if kind(&meta) != SFlag::S_IFLNK || ahead.is_empty() {
            (held, shown) = (next, there);
            continue;
        }
        trusted(&meta, everywhere, &there, path)?;
        let target = PathBuf::from(readlinkat(&next, c"").map_err(fault)?);
        links += 1;
        if links > MAX_LINKS {
            return Err(fault(Errno::ELOOP));
        }
        if target.is_absolute() {
            (held, shown) = (top()?, PathBuf::from("/"));
        }
        ahead.extend(names(&target));
    }
    Ok(held)
}

/// The names of a path, the first at the end.
fn names(path: &Path) -> Vec<OsString> {
    let all = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    all.rev().map(|part| part.as_os_str().to_owned()).collect()
}

/// What is on the way to a directory of ours must be root's or ours: an owner can put anything in its place. Who
/// owns `/` is as good as root: in a user namespace that has no root, nobody (65534) does. And nobody else may write
/// there, unless it is sticky: then only owners put something else in the place of what is theirs (inode(7)).
fn trusted(meta: &FileStat, everywhere: u32, shown: &Path, to: &Path) -> Result<()> {
    let refuse = |why: String, hint: String| {
        let message = format!("{} {why}, who could replace {}", shown.display(), to.display());
        Err(Error::new(Class::Unsafe, "unsafe_dir", message).hint(hint))
    };
    if ![0, everywhere, nix::unistd::geteuid().as_raw()].contains(&meta.st_uid) {
        let hint = "set HOME and XDG_RUNTIME_DIR, or KIN_HOME, to directories of your own (sudo -H does, sudo -E does not)";
        return refuse(format!("belongs to uid {}", meta.st_uid), hint.into());
    }
    // The permissions of a link mean nothing (symlink(7)).
    let mode = Mode::from_bits_truncate(meta.st_mode);
    if kind(meta) != SFlag::S_IFDIR || mode.contains(Mode::S_ISVTX) {
        return Ok(());
    }
    if mode.contains(Mode::S_IWOTH) {
        return refuse("can be written by every user".into(), format!("chmod o-w {}", shown.display()));
    }
    if mode.contains(Mode::S_IWGRP) && !is_of_one(meta.st_gid) {
        let hint = format!("chmod g-w {}", shown.display());
        return refuse(format!("can be written by group {}", meta.st_gid), hint);
    }
    Ok(())
}

/// Whether a group is root's, or this user's own: of the same name, and with nobody else in it. Where a user has such
/// a group, what they make is writable by it (usergroups, pam_umask(8)).
fn is_of_one(group: u32) -> bool {
    use nix::unistd::{Gid, Group, User, getegid, geteuid};
    if group == 0 {
        return true;
    }
    let group = Gid::from_raw(group);
    let of_the_name = |user: User| {
        Group::from_gid(group).ok().flatten().is_some_and(|group| {
            group.name == user.name && group.mem.iter().all(|member| *member == user.name)
        })
    };
    group == getegid() && User::from_uid(geteuid()).ok().flatten().is_some_and(of_the_name)
}

fn open_at(directory: impl AsFd, name: &OsStr) -> nix::Result<OwnedFd> {
    openat(directory, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
}

/// Another who was faster is as good: what is there is looked at either way.
fn make_at(directory: &OwnedFd, name: &OsStr) -> nix::Result<OwnedFd> {
    match mkdirat(directory, name, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => open_at(directory, name),
        Err(errno) => Err(errno),
    }
}

fn looked_at(held: &OwnedFd, shown: &Path) -> Result<FileStat> {
    fstat(held).map_err(|errno| Error::storage(&format!("look at {}", shown.display()), &errno.into()))
}

fn kind(meta: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(meta.st_mode & SFlag::S_IFMT.bits())
}

#[cfg(test)]
#[path = "paths_tests.rs"]
mod tests;
