//! The keeper: the root of a grant, from the question for it to the end of the last descendant.

use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use kin_broker::Error;
use kin_broker::grants::placeholders::Placeholder;
use kin_broker::sys::{child, process};
use kin_policy::Ending;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, chdir, getppid};

use super::begin::{Begun, GRANT_DEADLINE, NoKeeper, adopt, begin, leave_the_terminal, no_command};
use super::broker::Broker;
use super::link::{Order, Report, wait_readable};
use super::output::{Keepers, Slave};
use super::rotation::Rotation;
use super::signals::Signals;
use super::spawn::Waiting;
use super::status::{Ended, FAULT};
use super::{Start, descriptors};

/// What ends a command, as a rule: who sends it such a signal does not want it started again.
const ENDS: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP];

/// Lives the keeper's life in a fork of the front. Every signal it handles is blocked, and stays so.
pub(super) fn main(start: &Start, link: UnixStream, output: Option<Keepers>) -> ! {
    let code = match Keeper::start(start, &link, output) {
        Ok(mut keeper) => {
            let code = keeper.keep(link);
            keeper.clean_up();
            keeper.slave.iter().for_each(Slave::leave);
            code
        }
        Err(NoKeeper::CalledOff) => 0,
        Err(NoKeeper::Refused(error)) => {
            Report::Refused(error).send(&link);
            0
        }
        Err(NoKeeper::NotStarted(code, line)) => {
            Report::NotStarted { code, line }.send(&link);
            0
        }
    };
    std::process::exit(code)
}

struct Keeper<'a> {
    start: &'a Start<'a>,
    front: Pid,
    command: u32,
    /// Who becomes the command where that is to be started again.
    next: Option<Waiting>,
    /// Where somebody is told of other versions.
    rotation: Option<Rotation>,
    /// The command's latest known state, while it lives.
    state: Option<State>,
    /// How many stops were reported, modulo 256.
    stops: u8,
    signals: Signals,
    /// `None` once it is gone.
    broker: Option<Broker<'a>>,
    end_with_child: bool,
    /// The command's terminal, where it has one of its own.
    slave: Option<Slave>,
    /// What stands at real paths for this grant.
    placeholders: Vec<Placeholder>,
}

#[derive(PartialEq, Eq)]
enum State {
    Running,
    Stopped,
}

impl<'a> Keeper<'a> {
    /// From the question for a grant to a command that runs.
    fn start(start: &'a Start<'a>, link: &UnixStream, output: Option<Keepers>) -> Result<Self, NoKeeper> {
        let Begun { broker, signals, command, slave, next, rotation, placeholders } =
            begin(start, link, output)?;
        leave_the_terminal(&signals);
        Report::Started(command).send(link);
        descriptors::let_go(&start.passed);
        let _ = chdir("/");
        let front = Pid::from_raw(start.front.cast_signed());
        let end_with_child = start.options.end_with_child;
        Ok(Self {
            start,
            front,
            command,
            next,
            rotation,
            state: Some(State::Running),
            stops: 0,
            signals,
            broker: Some(broker),
            end_with_child,
            slave,
            placeholders,
        })
    }

    /// The broker takes its placeholders away itself. Where it was killed, nobody needs them any more: every
    /// grant that it made is void.
    fn clean_up(&self) {
        if self.broker.is_none() {
            self.placeholders.iter().rev().for_each(Placeholder::remove);
        }
    }

    /// Waits for descendants until there are none; the exit code is the keeper's.
    fn keep(&mut self, link: UnixStream) -> i32 {
        let mut link = Some(link);
        loop {
            if self.reap(&mut link) == Left::Nobody {
                return 0;
            }
            self.rotate();
            let running = self.state == Some(State::Running);
            let notices = self.rotation.as_ref().and_then(Rotation::notices);
            let [signalled, from_front, from_broker, from_vault] = wait_readable(
                [
                    Some(&self.signals),
                    link.as_ref().map(|link| link as _),
                    self.broker.as_ref().map(|broker| broker as _),
                    notices.map(|notices| notices.stream() as _),
                ],
                self.rotation.as_ref().and_then(|rotation| rotation.time_left(running)),
            );
            if signalled && self.told_to_end() {
                return 128 + libc::SIGTERM;
            }
            if from_front {
                match link.as_ref().and_then(Order::read) {
                    // Obeyed in the state the command is in now, not the one before this wait.
                    Some(_) if self.reap(&mut link) == Left::Nobody => return 0,
                    Some(orders) => self.obey(&orders),
                    None => {
                        link = None;
                        self.front_is_gone();
                    }
                }
            }
            if from_broker {
                self.broker_is_gone(link.as_ref());
            }
            if let Some(rotation) = self.rotation.as_mut().filter(|_| from_vault) {
                rotation.hear();
            }
        }
    }

    /// Takes in everything that has happened to children. A grant that ends with its command is kept all the same
    /// while anybody of its tree lives: whoever is outside a tree has the user's own authority.
    fn reap(&mut self, link: &mut Option<UnixStream>) -> Left {
        let mut ended = None;
        let left = loop {
            match child::next_child() {
                Ok(Some((pid, status))) if pid == self.command && self.state.is_some() => {
                    ended = ended.or(self.command_changed(status, link.as_ref()));
                }
                Ok(Some((pid, status))) => self.next_changed(pid, status),
                Err(Errno::EINTR) => {}
                Ok(None) => break Left::Somebody,
                Err(_) => break Left::Nobody,
            }
        };
        let ending = match left {
            Left::Nobody => Some(Ending::TreeExit),
            Left::Somebody if ended.is_some() && self.end_with_child => Some(Ending::CommandExit),
            Left::Somebody => None,
        };
        // The broker hears of it before the front does: who sees the command's end sees its grant's.
        if let (Some(broker), Some(ending)) = (&self.broker, ending) {
            broker.finish(ending);
        }
        if let Some(ended) = ended
            && let Some(link) = link.take()
        {
            ended.send(&link);
        }
        left
    }

