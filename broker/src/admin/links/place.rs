//! How does a link come to one place, and go again? Through a descriptor of its directory, which no rename
//! makes another one, and never over something unseen.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use chacha20poly1305::aead::OsRng;
use chacha20poly1305::aead::rand_core::RngCore;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat, renameat};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

use super::store::Linked;
use crate::admin::batches::UnlinkState;
use crate::grants::placeholders::{Inode, Placeholder};
use crate::project::mount_targets::{Target, Way};
use crate::sys::error::{Class, Error, Result};
use crate::sys::memory::Plaintext;
use crate::sys::proc;
use crate::sys::statx::{FileState, facts_of};
use crate::vault::MAX_VALUE;

const SEEN: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
const DIRECTORY: OFlag = SEEN.union(OFlag::O_DIRECTORY);

/// One name in one directory.
pub(super) struct Place {
    parent: File,
    name: OsString,
    whole: PathBuf,
    made: Vec<Placeholder>,
}

/// A regular file that is to give way: what it holds, and since when.
pub(super) struct Old {
    bytes: Plaintext,
    state: FileState,
    mode: u32,
}

impl Old {
    pub(super) fn bytes(&self) -> &Plaintext {
        &self.bytes
    }

    pub(super) fn mode(&self) -> u32 {
        self.mode
    }
}

impl Place {
    /// The place at the end of `way`; `None` where its directory is not there.
    ///
    /// # Errors
    /// `unsafe_target`, a storage error.
    pub(super) fn at(way: Way<'_>) -> Result<Option<Self>> {
        let (above, name) = split(way)?;
        let parent = match above.as_os_str().is_empty() {
            true => Some(way.base()?),
            false => way.directory(above)?,
        };
        Ok(parent.map(|parent| Self { parent, name, whole: way.whole(), made: Vec::new() }))
    }

    /// The same; directories that are not there are made, and are noted to go with the link.
    ///
    /// # Errors
    /// As [`Self::at`].
    pub(super) fn make(way: Way<'_>) -> Result<Self> {
        let (above, name) = split(way)?;
        let (mut at, mut parent, mut made) = (PathBuf::new(), way.base()?, Vec::new());
        for part in above {
            at.push(part);
            parent = match way.directory(&at)? {
                Some(found) => found,
                None => {
                    mkdirat(&parent, part, Mode::S_IRWXU).map_err(|errno| way.failed(errno))?;
                    let new =
                        openat(&parent, part, DIRECTORY, Mode::empty()).map_err(|errno| way.failed(errno))?;
                    let new = File::from(new);
                    let inode = inode(&new).map_err(|errno| way.failed(errno))?;
                    made.push(Placeholder::directory(way.base.join(&at), inode));
                    new
                }
            };
        }
        Ok(Self { parent, name, whole: way.whole(), made })
    }

    pub(super) fn made(&self) -> &[Placeholder] {
        &self.made
    }

    /// Puts a link where nothing is.
    ///
    /// # Errors
    /// `file_exists` (Denied) where something came meanwhile, or a storage error.
    pub(super) fn link(&self, target: &Path) -> Result<Inode> {
        match symlinkat(target, &self.parent, self.name.as_os_str()) {
            Ok(()) => self.inode(),
            Err(Errno::EEXIST) => {
                let message = format!("{} is there already", self.whole.display());
                Err(Error::new(Class::Denied, "file_exists", message).hint("look at it, and try again"))
            }
            Err(errno) => Err(self.failed("link", errno)),
        }
    }

    /// What is there now.
    ///
    /// # Errors
    /// A storage error.
    pub(super) fn inode(&self) -> Result<Inode> {
        let there = openat(&self.parent, self.name.as_os_str(), SEEN, Mode::empty());
        there.and_then(|there| inode(&File::from(there))).map_err(|errno| self.failed("look at", errno))
    }

    /// Reads the regular file that is to give way.
    ///
    /// # Errors
    /// `unsafe_target` for another kind of file, one with other names, or one over 1 MiB; `file_changed`.
    pub(super) fn read(&self, way: Way<'_>) -> Result<Old> {
        let Target::File(seen) = way.find()? else { return Err(self.changed()) };
        let refuse = |why: &str| {
            let message = format!("{} {why}", self.whole.display());
            Err(Error::new(Class::Unsafe, "unsafe_target", message).hint("it was left as it is"))
        };
        let failed = |errno| self.failed("read", errno);
        // Through /proc it is opened that was seen, whatever has its name now (proc_pid_fd(5)).
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let opened = proc::own().map_err(Errno::from).and_then(|proc| proc.reopened(&seen, flags));
        let file = File::from(opened.map_err(failed)?);
        let before = facts_of(file.as_fd()).map_err(failed)?;
        if before.links != 1 {
            return refuse("has other names, which would keep what it holds");
        }
        let Some(bytes) = read_all(&file).map_err(failed)? else { return refuse("is larger than 1 MiB") };
        let meta = file.metadata().map_err(|error| Error::storage("look at a file", &error))?;
        match facts_of(file.as_fd()).map_err(failed)?.state == before.state {
            true => Ok(Old { bytes, state: before.state, mode: meta.mode() & 0o777 }),
            false => Err(self.changed()),
        }
    }

