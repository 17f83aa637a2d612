//! What does `/proc` say, whatever somebody has mounted over it?
//!
//! It is opened once and read by that descriptor. `RESOLVE_NO_XDEV` (openat2(2)) refuses a path below it that leads
//! onto another mount, as `mount --bind /proc/A /proc/B` makes one: EXDEV. A link such as `exe` can only be followed
//! off the mount; there [`Proc::steady`] asks the table of mounts, whose poll(2) tells of every change
//! (`mounts_poll`, fs/proc_namespace.c). Nobody without the right to mount in this process's mount namespace can do
//! any of this; where the broker was started in a namespace of somebody's own, its owner can.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::OnceLock;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use parking_lot::Mutex;

use super::link;

/// The inode of a procfs's root directory (`PROC_ROOT_INO`, linux/proc_fs.h): a directory of it that is mounted in
/// the root's place has another.
const ROOT: u64 = 1;
/// How often [`Proc::steady`] looks before it gives up on a table of mounts that changes all the time.
const LOOKS: usize = 16;

/// The `/proc` of this process's pid namespace, opened.
#[derive(Debug)]
pub struct Proc {
    root: OwnedFd,
    /// The number of its mount.
    mount: u64,
    table: Mutex<Table>,
}

/// What stands over it, as far as that was looked at.
#[derive(Debug)]
struct Table {
    /// `/proc/PID/mountinfo`, whose poll tells once of each change.
    file: File,
    /// How many changes were seen.
    changes: u64,
    over_a_process: Option<String>,
}

/// Why it is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// There is none, or something else in its place.
    Missing,
    /// It is another pid namespace's.
    Foreign,
    /// Something is mounted over this process's own directory in it.
    Covered,
    /// The kernel has no openat2(2): Linux 5.6 has.
    TooOld,
}

impl From<Unusable> for Errno {
    fn from(_: Unusable) -> Self {
        Self::EACCES
    }
}

/// This process's, opened where it is first asked for and kept. Its children have it too, until an exec.
///
/// # Errors
/// Those of [`Proc::open`], the same at every call.
pub fn own() -> Result<&'static Proc, Unusable> {
    static OWN: OnceLock<Result<Proc, Unusable>> = OnceLock::new();
    OWN.get_or_init(Proc::open).as_ref().map_err(|why| *why)
}