    /// The command stopped, goes on, or ended: then what is to be said of it, unless it was started again.
    fn command_changed(&mut self, status: ExitStatus, link: Option<&UnixStream>) -> Option<Report> {
        let report = |report: Report| link.inspect(|link| report.send(link)).is_some();
        if let Some(signal) = status.stopped_signal() {
            self.state = Some(State::Stopped);
            self.stops = self.stops.wrapping_add(1);
            report(Report::Stopped(signal));
        } else if status.continued() {
            self.state = Some(State::Running);
            // Only the parent: a number that has come to mean somebody else is left alone.
            if report(Report::Continued) && getppid() == self.front {
                let _ = kill(self.front, Signal::SIGCONT);
            }
        }
        let ended = Ended::from_status(status)?;
        self.state = None;
        let restarts = self.rotation.as_mut().is_some_and(|rotation| rotation.restarts(ended));
        // Not asked to be the command, it ends here: whoever is left is of the tree.
        let Some(next) = self.next.take().filter(|_| restarts) else { return Some(Report::Ended(ended)) };
        match self.start_again(next) {
            Ok(()) => {
                report(Report::Restarted(self.command));
                None
            }
            Err(NoKeeper::NotStarted(code, line)) => Some(Report::NotStarted { code, line }),
            // Without a grant nothing was to be started.
            Err(NoKeeper::Refused(error)) if !is_over(&error) => {
                Some(Report::NotStarted { code: FAULT, line: format!("error: {}", error.message) })
            }
            Err(_) => Some(Report::Ended(ended)),
        }
    }

    /// The one that stayed behind becomes the command, under the same grant.
    fn start_again(&mut self, mut next: Waiting) -> Result<(), NoKeeper> {
        let Some(broker) = &self.broker else { return Err(NoKeeper::CalledOff) };
        let after = next.take_turn(GRANT_DEADLINE)?;
        next.ready()?;
        adopt(self.slave.as_ref(), &next)?;
        broker.command_started(next.pid())?;
        self.command = next.release().map_err(|failed| no_command(self.start, failed))?;
        (self.state, self.next) = (Some(State::Running), Some(after));
        Ok(())
    }

    /// Somebody killed the one that stays behind: the command is not started again.
    fn next_changed(&mut self, pid: u32, status: ExitStatus) {
        if Ended::from_status(status).is_some()
            && let Some(next) = self.next.take_if(|next| next.pid() == pid)
        {
            next.has_ended();
        }
    }

    /// Sends the command what is due because of another version.
    fn rotate(&mut self) {
        let (running, lives) = (self.state == Some(State::Running), self.state.is_some());
        let due = self.rotation.as_mut().and_then(|rotation| rotation.due(running));
        if let (Some(signal), true) = (due, lives) {
            let _ = kill(Pid::from_raw(self.command.cast_signed()), signal);
        }
    }

    /// Whether somebody wants this process, and with it the grant, to end.
    fn told_to_end(&self) -> bool {
        let mut told = false;
        while let Some(signal) = self.signals.next() {
            told |= signal.number() == libc::SIGTERM;
        }
        told
    }

    /// Sends the command, or its group, the signals that the front passes on. Only a child that has not been waited
    /// for is signalled: its number cannot mean somebody else.
    fn obey(&mut self, orders: &[Order]) {
        for Order { signal, stops, group, message, ground } in orders {
            let Some(state) = &self.state else { return };
            if let (Some(slave), Some(ground)) = (&mut self.slave, ground) {
                slave.put(self.command, *ground);
            }
            let signal = i32::from(*signal);
            if let (Some(rotation), true) = (&mut self.rotation, ENDS.contains(&signal)) {
                rotation.call_off();
            }
            // A shell's `fg` continues the whole group: a command in that group has it, unless it still stands.
            let due = match state {
                State::Stopped => *stops == self.stops,
                State::Running => *group || *message,
            };
            if signal != 0 && (signal != libc::SIGCONT || due) {
                let command = self.command.cast_signed();
                let _ = process::send(Pid::from_raw(if *group { -command } else { command }), signal);
            }
        }
    }

    /// It goes before its command only where it is killed: after that it is not listened to any more.
    fn front_is_gone(&mut self) {
        self.stop_rotating();
        if let (Some(broker), Some(_)) = (&self.broker, &self.state) {
            broker.finish(Ending::OwnerKilled);
        }
        // A terminal of the command's own goes with the front that held it, and the kernel's hangup is for the
        // session's leader, which is this process (__tty_hangup, drivers/tty/tty_io.c).
        if self.slave.is_some() && self.state.is_some() {
            for signal in [Signal::SIGHUP, Signal::SIGCONT] {
                let _ = killpg(Pid::from_raw(self.command.cast_signed()), signal);
            }
        }
    }

    fn stop_rotating(&mut self) {
        self.rotation.iter_mut().for_each(Rotation::give_up);
    }

    fn broker_is_gone(&mut self, link: Option<&UnixStream>) {
        self.broker = None;
        self.stop_rotating();
        if let (Some(_), Some(link)) = (&self.state, link) {
            Report::BrokerGone.send(link);
        }
    }
}

/// Whether the grant has ended, by its own or with its broker.
fn is_over(error: &Error) -> bool {
    ["grant_ended", "broker_unreachable"].contains(&&*error.code)
}

/// Whether there are processes to keep.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Somebody,
    Nobody,
}
