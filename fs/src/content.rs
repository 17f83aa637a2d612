//! How are OPEN and READ answered? At once; or from another thread, where what the reader runs has to be
//! hashed first and a FUSE thread must not wait for that.

use std::sync::Arc;

use fuser::{Errno, FileHandle, FopenFlags, ReplyData, ReplyOpen};
use kin_broker::Delivery;
use kin_broker::access::Caller;
use kin_policy::{Exe, PageCache};

use crate::deadlines::{Deadlines, Fail, Pending};
use crate::secretfs::{SecretFs, Unanswered};

/// The file system, and the deadlines of its replies.
pub(crate) struct Content {
    pub(crate) fs: SecretFs,
    pub(crate) deadlines: Arc<Deadlines>,
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
                let handle = FileHandle(self.fs.keep(delivery));
                reply.opened(handle, FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH);
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

/// Sends the outcome, unless the deadline has answered in the meantime.
fn finish<R: Fail, A>(pending: Pending<'_, R>, outcome: Result<A, Unanswered>, send: impl FnOnce(R, A)) {
    let Some(reply) = pending.take() else { return };
    match outcome {
        Ok(answer) => send(reply, answer),
        Err(Unanswered::Errno(errno)) => reply.fail(Errno::from_i32(errno as i32)),
        Err(Unanswered::Unhashed(_)) => reply.fail(Errno::EIO),
    }
}
