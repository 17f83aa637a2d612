//! The answering side of the control socket.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::frame::{read_frame, write_frame};
use super::peer::{Peer, peer_gone};
use super::protocol::{Answer, PROTOCOL, Question, Request};
use crate::broker::Broker;
use crate::error::{Class, Error, Result};
use crate::sys::memory::Plaintext;

/// Connections served at once; keepers wait elsewhere and do not count.
const MAX_CONNECTIONS: usize = 128;
/// How long a connection may be silent between requests: a person may be reading a prompt meanwhile.
const MAX_SILENCE: Duration = Duration::from_secs(300);
/// How long one request may take to arrive, from its first byte.
const FRAME_DEADLINE: Duration = Duration::from_secs(5);

/// What an answer consists of.
pub(crate) type Reply = (serde_json::Value, Option<Plaintext>);

/// Accepts connections for ever, each served by a thread of its own.
pub fn serve(broker: &Arc<Broker>, listener: &UnixListener) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // EMFILE and its like pass; spinning on them would not.
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        if open.fetch_add(1, Ordering::AcqRel) >= MAX_CONNECTIONS {
            open.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let (broker, counted) = (broker.clone(), open.clone());
        let converse = move || {
            converse(&broker, stream);
            counted.fetch_sub(1, Ordering::AcqRel);
        };
        if std::thread::Builder::new().name("control".into()).spawn(converse).is_err() {
            open.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Serves one connection until it ends, is silent for too long, or becomes a keeper's.
fn converse(broker: &Arc<Broker>, mut stream: UnixStream) {
    let _ = stream.set_write_timeout(Some(FRAME_DEADLINE));
    // Pinned at once: the sooner, the less a number can have come to mean somebody else.
    let mut peer = Peer::of(&stream, &broker.identifier);
    loop {
        if !spoken_to(&stream) {
            return;
        }
        let mut timed = Timed { stream: &mut stream, until: Instant::now() + FRAME_DEADLINE };
        let (request, value) = match read_frame::<serde_json::Value>(&mut timed) {
            Ok(Some(frame)) => frame,
            Ok(None) => return,
            Err(_) => {
                let _ = write_frame(&mut stream, &Answer::<()>::Failed(bad_request()), None);
                return;
            }
        };
        let answer = understand(request).and_then(|request| match &request.question {
            Question::Grant(wanted) => {
                let peer = std::mem::replace(&mut peer, Err(peer_gone()))?;
                peer.check_alive()?;
                let (granted, live) = broker.grant(peer, wanted, request.session_bus.as_deref())?;
                broker.hand_over(
                    live,
                    stream.try_clone().map_err(|e| Error::internal("keep the connection", e))?,
                )?;
                Ok(((super::document(&granted)?, None), true))
            }
            _ => {
                let peer = peer.as_ref().map_err(Clone::clone)?;
                peer.check_alive()?;
                Ok((broker.answer(peer, request, value)?, false))
            }
        });
        let (sent, handed_over) = match answer {
            Ok(((document, value), handed_over)) => {
                (write_frame(&mut stream, &Answer::Done(document), value.as_ref()), handed_over)
            }
            Err(error) => (write_frame(&mut stream, &Answer::<()>::Failed(error), None), false),
        };
        if sent.is_err() || handed_over {
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

/// A stream whose reads share one deadline, so that a byte a second does not extend it.
struct Timed<'a> {
    stream: &'a mut UnixStream,
    until: Instant,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}
