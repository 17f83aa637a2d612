//! How does a grant come by a mount of its own? The command mounts in a namespace of its own and hands the
//! device over; here is said what it will show, and who serves it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::sys::stat::{SFlag, fstat, major, minor};

use crate::broker::Broker;
use crate::control::protocol::{GrantRequest, Laid, Owner, PrivateGranted, PrivateRequest};
use crate::error::{Class, Error, Result};
use crate::grants::LiveGrant;
use crate::targets::Way;

/// The device number of /dev/fuse: misc devices, FUSE_MINOR (linux/major.h, linux/miscdevice.h).
const FUSE: (u64, u64) = (10, 229);

/// Who presents a grant's files through a device that it mounted: this room knows no file systems.
pub trait ServePrivate: Send + Sync {
    /// Serves it from now on, on threads of its own; returns at once.
    ///
    /// # Errors
    /// Why it will not.
    fn serve(&self, live: &Arc<LiveGrant>, device: OwnedFd, owner: Owner) -> Result<()>;
}

/// What a private mount has in the page cache, where its grant has files that may be mapped.
pub trait Mapped: std::fmt::Debug + Send + Sync {
    /// Takes it out: whoever touches a mapping again has to ask. Returns once that is so.
    fn unmap(&self);
}

impl Broker {
    /// Lets `server` serve private mounts; the first one stays.
    pub fn serve_private_mounts_by(&self, server: Box<dyn ServePrivate>) {
        let _ = self.private_mounts.set(server);
    }

    /// Notes why there is no user's mount: only private ones can be had from this broker.
    pub fn has_no_mount(&self, why: Error) {
        let _ = self.no_mount.set(why.hint("install fuse3 and `kin stop`, or use `kin run --private`"));
    }

    /// Refuses what needs the user's mount, where there is none.
    ///
    /// # Errors
    /// `fuse_unavailable`.
    pub(crate) fn check_mount(&self, request: &GrantRequest) -> Result<()> {
        match self.no_mount.get() {
            Some(why) if request.private.is_none() => Err(why.clone()),
            _ => Ok(()),
        }
    }

    /// What the command has to know to mount, and a place for each file that is to be laid.
    ///
    /// # Errors
    /// `pid_namespace` where the mount's readers would bear other numbers than here; what is in a file's way.
    pub(crate) fn prepare_private(
        &self,
        live: &LiveGrant,
        request: &PrivateRequest,
    ) -> Result<PrivateGranted> {
        check_pid_namespace(live)?;
        let mountpoint = self.directories.mountpoint();
        let id = live.grant.id;
        let mut laid = Vec::new();
        let bound = live.grant.bindings.iter().map(|(file, binding)| (file, &binding.path));
        let rendered = live.grant.files.iter().map(|(file, rendered)| (file, &rendered.path));
        for (file, path) in bound.chain(rendered) {
            let Some(path) = path else { continue };
            let base = if path.is_in_home() { &request.home } else { &live.directory };
            let link = self.directories.mounted_file(&live.grant.project, file, live.is_writable(file));
            let way = Way { base, path, link: &link };
            self.placeholders.stand(way, id).inspect_err(|_| self.placeholders.release(id))?;
            laid.push(Laid { file: file.clone(), base: base.clone(), path: path.clone() });
        }
        Ok(PrivateGranted { mountpoint, laid, placeholders: self.placeholders.of(id) })
    }

    /// Has the device served, once for a grant. Anything but a FUSE device is closed.
    ///
    /// # Errors
    /// `bad_request`; why it is not served.
    pub(crate) fn serve_private(
        &self,
        live: &Arc<LiveGrant>,
        device: Option<OwnedFd>,
        owner: Owner,
    ) -> Result<()> {
        let bad = |why: &str| Error::new(Class::Usage, "bad_request", why);
        let device = device.filter(is_fuse).ok_or_else(|| bad("no FUSE device came with the request"))?;
        let server = self.private_mounts.get().ok_or_else(|| bad("this broker serves no private mounts"))?;
        if !live.mounted() {
            return Err(bad("this grant has its private mount already"));
        }
        server.serve(live, device, owner)
    }
}

fn is_fuse(device: &OwnedFd) -> bool {
    fstat(device.as_fd()).is_ok_and(|stat| {
        SFlag::from_bits_truncate(stat.st_mode).contains(SFlag::S_IFCHR)
            && (major(stat.st_rdev), minor(stat.st_rdev)) == FUSE
    })
}

/// The kernel numbers a mount's readers as the pid namespace of whoever mounted does (`fuse_fill_super`,
/// fs/fuse/inode.c): in another namespace than this broker's, a number would mean somebody else here.
/// `NSpid` lists a process's numbers from the namespace of /proc inwards (proc_pid_status(5)).
fn check_pid_namespace(live: &LiveGrant) -> Result<()> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", live.grant.root.pid)).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    if numbers.map(|numbers| numbers.split_ascii_whitespace().count()) == Some(1) {
        return Ok(());
    }
    let message = "a private mount wants the broker's own pid namespace";
    Err(Error::new(Class::Unreachable, "pid_namespace", message)
        .hint("start the broker in the same container, or run without --private"))
}
