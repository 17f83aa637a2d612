//! Where do the command's streams go when its output is redacted? To a terminal of its own where it would have had
//! one, else into pipes. What comes out there the redactor reads, and writes to where the command would have.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use kin_broker::delivery::redaction::link;
use kin_broker::sys::terminal::take_control;
use kin_broker::{Error, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{FileStat, fstat, major, minor};
use nix::unistd::{Pid, getpgrp, pipe2, setpgid, setsid, tcgetpgrp, tcsetpgrp};

use super::link::Ground;
use super::terminal::{self, Terminal};

/// The device number of /dev/null (linux/major.h, drivers/char/mem.c).
const NULL: (u64, u64) = (1, 3);
/// Bytes of a pipe: the redactor reads as many at once.
const PIPE: i32 = 256 << 10;

/// stdin, stdout and stderr, where they are something else.
type Streams = [Option<OwnedFd>; 3];

/// Made before the keeper is forked; each of the two processes takes its part.
pub(super) struct Output {
    link: UnixStream,
    keepers: Keepers,
    terminal: Option<Terminal>,
}

/// What the keeper needs of it.
pub(super) struct Keepers {
    /// The other end of the front's link, for the redactor.
    redactors: UnixStream,
    /// The command's.
    streams: Streams,
    slave: Option<(File, Ground)>,
}

/// What the front needs of it.
pub(super) struct Fronts {
    /// To the redactor.
    pub(super) link: UnixStream,
    /// The command's terminal.
    pub(super) terminal: Option<Terminal>,
    /// The redactor has said that every stream ended, or is gone.
    pub(super) ended: bool,
    /// How many of the front's wishes to see what was written are not answered.
    pub(super) unanswered: u32,
    /// Something that was written could not be shown.
    pub(super) lost: bool,
}

/// The streams of this process, and what they are.
struct Own<'a> {
    fds: [BorrowedFd<'a>; 3],
    files: [Option<FileStat>; 3],
}

impl Own<'_> {
    fn is_same(&self, one: usize, other: usize) -> bool {
        let which = |file: &FileStat| (file.st_dev, file.st_ino, file.st_rdev);
        self.files[one].as_ref().map(which) == self.files[other].as_ref().map(which)
    }

    fn is_null(&self, out: usize) -> bool {
        self.files[out].is_some_and(|file| (major(file.st_rdev), minor(file.st_rdev)) == NULL)
    }

    /// What the command writes to instead; `shown` is the stream that a terminal of its own stands for.
    fn redirected(&self, link: &UnixStream, shown: Option<(usize, &(File, File))>) -> io::Result<Streams> {
        let mut streams = [None, None, None];
        for out in [1, 2] {
            streams[out] = match shown {
                Some((shown, (master, slave))) if self.is_same(out, shown) => {
                    if out == shown {
                        link::add_stream(link, master, &self.fds[out])?;
                    }
                    Some(slave.try_clone()?.into())
                }
                _ if self.is_null(out) => None,
                // One pipe keeps the order of what is written to both.
                _ if out == 2 && self.is_same(1, 2) => {
                    streams[1].as_ref().map(OwnedFd::try_clone).transpose()?
                }
                _ => Some(pipe_to(link, &self.fds[out])?),
            };
        }
        Ok(streams)
    }
}

fn pipe_to(link: &UnixStream, to: &BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (from, into) = pipe2(OFlag::O_CLOEXEC)?;
    // A smaller one will do.
    let _ = fcntl(&into, FcntlArg::F_SETPIPE_SZ(PIPE));
    link::add_stream(link, &from, to)?;
    Ok(into)
}

impl Output {
    /// Of a command whose streams would be this process's.
    ///
    /// # Errors
    /// What the kernel will not give.
    pub(super) fn here() -> Result<Self> {
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let fds = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let own = Own { fds, files: fds.map(|fd| fstat(fd).ok()) };
        Self::of(&own).map_err(|error| Error::internal("make a way for the output", error))
    }

