//! How does a grant come by a mount of its own? The command waits in a mount namespace of its own, and the broker
//! mounts there; here is said what it will show, and who serves it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use kin_policy::{FileName, FilePath};

use crate::broker::Broker;
use crate::children::mounter::{self, Wanted};
use crate::grants::live::LiveGrant;
use crate::grants::messages::{GrantRequest, Laid, Owner, PrivateGranted, PrivateRequest};
use crate::process::peer::peer_gone;
use crate::project::mount_targets::Way;
use crate::sys::error::{Class, Error, Result};

/// Who presents a grant's files through a device that is mounted: this room knows no file systems.
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
    /// What is in a file's way.
    pub(crate) fn prepare_private(
        &self,
        live: &LiveGrant,
        request: &PrivateRequest,
    ) -> Result<PrivateGranted> {
        let mountpoint = self.directories.mountpoint();
        let id = live.grant.id;
        let mut laid = Vec::new();
        let bound = live.grant.bindings.iter().map(|(file, binding)| (file, &binding.path));
        let rendered = live.grant.files.iter().map(|(file, rendered)| (file, &rendered.path));
        for (file, path) in bound.chain(rendered) {
            let Some(path) = path else { continue };
            if path.is_of_git() && live.is_writable(file) {
                return Err(unchangeable(file, path)).inspect_err(|_| self.placeholders.release(id));
            }
            let base = if path.is_in_home() { &request.home } else { &live.directory };
            let link = self.directories.mounted_file(&live.grant.project, file, live.is_writable(file));
            let way = Way { base, path, link: &link };
            self.placeholders.stand(way, id).inspect_err(|_| self.placeholders.release(id))?;
            laid.push(Laid { file: file.clone(), base: base.clone(), path: path.clone() });
        }
        Ok(PrivateGranted { mountpoint, laid, placeholders: self.placeholders.of(id) })
    }

    /// Mounts where the command is, once for a grant, and has that served. Nobody hands a device in:
    /// [`crate::mounter`] says why.
    ///
    /// # Errors
    /// `bad_request`; `peer_gone` where the process is no child of the keeper's; why it is not mounted or served.
    pub(crate) fn serve_private(&self, live: &Arc<LiveGrant>, pid: u32, owner: Owner) -> Result<()> {
        let bad = |why: &str| Error::new(Class::Usage, "bad_request", why);
        let server = self.private_mounts.get().ok_or_else(|| bad("this broker serves no private mounts"))?;
        let command = self.child_of_keeper(live, pid).ok_or_else(peer_gone)?;
        let place = self.identifier.namespaces_of(&command).ok_or_else(peer_gone)?;
        if !live.mounted() {
            return Err(bad("this grant has its private mount already"));
        }
        let wanted = Wanted {
            point: self.directories.mountpoint(),
            uid: owner.uid,
            gid: owner.gid,
            in_user_namespace: !self.identifier.is_own_user_namespace(place),
        };
        let device = mounter::mount_for(self.zygote()?, &wanted, command.as_fd())?;
        server.serve(live, device, owner)
    }
}

/// git maps the file that it changes (`git_config_set_multivar_in_file_gently`, config.c), and what may be written is
/// not mapped: it would die with its lock in place.
fn unchangeable(file: &FileName, path: &FilePath) -> Error {
    let message = format!("{file} cannot be writable at {}: git maps what it changes", path.as_str());
    Error::new(Class::Unsafe, "unwritable_path", message)
        .hint("leave `writable` out, and git reads it there; or leave `path` out")
}
