//! When does a grant end by itself? The warden waits on keepers, fronts and deadlines, and withdraws.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kin_policy::Ending;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;

use crate::broker::Broker;
use crate::clock;
use crate::control::protocol::{Answer, Question, Request};
use crate::control::{peer_gone, read_frame, write_frame};
use crate::error::{Error, Result};
use crate::grants::{Command, LiveGrant};
use crate::identity::Held;
use crate::sys::socket::receive;

/// The longest sleep while a deadline is ahead: epoll_wait(2) does not count time spent suspended.
const NAP: Duration = Duration::from_secs(1);
/// The most that a keeper's messages may pile up to, in bytes; theirs are under a hundred.
const MAX_BUFFERED: usize = 64 << 10;

/// What an event is about: the low two bits of its token.
const KEEPER: u64 = 0;
const FRONT: u64 = 1;
const SOCKET: u64 = 2;
/// The token of the wake-up call.
const WAKE: u64 = u64::MAX;

/// What the warden waits on.
pub(crate) struct Warden {
    epoll: Epoll,
    wake: EventFd,
    next: AtomicU64,
    watched: Mutex<HashMap<u64, Watched>>,
}

struct Watched {
    live: Arc<LiveGrant>,
    socket: Option<UnixStream>,
    buffer: Vec<u8>,
    /// What came with the bytes, until the request that it belongs to is whole.
    device: Option<OwnedFd>,
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

    /// Watches over a grant from now on; `socket` is its keeper's connection.
    ///
    /// # Errors
    /// `internal` where the kernel will not watch: then the grant must not be given.
    pub(crate) fn watch(&self, live: Arc<LiveGrant>, socket: UnixStream) -> Result<()> {
        let fault = |error: std::io::Error| Error::internal("watch over the grant", error);
        socket.set_nonblocking(true).map_err(fault)?;
        let token = self.next.fetch_add(1, Ordering::Relaxed) << 2;
        let add = |fd: &dyn AsFd, kind| {
            let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, token | kind);
            self.epoll.add(fd.as_fd(), event).map_err(|error| fault(error.into()))
        };
        let mut watched = self.watched.lock();
        add(live.keeper(), KEEPER)?;
        add(live.front(), FRONT)?;
        add(&socket, SOCKET)?;
        watched.insert(token, Watched { live, socket: Some(socket), buffer: Vec::new(), device: None });
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

    fn attend(&self, data: u64) {
        if data == WAKE {
            let _ = self.warden.wake.read();
            return;
        }
        let (token, kind) = (data & !3, data & 3);
        let live = match self.warden.watched.lock().get(&token) {
            Some(watched) => watched.live.clone(),
            None => return,
        };
        match kind {
            KEEPER => self.keeper_gone(token, &live),
            FRONT => self.front_gone(&live),
            _ => self.keeper_speaks(token, &live),
        }
    }

    /// The keeper is gone, and with it the grant. Where it may have left descendants, they now hang on
    /// the next subreaper up, which can be an outer keeper: that one must not take them for its own.
    fn keeper_gone(&self, token: u64, live: &LiveGrant) {
        let _ = self.warden.epoll.delete(live.keeper());
        if let Some(outer) = live.outer.as_ref().filter(|_| live.may_have_survivors()) {
            outer.refuse_orphans();
            self.identifier.forget_below(outer.grant.root);
        }
        self.withdraw(live, Ending::OwnerKilled);
        self.grants.strike(live.grant.root);
        self.identifier.forget_below(live.grant.root);
        self.placeholders.release(live.grant.id);
        let _ = self.warden.epoll.delete(live.front());
        if let Some(Watched { socket: Some(socket), .. }) = self.warden.watched.lock().remove(&token) {
            let _ = self.warden.epoll.delete(&socket);
        }
    }

    fn front_gone(&self, live: &LiveGrant) {
        let _ = self.warden.epoll.delete(live.front());
        if !live.has_command_ended() {
            self.withdraw(live, Ending::OwnerKilled);
        }
    }

