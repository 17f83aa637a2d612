//! Who serves the mounts that grants have for themselves? One session for each, until its namespace is gone.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use fuser::{INodeNo, Notifier, Session, SessionACL};
use kin_broker::control::protocol::Owner;
use kin_broker::grants::live::LiveGrant;
use kin_broker::{Broker, Class, Error, Mapped, Result, ServePrivate};

use crate::mount::adapter::Adapter;
use crate::mount::deadlines::Deadlines;
use crate::mount::filesystem::{SecretFs, Surface};
use crate::mount::session;
use crate::mount::watches::Watches;

/// Sessions at once: each has its threads.
const MOST: usize = 256;

/// Serves private mounts.
pub struct PrivateMounts {
    broker: Arc<Broker>,
    deadlines: Arc<Deadlines>,
    watches: Watches,
    serving: Arc<AtomicUsize>,
}

impl PrivateMounts {
    /// Of `broker`'s grants.
    pub fn new(broker: Arc<Broker>, deadlines: Arc<Deadlines>, watches: Watches) -> Self {
        Self { broker, deadlines, watches, serving: Arc::default() }
    }
}

/// One that is served; its end makes room for another.
struct Served(Arc<AtomicUsize>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The files of one session that may be in the page cache.
struct Cached {
    notifier: Notifier,
    inodes: Vec<u64>,
}

impl std::fmt::Debug for Cached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cached").field("inodes", &self.inodes).finish_non_exhaustive()
    }
}

impl Mapped for Cached {
    /// FUSE_NOTIFY_INVAL_INODE waits for reads that fill a page, drops the pages and takes them out of every
    /// mapping (fuse_reverse_inval_inode, fs/fuse/inode.c). A mount that is gone has none.
    fn unmap(&self) {
        for inode in &self.inodes {
            let _ = self.notifier.inval_inode(INodeNo(*inode), 0, 0);
        }
    }
}

impl ServePrivate for PrivateMounts {
    /// The session begins on its own thread: the handshake waits for the kernel's first request. It ends with
    /// the last process of the namespace, when the kernel takes the mount away (ENODEV).
    fn serve(&self, live: &Arc<LiveGrant>, device: OwnedFd, owner: Owner) -> Result<()> {
        let before = self.serving.fetch_add(1, Ordering::AcqRel);
        let served = Served(self.serving.clone());
        if before >= MOST {
            let message = format!("{MOST} private mounts are served already");
            return Err(Error::new(Class::Denied, "private_limit", message).hint("see `kin status`"));
        }
        let fs = SecretFs::of_grant(self.broker.clone(), SystemTime::now(), live);
        let bound = live.grant.bindings.iter().filter(|(_, binding)| binding.path.is_some());
        let rendered = live.grant.files.iter().filter(|(_, rendered)| rendered.path.is_some());
        let laid = bound.map(|(file, _)| file).chain(rendered.map(|(file, _)| file)).cloned().collect();
        let watched = self.watches.watch(device.as_fd(), fs.inodes(), laid);
        let (mappable, live) = (fs.mappable(live), live.clone());
        let adapter = Adapter::of_grant(fs, self.deadlines.clone(), owner, live.grant.id);
        let serve = move || {
            let (_served, _watched) = (served, watched);
            // Whom the kernel lets in is the mount's choice: its namespace, or its one user.
            let session = Session::from_fd(adapter, device, SessionACL::All, session::config(Surface::Read));
            if let Ok(session) = &session
                && !mappable.is_empty()
            {
                live.mapped_by(Box::new(Cached { notifier: session.notifier(), inodes: mappable }));
            }
            drop(live);
            let _ = session.and_then(Session::run);
        };
        std::thread::Builder::new()
            .name("private".into())
            .spawn(serve)
            .map(drop)
            .map_err(|error| Error::internal("start a thread", error))
    }
}
