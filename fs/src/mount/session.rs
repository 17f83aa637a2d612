//! Where does the file system hang, and how does it come down? One mount per broker.

use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::hash::{BuildHasher, RandomState};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use fuser::{Config, MountOption, Session, SessionACL, SessionUnmounter};
use kin_broker::children::programs;
use kin_broker::sys::mounts;
use kin_broker::{Broker, Class, Error, Renamer, Result, describe};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use parking_lot::Mutex;

use crate::mount::adapter::Adapter;
use crate::mount::deadlines::Deadlines;
use crate::mount::filesystem::{SecretFs, Surface};
use crate::mount::watches::Watches;

/// FUSE threads: two, so that one slow request does not stall the rest; more cost throughput.
const THREADS: usize = 2;
/// In the name of a directory that is to become a mountpoint.
const ASIDE: &str = "-aside-";
/// How soon a lost mount is tried again.
const REMOUNT: Duration = Duration::from_millis(200);

/// The mount, up until [`Mount::take_down`].
pub struct Mount {
    point: PathBuf,
    stopping: Arc<AtomicBool>,
    unmounter: Unmounter,
}

/// Has the session that serves forget its mount: it would unmount the path once it ends, whatever is there by then.
type Unmounter = Arc<Mutex<Option<SessionUnmounter>>>;

impl Mount {
    /// Mounts, and goes on mounting where somebody else takes it down.
    ///
    /// # Errors
    /// `fuse_unavailable` with the fix; storage errors of the mountpoint.
    pub fn put_up(
        broker: &Arc<Broker>,
        deadlines: &Arc<Deadlines>,
        watches: &Watches,
        surface: Surface,
    ) -> Result<Self> {
        let point = match surface {
            Surface::Read => broker.directories.mountpoint(),
            Surface::Write => broker.directories.writable_mountpoint(),
        };
        let stopping = Arc::new(AtomicBool::new(false));
        let unmounter = Unmounter::default();
        let keep = Keep {
            broker: broker.clone(),
            point,
            surface,
            deadlines: deadlines.clone(),
            watches: watches.clone(),
            stopping: stopping.clone(),
            unmounter: unmounter.clone(),
        };
        let first = keep.serve()?;
        let point = keep.point.clone();
        std::thread::Builder::new()
            .name("mount".into())
            .spawn(move || keep.up(first))
            .map_err(|error| Error::internal("start a thread", error))?;
        Ok(Self { point, stopping, unmounter })
    }

    /// Takes it down, whoever has files open in it: their next read fails once the broker is gone.
    pub fn take_down(&self) {
        self.stopping.store(true, Ordering::Release);
        unmount(&self.unmounter, &self.point);
        cover(&self.point);
    }
}

/// What keeps the mount up.
struct Keep {
    broker: Arc<Broker>,
    point: PathBuf,
    surface: Surface,
    deadlines: Arc<Deadlines>,
    watches: Watches,
    stopping: Arc<AtomicBool>,
    unmounter: Unmounter,
}

impl Keep {
    fn up(&self, first: JoinHandle<()>) {
        let mut serving = Some(first);
        loop {
            if let Some(thread) = serving.take() {
                let _ = thread.join();
                if self.stopping.load(Ordering::Acquire) {
                    return;
                }
                self.broker.mount_lost();
            }
            clear(&self.point);
            match self.serve() {
                Ok(thread) => serving = Some(thread),
                Err(_) => std::thread::sleep(REMOUNT),
            }
            if self.stopping.load(Ordering::Acquire) {
                // It was taken down before this one was up.
                unmount(&self.unmounter, &self.point);
                return;
            }
        }
    }

    fn serve(&self) -> Result<JoinHandle<()>> {
        let fs = SecretFs::new(self.broker.clone(), SystemTime::now(), self.surface);
        let inodes = fs.inodes();
        let adapter = Adapter::new(fs, self.deadlines.clone())
            .map_err(|error| Error::internal("start a thread", error))?;
        let mut session = match self.broker.renamer() {
            Ok(renamer) => self.mount_aside(adapter, renamer)?,
            // Where no namespace can be had, the directory can be written to while it is mounted on.
            Err(_) => self.mount_at(&self.point, adapter)?,
        };
        *self.unmounter.lock() = Some(session.unmount_callable());
        // The descriptor comes from fusermount3 without it, and no child of ours may have the mount's.
        let _ = fcntl(session.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        let watched = self.watches.watch(session.as_fd(), inodes, BTreeSet::new());
        let serve = move || {
            let _watched = watched;
            drop(session.run());
        };
        std::thread::Builder::new()
            .name("fuse".into())
            .spawn(serve)
            .map_err(|error| Error::internal("start a thread", error))
    }
}

impl Keep {
    /// Mounts under a name that nobody knows, and gives the directory its own name when it is mounted on and can be
    /// written to no more.
    fn mount_aside(&self, adapter: Adapter, renamer: Renamer) -> Result<Session<Adapter>> {
        let aside = aside(&self.point);
        let session = self.mount_at(&aside, adapter);
        let named = session.and_then(|session| renamer.rename(&aside, &self.point).map(|()| session));
        named.inspect_err(|_| {
            clear(&aside);
            let _ = std::fs::remove_dir(&aside);
        })
    }

