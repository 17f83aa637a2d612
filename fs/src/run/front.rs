//! The front: what the shell waits for, from the fork of the keeper to the end of the command.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use kin_broker::control::read_frame;
use kin_broker::{Error, Result};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, getpid};

use super::link::{Order, Report, wait_readable};
use super::output::Fronts;
use super::signals::{Received, Signals, handled, is_stopped};
use super::status::{Ended, FAULT, left_a_core};
use super::terminal::Terminal;
use super::{Outcome, Start, descriptors};

/// How long a keeper may take to call off a start. It only has to see the order.
const CALL_OFF_DEADLINE: Duration = Duration::from_secs(1);
/// How long keys wait that the command's terminal had no room for.
const KEYS_DELAY: Duration = Duration::from_millis(10);

/// Waits until the keeper has said how the command ended, and passes signals on until then.
pub(super) fn wait(start: &Start, keeper: Pid, link: UnixStream, output: Option<Fronts>) -> Result<Outcome> {
    let signals =
        Signals::of(&handled()).map_err(|error| Error::internal("make a signal descriptor", error))?;
    let (command, called_off, stop, stops, answered) = (None, None, None, 0, 0);
    let mut front =
        Front { start, keeper, link, signals, output, command, called_off, stop, stops, answered };
    loop {
        front.wait();
        // Reports first: whether the command has started decides what a signal means.
        if let Some(outcome) = front.reports() {
            return Ok(front.end_with(outcome));
        }
        front.heed_signals();
        if let Some(outcome) = front.stop_as_the_command_did().or_else(|| front.give_up_calling_off()) {
            return Ok(front.end_with(outcome));
        }
    }
}

pub(super) struct Front<'a> {
    start: &'a Start<'a>,
    pub(super) keeper: Pid,
    pub(super) link: UnixStream,
    pub(super) signals: Signals,
    /// What there is of a redacted output.
    pub(super) output: Option<Fronts>,
    /// The command's pid, once it is known to have started. It is for looking, never for signalling.
    pub(super) command: Option<u32>,
    /// The signal that called the start off, and until when the keeper may answer.
    called_off: Option<(i32, Instant)>,
    /// The signal that stopped the command, where this process has to stop too.
    pub(super) stop: Option<i32>,
    /// How many stops were reported, modulo 256.
    pub(super) stops: u8,
    /// How many there were at the last SIGCONT.
    answered: u8,
}

