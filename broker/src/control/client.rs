//! The asking side of the control socket.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use kin_policy::Pid;
use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::de::DeserializeOwned;

use super::proof;
use super::protocol::{Answer, Hello, Question, Request};
use crate::sys::error::{Class, Error, Result, describe};
use crate::sys::frame::{MAX_DOCUMENT, read_frame, write_frame};
use crate::sys::memory::Plaintext;
use crate::sys::paths::{Directories, open_private};
use crate::sys::pidfd;
use crate::sys::socket::{peer_pidfd, send_with};

/// How long an answer may take: the broker's slowest work (an scrypt key, a keyring that asks its user)
/// has deadlines of its own below this.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// One connection to the broker.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    /// The directory that the socket is in.
    runtime: OwnedFd,
    /// Whether who answers has shown that it is a broker.
    proven: bool,
}

impl Client {
    /// Connects to a broker that runs, and makes sure that it is ours.
    ///
    /// # Errors
    /// `broker_unreachable` where none answers, `unsafe_dir` or `broker_untrusted` where something is
    /// not ours, `protocol_version` where it is of another version.
    pub fn connect(directories: &Directories) -> Result<Self> {
        let socket = directories.socket();
        let unreachable = |error: &io::Error| {
            Error::new(
                Class::Unreachable,
                "broker_unreachable",
                format!("no broker answers: {}", describe(error)),
            )
            .hint("`kin run` starts one; `kin doctor` says what may be wrong")
        };
        let runtime = match std::fs::symlink_metadata(&directories.runtime) {
            Ok(_) => open_private(&directories.runtime)?,
            Err(error) => return Err(unreachable(&error)),
        };
        // Through the directory that was looked at: another may have its name by now.
        let through = Path::new("/proc/self/fd").join(runtime.as_raw_fd().to_string()).join("socket");
        let meta = std::fs::symlink_metadata(&through).map_err(|error| unreachable(&error))?;
        let us = nix::unistd::geteuid().as_raw();
        if meta.uid() != us {
            return Err(untrusted(format!("{} belongs to uid {}", socket.display(), meta.uid())));
        }
        if !meta.file_type().is_socket() {
            return Err(untrusted(format!("{} is no socket", socket.display())));
        }
        let stream = UnixStream::connect(&through).map_err(|error| unreachable(&error))?;
        let peer = getsockopt(&stream, PeerCredentials)
            .map_err(|error| Error::internal("ask who listens", error))?;
        if peer.uid() != us {
            return Err(untrusted(format!("the broker's socket is served by uid {}", peer.uid())));
        }
        let limit = |error: io::Error| Error::internal("set a deadline", error);
        stream.set_read_timeout(Some(ANSWER_DEADLINE)).map_err(limit)?;
        stream.set_write_timeout(Some(ANSWER_DEADLINE)).map_err(limit)?;
        Ok(Self { stream, runtime, proven: false })
    }

    /// Makes sure that who answers is a broker, as far as that can be shown, before anything secret is asked for or
    /// sent. Every request with a value begins with this.
    ///
    /// # Errors
    /// `broker_untrusted`; `broker_unreachable` where it went away.
    pub fn prove(&mut self) -> Result<()> {
        if !self.proven {
            let process = self.process()?;
            proof::demand(&self.stream, self.number(), process.as_fd(), self.runtime.as_fd())?;
            self.proven = true;
        }
        Ok(())
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// The broker's own refusal; `broker_unreachable` where it went away, `timeout` where it did not answer.
    pub fn ask<T: DeserializeOwned>(&mut self, question: Question) -> Result<T> {
        self.exchange(question, None).map(|(answer, _)| answer)
    }

    /// Asks with a value, an answer without.
    ///
    /// # Errors
    /// As [`Self::ask`], and as [`Self::prove`], before anything is sent.
    pub fn ask_with<T: DeserializeOwned>(
        &mut self,
        question: Question,
        value: Option<&Plaintext>,
    ) -> Result<T> {
        self.exchange(question, value).map(|(answer, _)| answer)
    }

    /// Asks with a descriptor.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn ask_with_descriptor<T: DeserializeOwned>(
        &mut self,
        question: Question,
        descriptor: BorrowedFd<'_>,
    ) -> Result<T> {
        let mut frame = Vec::new();
        write_frame(&mut frame, &Request::from(question), None).map_err(|error| unsent(&error))?;
        let sent = send_with(&self.stream, &frame, descriptor).map_err(|errno| lost(&errno.into()))?;
        self.stream.write_all(&frame[sent..]).map_err(|error| lost(&error))?;
        self.answer()
    }

