//! The answering side of the control socket.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kin_policy::{Pid, Reference};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;
use serde::Deserialize;

use super::protocol::{Answer, OLDEST_PROTOCOL, PROTOCOL, Question, Request, SecretInfo};
use super::room::{Place, Room};
use crate::admin::transfer::Staged;
use crate::audit::Event;
use crate::audit::behalf::Behalf;
use crate::broker::Broker;
use crate::process::peer::{Peer, peer_changed};
use crate::sys::error::{Class, Error, Result};
use crate::sys::frame::{Head, Parts, is_bounded, write_frame};
use crate::sys::memory::Plaintext;
use crate::sys::socket::hear;

/// Connections served at once; keepers have none while their command runs.
const MAX_CONNECTIONS: usize = 128;
/// How long a connection may be silent between requests: a person may be reading a prompt meanwhile.
const MAX_SILENCE: Duration = Duration::from_secs(300);
/// How long one request may take to arrive, from its first byte.
const FRAME_DEADLINE: Duration = Duration::from_secs(5);

/// What an answer consists of.
pub(crate) type Reply = (Document, Option<Plaintext>);

/// An answer's document.
pub(crate) enum Document {
    /// Its text.
    Whole(Vec<u8>),
    /// A list that can be as long as the vault: what comes after a name, a page at a time, asked for as the pages
    /// before it were taken. A secret that comes or goes meanwhile may be in it or not.
    Pages(fn(&Broker, Option<&Reference>) -> Result<Vec<SecretInfo>>),
}

/// Threads at the listener while all is quiet: a wrapped command makes two connections one after the other, and
/// neither waits for a thread to be started.
const AT_EASE: usize = 2;

