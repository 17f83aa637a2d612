//! What does the front do beside a redacted output, and beside a command that has a terminal of its own?
//!
//! That command is in another session, so nothing that the person's terminal sends reaches it by itself: the front
//! passes it on, and goes where the shell puts it.

use std::io::Write;
use std::time::{Duration, Instant};

use kin_broker::delivery::redaction::link::{self, Said};
use nix::sys::signal::Signal;

use super::front::Front;
use super::link::{Order, wait_readable};
use super::signals::Received;
use super::terminal::Terminal;
use super::{Outcome, complain, status};

/// How long a stop waits for what was written before it.
const STOP_DEADLINE: Duration = Duration::from_secs(1);

impl Front<'_> {
    /// The command's terminal, where it has one of its own.
    pub(super) fn terminal(&mut self) -> Option<&mut Terminal> {
        self.output.as_mut()?.terminal.as_mut()
    }

    /// One line on stderr, also where that is a terminal that is raw.
    pub(super) fn complain(&mut self, line: &str) {
        match self.terminal() {
            Some(terminal) if terminal.is_raw() => complain(&format!("{line}\r")),
            _ => complain(line),
        }
    }

    /// What the terminal and the shell send to a group is for the command's group.
    pub(super) fn signal_beside_a_terminal(&mut self, signal: &Received, order: Order) {
        let keeper = self.keeper.as_raw().unsigned_abs();
        let by_the_terminal = signal.reached_the_group();
        let order = Order { group: by_the_terminal || signal.number() == libc::SIGHUP, ..order };
        match signal.number() {
            libc::SIGWINCH if by_the_terminal => {
                self.terminal().iter().for_each(|terminal| terminal.resize())
            }
            _ if signal.is_from_within(keeper) => {}
            _ if self.command.is_none() => {
                if signal.ends_the_start(keeper) {
                    self.call_off(signal, order);
                }
            }
            libc::SIGCONT => self.go_on(true),
            _ => order.send(&self.link),
        }
    }

    /// Stops as the command did, unless all it wanted are the keys, and they can be its own.
    pub(super) fn stop_beside_a_terminal(&mut self, signal: i32) -> Option<Outcome> {
        if [libc::SIGTTIN, libc::SIGTTOU].contains(&signal) {
            let terminal = self.terminal()?;
            terminal.wants_keys();
            if terminal.could_enter() {
                self.stop = None;
                self.go_on(true);
                return None;
            }
        }
        self.show_what_was_written(Some(STOP_DEADLINE));
        if let Some(terminal) = self.terminal() {
            terminal.leave();
        }
        let (outcome, stopped) = self.stop_by(signal);
        if outcome.is_none() {
            // The continuation that ended the stop is what this answers; and where there was no stop, because
            // nobody could have ended it, the command goes on all the same.
            while let Some(other) = self.signals.next() {
                if other.number() != Signal::SIGCONT as i32 {
                    self.signal(&other);
                }
            }
            self.go_on(stopped);
        }
        outcome
    }

    /// The command goes on where the front is now.
    fn go_on(&mut self, continued: bool) {
        // What was written for a terminal that is not raw is to be shown before it is.
        if self.terminal().is_some_and(|terminal| terminal.could_enter()) {
            self.show_what_was_written(Some(STOP_DEADLINE));
        }
        let ground = self.terminal().map(Terminal::enter);
        let signal = if continued { libc::SIGCONT as u8 } else { 0 };
        Order { signal, stops: self.stops, group: true, ground, ..Order::default() }.send(&self.link);
    }

    /// The redactor has something to say, or is gone: then nobody reads what the command writes.
    pub(super) fn redactor_speaks(&mut self) {
        let Some(output) = &mut self.output else { return };
        match link::hear(&output.link) {
            Some(Said::Flushed) => output.unanswered = output.unanswered.saturating_sub(1),
            Some(Said::Ended) => output.ended = true,
            Some(Said::NotWritten(errno)) => {
                output.lost = true;
                self.complain(&status::not_written(errno));
            }
            Some(Said::NotMasked(what)) => self.complain(&status::not_masked(&what)),
            None => {
                self.complain("error: the redactor ended: nothing that the command writes is shown any more");
                if self.terminal().is_some() && self.command.is_some() {
                    let signal = libc::SIGHUP as u8;
                    let stops = self.stops;
                    Order { signal, stops, group: true, ..Order::default() }.send(&self.link);
                }
                self.output = None;
            }
        }
    }

    /// Waits until the redactor has shown all that was written up to now, for `limit` where there is one; without one,
    /// what would end this process ends the wait.
    pub(super) fn show_what_was_written(&mut self, limit: Option<Duration>) {
        let until = limit.map(|limit| Instant::now() + limit);
        match &mut self.output {
            Some(output) if !output.ended && self.command.is_some() => {
                output.unanswered += 1;
                let _ = (&output.link).write_all(&[link::FLUSH]);
            }
            _ => return,
        }
        while let Some(output) = self.output.as_ref().filter(|output| !output.ended && output.unanswered > 0)
        {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let signals = until.is_none().then_some(&self.signals);
            let [said, signalled] =
                wait_readable([Some(&output.link), signals.map(|signals| signals as _)], left);
            let told =
                signalled && std::iter::from_fn(|| self.signals.next()).any(|signal| signal.is_an_end());
            if said {
                self.redactor_speaks();
            } else if told || left == Some(Duration::ZERO) {
                return;
            }
        }
    }
}