    /// Asks for a value.
    ///
    /// # Errors
    /// As [`Self::ask`]; `internal` where the answer has no value.
    pub fn ask_for_value<T: DeserializeOwned>(&mut self, question: Question) -> Result<(T, Plaintext)> {
        let (answer, value) = self.exchange(question, None)?;
        Ok((answer, value.ok_or_else(|| Error::internal("read the answer", "it has no value"))?))
    }

    /// Says something that has no answer.
    ///
    /// # Errors
    /// `broker_unreachable` where it went away.
    pub fn tell(&mut self, question: Question) -> Result<()> {
        write_frame(&mut self.stream, &Request::from(question), None).map_err(|error| unsent(&error))
    }

    /// Reads the answer to a question that was told: `tell` and `answer` are `ask`, with time between.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        self.receive().map(|(answer, _)| answer)
    }

    /// The broker at the other end.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn hello(&mut self) -> Result<Hello> {
        self.ask(Question::Hello)
    }

    /// A descriptor of the broker's process, which turns readable when that ends (pidfd_open(2)).
    ///
    /// # Errors
    /// `broker_unreachable` where it has ended already.
    pub fn process(&self) -> Result<OwnedFd> {
        let by_number = || pidfd::open(self.number().ok_or(Errno::ESRCH)?);
        peer_pidfd(&self.stream).or_else(|_| by_number()).map_err(|errno| lost(&errno.into()))
    }

    /// The number of the process that listens; none where it has none here.
    fn number(&self) -> Option<Pid> {
        let number = getsockopt(&self.stream, PeerCredentials).ok()?.pid();
        u32::try_from(number).ok().and_then(Pid::new)
    }

    /// The connection itself, to poll for an answer.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    fn exchange<T: DeserializeOwned>(
        &mut self,
        question: Question,
        value: Option<&Plaintext>,
    ) -> Result<(T, Option<Plaintext>)> {
        if value.is_some() {
            self.prove()?;
        }
        write_frame(&mut self.stream, &Request::from(question), value).map_err(|error| unsent(&error))?;
        self.receive()
    }

    fn receive<T: DeserializeOwned>(&mut self) -> Result<(T, Option<Plaintext>)> {
        match read_frame::<Answer<T>>(&mut self.stream).map_err(|error| lost(&error))? {
            Some((Answer::Done(answer), value)) => Ok((answer, value)),
            Some((Answer::Failed(error), _)) => Err(error),
            None => Err(lost(&io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

fn untrusted(message: String) -> Error {
    Error::new(Class::Unreachable, "broker_untrusted", message)
        .hint("somebody else put it there: see `kin doctor`")
}

/// A request is one frame.
fn unsent(error: &io::Error) -> Error {
    if error.kind() != io::ErrorKind::InvalidData {
        return lost(error);
    }
    let message = format!("the request is larger than {} KiB", MAX_DOCUMENT >> 10);
    Error::new(Class::Usage, "request_too_large", message).hint("name fewer things at a time")
}

pub(super) fn lost(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            Error::new(Class::Timeout, "timeout", "the broker did not answer in time")
                .hint("see `kin doctor`")
        }
        io::ErrorKind::InvalidData => {
            Error::new(Class::Unreachable, "protocol_version", "the broker speaks another protocol")
                .hint("run `kin stop` with the version that started it, then try again")
        }
        _ => Error::new(
            Class::Unreachable,
            "broker_unreachable",
            format!("the broker went away: {}", describe(error)),
        )
        .hint("try again: `kin run` starts a new one"),
    }
}
