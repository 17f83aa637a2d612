//! When does a grant end by itself? The warden waits on keepers and deadlines, and withdraws.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kin_policy::Ending;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;

use crate::broker::Broker;
use crate::grants::live::LiveGrant;
use crate::sys::clock;
use crate::sys::error::{Error, Result};

/// The longest sleep while a deadline is ahead: epoll_wait(2) does not count time spent suspended.
const NAP: Duration = Duration::from_secs(1);
/// The token of the wake-up call.
const WAKE: u64 = u64::MAX;

/// What the warden waits on: of each grant the keeper alone, so that a grant takes one descriptor.
pub(crate) struct Warden {
    epoll: Epoll,
    wake: EventFd,
    next: AtomicU64,
    watched: Mutex<HashMap<u64, Arc<LiveGrant>>>,
}

impl Warden {
    /// # Errors
    /// `internal` where the kernel has no descriptors left.
    pub(crate) fn new() -> Result<Self> {
        let fault = |error| Error::internal("set up the warden", error);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(fault)?;
        let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(fault)?;
        epoll.add(&wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE)).map_err(fault)?;
        Ok(Self { epoll, wake, next: AtomicU64::new(0), watched: Mutex::new(HashMap::new()) })
    }

    /// Watches over a grant from now on.
    ///
    /// # Errors
    /// `internal` where the kernel will not watch: then the grant must not be given.
    pub(crate) fn watch(&self, live: Arc<LiveGrant>) -> Result<()> {
        let fault = |error: Errno| Error::internal("watch over the grant", error);
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        let mut watched = self.watched.lock();
        let event = EpollEvent::new(EpollFlags::EPOLLIN, token);
        self.epoll.add(live.keeper().as_fd(), event).map_err(fault)?;
        watched.insert(token, live);
        drop(watched);
        // A deadline may now be nearer than the one that the warden sleeps until.
        let _ = self.wake.write(1);
        Ok(())
    }
}

impl Broker {
    /// The warden's thread: returns never.
    pub fn stand_watch(&self) {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let ready = self.warden.epoll.wait(&mut events, self.sleep()).unwrap_or(0);
            for event in &events[..ready] {
                self.attend(event.data());
            }
            self.expire();
        }
    }

    /// Until the next deadline; for ever where there is none.
    fn sleep(&self) -> EpollTimeout {
        match self.grants.next_expiry() {
            None => EpollTimeout::NONE,
            Some(expiry) => {
                let left = expiry.since(clock::now()) + Duration::from_millis(1);
                EpollTimeout::try_from(left.min(NAP)).unwrap_or(EpollTimeout::ZERO)
            }
        }
    }

    fn expire(&self) {
        if self.grants.next_expiry().is_none() {
            return;
        }
        let now = clock::now();
        while let Some(live) = self.grants.take_expired(now) {
            self.withdraw(&live, Ending::TtlExpired);
        }
    }

    fn attend(&self, token: u64) {
        if token == WAKE {
            let _ = self.warden.wake.read();
            return;
        }
        let gone = self.warden.watched.lock().remove(&token);
        if let Some(live) = gone {
            let _ = self.warden.epoll.delete(live.keeper());
            self.keeper_gone(&live);
        }
    }

    /// The keeper is gone, and with it the grant. Where it may have left descendants, they now hang on
    /// the next subreaper up, which can be an outer keeper: that one must not take them for its own.
    fn keeper_gone(&self, live: &LiveGrant) {
        if let Some(outer) = live.outer.as_ref().filter(|_| live.may_have_survivors()) {
            outer.refuse_orphans();
            self.identifier.forget_below(outer.grant.root);
        }
        // Before the command was announced there was nobody to own it.
        let ending = if live.command().is_some() { Ending::OwnerKilled } else { Ending::NotStarted };
        self.withdraw(live, ending);
        self.grants.strike(live.grant.root);
        self.identifier.forget_below(live.grant.root);
        self.placeholders.release(live.grant.id);
    }
}
