//! How are OPEN, READ and what changes a file answered? At once; or from another thread, where what the reader runs
//! has to be hashed first, or the vault to be written, and a FUSE thread must not wait for that.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use fuser::{Errno, FileHandle, FopenFlags, ReplyData, ReplyEmpty, ReplyOpen, ReplyWrite};
use kin_broker::delivery::open::Caller;
use kin_broker::{Delivery, Plaintext};
use kin_policy::{Exe, PageCache};

use crate::mount::deadlines::{Deadlines, Fail, Pending};
use crate::mount::filesystem::{Ask, SecretFs, Unanswered};

/// The file system, and the deadlines of its replies.
pub(crate) struct Content {
    pub(crate) fs: SecretFs,
    pub(crate) deadlines: Arc<Deadlines>,
    /// What waits for the vault, one after the other; `None` where nothing can be written.
    pub(crate) later: Option<Sender<Job>>,
}

/// Work for the thread that may wait.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Starts the thread that may wait; it ends once nobody can send it anything.
///
/// # Errors
/// Where the kernel has no room for it.
pub(crate) fn start_writer() -> std::io::Result<Sender<Job>> {
    let (sender, jobs) = channel::<Job>();
    std::thread::Builder::new()
        .name("writer".into())
        .spawn(move || jobs.into_iter().for_each(|job| job()))?;
    Ok(sender)
}

/// What of a file a READ wants.
#[derive(Clone, Copy)]
pub(crate) struct Range {
    pub(crate) offset: u64,
    pub(crate) size: u32,
    pub(crate) page_cache: PageCache,
}

impl Content {
    /// Answers an OPEN; `exe` is what the reader was found to run, where that was asked.
    pub(crate) fn open(
        self: &Arc<Self>,
        caller: Caller,
        inode: u64,
        flags: i32,
        exe: Option<Exe>,
        reply: ReplyOpen,
    ) {
        let pending = self.deadlines.guard(reply);
        match self.fs.open(caller, inode, flags, exe) {
            Err(Unanswered::Unhashed(unhashed)) => {
                let (again, Some(reply)) = (Arc::clone(self), pending.take()) else { return };
                self.fs.hash(unhashed, move |exe| again.open(caller, inode, flags, Some(exe), reply));
            }
            outcome => finish(pending, outcome, |reply, delivery| {
                let flags = opened_with(&delivery);
                reply.opened(FileHandle(self.fs.keep(delivery)), flags);
            }),
        }
    }

    /// Answers a READ; `exe` as in [`Self::open`].
    pub(crate) fn read(
        self: &Arc<Self>,
        caller: Caller,
        delivery: Arc<Delivery>,
        range: Range,
        exe: Option<Exe>,
        reply: ReplyData,
    ) {
        let pending = self.deadlines.guard(reply);
        match self.fs.read(caller, &delivery, range.page_cache, exe) {
            Err(Unanswered::Unhashed(unhashed)) => {
                let (again, Some(reply)) = (Arc::clone(self), pending.take()) else { return };
                let delivery = Arc::clone(&delivery);
                self.fs.hash(unhashed, move |exe| again.read(caller, delivery, range, Some(exe), reply));
            }
            outcome => finish(pending, outcome, |reply, reading| {
                reply.data(reading.range(range.offset, range.size));
            }),
        }
    }
}

impl Content {
    /// Answers a WRITE: the bytes are taken in at once, and wait for the hasher alone.
    pub(crate) fn write(
        self: &Arc<Self>,
        caller: Caller,
        delivery: Arc<Delivery>,
        at: Option<u64>,
        bytes: Plaintext,
        reply: ReplyWrite,
    ) {
        let pending = self.deadlines.guard(reply);
        let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        match self.fs.write(caller, &delivery, at, bytes.bytes(), None) {
            Err(Unanswered::Unhashed(_)) => {
                let again = Arc::clone(self);
                let Some(reply) = pending.take() else { return };
                self.wait(
                    reply,
                    move || {
                        patiently(&again.fs, |exe| again.fs.write(caller, &delivery, at, bytes.bytes(), exe))
                            .map(|()| size)
                    },
                    ReplyWrite::written,
                );
            }
            outcome => finish(pending, outcome, |reply, ()| reply.written(size)),
        }
    }

