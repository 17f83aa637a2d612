//! What stands at a real path for a private mount to lay a file over, and how does it go again?
//!
//! A mount needs something to stand on. Where a path is missing, an empty file is put there, below empty
//! directories where those are missing too. Each is written to a journal, and goes with the last grant that
//! stands on it: only where it is still the same inode, and still empty. What a killed broker left goes by
//! the keeper, or at the next broker's start.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use kin_policy::GrantId;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::project::mount_targets::{Target, Way};
use crate::sys::error::{Error, Result};
use crate::sys::path_bytes;
use crate::sys::proc;

/// An empty file or directory of ours in somebody else's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placeholder {
    /// Where.
    #[serde(with = "path_bytes")]
    path: PathBuf,
    inode: Inode,
    directory: bool,
}

/// Which inode: a number that is used again is told by its birth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Inode {
    dev: u64,
    ino: u64,
    born: Option<u64>,
}

impl Inode {
    pub(crate) fn of(meta: &Metadata) -> Self {
        let born = meta.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        let born = born.and_then(|born| u64::try_from(born.as_nanos()).ok());
        Self { dev: meta.dev(), ino: meta.ino(), born }
    }
}

impl Placeholder {
    /// A directory that was made for something else to be in.
    pub(crate) fn directory(path: PathBuf, inode: Inode) -> Self {
        Self { path, inode, directory: true }
    }

    /// Takes it away, where it is still what was put there. A directory that has come to hold something
    /// stays: rmdir(2) refuses it.
    pub fn remove(&self) {
        let (Some(parent), Some(name)) = (self.path.parent(), self.path.file_name()) else { return };
        let Ok(parent) = openat(AT_FDCWD, parent, DIRECTORY, Mode::empty()) else { return };
        let there =
            openat(&parent, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty());
        let Ok(meta) = there.map_err(std::io::Error::from).and_then(|there| File::from(there).metadata())
        else {
            return;
        };
        let empty = self.directory || meta.is_file() && meta.size() == 0;
        if Inode::of(&meta) == self.inode && meta.is_dir() == self.directory && empty {
            let how = if self.directory { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
            let _ = unlinkat(&parent, name, how);
        }
    }
}

const DIRECTORY: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// All that stand, and who stands on them.
#[derive(Debug)]
pub(crate) struct Placeholders {
    journal: PathBuf,
    standing: Mutex<Vec<(Placeholder, Vec<GrantId>)>>,
}

impl Placeholders {
    /// Takes away what a broker that was killed left, and begins anew.
    ///
    /// # Errors
    /// A storage error where the journal cannot be emptied.
    pub(crate) fn begin(state: &Path) -> Result<Self> {
        let journal = state.join("placeholders");
        let text = std::fs::read_to_string(&journal).unwrap_or_default();
        // The newest first: a file before the directory that it is in.
        text.lines()
            .rev()
            .filter_map(|line| serde_json::from_str::<Placeholder>(line).ok())
            .for_each(|left| left.remove());
        let this = Self { journal, standing: Mutex::default() };
        this.append(b"", true)?;
        Ok(this)
    }

    /// Makes sure that there is something to lay a file over at the end of `way`.
    ///
    /// # Errors
    /// Those of [`Way::find`]; `target_failed` where nothing can be put there.
    pub(crate) fn stand(&self, way: Way<'_>, grant: GrantId) -> Result<()> {
        let mut standing = self.standing.lock();
        let (mut at, mut parent) = (PathBuf::new(), way.base()?);
        let mut parts = Path::new(way.path.below()).iter().peekable();
        while let Some(part) = parts.next() {
            at.push(part);
            let directory = parts.peek().is_some();
            let found = match directory {
                true => way.directory(&at)?,
                false => match way.find()? {
                    Target::Link => return Ok(()),
                    Target::File(file) => Some(file),
                    Target::Missing => None,
                },
            };
            parent = match found {
                Some(found) => found,
                None => {
                    let (there, made) = self.put(way, &at, &parent, part, directory)?;
                    standing.push((made, Vec::new()));
                    there
                }
            };
            let inode = inode(way, &parent)?;
            if let Some((_, on)) = standing.iter_mut().find(|(own, _)| own.inode == inode)
                && !on.contains(&grant)
            {
                on.push(grant);
            }
        }
        Ok(())
    }

