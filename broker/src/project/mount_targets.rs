//! May a private mount lay a file here? Over a regular file, below the directory that the path belongs to.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};

use kin_policy::FilePath;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::Mode;

use crate::sys::error::{Class, Error, Result, describe};

/// The way to one path. Symbolic links on it are followed for as long as they stay below `base`.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// The directory that the path is below.
    pub base: &'a Path,
    /// The path.
    pub path: &'a FilePath,
    /// What a symbolic link at the path may say: it leads to the file already.
    pub link: &'a Path,
}

/// What is at the end of a [`Way`].
#[derive(Debug)]
pub enum Target {
    /// Nothing.
    Missing,
    /// A regular file, opened by path only.
    File(File),
    /// A symbolic link to the file in the mount.
    Link,
}

impl Way<'_> {
    /// Looks at what is there.
    ///
    /// # Errors
    /// `unsafe_target` for what is no regular file, and where the way leads out of `base`; a storage error
    /// where it cannot be looked at.
    pub fn find(&self) -> Result<Target> {
        let below = Path::new(self.path.below());
        let Some(found) = self.beneath(below, OFlag::O_PATH | OFlag::O_NOFOLLOW)? else {
            return Ok(Target::Missing);
        };
        let meta = found
            .metadata()
            .map_err(|error| self.failed(Errno::from_raw(error.raw_os_error().unwrap_or(0))))?;
        if meta.is_file() {
            return Ok(Target::File(found));
        }
        if meta.is_symlink() {
            let says = readlinkat(&found, OsStr::new("")).map_err(|errno| self.failed(errno))?;
            return if says == self.link {
                Ok(Target::Link)
            } else {
                Err(self.refused("is a symbolic link"))
            };
        }
        Err(self.refused("is not a regular file"))
    }

    /// A directory on the way; `None` where there is none.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn directory(&self, below: &Path) -> Result<Option<File>> {
        self.beneath(below, OFlag::O_PATH | OFlag::O_DIRECTORY)
    }

    /// `base` itself.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn base(&self) -> Result<File> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        openat(AT_FDCWD, self.base, flags, Mode::empty()).map(File::from).map_err(|errno| self.failed(errno))
    }

    /// The whole path, for people.
    pub fn whole(&self) -> PathBuf {
        self.base.join(self.path.below())
    }

    /// That the file cannot be laid there, as the kernel says.
    pub fn failed(&self, errno: Errno) -> Error {
        match errno {
            Errno::EXDEV => self.refused("leads out of the directory it belongs to"),
            Errno::ENOTDIR => self.refused("leads through something that is no directory"),
            Errno::ELOOP => self.refused("leads through too many symbolic links"),
            errno => {
                let message =
                    format!("no file can be laid at {}: {}", self.whole().display(), describe(&errno.into()));
                Error::new(Class::Storage, "target_failed", message)
                    .hint("make an empty file there, or leave `path` out of kin.toml")
            }
        }
    }

    fn refused(&self, why: &str) -> Error {
        Error::new(Class::Unsafe, "unsafe_target", format!("{} {why}", self.whole().display()))
            .hint("a file is laid over a regular file, or where nothing is: move it away, or change `path`")
    }

    fn beneath(&self, below: &Path, flags: OFlag) -> Result<Option<File>> {
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        let base = self.base()?;
        loop {
            // EAGAIN: something was renamed during a walk through "..", openat2(2).
            match openat2(&base, below, how) {
                Ok(found) => return Ok(Some(File::from(found))),
                Err(Errno::ENOENT) => return Ok(None),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return Err(self.failed(errno)),
            }
        }
    }
}