    fn keeper_speaks(&self, token: u64, live: &Arc<LiveGrant>) {
        let mut watched = self.warden.watched.lock();
        let Some(entry) = watched.get_mut(&token) else { return };
        let Some(mut socket) = entry.socket.take() else { return };
        let (mut buffer, mut device) = (std::mem::take(&mut entry.buffer), entry.device.take());
        drop(watched);
        let open = self.hear(live, &mut socket, &mut buffer, &mut device);
        let mut watched = self.warden.watched.lock();
        match watched.get_mut(&token) {
            Some(entry) if open => {
                (entry.socket, entry.buffer, entry.device) = (Some(socket), buffer, device);
            }
            _ => drop(self.warden.epoll.delete(&socket)),
        }
    }

    /// Takes in what the keeper sent; `false` where the connection is of no more use.
    fn hear(
        &self,
        live: &Arc<LiveGrant>,
        socket: &mut UnixStream,
        buffer: &mut Vec<u8>,
        device: &mut Option<OwnedFd>,
    ) -> bool {
        let ended = match drain(socket, buffer, device) {
            Some(ended) => ended,
            None => return false,
        };
        loop {
            let mut rest = &buffer[..];
            match read_frame::<Request>(&mut rest) {
                Ok(Some((request, _))) => {
                    let used = buffer.len() - rest.len();
                    buffer.drain(..used);
                    if !self.heed(live, socket, &request.question, device.take()) {
                        return false;
                    }
                }
                Ok(None) => return !ended,
                Err(error) => return !ended && error.kind() == std::io::ErrorKind::UnexpectedEof,
            }
        }
    }

    /// A descriptor is closed here, unless the request is the one that it can belong to.
    fn heed(
        &self,
        live: &Arc<LiveGrant>,
        socket: &mut UnixStream,
        question: &Question,
        device: Option<OwnedFd>,
    ) -> bool {
        match question {
            Question::ServeMount { owner } => {
                let answer = match self.serve_private(live, device, *owner) {
                    Ok(()) => Answer::Done(()),
                    Err(error) => Answer::Failed(error),
                };
                return write_frame(socket, &answer, None).is_ok();
            }
            Question::CommandStarted { pid } => {
                let Some(command) = self.child_of_keeper(live, *pid) else {
                    return write_frame(socket, &Answer::<()>::Failed(peer_gone()), None).is_ok();
                };
                let namespaces = self.identifier.namespaces_of(&command);
                live.command_started(Command {
                    process: command.process(),
                    started: clock::now(),
                    namespaces,
                });
            }
            Question::CommandEnded => live.command_ended(),
            Question::Finish { ending } => {
                live.command_ended();
                match ending {
                    Ending::CommandExit => drop(self.withdraw(live, Ending::CommandExit)),
                    _ => {
                        live.tree_emptied();
                        self.withdraw(live, Ending::TreeExit);
                    }
                }
                self.placeholders.release(live.grant.id);
            }
            _ => return false,
        }
        write_frame(socket, &Answer::Done(()), None).is_ok()
    }

    /// The process of this number, where it is the keeper's own child: a keeper names nobody else's.
    fn child_of_keeper(&self, live: &LiveGrant, pid: u32) -> Option<Held> {
        let held = self.identifier.hold(kin_policy::Pid::new(pid)?, None).ok()?;
        let parent = self.identifier.parent_of(&held)?;
        (parent == live.grant.root.pid && live.keeper().is_alive()).then_some(held)
    }
}

/// Takes in all that has arrived: whether the stream has ended; `None` where it piles up too high, or where
/// a second descriptor comes before the first was asked for.
fn drain(socket: &mut UnixStream, buffer: &mut Vec<u8>, device: &mut Option<OwnedFd>) -> Option<bool> {
    let mut chunk = [0; 4096];
    while buffer.len() <= MAX_BUFFERED {
        match receive(socket, &mut chunk) {
            Ok((_, Some(_))) if device.is_some() => return None,
            Ok((0, _)) => return Some(true),
            Ok((got, descriptor)) => {
                buffer.extend_from_slice(&chunk[..got]);
                *device = device.take().or(descriptor);
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Some(errno != Errno::EWOULDBLOCK),
        }
    }
    None
}
