//! What do the keeper and its front tell each other?
//!
//! The keeper sends reports as frames, the front sends [`Order`]s. An order that comes before the command
//! was started calls the start off, and so does the front's end.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use kin_broker::Error;
use kin_broker::control::write_frame;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use serde::{Deserialize, Serialize};

use super::status::Ended;

/// From the keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// There is no grant, and no command.
    Refused(Error),
    /// The command waits for its terminal to be as the front's: an order with a ground says so.
    Ready,
    /// The command could not be started: an exit code and a line.
    NotStarted { code: i32, line: String },
    /// The command runs and has this pid.
    Started(u32),
    /// The command was started again, and has this pid.
    Restarted(u32),
    /// A signal stopped the command.
    Stopped(i32),
    /// The command goes on. Sent before the SIGCONT that wakes the front.
    Continued,
    /// The broker went away.
    BrokerGone,
    /// The command ended.
    Ended(Ended),
}

/// From the front: four bytes on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Order {
    /// A signal for the command, or 0: an order that only calls a start off.
    pub(super) signal: u8,
    /// How many stops the front had heard of, modulo 256: a SIGCONT is for those and no later one.
    pub(super) stops: u8,
    /// The signal is for the command's group.
    pub(super) group: bool,
    /// A SIGCONT that answers no stop is a message like any other.
    pub(super) message: bool,
    /// Where the command is on its terminal from now on.
    pub(super) ground: Option<Ground>,
}

/// Where a command is on a terminal of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ground {
    /// It may read, and has what its keys send.
    Fore,
    /// It is stopped where it reads.
    Back,
}

impl Order {
    /// Sends it, unless the keeper has left hundreds unread.
    pub(super) fn send(self, link: &UnixStream) {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let ground = self.ground.map_or(0, |ground| ground as u8 + 1);
        let how = u8::from(self.group) | u8::from(self.message) << 1;
        let _ = send(link.as_raw_fd(), &[self.signal, self.stops, how, ground], flags);
    }

    /// The orders that are there; `None` where the front is gone. Four bytes that were sent at once are
    /// never torn, because the buffer's size is a multiple of them.
    pub(super) fn read(mut link: &UnixStream) -> Option<Vec<Self>> {
        let mut bytes = [0; 32];
        let got = link.read(&mut bytes).ok().filter(|got| *got > 0)?;
        Some(bytes[..got].as_chunks().0.iter().map(Self::of).collect())
    }
}

impl Order {
    fn of([signal, stops, how, ground]: &[u8; 4]) -> Self {
        let ground = [Ground::Fore, Ground::Back].get(usize::from(*ground).wrapping_sub(1)).copied();
        let (group, message) = (how & 1 != 0, how & 2 != 0);
        Self { signal: *signal, stops: *stops, group, message, ground }
    }
}

impl Report {
    /// Sends it; a front that is gone needs no report.
    pub(super) fn send(&self, mut link: &UnixStream) {
        let _ = write_frame(&mut link, self, None);
    }
}

/// Waits until one of them can be read or has ended; says which. `None` waits for ever.
pub(super) fn wait_readable<const N: usize>(
    sources: [Option<&dyn AsFd>; N],
    timeout: Option<Duration>,
) -> [bool; N] {
    let mut ready = [false; N];
    let mut fds = Vec::with_capacity(N);
    let mut places = Vec::with_capacity(N);
    for (place, source) in sources.iter().enumerate() {
        if let Some(source) = source {
            fds.push(PollFd::new(source.as_fd(), PollFlags::POLLIN));
            places.push(place);
        }
    }
    let timeout = timeout.map_or(PollTimeout::NONE, |limit| limit.try_into().unwrap_or(PollTimeout::MAX));
    while poll(&mut fds, timeout) == Err(Errno::EINTR) {}
    for (place, fd) in places.into_iter().zip(&fds) {
        ready[place] = fd.any().unwrap_or(true);
    }
    ready
}