    /// Answers a FLUSH or an FSYNC: with what became of the bytes.
    pub(crate) fn store(
        self: &Arc<Self>,
        caller: Caller,
        delivery: Arc<Delivery>,
        ask: Ask,
        reply: ReplyEmpty,
    ) {
        if !delivery.is_unstored() {
            return reply.ok();
        }
        let own = Arc::clone(self);
        let work = move || patiently(&own.fs, |exe| own.fs.store(caller, &delivery, ask, exe));
        self.wait(reply, work, |reply, ()| reply.ok());
    }

    /// Takes a handle back. What no close has stored is stored now, and nobody hears how that went.
    pub(crate) fn release(self: &Arc<Self>, handle: u64) {
        let delivery = self.fs.release(handle).filter(|delivery| delivery.is_unstored());
        if let (Some(delivery), Some(later)) = (delivery, &self.later) {
            let own = Arc::clone(self);
            let _ = later.send(Box::new(move || own.fs.store_at_release(&delivery)));
        }
    }

    /// Does it on the thread that may wait, and sends its outcome, unless the deadline has answered meanwhile.
    pub(crate) fn wait<R: Fail, A>(
        self: &Arc<Self>,
        reply: R,
        work: impl FnOnce() -> Result<A, nix::errno::Errno> + Send + 'static,
        send: impl FnOnce(R, A) + Send + 'static,
    ) {
        let Some(later) = &self.later else { return reply.fail(Errno::EROFS) };
        // The deadline runs from here, also while others are served.
        let pending = self.deadlines.guard_elsewhere(reply);
        let job: Job = Box::new(move || {
            let outcome = work();
            if let Some(reply) = pending.take() {
                match outcome {
                    Ok(answer) => send(reply, answer),
                    Err(errno) => reply.fail(Errno::from_i32(errno as i32)),
                }
            }
        });
        let _ = later.send(job);
    }
}

/// Nothing goes through the page cache, and a close of what was written has to be heard of.
pub(crate) fn opened_with(delivery: &Delivery) -> FopenFlags {
    let quiet = match delivery.is_to_write() {
        true => FopenFlags::empty(),
        false => FopenFlags::FOPEN_NOFLUSH,
    };
    FopenFlags::FOPEN_DIRECT_IO | quiet
}

/// Asks, and once more with what the process was found to run, where that is asked for. For the thread that may wait.
pub(crate) fn patiently<A>(
    fs: &SecretFs,
    mut attempt: impl FnMut(Option<Exe>) -> Result<A, Unanswered>,
) -> Result<A, nix::errno::Errno> {
    let outcome = match attempt(None) {
        Err(Unanswered::Unhashed(unhashed)) => {
            let (sender, found) = channel();
            fs.hash(unhashed, move |exe| {
                let _ = sender.send(exe);
            });
            attempt(Some(found.recv().unwrap_or(Exe::Unpinnable)))
        }
        outcome => outcome,
    };
    outcome.map_err(|unanswered| match unanswered {
        Unanswered::Errno(errno) => errno,
        Unanswered::Unhashed(_) => nix::errno::Errno::EIO,
    })
}

/// Sends the outcome, unless the deadline has answered in the meantime.
fn finish<R: Fail, A>(
    pending: Pending<&Deadlines, R>,
    outcome: Result<A, Unanswered>,
    send: impl FnOnce(R, A),
) {
    let Some(reply) = pending.take() else { return };
    match outcome {
        Ok(answer) => send(reply, answer),
        Err(Unanswered::Errno(errno)) => reply.fail(Errno::from_i32(errno as i32)),
        Err(Unanswered::Unhashed(_)) => reply.fail(Errno::EIO),
    }
}