/// Accepts connections for ever. Each is served by the thread that accepted it, which first sees to it that
/// another one is at the listener.
pub fn serve(broker: &Arc<Broker>, listener: UnixListener) {
    let crew = Crew { broker: broker.clone(), listener, count: Mutex::default(), room: Room::new() };
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
    room: Room,
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
            converse(&self.broker, &self.room, stream);
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
fn converse(broker: &Arc<Broker>, room: &Room, mut stream: UnixStream) {
    let _ = stream.set_write_timeout(Some(FRAME_DEADLINE));
    // Pinned at once: the sooner, the less a number can have come to mean somebody else.
    let mut peer = Peer::of(&stream, &broker.identifier);
    let mut staged = Staged::default();
    loop {
        if !spoken_to(&stream) {
            return;
        }
        let until = Instant::now() + FRAME_DEADLINE;
        let connector = peer.as_ref().map_or(0, Peer::number);
        let mut timed = Timed { stream: &stream, until, connector, device: None, stranger: None };
        let (request, value, place) = match read_request(&mut timed, room) {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(error) => {
                let _ = write_frame(&mut stream, &Answer::<()>::Failed(error), None);
                return;
            }
        };
        let Timed { device, stranger, .. } = timed;
        let with = Enclosed { value, device, staged: &mut staged };
        let answer = request.and_then(|request| match stranger {
            Some(speaker) => Err(refuse_stranger(broker, &peer, speaker, &request)),
            None => answer(broker, &mut peer, &stream, request, with),
        });
        drop(place);
        let sent = match answer {
            // It was answered, and is the broker's from here on: it counts as no conversation any more.
            Ok(None) => return,
            Ok(Some(reply)) => send(broker, &mut stream, reply),
            Err(error) => write_frame(&mut stream, &Answer::<()>::Failed(error), None),
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Answers what the peer itself asks; `None` where the broker keeps the connection.
fn answer(
    broker: &Arc<Broker>,
    peer: &mut Result<Peer>,
    stream: &UnixStream,
    request: Request,
    with: Enclosed<'_>,
) -> Result<Option<Reply>> {
    match request.question {
        Question::Grant(ref wanted) => {
            // The grant keeps the peer that it was made for; what its keeper says next is said by a new one.
            let keeper = std::mem::replace(peer, Peer::of(stream, &broker.identifier))?;
            broker.admit(&keeper, &request.question)?;
            let (granted, live) = broker.grant(keeper, wanted, request.session_bus.as_deref())?;
            broker.hand_over(live)?;
            Ok(Some((super::document(&granted)?, None)))
        }
        Question::TellVersions => {
            let peer = peer.as_ref().map_err(Clone::clone)?;
            broker.admit(peer, &request.question)?;
            broker.tell_keeper(broker.kept_by(peer)?, stream)?;
            Ok(None)
        }
        _ => {
            let peer = peer.as_ref().map_err(Clone::clone)?;
            broker.admit(peer, &request.question)?;
            broker.answer(peer, request, with).map(Some)
        }
    }
}

/// Refuses a request of which another process than the peer has sent all or a part, and records who did: what one may
/// ask cannot be lent, and a request that two have put together is nobody's.
fn refuse_stranger(broker: &Broker, peer: &Result<Peer>, speaker: Option<Pid>, request: &Request) -> Error {
    let refusal = match peer.as_ref().map_err(Clone::clone).and_then(Peer::check_alive) {
        Ok(()) => peer_changed(),
        Err(gone) => gone,
    };
    let asker = speaker.and_then(|pid| broker.identifier.identify(pid.get(), &broker.grants).ok());
    let _behalf = Behalf::of(asker);
    let verb = request.question.verb();
    let denied = Event::SockDeny { verb: &verb, reason: &refusal.code, peer: speaker, asker: None };
    broker.record_or_owe(&denied);
    refusal
}

/// Sends an answer, in as many parts as it takes.
pub(crate) fn send(broker: &Broker, stream: &mut UnixStream, (document, value): Reply) -> io::Result<()> {
    let mut parts = Parts::new(stream);
    parts.push(br#"{"done":"#)?;
    match document {
        Document::Whole(json) => parts.push(&json)?,
        Document::Pages(page) => push_pages(broker, &mut parts, page)?,
    }
    parts.push(b"}")?;
    parts.end(value.as_ref())
}

fn push_pages(
    broker: &Broker,
    parts: &mut Parts<'_, UnixStream>,
    page: fn(&Broker, Option<&Reference>) -> Result<Vec<SecretInfo>>,
) -> io::Result<()> {
    let mut after: Option<Reference> = None;
    loop {
        // Half a list is no answer: where it cannot go on, the connection ends.
        let rows = page(broker, after.as_ref()).map_err(io::Error::other)?;
        for row in &rows {
            parts.push(if after.is_none() { b"[" } else { b"," })?;
            parts.push(&serde_json::to_vec(row)?)?;
            after = Some(row.reference.clone());
        }
        if rows.is_empty() {
            return parts.push(if after.is_none() { b"[]" } else { b"]" });
        }
    }
}

/// What has come: what is asked, or why that is nothing; a value; a place in the room that it took.
type Come<'r> = (Result<Request>, Option<Plaintext>, Option<Place<'r>>);

/// Reads one request; `None` where the connection ended.
///
/// # Errors
/// `bad_request`, after which nothing more can be understood; `broker_busy`.
fn read_request<'r>(timed: &mut Timed<'_>, room: &'r Room) -> Result<Option<Come<'r>>> {
    let head = match Head::read(timed) {
        Ok(Some(head)) if !head.is_continued() => head,
        Ok(None) => return Ok(None),
        _ => return Err(bad_request()),
    };
    let place = room.take(head.size(), timed.until).map_err(|()| {
        Error::new(Class::Timeout, "broker_busy", "the broker is busy with other large requests")
            .hint("try again")
    })?;
    let (json, value) = head.body(timed).map_err(|_| bad_request())?;
    Ok(Some((understand(&json)?, value, place)))
}

/// What every request has, whatever else is in it.
#[derive(Deserialize)]
struct Spoken {
    protocol: Option<u64>,
}

/// Another protocol is told so by number before anything else of the request is looked at.
///
/// # Errors
/// `bad_request` where it is no document at all, or one that has too much in it.
fn understand(json: &[u8]) -> Result<Result<Request>> {
    if !is_bounded(json) {
        return Err(bad_request());
    }
    let spoken: Spoken = serde_json::from_slice(json).map_err(|_| bad_request())?;
    match spoken.protocol {
        Some(protocol) if (u64::from(OLDEST_PROTOCOL)..=u64::from(PROTOCOL)).contains(&protocol) => {}
        Some(protocol) => {
            let message = format!("the broker speaks protocol {PROTOCOL}, this kin speaks {protocol}");
            return Ok(Err(Error::new(Class::Unreachable, "protocol_version", message)
                .hint("run `kin stop` with the version that started the broker, then try again")));
        }
        None => return Ok(Err(bad_request())),
    }
    Ok(serde_json::from_slice(json).map_err(|_| bad_request()))
}

/// Whether these bytes are a request, as a broker reads them.
#[cfg(any(test, fuzzing))]
pub(crate) fn understands(bytes: &[u8]) -> bool {
    let mut bytes = bytes;
    let frame = Head::read(&mut bytes).ok().flatten().filter(|head| !head.is_continued());
    let body = frame.and_then(|head| head.body(&mut bytes).ok());
    body.is_some_and(|(json, _)| matches!(understand(&json), Ok(Ok(_))))
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

/// A stream whose reads share one deadline, so that a byte a second does not extend it; with them the first
/// descriptor that comes, and the first process that sends and is not the one that connected (`Some(None)` where it
/// has no number here).
struct Timed<'a> {
    stream: &'a UnixStream,
    until: Instant,
    connector: u32,
    device: Option<OwnedFd>,
    stranger: Option<Option<Pid>>,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let heard = hear(self.stream, buffer)?;
        self.device = self.device.take().or(heard.descriptor);
        if heard.bytes > 0 && (heard.speaker == 0 || heard.speaker != self.connector) {
            self.stranger = self.stranger.or(Some(Pid::new(heard.speaker)));
        }
        Ok(heard.bytes)
    }
}
