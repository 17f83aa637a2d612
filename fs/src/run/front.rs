//! The front: what the shell waits for, from the fork of the keeper to the end of the command.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use kin_broker::control::read_frame;
use kin_broker::{Error, Result};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::{Pid, getpid};

use super::link::{Report, wait_readable};
use super::signals::{Received, Signals, handled};
use super::status::Ended;
use super::{Outcome, Start, complain, descriptors};

/// How long a keeper may take to call off a start. It only has to see a byte.
const CALL_OFF_DEADLINE: Duration = Duration::from_secs(1);

/// Waits until the keeper has said how the command ended, and passes signals on until then.
pub(super) fn wait(start: &Start, keeper: Pid, link: UnixStream) -> Result<Outcome> {
    let signals =
        Signals::of(&handled()).map_err(|error| Error::internal("make a signal descriptor", error))?;
    let mut front = Front { start, keeper, link, started: false, called_off: None, stop: None };
    loop {
        let [signalled, reported] = wait_readable([Some(&signals), Some(&front.link)], front.time_left());
        // Reports first: whether the command has started decides what a signal means. And the stop before
        // the signals, which would take it for one of them.
        if reported && let Some(outcome) = front.reports() {
            return Ok(outcome);
        }
        front.stop_as_the_command_did();
        if signalled {
            while let Some(signal) = signals.next() {
                front.signal(&signal);
            }
        }
        if let Some((signal, deadline)) = front.called_off
            && Instant::now() >= deadline
        {
            return Ok(Outcome::Signaled(signal));
        }
    }
}

struct Front<'a> {
    start: &'a Start<'a>,
    keeper: Pid,
    link: UnixStream,
    started: bool,
    /// The signal that called the start off, and until when the keeper may answer.
    called_off: Option<(i32, Instant)>,
    /// The stop signal that this process has sent itself, and that waits to be unblocked.
    stop: Option<Signal>,
}

impl Front<'_> {
    fn time_left(&self) -> Option<Duration> {
        self.called_off.map(|(_, deadline)| deadline.saturating_duration_since(Instant::now()))
    }

    fn signal(&mut self, signal: &Received) {
        let keeper = self.keeper.as_raw().unsigned_abs();
        let pass_on = match self.started {
            true => signal.is_for_the_command(keeper),
            false => signal.ends_the_start(keeper),
        };
        if !pass_on {
            return;
        }
        let number = signal.number();
        let byte = [number.unsigned_abs() as u8];
        let _ = send(self.link.as_raw_fd(), &byte, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
        if !self.started && self.called_off.is_none() {
            self.called_off = Some((number, Instant::now() + CALL_OFF_DEADLINE));
        }
    }

    /// Takes every report that is there; an outcome ends the wait.
    fn reports(&mut self) -> Option<Outcome> {
        loop {
            let outcome = match read_frame::<Report>(&mut &self.link) {
                Ok(Some((report, _))) => self.report(report),
                Ok(None) | Err(_) => Some(self.keeper_is_gone()),
            };
            let [more] = wait_readable([Some(&self.link)], Some(Duration::ZERO));
            if outcome.is_some() || !more {
                return outcome;
            }
        }
    }

    fn report(&mut self, report: Report) -> Option<Outcome> {
        match report {
            Report::Refused(error) => {
                return Some(match self.called_off {
                    Some((signal, _)) => Outcome::Signaled(signal),
                    None => Outcome::Refused(error),
                });
            }
            Report::NotStarted { code, line } => {
                complain(&line);
                return Some(Outcome::Exited(code));
            }
            Report::Started => {
                self.started = true;
                self.called_off = None;
                descriptors::let_go_but_stderr(&self.start.passed);
            }
            Report::Stopped(signal) => self.stop = Some(send_stop(signal)),
            Report::Continued => self.stop = None,
            Report::BrokerGone => complain("kin: the broker stopped; its grants are void"),
            Report::Ended(Ended::Exited(code)) => return Some(Outcome::Exited(code)),
            Report::Ended(Ended::Signaled(signal)) => return Some(Outcome::Signaled(signal)),
        }
        None
    }

    fn keeper_is_gone(&self) -> Outcome {
        match self.called_off {
            Some((signal, _)) => Outcome::Signaled(signal),
            None if self.started => {
                complain("error: the keeper ended before the command: its grant is void");
                Outcome::Exited(125)
            }
            None => Outcome::Refused(Error::internal("start the command", "the keeper ended")),
        }
    }

    /// Lets the stop signal through that [`send_stop`] sent, so that the shell sees this process stop as
    /// its command did; returns when it is continued.
    ///
    /// No continuation is lost: the keeper reports one before it sends SIGCONT, and SIGCONT removes a
    /// pending stop signal, so one that comes after the signal was sent either shows in the reports that
    /// were read since, or has removed it, or ends the stop.
    fn stop_as_the_command_did(&mut self) {
        if let Some(signal) = self.stop.take() {
            let only: SigSet = [signal].into_iter().collect();
            let _ = only.thread_unblock();
            let _ = only.thread_block();
        }
    }
}

/// Sends this process the signal that stopped the command; it stays pending, because it is blocked.
/// SIGSTOP cannot be: SIGTSTP stands for it. (An orphaned group, which SIGTSTP does not stop, has no shell
/// that would see it.)
fn send_stop(signal: i32) -> Signal {
    let signal = match Signal::try_from(signal) {
        Ok(signal @ (Signal::SIGTTIN | Signal::SIGTTOU)) => signal,
        _ => Signal::SIGTSTP,
    };
    let _ = kill(getpid(), signal);
    signal
}