impl Proc {
    /// Opens it, and makes sure that its numbers are those of this process's pid namespace.
    ///
    /// # Errors
    /// See [`Unusable`].
    pub fn open() -> Result<Self, Unusable> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open("/proc", flags, Mode::empty()).map_err(|_| Unusable::Missing)?;
        let is_procfs = fstatfs(&root).is_ok_and(|fs| fs.filesystem_type() == PROC_SUPER_MAGIC);
        if !is_procfs || !fstat(&root).is_ok_and(|stat| stat.st_ino == ROOT) {
            return Err(Unusable::Missing);
        }
        check_numbers(&root)?;
        let own = |name: &str| below(&root, &mine(name), OFlag::O_RDONLY);
        let number = || -> Result<u64, Errno> {
            let info = whole(own(&format!("fdinfo/{}", root.as_raw_fd()))?.into())?;
            line_of(&info, "mnt_id:").and_then(|number| number.parse().ok()).ok_or(Errno::EINVAL)
        };
        let mount = number().map_err(|_| Unusable::Covered)?;
        let file = own("mountinfo").map_err(|_| Unusable::Covered)?;
        let table = Table { file: file.into(), changes: 0, over_a_process: None };
        let proc = Self { root, mount, table: Mutex::new(table) };
        proc.look(&mut proc.table.lock());
        Ok(proc)
    }

    /// Opens a file below it for reading.
    ///
    /// # Errors
    /// Those of openat2(2); EXDEV where something is mounted over it.
    pub fn file(&self, path: &str) -> Result<File, Errno> {
        below(&self.root, path, OFlag::O_RDONLY).map(File::from)
    }

    /// Opens a directory below it, to open files by it with [`below`].
    ///
    /// # Errors
    /// As [`Self::file`].
    pub fn directory(&self, path: &str) -> Result<OwnedFd, Errno> {
        below(&self.root, path, OFlag::O_PATH | OFlag::O_DIRECTORY)
    }

    /// All of a file below it.
    ///
    /// # Errors
    /// As [`Self::file`], and those of read(2).
    pub fn read(&self, path: &str) -> Result<String, Errno> {
        whole(self.file(path)?)
    }

    /// What a link below it says.
    ///
    /// # Errors
    /// As [`Self::file`], and those of readlinkat(2).
    pub fn read_link(&self, path: &str) -> Result<OsString, Errno> {
        let link = below(&self.root, path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        link::read(&link, c"", &mut [0; link::ROOM]).map(|said| OsString::from_vec(said.to_vec()))
    }

    /// The names in a directory below it.
    ///
    /// # Errors
    /// As [`Self::file`], and those of getdents(2).
    pub fn names(&self, path: &str) -> Result<Vec<OsString>, Errno> {
        let directory = below(&self.root, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let name = |entry: nix::Result<nix::dir::Entry>| {
            Some(OsString::from_vec(entry.ok()?.file_name().to_bytes().to_vec()))
        };
        Ok(Dir::from_fd(directory)?
            .iter()
            .filter_map(name)
            .filter(|name| name != "." && name != "..")
            .collect())
    }

    /// The file behind a descriptor of this process's, opened anew, whatever has its name now (proc_pid_fd(5)).
    ///
    /// # Errors
    /// Those of open(2).
    pub fn reopened(&self, file: &impl AsFd, flags: OFlag) -> Result<OwnedFd, Errno> {
        let (descriptors, name) = self.descriptor(file)?;
        openat(&descriptors, name.as_str(), flags | OFlag::O_CLOEXEC, Mode::empty())
    }

    /// Where this process's descriptors are, and the name of one there, for calls that take a path. Nobody else
    /// may look into that directory, and so put anything over a name in it.
    ///
    /// # Errors
    /// As [`Self::file`].
    pub fn descriptor(&self, file: &impl AsFd) -> Result<(OwnedFd, String), Errno> {
        Ok((self.directory(&mine("fd"))?, file.as_fd().as_raw_fd().to_string()))
    }

    /// What `look` finds while nothing is mounted over a directory of a process; `None` where something is, or where
    /// the table of mounts does not come to rest. Two polls, 0.4 µs each.
    pub fn steady<T>(&self, look: impl Fn() -> T) -> Option<T> {
        for _ in 0..LOOKS {
            let before = self.changes()?;
            let found = look();
            if self.changes()? == before {
                return Some(found);
            }
        }
        None
    }

    /// The directory of a process, `/proc/self` or `/proc/thread-self` that something is mounted over, or below.
    pub fn covered(&self) -> Option<String> {
        let mut table = self.table.lock();
        self.refresh(&mut table);
        table.over_a_process.clone()
    }

    /// How often the mounts have changed by now; `None` while something is mounted over a process's directory.
    fn changes(&self) -> Option<u64> {
        let mut table = self.table.lock();
        self.refresh(&mut table);
        table.over_a_process.is_none().then_some(table.changes)
    }

    /// The poll takes the news, so it and what follows from it are one step. A change after it is the next one's.
    fn refresh(&self, table: &mut Table) {
        let mut asked = [PollFd::new(table.file.as_fd(), PollFlags::POLLPRI)];
        if poll(&mut asked, PollTimeout::ZERO) != Ok(0) {
            table.changes += 1;
            self.look(table);
        }
    }

    /// A table that cannot be read hides everything.
    fn look(&self, table: &mut Table) {
        let mounts = self.read(&mine("mountinfo"));
        table.over_a_process = match mounts {
            Ok(mounts) => over_a_process(&mounts, self.mount),
            Err(_) => Some("/proc".to_owned()),
        };
    }

    /// The line that the table of mounts has of it.
    pub fn line(&self) -> Option<String> {
        let mounts = self.read(&mine("mountinfo")).ok()?;
        let own = self.mount.to_string();
        mounts.lines().find(|line| line.split(' ').next() == Some(&own)).map(str::to_owned)
    }
}

/// Whether the numbers in it are those of this process's pid namespace: `self` is this process there, and no
/// namespace lies between. In another one `self` can be the right number by chance, or because somebody chose it.
fn check_numbers(root: &OwnedFd) -> Result<(), Unusable> {
    let why = |errno| match errno {
        Errno::ENOSYS => Unusable::TooOld,
        Errno::EXDEV => Unusable::Covered,
        _ => Unusable::Foreign,
    };
    let own = std::process::id().to_string();
    let link = below(root, "self", OFlag::O_PATH | OFlag::O_NOFOLLOW).map_err(why)?;
    if link::read(&link, c"", &mut [0; link::ROOM]).map_err(why)? != own.as_bytes() {
        return Err(Unusable::Foreign);
    }
    let status = below(root, &mine("status"), OFlag::O_RDONLY).and_then(|file| whole(file.into()));
    // The numbers from the namespace of this /proc inwards (proc_pid_status(5)).
    let alone = line_of(&status.map_err(why)?, "NSpid:") == Some(&own);
    if alone { Ok(()) } else { Err(Unusable::Foreign) }
}

/// The path below `/proc` of something of this process's, without a link on the way.
pub fn mine(name: impl Display) -> String {
    format!("{}/{name}", std::process::id())
}

/// Opens what is below a directory in `/proc`, on the same mount and without following a link.
///
/// # Errors
/// Those of openat2(2).
pub fn below(directory: &impl AsFd, path: &str, flags: OFlag) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS;
    openat2(directory, path, OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve))
}

fn whole(mut file: File) -> Result<String, Errno> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)
        .map_err(|error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a file of lines such as `mnt_id: 25` says under a key.
fn line_of<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
}

/// What is mounted over the directory of a process, by a table such as `/proc/self/mountinfo`, in the `/proc` that
/// is the mount `proc` there (proc_pid_mountinfo(5): number, parent, device, root, point). The masks that containers
/// lay (`/proc/sys`, `/proc/kcore`) are over none.
fn over_a_process(table: &str, proc: u64) -> Option<String> {
    let number = proc.to_string();
    let lines =
        || table.lines().map(|line| line.split(' ').collect::<Vec<_>>()).filter(|line| line.len() > 4);
    let own = lines().find(|line| line[0] == number);
    let own = own.map_or("/proc", |line| line[4]);
    // One over all of it hides it from paths alone.
    let mut above = lines().filter(|line| line[1] == number && line[4] != own);
    above.find_map(|line| {
        // One that is not below it, as the table says that it is, is taken for the worst.
        let below = line[4].strip_prefix(own).and_then(|below| below.strip_prefix('/'));
        let Some(name) = below.and_then(|below| below.split('/').next()) else {
            return Some(line[4].to_owned());
        };
        let of_a_process = name.bytes().all(|byte| byte.is_ascii_digit());
        (of_a_process || name == "self" || name == "thread-self").then(|| format!("{own}/{name}"))
    })
}

#[cfg(test)]
#[path = "proc_tests.rs"]
mod tests;
