//! Who is at the other end of a connection? A pinned process of our own user; whether it lives and whose
//! descendant it is are asked anew for every request.

use std::os::unix::net::UnixStream;

use kin_policy::Pid;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::error::{Class, Error, Result};
use crate::identity::{Held, Identifier};
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

    /// Refuses to act for a peer that has exited (its connection may live on in a child).
    ///
    /// # Errors
    /// `peer_gone`.
    pub(crate) fn check_alive(&self) -> Result<()> {
        if self.held.is_alive() { Ok(()) } else { Err(peer_gone()) }
    }
}

/// The refusal for a process of which nothing can be proven.
pub(crate) fn peer_gone() -> Error {
    Error::new(Class::Denied, "peer_gone", "the process that asks could not be identified").hint("try again")
}
