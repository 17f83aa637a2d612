//! How does the broker speak to a grant's redactor? A byte that says what, and a frame or a descriptor with it.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use kin_policy::{FileName, Reference};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::grants::messages::NotMasked;
use crate::sys::error::{Class, Error, Result};
use crate::sys::frame::{read_frame, write_frame};
use crate::sys::memory::Plaintext;
use crate::sys::socket::{receive, send_with};

/// A value follows, in a frame with the name that stands for it.
pub(crate) const VALUE: u8 = b'v';
/// Those are all: [`Armed`] comes back once they are masked.
pub(crate) const ARM: u8 = b'a';
/// The other end of the link to the front comes with this.
pub(crate) const LINK: u8 = b'l';

/// Every value that was handed over is masked from now on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Armed {
    /// But for these.
    pub(crate) unmasked: Vec<NotMasked>,
    /// All memory of the redactor is locked.
    pub(crate) locked: bool,
}

/// The broker's side. The redactor goes on without it.
#[derive(Debug)]
pub(crate) struct Channel {
    stream: Mutex<UnixStream>,
    handed: Mutex<HashSet<(FileName, Reference, u64)>>,
}

impl Channel {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream: Mutex::new(stream), handed: Mutex::default() }
    }

    /// Whether this version was handed over.
    pub(crate) fn has(&self, file: &FileName, reference: &Reference, version: u64) -> bool {
        self.handed.lock().contains(&(file.clone(), reference.clone(), version))
    }

    /// Hands a value over.
    pub(crate) fn hand(
        &self,
        (file, reference, version): (&FileName, &Reference, u64),
        value: &Plaintext,
        within: Duration,
    ) -> Result<()> {
        let mut stream = self.stream.lock();
        let sent = stream.set_write_timeout(Some(within)).and_then(|()| {
            stream.write_all(&[VALUE])?;
            write_frame(&mut *stream, &file.as_str(), Some(value))
        });
        sent.map_err(|error| lost(&error))?;
        self.handed.lock().insert((file.clone(), reference.clone(), version));
        Ok(())
    }

    /// Returns once everything that was handed over is masked.
    pub(crate) fn arm(&self, within: Duration) -> Result<Armed> {
        let mut stream = self.stream.lock();
        let mut exchange = || {
            stream.set_read_timeout(Some(within))?;
            stream.write_all(&[ARM])?;
            read_frame(&mut *stream)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        };
        exchange().map(|(armed, _)| armed).map_err(|error| lost(&error))
    }

    /// Connects it with the front.
    pub(crate) fn link(&self, end: BorrowedFd<'_>) -> Result<()> {
        let stream = self.stream.lock();
        send_with(&stream, &[LINK], end).map(drop).map_err(|errno| lost(&errno.into()))
    }
}

/// `timeout` where it does not answer, `internal` where it is gone.
fn lost(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            Error::new(Class::Timeout, "timeout", "the redactor did not answer in time").hint("try again")
        }
        _ => Error::internal("speak to the redactor", error),
    }
}

/// The next byte that says what, and the descriptor with it; `None` at the end.
pub(crate) fn next_tag(stream: &UnixStream) -> Option<(u8, Option<std::os::fd::OwnedFd>)> {
    let mut tag = [0];
    loop {
        return match receive(stream, &mut tag) {
            Ok((1.., descriptor)) => Some((tag[0], descriptor)),
            Err(nix::errno::Errno::EINTR) => continue,
            _ => None,
        };
    }
}

/// A value and the name that stands for it.
pub(crate) fn read_value(mut stream: impl Read) -> io::Result<Option<(String, Plaintext)>> {
    Ok(read_frame::<String>(&mut stream)?.and_then(|(name, value)| Some((name, value?))))
}

/// One byte and a descriptor, for the other side of a link.
pub(crate) fn send_tag(stream: &UnixStream, tag: u8, descriptor: &impl AsFd) -> io::Result<()> {
    Ok(send_with(stream, &[tag], descriptor.as_fd()).map(drop)?)
}
