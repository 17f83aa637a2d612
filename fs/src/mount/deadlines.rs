//! Does every FUSE request get its answer in time? A reader that waits for one ignores SIGKILL, so
//! whatever holds a FUSE thread up (a log on a disk that hangs), the request is answered EIO.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use fuser::{
    Errno, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite,
};
use parking_lot::Mutex;

/// How long a request may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// How often the watchdog looks while there are requests, and how many idle looks send it to sleep.
const LOOK: Duration = Duration::from_millis(500);
const IDLE_LOOKS: u32 = 4;

/// A reply that can say what went wrong.
pub trait Fail: Send + 'static {
    /// Sends the error.
    fn fail(self, errno: Errno);
}

macro_rules! fails {
    ($($reply:ty),*) => {
        $(impl Fail for $reply {
            fn fail(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}

fails!(ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite);

/// A reply that has one owner at a time: the request's thread, or the watchdog.
struct Slot<R>(Mutex<Option<R>>);

trait Abandon: Send + Sync {
    fn abandon(&self);
}

impl<R: Fail> Abandon for Slot<R> {
    fn abandon(&self) {
        if let Some(reply) = self.0.lock().take() {
            reply.fail(Errno::EIO);
        }
    }
}

/// Its number, when it came, and its reply.
type UnderWay = (u64, Instant, Arc<dyn Abandon>);

/// The requests under way.
#[derive(Default)]
pub struct Deadlines {
    pending: Mutex<Vec<UnderWay>>,
    count: AtomicU64,
    asleep: AtomicBool,
    watchdog: Mutex<Option<Thread>>,
}

/// A request under way.
pub struct Pending<D: Deref<Target = Deadlines>, R> {
    deadlines: D,
    number: u64,
    slot: Arc<Slot<R>>,
}

impl<D: Deref<Target = Deadlines>, R> Pending<D, R> {
    /// The reply, to send it; `None` where the deadline has answered.
    pub fn take(self) -> Option<R> {
        self.slot.0.lock().take()
    }
}

impl<D: Deref<Target = Deadlines>, R> Drop for Pending<D, R> {
    fn drop(&mut self) {
        let mut pending = self.deadlines.pending.lock();
        if let Some(at) = pending.iter().position(|(number, ..)| *number == self.number) {
            pending.swap_remove(at);
        }
    }
}

impl Deadlines {
    /// Starts the watchdog.
    ///
    /// # Errors
    /// Where no thread can be made.
    pub fn start() -> std::io::Result<Arc<Self>> {
        let deadlines = Arc::new(Self::default());
        let watched = deadlines.clone();
        let watchdog = std::thread::Builder::new().name("watchdog".into()).spawn(move || watched.watch())?;
        *deadlines.watchdog.lock() = Some(watchdog.thread().clone());
        Ok(deadlines)
    }

    /// Puts a reply under the deadline.
    pub fn guard<R: Fail>(&self, reply: R) -> Pending<&Self, R> {
        let (number, slot) = self.enter(reply);
        Pending { deadlines: self, number, slot }
    }

    /// As [`Self::guard`], for a reply that another thread sends.
    pub fn guard_elsewhere<R: Fail>(self: &Arc<Self>, reply: R) -> Pending<Arc<Self>, R> {
        let (number, slot) = self.enter(reply);
        Pending { deadlines: Arc::clone(self), number, slot }
    }

    fn enter<R: Fail>(&self, reply: R) -> (u64, Arc<Slot<R>>) {
        let slot = Arc::new(Slot(Mutex::new(Some(reply))));
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        self.pending.lock().push((number, Instant::now(), slot.clone()));
        if self.asleep.swap(false, Ordering::AcqRel)
            && let Some(watchdog) = &*self.watchdog.lock()
        {
            watchdog.unpark();
        }
        (number, slot)
    }

    fn watch(&self) {
        let mut idle = 0;
        loop {
            std::thread::sleep(LOOK);
            let late = self.late();
            late.iter().for_each(|slot| slot.abandon());
            idle = if self.pending.lock().is_empty() { idle + 1 } else { 0 };
            if idle >= IDLE_LOOKS {
                self.asleep.store(true, Ordering::Release);
                // A request that came in before the flag was up has not rung.
                while self.pending.lock().is_empty() && self.asleep.load(Ordering::Acquire) {
                    std::thread::park();
                }
                idle = 0;
            }
        }
    }

    fn late(&self) -> Vec<Arc<dyn Abandon>> {
        let now = Instant::now();
        let pending = self.pending.lock();
        let late = pending.iter().filter(|(_, since, _)| now.duration_since(*since) >= DEADLINE);
        late.map(|(_, _, slot)| slot.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    struct Probe(Sender<i32>);

    impl Fail for Probe {
        fn fail(self, errno: Errno) {
            let _ = self.0.send(errno.code());
        }
    }

    #[test]
    fn a_request_past_its_deadline_is_answered_eio_and_its_thread_finds_no_reply() {
        let deadlines = Deadlines::start().unwrap();
        let (sender, receiver) = channel();
        let pending = deadlines.guard(Probe(sender));
        assert_eq!(receiver.recv_timeout(DEADLINE + 4 * LOOK), Ok(libc::EIO));
        assert!(pending.take().is_none());
    }

    #[test]
    fn a_sleeping_watchdog_wakes_for_the_next_request() {
        let deadlines = Deadlines::start().unwrap();
        let (sender, receiver) = channel();
        assert!(deadlines.guard(Probe(sender.clone())).take().is_some());
        std::thread::sleep(LOOK * (IDLE_LOOKS + 2));
        assert!(deadlines.asleep.load(Ordering::Acquire));
        let _pending = deadlines.guard(Probe(sender));
        assert_eq!(receiver.recv_timeout(DEADLINE + 4 * LOOK), Ok(libc::EIO));
    }
}
