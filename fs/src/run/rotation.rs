//! What becomes of a command when a secret of its grant has another version? Its keeper signals it, or has it
//! end and starts it again.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use kin_broker::control::Client;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, recv};

use super::status::Ended;

/// Versions that come together are one: from the first on it is waited so long.
const TOGETHER: Duration = Duration::from_millis(200);
/// How long a command may take to end before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// What `--on-rotate` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRotate {
    /// The command gets this signal.
    Signal(Signal),
    /// The command is started again.
    Restart,
}

impl OnRotate {
    /// `restart`, or a signal by its name, with or without SIG, or its number.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "restart" {
            return Some(Self::Restart);
        }
        let name = text.to_ascii_uppercase();
        let by_name = || format!("SIG{}", name.strip_prefix("SIG").unwrap_or(&name)).parse().ok();
        let signal = match text.parse::<i32>() {
            Ok(number) => Signal::try_from(number).ok(),
            Err(_) => by_name(),
        };
        signal.map(Self::Signal)
    }
}

/// What a keeper has heard, and what it is about to do.
pub(super) struct Rotation {
    what: OnRotate,
    /// A byte for each time; its end is the grant's. `None` once that has come.
    notices: Option<Client>,
    /// When what was heard is acted on.
    due: Option<Instant>,
    /// The command is to end and be started again.
    ending: Option<Grace>,
}

/// When it is killed, where it was not.
struct Grace(Option<Instant>);

impl Rotation {
    /// Nothing heard yet on this connection.
    pub(super) fn new(what: OnRotate, notices: Client) -> Self {
        Self { what, notices: Some(notices), due: None, ending: None }
    }

    /// To wait for the next notice.
    pub(super) fn notices(&self) -> Option<&Client> {
        self.notices.as_ref()
    }

    /// Until there is something to do; `running` says whether the command is not stopped: one that is stays
    /// as it is until it goes on.
    pub(super) fn time_left(&self, running: bool) -> Option<Duration> {
        let kill = self.ending.as_ref().and_then(|grace| grace.0);
        let next = self.due.filter(|_| running).into_iter().chain(kill).min();
        next.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Takes in what has come. Nothing is done any more once the grant has ended.
    pub(super) fn hear(&mut self) {
        while let Some(notices) = &self.notices {
            match recv(notices.stream().as_raw_fd(), &mut [0; 64], MsgFlags::MSG_DONTWAIT) {
                Ok(0) => self.give_up(),
                Ok(_) => drop(self.due.get_or_insert_with(|| Instant::now() + TOGETHER)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => self.give_up(),
            }
        }
    }

    /// The signal that is due for the command.
    pub(super) fn due(&mut self, running: bool) -> Option<Signal> {
        let is_over = |at: Instant| at <= Instant::now();
        if let Some(grace) = self.ending.as_mut().filter(|grace| grace.0.is_some_and(is_over)) {
            grace.0 = None;
            return Some(Signal::SIGKILL);
        }
        if !running || !self.due.is_some_and(is_over) {
            return None;
        }
        self.hear();
        match (self.due.take()?, self.what) {
            (_, OnRotate::Signal(signal)) => Some(signal),
            (at, OnRotate::Restart) if self.ending.is_none() => {
                self.ending = Some(Grace(Some(at + GRACE)));
                Some(Signal::SIGTERM)
            }
            (_, OnRotate::Restart) => None,
        }
    }

    /// Whether a command that ended like this is to be started again: it was told to end for that, and ended
    /// by itself or by what it was told with, not by what somebody else sent.
    pub(super) fn restarts(&mut self, ended: Ended) -> bool {
        self.hear();
        let told = [libc::SIGTERM, libc::SIGKILL];
        let by_itself = |ended| match ended {
            Ended::Exited(_) => true,
            Ended::Signaled { signal, .. } => told.contains(&signal),
        };
        // What the next one opens is of now.
        self.due = None;
        self.ending.take().is_some() && by_itself(ended)
    }

    /// Somebody else tells the command to end.
    pub(super) fn call_off(&mut self) {
        (self.due, self.ending) = (None, None);
    }

    /// From now on nothing is heard.
    pub(super) fn give_up(&mut self) {
        self.call_off();
        self.notices = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_a_name_or_a_number() {
        for (text, signal) in [
            ("HUP", Signal::SIGHUP),
            ("sighup", Signal::SIGHUP),
            ("SIGUSR1", Signal::SIGUSR1),
            ("1", Signal::SIGHUP),
            ("12", Signal::SIGUSR2),
        ] {
            assert_eq!(OnRotate::parse(text), Some(OnRotate::Signal(signal)), "{text}");
        }
        assert_eq!(OnRotate::parse("restart"), Some(OnRotate::Restart));
        for bad in ["", "0", "-1", "64", "99999999999", "SIG", "SIGSIGHUP", "reload", "RESTART", "HUP "] {
            assert_eq!(OnRotate::parse(bad), None, "{bad:?}");
        }
    }
}
