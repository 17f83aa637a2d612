//! Who mounts for a grant that has a mount of its own? A process of the broker's, forked for just this: it enters
//! the namespaces of the grant's command, opens the device and mounts there, sends the device back, and ends.
//!
//! The kernel numbers a mount's readers as the pid namespace of whoever mounted does (`fuse_fill_super`,
//! fs/fuse/inode.c). A device that somebody handed in could have been mounted in any, and its numbers would mean
//! whom its maker wants. This process never leaves the broker's pid namespace, so the numbers are the broker's.

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::stat::{Mode, SFlag, fstat, major, minor};
use serde::{Deserialize, Serialize};

use crate::children::zygote::{Task, Zygote};
use crate::sys::error::{Class, Error, Result, describe};
use crate::sys::frame::{read_frame, write_frame};
use crate::sys::proc::{Proc, mine};
use crate::sys::socket::{receive, send_with};

/// The device number of /dev/fuse: misc devices, FUSE_MINOR (linux/major.h, linux/miscdevice.h).
const FUSE: (u64, u64) = (10, 229);
/// How long the broker waits for a mounter. Nothing in its way takes more than milliseconds.
const LIMIT: Duration = Duration::from_secs(5);

/// What is to be mounted, and where.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Wanted {
    /// The mountpoint, as the command's mount namespace has it.
    pub(crate) point: PathBuf,
    /// Who owns the files, by the numbers of the command's user namespace.
    pub(crate) uid: u32,
    /// Their group.
    pub(crate) gid: u32,
    /// Whether the command has a user namespace of its own around its mount namespace.
    pub(crate) in_user_namespace: bool,
}

/// The device of a file system that is mounted in the namespaces of `command`, which is a pidfd of a process that
/// waits. The caller serves it.
///
/// # Errors
/// `fuse_unavailable` where the kernel refuses; `internal` where the mounter is gone.
pub(crate) fn mount_for(zygote: &Zygote, wanted: &Wanted, command: BorrowedFd<'_>) -> Result<OwnedFd> {
    let fault = |why: &str| Error::internal("mount for the command", why);
    let mounter = zygote.fork(Task::Mount)?;
    mounter.set_read_timeout(Some(LIMIT)).map_err(|error| fault(&describe(&error)))?;
    let mut frame = Vec::new();
    write_frame(&mut frame, wanted, None).map_err(|error| fault(&describe(&error)))?;
    send_with(&mounter, &frame, command).map_err(|errno| fault(errno.desc()))?;
    let (answer, device) = hear::<Result<()>>(&mounter)?;
    answer?;
    device.filter(is_fuse).ok_or_else(|| fault("no device came"))
}

/// A mounter's life, in a fork of the zygote.
pub(crate) fn main(broker: UnixStream) -> ! {
    let _ = prctl::set_name(c"kin-mounter");
    let mounted = hear::<Wanted>(&broker).and_then(|(wanted, command)| {
        let command = command.ok_or_else(|| Error::internal("mount", "no process came"))?;
        mount_in(&wanted, command.as_fd())
    });
    let (answer, device) = match mounted {
        Ok(device) => (Ok(()), Some(device)),
        Err(error) => (Err(error), None),
    };
    let mut frame = Vec::new();
    if write_frame(&mut frame, &answer, None).is_ok() {
        let _ = match &device {
            Some(device) => send_with(&broker, &frame, device.as_fd()).map(drop),
            None => std::io::Write::write_all(&mut &broker, &frame).map_err(|_| Errno::EPIPE),
        };
    }
    std::process::exit(0)
}

/// One frame, and the descriptor that came with its first bytes.
fn hear<T: serde::de::DeserializeOwned>(from: &UnixStream) -> Result<(T, Option<OwnedFd>)> {
    let fault = |why: &str| Error::internal("mount for the command", why);
    let mut begin = [0; 4096];
    let (got, descriptor) = receive(from, &mut begin).map_err(|errno| fault(errno.desc()))?;
    match read_frame(&mut begin[..got].chain(from)) {
        Ok(Some((said, _))) => Ok((said, descriptor)),
        _ => Err(fault("the other end said nothing")),
    }
}

fn mount_in(wanted: &Wanted, command: BorrowedFd<'_>) -> Result<OwnedFd> {
    let refused = |what: &str, hint: &str| {
        let (what, hint) = (what.to_owned(), hint.to_owned());
        move |errno: Errno| {
            let message = format!("{what}: {}", describe(&errno.into()));
            Error::new(Class::Unreachable, "fuse_unavailable", message).hint(hint)
        }
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let devices =
        open("/dev", flags, Mode::empty()).map_err(refused("/dev cannot be opened", "see `kin doctor`"))?;
    let itself = Proc::open()
        .map_err(Errno::from)
        .and_then(|proc| proc.directory(&mine("")))
        .map_err(refused("/proc cannot be read", "see `kin doctor`"))?;
    let own = match wanted.in_user_namespace {
        true => CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS,
        false => CloneFlags::CLONE_NEWNS,
    };
    let before = mount_namespace(&itself);
    setns(command, own).map_err(refused("the command's namespaces cannot be entered", "see `kin doctor`"))?;
    // In the broker's own it would cover everybody's mount.
    if before.is_none() || before == mount_namespace(&itself) {
        let message = "the command has no mount namespace of its own";
        return Err(Error::new(Class::Usage, "bad_request", message));
    }
    // A device has to be opened in the user namespace that it is mounted in (`fuse_fill_super`). The directory is the
    // broker's: what the command's namespace has at /dev is not asked.
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let device = openat(&devices, "fuse", flags, Mode::empty())
        .map_err(refused("/dev/fuse cannot be opened", "`kin doctor` names what is missing"))?;
    mount_device(&device, &wanted.point, wanted)
        .map_err(refused("the private mount was refused", "see `kin doctor`"))?;
    Ok(device)
}

/// The name of the mount namespace that this process is in (proc_pid_ns(5)).
fn mount_namespace(itself: &OwnedFd) -> Option<OsString> {
    readlinkat(itself, "ns/mnt").ok()
}

/// In a user namespace `allow_other` lets in its processes and no others (`fuse_allow_current_process`,
/// fs/fuse/dir.c); without one it would let in every user.
fn mount_device(device: &OwnedFd, point: &Path, wanted: &Wanted) -> std::result::Result<(), Errno> {
    let Wanted { uid, gid, in_user_namespace, .. } = wanted;
    let others = if *in_user_namespace { ",allow_other" } else { "" };
    let data = format!("fd={},rootmode=40000,user_id={uid},group_id={gid}{others}", device.as_raw_fd());
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("kin"), point, Some("fuse.kin"), flags, Some(data.as_str()))
}

fn is_fuse(device: &OwnedFd) -> bool {
    fstat(device.as_fd()).is_ok_and(|stat| {
        SFlag::from_bits_truncate(stat.st_mode).contains(SFlag::S_IFCHR)
            && (major(stat.st_rdev), minor(stat.st_rdev)) == FUSE
    })
}
