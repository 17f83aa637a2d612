//! How does a terminal of the command's own come to be as the one that the person sits at? Its modes and its size are
//! copied to and fro, and keys are passed on. What it shows is the redactor's to read.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kin_broker::sys::terminal::{resize, size};
use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::Mode;
use nix::sys::termios::{OutputFlags, SetArg, SpecialCharacterIndices, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};

use super::link::Ground;

/// Bytes of keys that wait for the command, at most.
const KEYS: usize = 1024;

/// A new terminal with the modes and the size of this one: what is behind it, and the terminal itself.
///
/// # Errors
/// Those of openpty(3).
pub(super) fn like(terminal: BorrowedFd<'_>) -> io::Result<(File, File)> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags | OFlag::O_NONBLOCK)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = nix::fcntl::open(ptsname_r(&master)?.as_str(), flags, Mode::empty())?;
    tcsetattr(&slave, SetArg::TCSANOW, &tcgetattr(terminal)?)?;
    let _ = size(terminal).and_then(|size| resize(&slave, &size));
    Ok((File::from(OwnedFd::from(master)), File::from(slave)))
}

/// The command's terminal as the front has it, and the one that is this process's own.
///
/// While the command is in the foreground of its terminal and this process in that of its own, that one is raw: every
/// key is the command's, and what it means there is for the command's terminal to say. Else it is as it was.
pub(super) struct Terminal {
    /// Modes and size of the command's terminal are set through it too (pty(7)).
    master: File,
    /// This process's own, where it has one.
    tty: Option<File>,
    ground: Ground,
    raw: bool,
    keys: Vec<u8>,
}

impl Terminal {
    /// Of the command that starts on this `ground`.
    ///
    /// # Errors
    /// Those of opening /dev/tty.
    pub(super) fn new(master: File, controlling: bool, ground: Ground) -> io::Result<Self> {
        let tty = controlling.then(|| File::options().read(true).write(true).open("/dev/tty")).transpose()?;
        let terminal = Self { master, tty, ground, raw: false, keys: Vec::new() };
        if ground == Ground::Back {
            terminal.let_own_terminal_process();
        }
        Ok(terminal)
    }

    /// Drops it without a change of any mode.
    pub(super) fn forget(mut self) {
        self.raw = false;
    }

    /// Whether the own terminal is raw.
    pub(super) fn is_raw(&self) -> bool {
        self.raw
    }

    /// Where keys come from, while there is room for them.
    pub(super) fn source(&self) -> Option<&File> {
        self.tty.as_ref().filter(|_| self.raw && self.keys.len() < KEYS)
    }

    /// Whether keys wait for the command to read some.
    pub(super) fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// The command has asked for keys, or has had them before it stopped.
    pub(super) fn wants_keys(&mut self) {
        self.ground = Ground::Fore;
    }

    /// Whether the command waits for keys that are not its own yet, and could be.
    pub(super) fn could_enter(&self) -> bool {
        !self.raw && self.is_foreground()
    }

    /// Where the command is to go on: with the own terminal raw, if that is this process's to say.
    pub(super) fn enter(&mut self) -> Ground {
        let Some(tty) = &self.tty else { return self.ground };
        if self.ground == Ground::Back || !self.is_foreground() {
            return Ground::Back;
        }
        if !self.raw
            && let Ok(modes) = tcgetattr(tty)
        {
            let _ = tcsetattr(&self.master, SetArg::TCSANOW, &modes);
            let mut raw = modes;
            cfmakeraw(&mut raw);
            raw.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
            raw.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
            self.raw = tcsetattr(tty, SetArg::TCSANOW, &raw).is_ok();
        }
        self.resize();
        Ground::Fore
    }

    /// The own terminal is as the command has left its own.
    pub(super) fn leave(&mut self) {
        if std::mem::replace(&mut self.raw, false)
            && self.is_foreground()
            && let (Some(tty), Ok(modes)) = (&self.tty, tcgetattr(&self.master))
        {
            let _ = tcsetattr(tty, SetArg::TCSANOW, &modes);
            self.let_own_terminal_process();
        }
    }

    /// The command's terminal is as large as the own one.
    pub(super) fn resize(&self) {
        if let Some(tty) = &self.tty {
            let _ = size(tty).and_then(|size| resize(&self.master, &size));
        }
    }

    /// Takes in keys.
    pub(super) fn read(&mut self) {
        let mut some = [0; 256];
        let Some(mut tty) = self.tty.as_ref() else { return };
        match tty.read(&mut some) {
            Ok(got @ 1..) => self.keys.extend_from_slice(&some[..got]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Hung up, or another group's now (SIGTTIN is blocked).
            _ => self.raw = false,
        }
        self.write();
    }

    /// Passes on as many as the command's terminal takes.
    pub(super) fn write(&mut self) {
        while !self.keys.is_empty() {
            match self.master.write(&self.keys) {
                Ok(written @ 1..) => drop(self.keys.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                _ => self.keys.clear(),
            }
        }
    }

    fn is_foreground(&self) -> bool {
        self.tty.as_ref().is_some_and(|tty| tcgetpgrp(tty) == Ok(getpgrp()))
    }

    /// A line feed is not to become a carriage return and a line feed twice.
    fn let_own_terminal_process(&self) {
        if self.tty.is_some()
            && let Ok(mut modes) = tcgetattr(&self.master)
        {
            modes.output_flags.remove(OutputFlags::OPOST);
            let _ = tcsetattr(&self.master, SetArg::TCSANOW, &modes);
        }
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.leave();
    }
}
