//! How does one stream flow through a redactor? Read, mask, write, on a thread of its own: where one is not read, the
//! other goes on.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;

use super::process::{Flushed, Shared, link};
use super::redactor::Redactor;

/// Bytes read at once.
const PIECE: usize = 256 << 10;

/// Until what it reads ends, or nobody reads what it writes: then who writes into it finds out as by a pipe.
pub(super) fn run(
    (from, to): (OwnedFd, OwnedFd),
    link: Option<UnixStream>,
    shared: &Shared,
    wake: &EventFd,
    flushes: &mpsc::Receiver<Arc<Flushed>>,
) {
    let redactor = Redactor::new(shared.patterns.read().clone());
    let mut stream = Stream {
        from: from.into(),
        to: to.into(),
        link,
        redactor,
        piece: vec![0; PIECE],
        output: Vec::new(),
        shared,
    };
    let _ = stream.flow(wake, flushes);
}

struct Stream<'s> {
    from: File,
    to: File,
    /// To the front, which hears of what cannot be written before it hears that anything is.
    link: Option<UnixStream>,
    redactor: Redactor,
    piece: Vec<u8>,
    output: Vec<u8>,
    shared: &'s Shared,
}

/// What a wait ended by.
struct Ready {
    input: bool,
    woken: bool,
    unread: bool,
}

impl Stream<'_> {
    fn flow(&mut self, wake: &EventFd, flushes: &mpsc::Receiver<Arc<Flushed>>) -> io::Result<()> {
        loop {
            let ready = self.wait(Some(wake), self.redactor.patience())?;
            if ready.unread {
                return Ok(());
            }
            if ready.woken {
                let _ = wake.read();
                while let Ok(flushed) = flushes.try_recv() {
                    let open = self.drain()?;
                    self.end_piece()?;
                    drop(flushed);
                    if !open {
                        return Ok(());
                    }
                }
            } else if !ready.input {
                self.redactor.show(&mut self.output);
                self.write()?;
            } else if !self.pass_on()? {
                return self.end_piece();
            }
        }
    }

    /// Reads what is there; `false` at the end.
    fn pass_on(&mut self) -> io::Result<bool> {
        let got = match self.from.read(&mut self.piece) {
            Ok(0) => return Ok(false),
            Ok(got) => got,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(true);
            }
            // The other side of a terminal that nobody has open any more (EIO).
            Err(_) => return Ok(false),
        };
        self.redactor.adopt(&self.shared.patterns.read());
        self.redactor.feed(&self.piece[..got], &mut self.output);
        self.write()?;
        Ok(true)
    }

    /// Reads as long as something is there; `false` at the end.
    fn drain(&mut self) -> io::Result<bool> {
        while self.wait(None, Some(Duration::ZERO))?.input {
            if !self.pass_on()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn end_piece(&mut self) -> io::Result<()> {
        self.redactor.finish(&mut self.output);
        self.write()
    }

    /// Waits for input, for a wake-up, or for the reader's end: for at most so long.
    fn wait(&self, wake: Option<&EventFd>, limit: Option<Duration>) -> io::Result<Ready> {
        // Who comes to read is not waited for, only that nobody does: POLLERR needs no flag (poll(2)).
        let mut fds = vec![
            PollFd::new(self.from.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.to.as_fd(), PollFlags::empty()),
        ];
        fds.extend(wake.map(|wake| PollFd::new(wake.as_fd(), PollFlags::POLLIN)));
        let limit = limit.map_or(PollTimeout::NONE, |limit| limit.try_into().unwrap_or(PollTimeout::MAX));
        while let Err(errno) = poll(&mut fds, limit) {
            if errno != Errno::EINTR {
                return Err(errno.into());
            }
        }
        let is =
            |at: usize, flags| fds.get(at).and_then(PollFd::revents).is_some_and(|got| got.intersects(flags));
        Ok(Ready {
            input: is(0, PollFlags::all()),
            unread: is(1, PollFlags::POLLERR),
            woken: is(2, PollFlags::POLLIN),
        })
    }

    /// Writes all that may be seen, also where whoever has it too has made it non-blocking.
    fn write(&mut self) -> io::Result<()> {
        let mut rest = &self.output[..];
        while !rest.is_empty() {
            match self.to.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let _ = poll(&mut [PollFd::new(self.to.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE);
                }
                Err(error) => {
                    self.say_not_written(&error);
                    return Err(error);
                }
            }
        }
        self.output.clear();
        Ok(())
    }

    /// That nobody reads any more is no fault: a pipe's end, or a terminal's hangup.
    fn say_not_written(&self, error: &io::Error) {
        let unread = matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
            || self.wait(None, Some(Duration::ZERO)).is_ok_and(|ready| ready.unread);
        if let (Some(link), Some(errno), false) = (&self.link, error.raw_os_error(), unread) {
            link::say_not_written(link, errno);
        }
    }
}
