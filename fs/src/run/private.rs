//! How does a command come by a mount that only its own tree sees? In its process, before its exec: a mount
//! namespace, in which the broker mounts a FUSE file system, and files of that at their real paths.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kin_broker::control::protocol::{Granted, Owner, PrivateGranted};
use kin_broker::project::mount_targets::{Target, Way};
use kin_broker::sys::mount::{clone_of, put_over};
use kin_broker::sys::process;
use kin_broker::{Class, Error, Result, describe};
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, User, chdir, getegid, geteuid, symlinkat};

/// Who will own the files: the namespace has one user and one group, which keep their numbers.
pub(super) fn owner() -> Owner {
    Owner { uid: geteuid().as_raw(), gid: getegid().as_raw() }
}

/// The directory that `~/` stands for: what the command takes for it.
pub(super) fn home() -> PathBuf {
    let said = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    said.or_else(|| Some(User::from_uid(geteuid()).ok()??.dir))
        .unwrap_or_else(|| PathBuf::from("/nonexistent"))
}

/// Leaves for namespaces of its own, where the broker is to mount. What is mounted and unmounted outside shows
/// there too, and nothing of there shows outside. This process must have one thread, and be dumpable: else
/// /proc/self is not its own, and it cannot write its maps.
///
/// # Errors
/// `userns_unavailable` where the kernel gives this user no namespace.
pub(super) fn go_apart() -> Result<()> {
    leave().and_then(|()| remount_as_slaves()).map_err(no_namespace)
}

/// The namespaces of a command, to start another one in.
pub(super) struct Namespaces {
    /// Where it is not this process's own.
    user: Option<File>,
    mount: File,
    directory: PathBuf,
}

impl Namespaces {
    /// Those of a child that has gone apart, with the directory that this process is in.
    ///
    /// # Errors
    /// `internal` where they cannot be opened.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let fault = |error: std::io::Error| Error::internal("hold the command's namespaces", error);
        let open = |name: &str| File::open(format!("/proc/{pid}/ns/{name}")).map_err(fault);
        let own = std::fs::metadata("/proc/self/ns/user").map_err(fault)?.ino();
        let user = open("user")?;
        let is_own = user.metadata().map_err(fault)?.ino() == own;
        let directory = std::env::current_dir().map_err(fault)?;
        Ok(Self { user: (!is_own).then_some(user), mount: open("mnt")?, directory })
    }

    /// Enters them, and the same directory there: setns(2) leaves it for the root.
    ///
    /// # Errors
    /// `internal` where the kernel refuses.
    pub(super) fn enter(&self) -> Result<()> {
        let enter = || -> std::result::Result<(), Errno> {
            if let Some(user) = &self.user {
                setns(user, CloneFlags::CLONE_NEWUSER)?;
            }
            setns(&self.mount, CloneFlags::CLONE_NEWNS)?;
            chdir(&self.directory)
        };
        enter().map_err(|errno| Error::internal("enter the command's namespaces", errno.desc()))
    }
}

/// Whether this user may have what [`go_apart`] wants, as a child finds out that goes there and ends. This
/// process must have one thread.
///
/// # Errors
/// `userns_unavailable`.
pub fn try_namespaces() -> Result<()> {
    match process::fork_single_threaded().map_err(|errno| Error::internal("fork", errno))? {
        ForkResult::Child => {
            let code = leave().and_then(|()| remount_as_slaves()).err().map_or(0, |errno| errno as i32);
            std::process::exit(code)
        }
        ForkResult::Parent { child } => match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, 0)) => Ok(()),
            Ok(WaitStatus::Exited(_, errno)) => Err(no_namespace(Errno::from_raw(errno))),
            _ => Err(no_namespace(Errno::EPERM)),
        },
    }
}

/// Puts every file of the plan over what is at its real path: itself; or where programs put a lock or a new file
/// beside what they change, a symbolic link to it, which they follow (a walk goes up into a mount before it looks whether
/// that is a link: `step_into`, fs/namei.c). What they put there is then in the mount, and not on the disk.
///
/// # Errors
/// What is in its way; `target_failed` where the kernel refuses.
pub(super) fn lay(granted: &Granted, plan: &PrivateGranted) -> Result<()> {
    let mut links = Links::default();
    for laid in &plan.laid {
        let file = granted.path_of(&laid.file);
        let way = Way { base: &laid.base, path: &laid.path, link: &file };
        let failed = |errno| way.failed(errno);
        match way.find()? {
            Target::File(target) => {
                let own = match granted.writable.contains(&laid.file) || laid.path.is_of_git() {
                    true => links.to(&file, &plan.mountpoint).map_err(failed)?,
                    false => clone_of(&file).map_err(failed)?,
                };
                put_over(own.as_fd(), target.as_fd()).map_err(failed)?;
            }
            Target::Missing => return Err(failed(Errno::ENOENT)),
            Target::Link => {}
        }
    }
    Ok(())
}

/// Symbolic links that are mounts of their own. They are made in a file system in memory, which covers the mount
/// meanwhile and is nowhere afterwards.
#[derive(Default)]
struct Links {
    made: u32,
}

impl Links {
    fn to(&mut self, file: &Path, cover: &Path) -> Result<OwnedFd, Errno> {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("kin"), cover, Some("tmpfs"), flags, Some("mode=0700"))?;
        let link = cover.join(self.made.to_string());
        self.made += 1;
        let made = symlinkat(file, AT_FDCWD, &link).and_then(|()| clone_of(&link));
        umount2(cover, MntFlags::MNT_DETACH)?;
        made
    }
}

/// A mount namespace, and for whoever may not have one a user namespace around it.
fn leave() -> Result<(), Errno> {
    if geteuid().is_root() && unshare(CloneFlags::CLONE_NEWNS).is_ok() {
        return Ok(());
    }
    let Owner { uid, gid } = owner();
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
    // A group map of one's own wants setgroups(2) given up first (user_namespaces(7)).
    for (name, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{uid} {uid} 1")),
        ("gid_map", format!("{gid} {gid} 1")),
    ] {
        let written = std::fs::write(Path::new("/proc/self").join(name), text);
        written.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    }
    Ok(())
}

fn remount_as_slaves() -> Result<(), Errno> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
}

fn no_namespace(errno: Errno) -> Error {
    let why = match errno {
        // user_namespaces(7): the limit on their number, which is 0 where they are switched off.
        Errno::ENOSPC | Errno::EUSERS => "user namespaces are switched off, or used up".to_owned(),
        _ => describe(&errno.into()),
    };
    let message = format!("this user may not have a mount namespace: {why}");
    Error::new(Class::Unreachable, "userns_unavailable", message)
        .hint("run without --private, or allow user namespaces: `kin doctor` says how")
}
