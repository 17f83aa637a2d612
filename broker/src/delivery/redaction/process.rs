//! What does a redactor do, from its fork to the end of the output?

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use parking_lot::RwLock;

use super::patterns::Patterns;
use super::stream;
use crate::grants::messages::NotMasked;
use crate::grants::redactor::{ARM, Armed, LINK, VALUE, next_tag, read_value};
use crate::sys::frame::write_frame;
use crate::sys::memory::Plaintext;
use crate::sys::process::make_large_pages;

/// What the front and the redactor say to each other: one byte each, and with some more.
pub mod link {
    use std::io::{self, Read, Write};
    use std::os::fd::{AsFd, AsRawFd};
    use std::os::unix::net::UnixStream;

    use nix::sys::socket::{MsgFlags, send};

    use crate::grants::messages::NotMasked;
    use crate::grants::redactor::send_tag;
    use crate::sys::frame::{read_frame, write_frame};

    pub(super) const FROM: u8 = b's';
    pub(super) const TO: u8 = b't';
    /// Those are all streams.
    pub const COMPLETE: u8 = b'c';
    /// Show what has come up to now. It comes back once that is done.
    pub const FLUSH: u8 = b'f';
    pub(super) const ENDED: u8 = b'e';
    const NOT_MASKED: u8 = b'n';
    const NOT_WRITTEN: u8 = b'w';

    /// What the redactor says.
    #[derive(Debug)]
    pub enum Said {
        /// What had come before a [`FLUSH`] is shown.
        Flushed,
        /// Every stream has ended.
        Ended,
        /// A version has come since the start that is not masked.
        NotMasked(NotMasked),
        /// A stream could not be written, for this errno: nothing more of it is shown.
        NotWritten(i32),
    }

    /// The next thing; `None` where it is gone.
    pub fn hear(mut link: &UnixStream) -> Option<Said> {
        let mut tag = [0];
        link.read_exact(&mut tag).ok()?;
        match tag[0] {
            FLUSH => Some(Said::Flushed),
            ENDED => Some(Said::Ended),
            NOT_WRITTEN => {
                let mut errno = [0; 4];
                link.read_exact(&mut errno).ok()?;
                Some(Said::NotWritten(i32::from_le_bytes(errno)))
            }
            NOT_MASKED => read_frame(&mut link).ok()?.map(|(what, _)| Said::NotMasked(what)),
            _ => None,
        }
    }

    /// Whether it could be said at once: nobody waits for a front that is stopped. So few bytes are sent whole or
    /// not at all (`unix_stream_sendmsg`, net/unix/af_unix.c).
    pub(super) fn say_not_masked(link: &UnixStream, what: &NotMasked) -> bool {
        let mut bytes = vec![NOT_MASKED];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        write_frame(&mut bytes, what, None).is_ok() && send(link.as_raw_fd(), &bytes, flags).is_ok()
    }

    /// So few bytes are never mixed with those of another stream.
    pub(in super::super) fn say_not_written(mut link: &UnixStream, errno: i32) {
        let [a, b, c, d] = errno.to_le_bytes();
        let _ = link.write_all(&[NOT_WRITTEN, a, b, c, d]);
    }

    /// Has what comes `from` one descriptor written, masked, `to` another.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub fn add_stream(link: &UnixStream, from: &impl AsFd, to: &impl AsFd) -> io::Result<()> {
        send_tag(link, FROM, from)?;
        send_tag(link, TO, to)
    }
}

/// What all streams share.
pub(super) struct Shared {
    /// What is masked now.
    pub(super) patterns: RwLock<Arc<Patterns>>,
    /// Written to by each stream that ends.
    pub(super) ended: EventFd,
}

/// Tells the front, once the last stream has let go of it.
pub(super) struct Flushed(UnixStream);

impl Drop for Flushed {
    fn drop(&mut self) {
        let _ = self.0.write_all(&[link::FLUSH]);
    }
}

/// A stream's thread, as the main one knows it.
struct Stream {
    wake: Arc<EventFd>,
    flushes: mpsc::Sender<Arc<Flushed>>,
}

struct Process {
    broker: Option<UnixStream>,
    link: Option<UnixStream>,
    /// Every value that was handed over, old versions too.
    values: Vec<(String, Plaintext)>,
    /// What is not masked now; the broker has told the front of what was so at first.
    unmasked: Option<Vec<NotMasked>>,
    /// Of what the front has to hear still.
    untold: Vec<NotMasked>,
    shared: Arc<Shared>,
    from: Option<OwnedFd>,
    streams: Vec<Stream>,
    running: u64,
    complete: bool,
}

/// Lives a redactor's life. The broker may end before it; it ends with its streams, or where none will come.
pub(crate) fn main(broker: UnixStream) -> ! {
    // What it looks for is one large table, and all of it is used.
    make_large_pages(true);
    let code = i32::from(Process::new(broker).and_then(|mut process| process.serve()).is_err());
    std::process::exit(code)
}

