//! How does a program that watches a file hear that it has a new version? The kernel is told that the name is
//! gone, tells inotify(7) that the file was deleted, and finds it again at the next look.
//!
//! A notification waits in the kernel for the directory's lock, which a LOOKUP holds until it is answered. Its
//! thread has descriptors of its own, with a device of its own for each mount: should this process be killed
//! while it waits, the kernel closes the devices that requests are answered through, they end, and so does the
//! wait (`fuse_reverse_inval_entry` and `fuse_dev_release`, fs/fuse). With shared ones both would wait for ever.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use kin_broker::sys::fuse::clone_device;
use kin_broker::sys::inherited::close_all_but;
use kin_broker::sys::socket;
use kin_broker::{Error, Result, ShowVersions};
use kin_policy::{DirectoryName, FileName};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use parking_lot::Mutex;

use crate::mount::inodes::{Inodes, Node};

/// `FUSE_NOTIFY_DELETE` of linux/fuse.h.
const NOTIFY_DELETE: u32 = 6;

/// The mounts whose watchers are told, and the thread that tells the kernel.
#[derive(Clone)]
pub struct Watches(Arc<Inner>);

struct Inner {
    mounts: Mutex<HashMap<u64, Mounted>>,
    next: AtomicU64,
    words: Sender<Word>,
    devices: UnixStream,
}

/// What one mount shows.
struct Mounted {
    inodes: Arc<Inodes>,
    /// Files that stand elsewhere too: their names stay, nobody could be told.
    laid: BTreeSet<FileName>,
}

/// For the thread.
enum Word {
    /// The next device that comes is this mount's.
    Device(u64),
    /// The mount is gone.
    Gone(u64),
    /// A notification for this mount.
    Tell(u64, Vec<u8>),
}

/// A mount, until this is dropped.
pub struct Watched {
    watches: Watches,
    mount: u64,
}

impl Watches {
    /// Starts the thread.
    ///
    /// # Errors
    /// `internal` where the kernel has no room for it.
    pub fn start() -> Result<Self> {
        let fault = |error| Error::internal("start a thread", error);
        let (words, heard) = channel();
        let (devices, theirs) = UnixStream::pair().map_err(fault)?;
        // Nobody waits for the thread.
        devices.set_nonblocking(true).map_err(fault)?;
        let serve = move || serve(&heard, &theirs);
        std::thread::Builder::new().name("watches".into()).spawn(serve).map_err(fault)?;
        let (mounts, next) = (Mutex::default(), AtomicU64::new(0));
        Ok(Self(Arc::new(Inner { mounts, next, words, devices })))
    }

    /// Whoever watches files of this mount hears of new versions from now on. Where the kernel gives no device
    /// for that, they do not, and have to look at the modification time.
    pub fn watch(&self, device: BorrowedFd<'_>, inodes: Arc<Inodes>, laid: BTreeSet<FileName>) -> Watched {
        let mount = self.0.next.fetch_add(1, Ordering::Relaxed);
        let mut mounts = self.0.mounts.lock();
        if let Ok(clone) = clone_device(device)
            && socket::send_with(&self.0.devices, b"d", clone.as_fd()).is_ok()
        {
            let _ = self.0.words.send(Word::Device(mount));
            mounts.insert(mount, Mounted { inodes, laid });
        }
        Watched { watches: self.clone(), mount }
    }
}

impl ShowVersions for Watches {
    fn changed(&self, files: &BTreeSet<(DirectoryName, FileName)>) {
        for (mount, mounted) in &*self.0.mounts.lock() {
            for (project, file) in files.iter().filter(|(_, file)| !mounted.laid.contains(file)) {
                if let Some(notification) = mounted.gone(project, file) {
                    let _ = self.0.words.send(Word::Tell(*mount, notification));
                }
            }
        }
    }
}

impl Mounted {
    /// That the name is gone, where the kernel was told of it.
    fn gone(&self, project: &DirectoryName, file: &FileName) -> Option<Vec<u8>> {
        let child = self.inodes.known(&Node::File(project.clone(), file.clone()))?;
        let parent = self.inodes.known(&Node::Project(project.clone()))?;
        Some(notify_delete(parent, child, file.as_str()))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let inner = &self.watches.0;
        if inner.mounts.lock().remove(&self.mount).is_some() {
            let _ = inner.words.send(Word::Gone(self.mount));
        }
    }
}

/// `fuse_out_header` without a request, `fuse_notify_delete_out`, and the name (linux/fuse.h).
fn notify_delete(parent: u64, child: u64, name: &str) -> Vec<u8> {
    let (header, out) = (16, 24);
    let length = header + out + name.len() + 1;
    let mut message = Vec::with_capacity(length);
    message.extend((length as u32).to_ne_bytes());
    message.extend(NOTIFY_DELETE.to_ne_bytes());
    message.extend(0u64.to_ne_bytes());
    message.extend(parent.to_ne_bytes());
    message.extend(child.to_ne_bytes());
    message.extend((name.len() as u32).to_ne_bytes());
    message.extend(0u32.to_ne_bytes());
    message.extend(name.as_bytes());
    message.push(0);
    message
}

/// The thread, for the life of this process. What the kernel says is of no use: a name that it does not have, a
/// mount that is gone.
fn serve(words: &Receiver<Word>, devices: &UnixStream) {
    if keep_nothing_but(devices.as_raw_fd()).is_err() {
        return;
    }
    let mut own: HashMap<u64, File> = HashMap::new();
    for word in words {
        match word {
            Word::Device(mount) => {
                let device = socket::receive(devices, &mut [0]).ok().and_then(|(_, device)| device);
                own.extend(device.map(|device| (mount, device.into())));
            }
            Word::Gone(mount) => drop(own.remove(&mount)),
            Word::Tell(mount, notification) => {
                let _ = own.get(&mount).map(|mut device| device.write(&notification));
            }
        }
    }
}

/// Gives this thread a table of descriptors of its own, with none in it of those that files and requests are
/// served through.
fn keep_nothing_but(kept: RawFd) -> std::result::Result<(), Errno> {
    unshare(CloneFlags::CLONE_FILES)?;
    close_all_but(&[kept])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_is_as_the_kernel_reads_it() {
        let message = notify_delete(1, 2, "ab");
        assert_eq!(message.len(), 16 + 24 + 3);
        assert_eq!(message[..8], [43, 0, 0, 0, 6, 0, 0, 0].map(|byte: u8| byte));
        assert_eq!((message[16], message[24], message[32]), (1, 2, 2));
        assert_eq!(&message[40..], b"ab\0");
    }

    #[test]
    fn the_thread_has_descriptors_of_its_own() {
        let (kept, other) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            let alone = scope.spawn(|| {
                keep_nothing_but(kept.as_raw_fd()).unwrap();
                nix::fcntl::fcntl(other.as_fd(), nix::fcntl::FcntlArg::F_GETFD)
            });
            assert_eq!(alone.join().unwrap(), Err(Errno::EBADF));
        });
        (&other).write_all(b"x").unwrap();
        assert_eq!(std::io::Read::read(&mut &kept, &mut [0; 8]).unwrap(), 1);
    }
}