    /// fusermount3 refuses a mountpoint that its user could not write to.
    fn mount_at(&self, point: &Path, adapter: Adapter) -> Result<Session<Adapter>> {
        let storage = |error| Error::storage(&format!("make the mountpoint {}", point.display()), &error);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(point).map_err(storage)?;
        let covered = File::open(point).map_err(storage)?;
        covered.set_permissions(Permissions::from_mode(0o700)).map_err(storage)?;
        let session = Session::new(adapter, point, &config(self.surface));
        covered.set_permissions(Permissions::from_mode(0o500)).map_err(storage)?;
        session.map_err(|error| unavailable(&error))
    }
}

/// A name beside the mountpoint that nobody knows: it has [`ASIDE`] in it, and a random number.
fn aside(point: &Path) -> PathBuf {
    let name = point.file_name().unwrap_or_default().to_string_lossy();
    // Its keys are random (std::hash::RandomState).
    let number = RandomState::new().hash_one(std::process::id());
    point.with_file_name(format!(".{name}{ASIDE}{number:016x}"))
}

/// Takes away what a broker that was killed has left on its way to `point`.
pub fn clear_aside(point: &Path) {
    let (Some(directory), Some(name)) = (point.parent(), point.file_name()) else { return };
    let begin = format!(".{}{ASIDE}", name.to_string_lossy());
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&begin) {
            clear(&entry.path());
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

fn unmount(unmounter: &Unmounter, point: &Path) {
    if let Some(mut unmounter) = unmounter.lock().take() {
        let _ = unmounter.unmount();
    }
    clear(point);
}

/// Clears whatever a broker that was killed has left at `point`, for ever ENOTCONN: `auto_unmount` would
/// not have, without allow_other.
pub fn clear(point: &Path) {
    for _ in 0..8 {
        if !mounts::is_mounted(point) {
            return;
        }
        if nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH).is_err() {
            let Some(fusermount) = programs::fusermount() else { return };
            let mut unmount = Command::new(fusermount);
            unmount.args(["-u", "-z", "--"]).arg(point);
            let _ = unmount.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

/// Makes the mountpoint what it is while nothing is mounted: 0500.
fn cover(point: &Path) {
    let _ = std::fs::set_permissions(point, Permissions::from_mode(0o500));
}

/// What every session of ours is like, whoever mounts.
pub(crate) fn config(surface: Surface) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("kin".into()),
        MountOption::Subtype("kin".into()),
        match surface {
            Surface::Read => MountOption::RO,
            Surface::Write => MountOption::RW,
        },
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
    ];
    config.acl = SessionACL::Owner;
    config.n_threads = Some(THREADS);
    config
}

/// Whether FUSE itself is there, and only the way to mount it as this user is not.
pub fn wants_only_fusermount(error: &Error) -> bool {
    error.code == "fuse_unavailable" && File::options().read(true).write(true).open("/dev/fuse").is_ok()
}

/// What stands in the way of mounting, and its remedy.
fn unavailable(error: &std::io::Error) -> Error {
    let refuse =
        |what: String, hint: &str| Error::new(Class::Unreachable, "fuse_unavailable", what).hint(hint);
    let device = Path::new("/dev/fuse");
    match File::options().read(true).write(true).open(device) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return refuse(
                "/dev/fuse does not exist".into(),
                "load it: `modprobe fuse`; in a container, pass the device",
            );
        }
        Err(error) => {
            let what = format!("/dev/fuse cannot be opened: {}", describe(&error));
            return refuse(what, "`chmod 0666 /dev/fuse`, as udev's rule for it does");
        }
        Ok(_) => {}
    }
    let said: String = error.to_string().trim().chars().take(200).flat_map(char::escape_debug).collect();
    // Root mounts by itself.
    let is_missing = || !nix::unistd::geteuid().is_root() && programs::fusermount().is_none();
    match error.kind() {
        kind if kind == std::io::ErrorKind::NotFound || is_missing() => {
            refuse("fusermount3 is missing".into(), "install it: `apt-get install fuse3`")
        }
        _ => refuse(format!("the mount was refused: {said}"), "`kin doctor` names what is missing"),
    }
}
