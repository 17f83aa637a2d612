//! Who is at the other end of a connection? A pinned process of our own user; whether it lives, whose
//! descendant it is and whether it is who speaks are asked anew for every request.
//!
//! A connection can be inherited, kept over an exec and handed on, so who made it proves nothing about who speaks.
//! The kernel notes the sender's number with each piece of data. Where that is the number of the pinned process, and
//! that process lives after it was read, it was its own all the while, and nobody else has spoken.

use std::os::unix::net::UnixStream;

use kin_policy::Pid;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::process::{Held, Identifier};
use crate::sys::error::{Class, Error, Result};
use crate::sys::socket::peer_pidfd;

/// The process that connected.
#[derive(Debug)]
pub(crate) struct Peer {
    /// It, pinned.
    pub(crate) held: Held,
}

impl Peer {
    /// The peer of `stream`, by `SO_PEERPIDFD` where the kernel has it (6.5), else by the number in
    /// `SO_PEERCRED`, which a process that exits right after connecting could have left to another.
    ///
    /// # Errors
    /// `peer_gone`; `foreign_user` where it is not of our uid.
    pub(crate) fn of(stream: &UnixStream, identifier: &Identifier) -> Result<Self> {
        let credentials = getsockopt(stream, PeerCredentials).map_err(|_| peer_gone())?;
        if credentials.uid() != nix::unistd::geteuid().as_raw() {
            return Err(Error::new(Class::Denied, "foreign_user", "this broker serves one user"));
        }
        let pid = u32::try_from(credentials.pid()).ok().and_then(Pid::new).ok_or_else(peer_gone)?;
        let held = identifier.hold(pid, peer_pidfd(stream).ok()).map_err(|_| peer_gone())?;
        Ok(Self { held })
    }

    /// Its number, for as long as it lives.
    pub(crate) fn number(&self) -> u32 {
        self.held.process().pid.get()
    }

    /// Refuses to act for a peer that has exited (its connection may live on in a child).
    ///
    /// # Errors
    /// `peer_gone`.
    pub(crate) fn check_alive(&self) -> Result<()> {
        if self.held.is_alive() { Ok(()) } else { Err(peer_gone()) }
    }
}

/// The refusal of what another process says than the one that connected.
pub(crate) fn peer_changed() -> Error {
    Error::new(Class::Denied, "peer_changed", "another process speaks than the one that connected")
        .hint("each process makes a connection of its own")
}

/// The refusal for a process of which nothing can be proven.
pub(crate) fn peer_gone() -> Error {
    Error::new(Class::Denied, "peer_gone", "the process that asks could not be identified").hint("try again")
}
