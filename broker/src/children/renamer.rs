//! Who gives a directory that is mounted on the name that programs know it by? A process of the broker's that went
//! to a mount namespace of its own before the mount was made.
//!
//! fusermount3 mounts on no directory that its user could not write to. Under its known name such a directory would
//! take what a program writes there at that moment, and keep it on the disk below the mount. So the mount is made
//! under a name that nobody knows, and the directory gets its own name afterwards. The kernel renames no directory
//! that is mounted on in the caller's mount namespace (`is_local_mountpoint`, `vfs_rename`, fs/namei.c); in this
//! process's it is not, and the mount stays on the directory.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use crate::children::zygote::{Task, Zygote};
use crate::sys::error::{Error, Result, describe};
use crate::sys::frame::{read_frame, write_frame};

/// How long the broker waits for it. Nothing in its way takes more than milliseconds.
const LIMIT: Duration = Duration::from_secs(5);

/// Two names in one directory.
#[derive(Debug, Serialize, Deserialize)]
struct Names {
    from: PathBuf,
    to: PathBuf,
}

/// The broker's side of it. It ends when this is dropped.
#[derive(Debug)]
pub struct Renamer(UnixStream);

impl Renamer {
    /// One that does not see what is mounted from now on.
    ///
    /// # Errors
    /// `internal` where this user may have no mount namespace.
    pub(crate) fn start(zygote: &Zygote) -> Result<Self> {
        let renamer = zygote.fork(Task::Rename)?;
        renamer.set_read_timeout(Some(LIMIT)).map_err(|error| fault(&describe(&error)))?;
        hear::<Result<()>>(&renamer)??;
        Ok(Self(renamer))
    }

    /// Has the directory `from`, mounted on or not, take the name `to` from whatever has it: an empty directory
    /// goes, and one that holds something is kept beside it, as `NAME.found`.
    ///
    /// # Errors
    /// `internal` with what the kernel says.
    pub fn rename(self, from: &Path, to: &Path) -> Result<()> {
        let names = Names { from: from.to_owned(), to: to.to_owned() };
        write_frame(&mut &self.0, &names, None).map_err(|error| fault(&describe(&error)))?;
        hear::<Result<()>>(&self.0)?
    }
}

/// A renamer's life, in a fork of the zygote.
pub(crate) fn main(broker: UnixStream) -> ! {
    let _ = prctl::set_name(c"kin-renamer");
    let apart = go_apart().map_err(|errno| fault(&format!("no mount namespace: {}", errno.desc())));
    if write_frame(&mut &broker, &apart, None).is_ok()
        && let Ok(names) = hear::<Names>(&broker)
    {
        let renamed = rename(&names).map_err(|error| fault(&describe(&error)));
        let _ = write_frame(&mut &broker, &renamed, None).and_then(|()| (&broker).flush());
    }
    std::process::exit(0)
}

/// Where nothing arrives that is mounted elsewhere. It needs no id of its own there: what it renames is its user's by
/// the kernel's numbers.
fn go_apart() -> std::result::Result<(), Errno> {
    let own = match geteuid().is_root() {
        true => CloneFlags::CLONE_NEWNS,
        false => CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS,
    };
    unshare(own)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
}

fn rename(Names { from, to }: &Names) -> std::io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTEMPTY | libc::EEXIST)) => {
            let mut found = to.clone().into_os_string();
            found.push(".found");
            std::fs::rename(to, found)?;
            std::fs::rename(from, to)
        }
        renamed => renamed,
    }
}

fn hear<T: serde::de::DeserializeOwned>(mut from: &UnixStream) -> Result<T> {
    match read_frame(&mut from) {
        Ok(Some((said, _))) => Ok(said),
        _ => Err(fault("the other end said nothing")),
    }
}

fn fault(why: &str) -> Error {
    Error::internal("name the mountpoint", why)
}