impl Front<'_> {
    /// Waits until there is something to see to, and sees to the output.
    fn wait(&mut self) {
        let ready = {
            let output = self.output.as_ref();
            let redactor = output.filter(|output| !output.ended).map(|output| &output.link);
            let keys = output.and_then(|output| output.terminal.as_ref()?.source());
            let sources: [Option<&dyn AsFd>; 4] = [
                Some(&self.signals),
                Some(&self.link),
                redactor.map(|link| link as _),
                keys.map(|keys| keys as _),
            ];
            wait_readable(sources, self.time_left())
        };
        let [_, _, redactor, keys] = ready;
        if redactor {
            self.redactor_speaks();
        }
        if let Some(terminal) = self.terminal() {
            if keys {
                terminal.read();
            } else {
                terminal.write();
            }
        }
    }

    /// What was written is shown before the end; where it could not be, the end is no success.
    fn end_with(&mut self, outcome: Outcome) -> Outcome {
        self.show_what_was_written(None);
        let lost = self.output.as_ref().is_some_and(|output| output.lost);
        if lost && outcome == Outcome::Exited(0) { Outcome::Exited(FAULT) } else { outcome }
    }

    fn heed_signals(&mut self) {
        while let Some(signal) = self.signals.next() {
            self.signal(&signal);
        }
    }

    fn time_left(&self) -> Option<Duration> {
        let until = self.called_off.map(|(_, deadline)| deadline.saturating_duration_since(Instant::now()));
        let terminal = self.output.as_ref().and_then(|output| output.terminal.as_ref());
        let keys = terminal.filter(|terminal| terminal.has_keys()).map(|_| KEYS_DELAY);
        until.into_iter().chain(keys).min()
    }

    fn give_up_calling_off(&self) -> Option<Outcome> {
        let (signal, deadline) = self.called_off?;
        (Instant::now() >= deadline).then_some(Outcome::Signaled(signal))
    }

    pub(super) fn signal(&mut self, signal: &Received) {
        let keeper = self.keeper.as_raw().unsigned_abs();
        let number = signal.number().unsigned_abs() as u8;
        // A shell continues the group after each stop; what comes without one is for the command to hear of.
        let message = self.answered == self.stops;
        if signal.number() == libc::SIGCONT {
            self.answered = self.stops;
        }
        let order = Order { signal: number, stops: self.stops, message, ..Order::default() };
        if self.terminal().is_some() {
            self.signal_beside_a_terminal(signal, order);
        } else if self.command.is_some() {
            if signal.is_for_the_command(keeper) {
                order.send(&self.link);
            }
        } else if signal.ends_the_start(keeper) {
            // Should the command have been started by now, it has what the terminal sent.
            let signal_of_order = if signal.reached_the_group() { 0 } else { order.signal };
            self.call_off(signal, Order { signal: signal_of_order, ..order });
        }
    }

    /// Has the keeper start nothing, or end what it has started.
    pub(super) fn call_off(&mut self, signal: &Received, order: Order) {
        order.send(&self.link);
        let deadline = Instant::now() + CALL_OFF_DEADLINE;
        self.called_off.get_or_insert((signal.number(), deadline));
    }

    /// Takes every report that is there; an outcome ends the wait.
    fn reports(&mut self) -> Option<Outcome> {
        while let [true] = wait_readable([Some(&self.link)], Some(Duration::ZERO)) {
            let outcome = match read_frame::<Report>(&mut &self.link) {
                Ok(Some((report, _))) => self.report(report),
                Ok(None) | Err(_) => Some(self.keeper_is_gone()),
            };
            if outcome.is_some() {
                return outcome;
            }
        }
        None
    }

    fn report(&mut self, report: Report) -> Option<Outcome> {
        match report {
            Report::Refused(error) => {
                return Some(match self.called_off {
                    Some((signal, _)) => Outcome::Signaled(signal),
                    None => Outcome::Refused(error),
                });
            }
            Report::Ready => {
                let ground = self.terminal().map(Terminal::enter);
                Order { stops: self.stops, ground, ..Order::default() }.send(&self.link);
            }
            Report::NotStarted { code, line } => {
                self.complain(&line);
                return Some(Outcome::Exited(code));
            }
            Report::Started(pid) => {
                self.command = Some(pid);
                self.called_off = None;
                descriptors::let_go_but_stderr(&self.start.passed);
            }
            Report::Restarted(pid) => (self.command, self.stop) = (Some(pid), None),
            Report::Stopped(signal) => {
                self.stops = self.stops.wrapping_add(1);
                // A stop that is over already is not this process's any more.
                self.stop = self.command.is_some_and(is_stopped).then_some(signal);
            }
            Report::Continued => self.stop = None,
            Report::BrokerGone => self.complain("kin: the broker stopped; its grants are void"),
            Report::Ended(Ended::Exited(code)) => return Some(Outcome::Exited(code)),
            Report::Ended(Ended::Signaled { signal, core }) => {
                if core {
                    self.complain(&left_a_core(signal));
                }
                return Some(Outcome::Signaled(signal));
            }
        }
        None
    }

    /// Whether the command was started may be unknown: a fault after the start is the cautious answer.
    fn keeper_is_gone(&mut self) -> Outcome {
        if let Some((signal, _)) = self.called_off {
            return Outcome::Signaled(signal);
        }
        self.complain("error: the keeper ended before the command: its grant is void");
        Outcome::Exited(FAULT)
    }

    /// Stops by the signal that stopped the command, so that the shell sees it; returns when continued.
    ///
    /// No continuation is lost. The signal is blocked, so it stays pending; the keeper reports a
    /// continuation before it sends SIGCONT, and SIGCONT removes a pending stop signal (signal(7)): one
    /// sent before the signal was shows in the reports read after it, and a later one removes the signal
    /// or ends the stop.
    fn stop_as_the_command_did(&mut self) -> Option<Outcome> {
        let signal = self.stop?;
        if self.terminal().is_some() { self.stop_beside_a_terminal(signal) } else { self.stop_by(signal).0 }
    }

    /// What ends the wait, and whether this process did stop, or tried to.
    pub(super) fn stop_by(&mut self, signal: i32) -> (Option<Outcome>, bool) {
        let signal = stand_in(signal);
        let _ = kill(getpid(), signal);
        let outcome = self.reports();
        let stops = outcome.is_none() && self.stop.take().is_some();
        if stops {
            let only: SigSet = [signal].into_iter().collect();
            let _ = only.thread_unblock();
            let _ = only.thread_block();
        }
        (outcome, stops)
    }
}

/// The signal to stop by. SIGSTOP cannot be blocked: SIGTSTP stands for it. (An orphaned group, which
/// SIGTSTP does not stop, has no shell that would see it.)
fn stand_in(signal: i32) -> Signal {
    match Signal::try_from(signal) {
        Ok(signal @ (Signal::SIGTTIN | Signal::SIGTTOU)) => signal,
        _ => Signal::SIGTSTP,
    }
}