    /// Puts a link in the place of a file that has not changed since it was read. `remember` is called before
    /// the file gives way.
    ///
    /// # Errors
    /// `file_changed` (Denied), a storage error, those of `remember`; the file is still there then.
    pub(super) fn replace(
        &self,
        old: Old,
        target: &Path,
        remember: impl FnOnce(Inode) -> Result<()>,
    ) -> Result<()> {
        let beside = self.beside()?;
        let failed = |errno| self.failed("link", errno);
        symlinkat(target, &self.parent, beside.as_os_str()).map_err(failed)?;
        let swap = || {
            let link = openat(&self.parent, beside.as_os_str(), SEEN, Mode::empty()).map_err(failed)?;
            remember(inode(&File::from(link)).map_err(failed)?)?;
            let there = openat(&self.parent, self.name.as_os_str(), SEEN, Mode::empty()).map_err(failed)?;
            if facts_of(there.as_fd()).map_err(failed)?.state != old.state {
                return Err(self.changed());
            }
            renameat(&self.parent, beside.as_os_str(), &self.parent, self.name.as_os_str()).map_err(failed)
        };
        swap().inspect_err(|_| {
            let _ = unlinkat(&self.parent, beside.as_os_str(), UnlinkatFlags::NoRemoveDir);
        })?;
        self.sync()
    }

    /// Takes the link away, where it is still the one that kin made.
    ///
    /// # Errors
    /// A storage error.
    pub(super) fn remove(&self, linked: &Linked) -> Result<UnlinkState> {
        let there = match openat(&self.parent, self.name.as_os_str(), SEEN, Mode::empty()) {
            Ok(there) => File::from(there),
            Err(Errno::ENOENT) => return Ok(UnlinkState::Gone),
            Err(errno) => return Err(self.failed("look at", errno)),
        };
        let says = readlinkat(&there, OsStr::new(""));
        let same = says.is_ok_and(|says| Path::new(&says) == linked.target)
            && inode(&there).is_ok_and(|inode| Some(inode) == linked.inode);
        if !same {
            return Ok(UnlinkState::Kept);
        }
        unlinkat(&self.parent, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir)
            .map_err(|errno| self.failed("remove", errno))?;
        Ok(UnlinkState::Removed)
    }

    /// Writes a file where nothing is. It has no name until it is whole (O_TMPFILE, open(2)), except on a file
    /// system without such files.
    ///
    /// # Errors
    /// A storage error.
    pub(super) fn write(&self, value: &Plaintext, mode: u32) -> Result<()> {
        let failed = |errno| self.failed("write", errno);
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let private = Mode::S_IRUSR | Mode::S_IWUSR;
        let unnamed = openat(&self.parent, ".", flags | OFlag::O_TMPFILE, private).ok();
        let named = unnamed.is_none();
        let file = match unnamed {
            Some(file) => file,
            None => {
                openat(&self.parent, self.name.as_os_str(), flags | OFlag::O_CREAT | OFlag::O_EXCL, private)
                    .map_err(failed)?
            }
        };
        let mut file = File::from(file);
        std::io::Write::write_all(&mut file, value.bytes())
            .and_then(|()| file.sync_all())
            .map_err(|error| Error::storage(&format!("write {}", self.whole.display()), &error))?;
        fchmod(&file, Mode::from_bits_truncate(mode)).map_err(failed)?;
        if !named {
            let own = proc::own().map_err(Errno::from).and_then(|proc| proc.descriptor(&file));
            let (own, number) = own.map_err(failed)?;
            let name = self.name.as_os_str();
            linkat(&own, number.as_str(), &self.parent, name, AtFlags::AT_SYMLINK_FOLLOW).map_err(failed)?;
        }
        self.sync()
    }

    /// What was renamed there is durable once its directory is (fsync(2)).
    fn sync(&self) -> Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        openat(&self.parent, ".", flags, Mode::empty())
            .map_err(std::io::Error::from)
            .and_then(|directory| File::from(directory).sync_all())
            .map_err(|error| Error::storage(&format!("make {} durable", self.whole.display()), &error))
    }

    /// A name beside it that nobody has.
    fn beside(&self) -> Result<OsString> {
        let mut random = [0; 8];
        OsRng.try_fill_bytes(&mut random).map_err(|error| Error::internal("draw a name", error))?;
        Ok(format!(".kin-link-{:016x}", u64::from_le_bytes(random)).into())
    }

    fn changed(&self) -> Error {
        let message = format!("{} has changed meanwhile", self.whole.display());
        Error::new(Class::Denied, "file_changed", message)
            .hint("it was left as it is; look at it, and try again")
    }

    fn failed(&self, what: &str, errno: Errno) -> Error {
        Error::storage(&format!("{what} {}", self.whole.display()), &errno.into())
    }
}

/// The directories on a way, and the name at its end.
fn split(way: Way<'_>) -> Result<(&Path, OsString)> {
    let below = Path::new(way.path.below());
    let name = below.file_name().ok_or_else(|| Error::internal("link", "a path without a name"))?;
    Ok((below.parent().unwrap_or(Path::new("")), name.to_owned()))
}

fn inode(file: &File) -> Result<Inode, Errno> {
    file.metadata()
        .map(|meta| Inode::of(&meta))
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}

/// All of it, straight into locked memory; `None` where it is more than a value may have.
fn read_all(file: &File) -> Result<Option<Plaintext>, Errno> {
    let mut bytes = Plaintext::zeroed(MAX_VALUE + 1);
    let mut length = 0;
    while length <= MAX_VALUE {
        match nix::unistd::read(file, &mut bytes.bytes_mut()[length..]) {
            Ok(0) => {
                bytes.truncate(length);
                return Ok(Some(bytes));
            }
            Ok(got) => length += got,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(None)
}