    fn of(own: &Own<'_>) -> io::Result<Self> {
        let (link, redactors) = UnixStream::pair()?;
        let shown = [1, 2].into_iter().find(|out| own.fds[*out].is_terminal());
        let pty = shown.map(|out| terminal::like(own.fds[out])).transpose()?;
        let mut streams = own.redirected(&link, shown.zip(pty.as_ref()))?;
        (&link).write_all(&[link::COMPLETE])?;
        let Some((shown, (master, slave))) = shown.zip(pty) else {
            let keepers = Keepers { redactors, streams, slave: None };
            return Ok(Self { link, keepers, terminal: None });
        };
        let controlling = tcgetpgrp(own.fds[shown]).ok();
        let keys = controlling.is_some() && own.is_same(0, shown);
        if keys {
            streams[0] = Some(slave.try_clone()?.into());
        }
        // Where the keys are somebody else's too, as in a pipeline, the command has to ask for them.
        let fore = controlling.is_none_or(|group| keys && group == getpgrp());
        let ground = if fore { Ground::Fore } else { Ground::Back };
        let terminal = Terminal::new(master, controlling.is_some(), ground)?;
        let keepers = Keepers { redactors, streams, slave: Some((slave, ground)) };
        Ok(Self { link, keepers, terminal: Some(terminal) })
    }

    pub(super) fn fronts(self) -> Fronts {
        Fronts { link: self.link, terminal: self.terminal, ended: false, unanswered: 0, lost: false }
    }

    /// In the keeper, which is to leave the modes of the terminal alone.
    pub(super) fn keepers(self) -> Keepers {
        if let Some(terminal) = self.terminal {
            terminal.forget();
        }
        self.keepers
    }
}

impl Keepers {
    /// What the redactor is to get.
    pub(super) fn redactors(&self) -> BorrowedFd<'_> {
        self.redactors.as_fd()
    }

    /// Makes this process the leader of the terminal's session: somebody has to look after the command's group, or
    /// the kernel takes it for an orphaned one, which no key stops.
    pub(super) fn lead(&self) -> Result<(), Errno> {
        let Some((slave, _)) = &self.slave else { return Ok(()) };
        setsid()?;
        take_control(slave)
    }

    /// Has another command, which is started later, have the same streams.
    ///
    /// # Errors
    /// Those of dup(2).
    pub(super) fn lend_to(&self, command: &mut Command) -> io::Result<()> {
        let clone = |stream: &Option<OwnedFd>| stream.as_ref().map(OwnedFd::try_clone).transpose();
        give(command, [clone(&self.streams[0])?, clone(&self.streams[1])?, clone(&self.streams[2])?]);
        Ok(())
    }

    /// Has the command started with its streams; what is left is the terminal.
    pub(super) fn give_to(self, command: &mut Command) -> Option<Slave> {
        give(command, self.streams);
        self.slave.map(|(slave, ground)| Slave { slave, ground })
    }
}

fn give(command: &mut Command, streams: Streams) {
    let [stdin, stdout, stderr] = streams.map(|stream| stream.map(Stdio::from));
    stdin.map(|stream| command.stdin(stream));
    stdout.map(|stream| command.stdout(stream));
    stderr.map(|stream| command.stderr(stream));
}

/// The command's side of its terminal, in the keeper.
pub(super) struct Slave {
    slave: File,
    /// Where the command was put last: one that is started again goes there too.
    ground: Ground,
}

impl Slave {
    /// Puts the command, which waits to be started, into a group of its own, and that where the last one was.
    pub(super) fn adopt(&self, command: u32) -> Result<(), Errno> {
        let command = Pid::from_raw(command.cast_signed());
        setpgid(command, command)?;
        match self.ground {
            Ground::Fore => tcsetpgrp(&self.slave, command),
            Ground::Back => Ok(()),
        }
    }

    /// Puts the command's group there. SIGTTOU is blocked, so this may be done from anywhere (tcsetpgrp(3)).
    pub(super) fn put(&mut self, command: u32, ground: Ground) {
        self.ground = ground;
        let group = match ground {
            Ground::Fore => Pid::from_raw(command.cast_signed()),
            Ground::Back => getpgrp(),
        };
        let _ = tcsetpgrp(&self.slave, group);
    }

    /// Leaves the session without hanging up those that stay in it.
    pub(super) fn leave(&self) {
        let _ = tcsetpgrp(&self.slave, getpgrp());
        let _ = kin_broker::sys::terminal::give_up_control(&self.slave);
    }
}