    /// What the grant stands on.
    pub(crate) fn of(&self, grant: GrantId) -> Vec<Placeholder> {
        let standing = self.standing.lock();
        standing.iter().filter(|(_, on)| on.contains(&grant)).map(|(own, _)| own.clone()).collect()
    }

    /// The grant is over: what nobody else stands on goes.
    pub(crate) fn release(&self, grant: GrantId) {
        self.free(|on| on.retain(|other| *other != grant));
    }

    /// Everything goes.
    pub(crate) fn release_all(&self) {
        self.free(Vec::clear);
    }

    fn free(&self, leave: impl Fn(&mut Vec<GrantId>)) {
        let mut standing = self.standing.lock();
        if standing.is_empty() {
            return;
        }
        standing.iter_mut().for_each(|(_, on)| leave(on));
        standing.iter().rev().filter(|(_, on)| on.is_empty()).for_each(|(own, _)| own.remove());
        standing.retain(|(_, on)| !on.is_empty());
        if standing.is_empty() {
            let _ = self.append(b"", true);
        }
    }

    /// Puts a placeholder there. A file has no name until it is in the journal (O_TMPFILE, open(2)); one on
    /// a file system without such files has it at once, and so has a directory.
    fn put(
        &self,
        way: Way<'_>,
        at: &Path,
        parent: &File,
        name: &OsStr,
        directory: bool,
    ) -> Result<(File, Placeholder)> {
        let failed = |errno| way.failed(errno);
        let flags = OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_WRONLY;
        let unnamed =
            openat(parent, ".", flags | OFlag::O_TMPFILE, Mode::S_IRUSR).ok().filter(|_| !directory);
        let named = unnamed.is_none();
        let made = match unnamed {
            Some(file) => file,
            None if directory => {
                mkdirat(parent, name, Mode::S_IRWXU).map_err(failed)?;
                openat(parent, name, DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty()).map_err(failed)?
            }
            None => {
                openat(parent, name, flags | OFlag::O_CREAT | OFlag::O_EXCL, Mode::S_IRUSR).map_err(failed)?
            }
        };
        let made = File::from(made);
        let placeholder = Placeholder { path: way.base.join(at), inode: inode(way, &made)?, directory };
        self.note(&placeholder).inspect_err(|_| placeholder.remove())?;
        if !named {
            let (own, number) =
                proc::own().map_err(Errno::from).and_then(|proc| proc.descriptor(&made)).map_err(failed)?;
            linkat(&own, number.as_str(), parent, name, AtFlags::AT_SYMLINK_FOLLOW).map_err(failed)?;
        }
        Ok((made, placeholder))
    }

    fn note(&self, made: &Placeholder) -> Result<()> {
        let mut line =
            serde_json::to_vec(made).map_err(|error| Error::internal("write a placeholder", error))?;
        line.push(b'\n');
        self.append(&line, false)
    }

    fn append(&self, line: &[u8], from_start: bool) -> Result<()> {
        let mut open = File::options();
        open.write(true).append(!from_start).truncate(from_start).create(true).mode(0o600);
        let written = open
            .custom_flags(libc::O_NOFOLLOW)
            .open(&self.journal)
            .and_then(|mut journal| journal.write_all(line));
        written.map_err(|error| Error::storage("write the journal of placeholders", &error))
    }
}

fn inode(way: Way<'_>, file: &File) -> Result<Inode> {
    file.metadata()
        .map(|meta| Inode::of(&meta))
        .map_err(|error| way.failed(Errno::from_raw(error.raw_os_error().unwrap_or(0))))
}

#[cfg(test)]
#[path = "placeholders_tests.rs"]
mod tests;