impl Process {
    fn new(broker: UnixStream) -> io::Result<Self> {
        let (patterns, _) = Patterns::new([]);
        let ended = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self {
            broker: Some(broker),
            link: None,
            values: Vec::new(),
            unmasked: None,
            untold: Vec::new(),
            shared: Arc::new(Shared { patterns: RwLock::new(Arc::new(patterns)), ended }),
            from: None,
            streams: Vec::new(),
            running: 0,
            complete: false,
        })
    }

    fn serve(&mut self) -> io::Result<()> {
        while !self.is_over() {
            let [broker, link, ended] = self.wait()?;
            // The link first: what it brings has to be known before an end means anything.
            if link {
                self.front_speaks()?;
            } else if broker {
                self.broker_speaks()?;
            }
            if ended {
                self.running -= self.shared.ended.read().unwrap_or(0).min(self.running);
            }
        }
        if let Some(mut link) = self.link.take() {
            let _ = link.write_all(&[link::ENDED]);
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let nobody = self.link.is_none() && (self.broker.is_none() || !self.streams.is_empty());
        self.running == 0 && (self.complete || nobody)
    }

    fn wait(&self) -> io::Result<[bool; 3]> {
        let sources = [
            self.broker.as_ref().map(AsFd::as_fd),
            self.link.as_ref().map(AsFd::as_fd),
            Some(self.shared.ended.as_fd()),
        ];
        let mut fds: Vec<_> =
            sources.iter().flatten().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(false));
        Ok(sources.map(|source| source.is_some() && ready.next().unwrap_or(false)))
    }

    fn broker_speaks(&mut self) -> io::Result<()> {
        let Some(broker) = &self.broker else { return Ok(()) };
        match next_tag(broker) {
            Some((VALUE, _)) => self.values.extend(read_value(broker)?),
            Some((ARM, _)) => {
                let armed = self.arm()?;
                self.note(&armed.unmasked);
                self.broker.as_ref().map_or(Ok(()), |mut broker| write_frame(&mut broker, &armed, None))?;
            }
            Some((LINK, Some(end))) if self.link.is_none() => {
                self.link = Some(UnixStream::from(end));
                self.tell();
            }
            _ => self.broker = None,
        }
        Ok(())
    }

    /// The front hears of what was not so before.
    fn note(&mut self, unmasked: &[NotMasked]) {
        let Some(mut known) = self.unmasked.replace(unmasked.to_vec()) else { return };
        for one in unmasked {
            match known.iter().position(|other| other == one) {
                Some(place) => drop(known.swap_remove(place)),
                None => self.untold.push(one.clone()),
            }
        }
        self.tell();
    }

    fn tell(&mut self) {
        if let Some(link) = &self.link {
            self.untold.retain(|one| !link::say_not_masked(link, one));
        }
    }

    fn arm(&self) -> io::Result<Armed> {
        let values = self.values.iter().map(|(name, value)| (name.as_str(), value.bytes()));
        let (patterns, unmasked) = Patterns::new(values);
        *self.shared.patterns.write() = Arc::new(patterns);
        let unmasked = unmasked.into_iter().map(|(file, why)| NotMasked { file, why }).collect();
        Ok(Armed { unmasked, locked: lock_memory() })
    }

    fn front_speaks(&mut self) -> io::Result<()> {
        let Some(link) = &self.link else { return Ok(()) };
        match next_tag(link) {
            Some((link::FROM, Some(from))) => self.from = Some(from),
            Some((link::TO, Some(to))) => self.start_stream(to)?,
            Some((link::COMPLETE, _)) => self.complete = true,
            Some((link::FLUSH, _)) => {
                let flushed = Arc::new(Flushed(link.try_clone()?));
                for stream in &self.streams {
                    let _ = stream.flushes.send(flushed.clone());
                    let _ = stream.wake.write(1);
                }
            }
            _ => self.link = None,
        }
        Ok(())
    }

    fn start_stream(&mut self, to: OwnedFd) -> io::Result<()> {
        let Some(from) = self.from.take() else { return Ok(()) };
        let wake =
            Arc::new(EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let (flushes, asked) = mpsc::channel();
        let (shared, woken) = (self.shared.clone(), wake.clone());
        let link = self.link.as_ref().map(UnixStream::try_clone).transpose()?;
        std::thread::Builder::new().name("stream".into()).spawn(move || {
            stream::run((from, to), link, &shared, &woken, &asked);
            // First the flushes that were asked for, then the end.
            drop(asked);
            let _ = shared.ended.write(1);
        })?;
        self.running += 1;
        self.streams.push(Stream { wake, flushes });
        Ok(())
    }
}

/// All memory of this process, as it is used: what was made of values lies where a library put it. Only where
/// nothing limits that, because a limit would be met in the midst of the output.
fn lock_memory() -> bool {
    // MCL_ONFAULT of mlockall(2), Linux 4.4.
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    let (soft, _) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap_or((0, 0));
    let unlimited = soft == RLIM_INFINITY || nix::unistd::geteuid().is_root();
    unlimited && mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault).is_ok()
}
