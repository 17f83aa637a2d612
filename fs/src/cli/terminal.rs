//! Asking the person at the terminal, where there is one: to agree, or for what nobody may see typed.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use kin_broker::{Class, Error, Plaintext, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::SignalFd;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, read, tcgetpgrp};

use super::bad_usage;

/// A line as long as this may have been cut by the terminal (`N_TTY_BUF_SIZE`, drivers/tty/n_tty.c).
const LONGEST_LINE: usize = 4095;

/// What ends or stops a process that waits for typing; echo comes back before it does.
const ENDINGS: [Signal; 5] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGTSTP];

/// The terminal of the person who started this process.
pub(super) struct Terminal {
    tty: File,
}

impl Terminal {
    /// The controlling terminal, if standard input is a terminal too and this process is in the foreground:
    /// elsewhere nobody can answer, and a question would hang.
    pub(super) fn open() -> Option<Self> {
        if !io::stdin().is_terminal() {
            return None;
        }
        let tty = File::options().read(true).write(true).open("/dev/tty").ok()?;
        (tcgetpgrp(&tty).ok()? == getpgrp()).then_some(Self { tty })
    }

    /// Shows text that has been made printable.
    ///
    /// # Errors
    /// `internal` where the terminal went away.
    pub(super) fn say(&mut self, text: &str) -> Result<()> {
        self.tty.write_all(text.as_bytes()).map_err(|error| Error::internal("write to the terminal", error))
    }

    /// Asks a question that only `y` answers with yes.
    ///
    /// # Errors
    /// `not_confirmed` for every other answer.
    pub(super) fn confirm(&mut self, question: &str) -> Result<()> {
        self.say(&format!("{question} [y/N] "))?;
        let mut answer = [0; 256];
        let got = loop {
            match read(&self.tty, &mut answer) {
                Ok(got) => break got,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(gone(error)),
            }
        };
        match answer[..got].trim_ascii().to_ascii_lowercase().as_slice() {
            b"y" | b"yes" => Ok(()),
            _ => Err(Error::new(Class::Denied, "not_confirmed", "nobody agreed, so nothing was done")
                .hint("answer y to agree")),
        }
    }

    /// Asks for a line that is not shown while it is typed.
    ///
    /// # Errors
    /// `value_too_large` where the line may have been cut by the terminal.
    pub(super) fn hidden(&mut self, prompt: &str) -> Result<Plaintext> {
        let mut line = Plaintext::zeroed(LONGEST_LINE + 1);
        let length = loop {
            match self.read_hidden(prompt, &mut line)? {
                Typed::Line(length) => break length,
                Typed::Signal(signal) => {
                    raise(signal).map_err(gone)?;
                }
            }
        };
        if length >= LONGEST_LINE {
            let hint = "`--stdin` and `--from-file F` take longer ones";
            return Err(bad_usage("value_too_large", "that is more than a terminal's line holds", hint));
        }
        let end = line.bytes()[..length].strip_suffix(b"\n").map_or(length, <[u8]>::len);
        line.truncate(end);
        Ok(line)
    }

    /// One try: echo is off only while this runs, and signals wait until it is on again.
    fn read_hidden(&mut self, prompt: &str, line: &mut Plaintext) -> Result<Typed> {
        let _waiting = Waiting::begin(ENDINGS.into_iter().collect())?;
        let signals = SignalFd::new(&ENDINGS.into_iter().collect()).map_err(gone)?;
        let tty = self.tty.try_clone().map_err(|error| Error::internal("keep the terminal", error))?;
        let silence = Silence::begin(&tty)?;
        self.say(prompt)?;
        let typed = loop {
            let mut ready = [
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(tty.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(gone(error)),
            }
            if ready[0].any() == Some(true) {
                if let Some(info) = signals.read_signal().map_err(gone)? {
                    let signal = Signal::try_from(info.ssi_signo.cast_signed()).map_err(gone)?;
                    break Typed::Signal(signal);
                }
            } else if ready[1].any() == Some(true) {
                break Typed::Line(read(&tty, line.bytes_mut()).map_err(gone)?);
            }
        };
        drop(silence);
        self.say("\n")?;
        Ok(typed)
    }
}

enum Typed {
    Line(usize),
    Signal(Signal),
}

/// Signals wait while this lives.
struct Waiting {
    before: SigSet,
}

impl Waiting {
    fn begin(signals: SigSet) -> Result<Self> {
        let before = SigSet::thread_get_mask().map_err(gone)?;
        signals.thread_block().map_err(gone)?;
        Ok(Self { before })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.before.thread_set_mask();
    }
}

/// Echo is off while this lives.
struct Silence<'a> {
    tty: &'a File,
    before: Termios,
}

impl<'a> Silence<'a> {
    fn begin(tty: &'a File) -> Result<Self> {
        let before = tcgetattr(tty).map_err(gone)?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO | LocalFlags::ECHONL);
        silent.local_flags.insert(LocalFlags::ICANON | LocalFlags::ISIG);
        tcsetattr(tty, SetArg::TCSAFLUSH, &silent).map_err(gone)?;
        Ok(Self { tty, before })
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.tty, SetArg::TCSAFLUSH, &self.before);
    }
}

fn gone(error: Errno) -> Error {
    Error::internal("use the terminal", error.desc())
}

/// A person has to agree, and there is none to ask.
pub(super) fn confirmation_needed(what: &str) -> Error {
    Error::new(
        Class::Denied,
        "confirmation_needed",
        format!("{what} needs a person to agree, and there is no terminal"),
    )
}
