//! When is the mount there that can be written? While a grant stands that may write, and no longer.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use kin_broker::{Broker, Error, Result, ServeWritable};
use parking_lot::Mutex;

use crate::mount::deadlines::Deadlines;
use crate::mount::filesystem::Surface;
use crate::mount::session::Mount;
use crate::mount::watches::Watches;

/// The mount, where it is up.
pub struct WritableMount(Arc<Inner>);

struct Inner {
    broker: Arc<Broker>,
    deadlines: Arc<Deadlines>,
    watches: Watches,
    mount: Mutex<Option<Mount>>,
}

/// For the broker: puts it up, and has it taken down.
pub struct Server {
    mount: Arc<Inner>,
    settle: Sender<()>,
}

impl WritableMount {
    /// Not up yet; with what the broker asks for it by.
    ///
    /// # Errors
    /// `internal` where the kernel has no room for a thread.
    pub fn new(broker: Arc<Broker>, deadlines: Arc<Deadlines>, watches: Watches) -> Result<(Self, Server)> {
        let inner = Arc::new(Inner { broker, deadlines, watches, mount: Mutex::default() });
        let (settle, settled) = channel();
        let own = Arc::clone(&inner);
        let serve =
            move || settled.into_iter().for_each(|()| own.take_down_unless(|broker| broker.has_writers()));
        std::thread::Builder::new()
            .name("writable".into())
            .spawn(serve)
            .map_err(|error| Error::internal("start a thread", error))?;
        Ok((Self(Arc::clone(&inner)), Server { mount: inner, settle }))
    }

    /// Takes it down, whoever writes.
    pub fn take_down(&self) {
        self.0.take_down_unless(|_| false);
    }
}

impl Inner {
    /// Asked under the lock: a grant that comes meanwhile has entered before it asks for the mount, so it is seen here
    /// or puts the mount up after this.
    fn take_down_unless(&self, wanted: impl FnOnce(&Broker) -> bool) {
        let mut mount = self.mount.lock();
        if !wanted(&self.broker)
            && let Some(up) = mount.take()
        {
            up.take_down();
        }
    }
}

impl ServeWritable for Server {
    fn put_up(&self) -> Result<()> {
        let Inner { broker, deadlines, watches, mount } = &*self.mount;
        let mut mount = mount.lock();
        if mount.is_none() {
            *mount = Some(Mount::put_up(broker, deadlines, watches, Surface::Write)?);
        }
        Ok(())
    }

    fn settle(&self) {
        let _ = self.settle.send(());
    }
}
