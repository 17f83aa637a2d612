//! The answering side of the control socket.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;

use super::frame::{read_frame, write_frame};
use super::peer::Peer;
use super::protocol::{Answer, PROTOCOL, Question, Request};
use crate::broker::Broker;
use crate::error::{Class, Error, Result};
use crate::sys::memory::Plaintext;
use crate::sys::socket::receive;
use crate::transfer::Staged;

/// Connections served at once; keepers have none while their command runs.
const MAX_CONNECTIONS: usize = 128;
/// How long a connection may be silent between requests: a person may be reading a prompt meanwhile.
const MAX_SILENCE: Duration = Duration::from_secs(300);
/// How long one request may take to arrive, from its first byte.
const FRAME_DEADLINE: Duration = Duration::from_secs(5);

/// What an answer consists of.
pub(crate) type Reply = (serde_json::Value, Option<Plaintext>);

/// Threads at the listener while all is quiet: a wrapped command makes two connections one after the other, and
/// neither waits for a thread to be started.
const AT_EASE: usize = 2;

/// Accepts connections for ever. Each is served by the thread that accepted it, which first sees to it that
/// another one is at the listener.
pub fn serve(broker: &Arc<Broker>, listener: UnixListener) {
    let crew = Crew { broker: broker.clone(), listener, count: Mutex::default() };
    let crew = Arc::new(crew);
    let mut count = crew.count.lock();
    count.listening = 1;
    while count.listening < AT_EASE && crew.grow(&mut count) {}
    drop(count);
    crew.work();
}

/// The threads that serve connections.
struct Crew {
    broker: Arc<Broker>,
    listener: UnixListener,
    count: Mutex<Count>,
}

/// What they are at.
#[derive(Default)]
struct Count {
    listening: usize,
    conversing: usize,
}

impl Crew {
    /// One thread's life.
    fn work(self: &Arc<Self>) {
        loop {
            let Ok((stream, _)) = self.listener.accept() else {
                // EMFILE and its like pass; spinning on them would not.
                std::thread::sleep(Duration::from_millis(50));
                continue;
            };
            if !self.begin() {
                continue;
            }
            converse(&self.broker, stream);
            if !self.end() {
                return;
            }
        }
    }

    /// Whether this thread may leave the listener: there is another one, and not too many are away.
    fn begin(self: &Arc<Self>) -> bool {
        let mut count = self.count.lock();
        if count.conversing >= MAX_CONNECTIONS || (count.listening == 1 && !self.grow(&mut count)) {
            return false;
        }
        count.listening -= 1;
        count.conversing += 1;
        true
    }

    /// Whether this thread is to go back to the listener.
    fn end(&self) -> bool {
        let mut count = self.count.lock();
        count.conversing -= 1;
        let needed = count.listening < AT_EASE;
        count.listening += usize::from(needed);
        needed
    }

    /// Sends one more thread to the listener.
    fn grow(self: &Arc<Self>, count: &mut Count) -> bool {
        let crew = self.clone();
        let started = std::thread::Builder::new().name("control".into()).spawn(move || crew.work()).is_ok();
        count.listening += usize::from(started);
        started
    }
}

/// What comes beside a request's document. A descriptor is closed unless the request is one that it belongs to.
pub(crate) struct Enclosed<'c> {
    /// A value.
    pub(crate) value: Option<Plaintext>,
    /// A device.
    pub(crate) device: Option<OwnedFd>,
    /// Values that came before on the same connection.
    pub(crate) staged: &'c mut Staged,
}

/// Serves one connection until it ends or is silent for too long.
fn converse(broker: &Arc<Broker>, mut stream: UnixStream) {
    let _ = stream.set_write_timeout(Some(FRAME_DEADLINE));
    // Pinned at once: the sooner, the less a number can have come to mean somebody else.
    let mut peer = Peer::of(&stream, &broker.identifier);
    let mut staged = Staged::default();
    loop {
        if !spoken_to(&stream) {
            return;
        }
        let until = Instant::now() + FRAME_DEADLINE;
        let mut timed = Timed { stream: &stream, until, device: None };
        let (request, value) = match read_frame::<serde_json::Value>(&mut timed) {
            Ok(Some(frame)) => frame,
            Ok(None) => return,
            Err(_) => {
                let _ = write_frame(&mut stream, &Answer::<()>::Failed(bad_request()), None);
                return;
            }
        };
        let with = Enclosed { value, device: timed.device, staged: &mut staged };
        let answer = understand(request).and_then(|request| match request.question {
            Question::Grant(ref wanted) => {
                // The grant keeps the peer that it was made for; what its keeper says next is said by a new one.
                let keeper = std::mem::replace(&mut peer, Peer::of(&stream, &broker.identifier))?;
                broker.admit(&keeper, &request.question)?;
                let (granted, live) = broker.grant(keeper, wanted, request.session_bus.as_deref())?;
                broker.hand_over(live)?;
                Ok(Some((super::document(&granted)?, None)))
            }
            Question::TellVersions => {
                let peer = peer.as_ref().map_err(Clone::clone)?;
                broker.admit(peer, &request.question)?;
                broker.tell_keeper(broker.kept_by(peer)?, &stream)?;
                Ok(None)
            }
            _ => {
                let peer = peer.as_ref().map_err(Clone::clone)?;
                broker.admit(peer, &request.question)?;
                broker.answer(peer, request, with).map(Some)
            }
        });
        let sent = match answer {
            // It was answered, and is the broker's from here on: it counts as no conversation any more.
            Ok(None) => return,
            Ok(Some((document, value))) => write_frame(&mut stream, &Answer::Done(document), value.as_ref()),
            Err(error) => write_frame(&mut stream, &Answer::<()>::Failed(error), None),
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Another protocol is told so by number before anything else of the request is looked at.
fn understand(request: serde_json::Value) -> Result<Request> {
    match request.get("protocol").and_then(serde_json::Value::as_u64) {
        Some(protocol) if protocol == u64::from(PROTOCOL) => {}
        Some(protocol) => {
            let message = format!("the broker speaks protocol {PROTOCOL}, this kin speaks {protocol}");
            return Err(Error::new(Class::Unreachable, "protocol_version", message)
                .hint("run `kin stop` with the version that started the broker, then try again"));
        }
        None => return Err(bad_request()),
    }
    serde_json::from_value(request).map_err(|_| bad_request())
}

fn bad_request() -> Error {
    Error::new(Class::Usage, "bad_request", "the request is not one of this protocol")
}

/// Waits for the next request to begin.
fn spoken_to(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
    let silence = PollTimeout::try_from(MAX_SILENCE).unwrap_or(PollTimeout::MAX);
    matches!(poll(&mut fds, silence), Ok(ready) if ready > 0)
}

/// A stream whose reads share one deadline, so that a byte a second does not extend it, and the first
/// descriptor that comes with them.
struct Timed<'a> {
    stream: &'a UnixStream,
    until: Instant,
    device: Option<OwnedFd>,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let (got, descriptor) = receive(self.stream, buffer)?;
        self.device = self.device.take().or(descriptor);
        Ok(got)
    }
}
