//! The keeper: the root of a grant, from the question for it to the end of the last descendant.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use kin_broker::control::Client;
use kin_broker::control::protocol::{GrantRequest, Granted, KEEPER_COMM, PrivateRequest, Question};
use kin_broker::placeholders::Placeholder;
use kin_broker::redaction::NotMasked;
use kin_broker::sys::child;
use kin_broker::{Class, Error, Result};
use kin_policy::Ending;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::unistd::{Pid, chdir, getppid, setsid};

use super::broker::Broker;
use super::link::{Order, Report, wait_readable};
use super::output::{Keepers, Slave};
use super::private::Namespaces;
use super::rotation::{OnRotate, Rotation};
use super::signals::Signals;
use super::spawn::{Failed, Waiting};
use super::status::{self, Ended};
use super::{Start, complain, descriptors, private, spawn, values};

/// How long the broker may take to make a grant; its own deadlines are shorter.
const GRANT_DEADLINE: Duration = Duration::from_secs(30);

/// What ends a command, as a rule: who sends it such a signal does not want it started again.
const ENDS: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP];

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

/// Why there is no command to keep.
enum NoKeeper {
    /// The front said so, or is gone.
    CalledOff,
    /// There is no grant.
    Refused(Error),
    /// There is a grant, and the command could not be started: an exit code and a line.
    NotStarted(i32, String),
}

impl From<Error> for NoKeeper {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
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
        let (signals, ignores_children) = become_keeper()?;
        let (mut client, mut granted) = ask_for_grant(start, link)?;
        give_way(&mut granted, start);
        if granted.warn_of_values && !granted.values.is_empty() {
            complain(&values::warning(&granted));
        }
        let broker = Broker::behind(&client, start.directories)?;
        let finish = |_: &NoKeeper| broker.finish(Ending::TreeExit);
        let output = output.map(|output| redirect(output, &mut client, &granted)).transpose();
        let output = output.map_err(NoKeeper::Refused).inspect_err(finish)?;
        let how = (ignores_children, output);
        let begun = start_command(start, link, client, &granted, how).inspect_err(finish)?;
        let Begun { command, slave, next, rotation } = begun;
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
            placeholders: granted.private.map(|private| private.placeholders).unwrap_or_default(),
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

    /// Takes in everything that has happened to children.
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
        if ending.is_some() { Left::Nobody } else { Left::Somebody }
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
            Err(_) => Some(Report::Ended(ended)),
        }
    }

    /// The one that stayed behind becomes the command, under the same grant.
    fn start_again(&mut self, mut next: Waiting) -> Result<(), NoKeeper> {
        let Some(broker) = &self.broker else { return Err(NoKeeper::CalledOff) };
        let after = next.take_turn(GRANT_DEADLINE)?;
        next.ready()?;
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
        for Order { signal, stops, group, ground } in orders {
            let Some(state) = &self.state else { return };
            if let (Some(slave), Some(ground)) = (&self.slave, ground) {
                slave.put(self.command, *ground);
            }
            let Ok(signal) = Signal::try_from(i32::from(*signal)) else { continue };
            if let (Some(rotation), true) = (&mut self.rotation, ENDS.contains(&signal)) {
                rotation.call_off();
            }
            // A shell's `fg` continues the whole group: a command in that group has it, unless it still stands.
            let due = match state {
                State::Stopped => *stops == self.stops,
                State::Running => *group,
            };
            if signal != Signal::SIGCONT || due {
                let command = self.command.cast_signed();
                let _ = kill(Pid::from_raw(if *group { -command } else { command }), signal);
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

/// Whether there are processes to keep.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Somebody,
    Nobody,
}

/// Makes this process a keeper: its signals, and whether the front was started with SIGCHLD ignored.
fn become_keeper() -> Result<(Signals, bool)> {
    let fault = |what: &'static str| move |error: Errno| Error::internal(what, error);
    let ignores_children = child::is_ignored(libc::SIGCHLD);
    // Ignored, it would make the kernel reap the command, and its status would be lost (waitpid(2)).
    child::set_default(libc::SIGCHLD);
    prctl::set_child_subreaper(true).map_err(fault("become a subreaper"))?;
    let name = CString::new(KEEPER_COMM).map_err(|error| Error::internal("name the keeper", error))?;
    prctl::set_name(&name).map_err(fault("name the keeper"))?;
    let mut awaited = SigSet::empty();
    awaited.add(Signal::SIGCHLD);
    awaited.add(Signal::SIGTERM);
    awaited.thread_block().map_err(fault("block signals"))?;
    let signals = Signals::of(&awaited).map_err(fault("make a signal descriptor"))?;
    Ok((signals, ignores_children))
}

/// Connects as itself, because the broker takes the process that asks for the grant's root, and asks.
/// An order from the front, or its end, calls it off, up to the moment before the spawn.
fn ask_for_grant(start: &Start, link: &UnixStream) -> Result<(Client, Granted), NoKeeper> {
    let mut broker = Client::connect(start.directories)?;
    broker.tell(Question::Grant(grant_request(start)))?;
    let [answered, _] = wait_readable([Some(broker.stream()), Some(link)], Some(GRANT_DEADLINE));
    let [called_off] = wait_readable([Some(link)], Some(Duration::ZERO));
    match (called_off, answered) {
        (true, _) => Err(NoKeeper::CalledOff),
        (false, false) => {
            let late = Error::new(Class::Timeout, "timeout", "the broker did not answer in time");
            Err(late.hint("see `kin doctor`").into())
        }
        (false, true) => {
            let granted = broker.answer()?;
            Ok((broker, granted))
        }
    }
}

/// What the person who starts the command says of a variable goes before what the manifest says.
fn give_way(granted: &mut Granted, start: &Start) {
    let options = start.options;
    let plain = |name: &str| options.variables.iter().any(|(other, _)| other == name);
    let asked = |name: &str| options.values.iter().any(|(other, _)| other == name);
    granted.environment.retain(|(name, _)| !plain(name) && !asked(name));
    granted.values.retain(|(name, _)| !plain(name));
}

fn grant_request(start: &Start) -> GrantRequest {
    let options = start.options;
    GrantRequest {
        directory: options.project_directory.clone(),
        only: options.only.clone(),
        ttl_ms: options.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
        limits: options.limits,
        max_opens_of: options.max_opens_of.clone(),
        values: options.values.clone(),
        front: start.front,
        command: status::shown(&options.command),
        end_with_child: options.end_with_child,
        redact: options.redact,
        private: options.private.then(|| PrivateRequest { home: private::home() }),
    }
}

/// A command that runs, and what it takes to start it again or to signal it.
struct Begun {
    command: u32,
    slave: Option<Slave>,
    next: Option<Waiting>,
    rotation: Option<Rotation>,
}

/// Starts the command once the broker knows its process. It tells of every version from before that on.
fn start_command(
    start: &Start,
    link: &UnixStream,
    mut broker: Client,
    granted: &Granted,
    (ignores_children, output): (bool, Option<Keepers>),
) -> Result<Begun, NoKeeper> {
    let next = command(start, granted, ignores_children);
    let mut command = command(start, granted, ignores_children);
    let slave = output.and_then(|output| output.give_to(&mut command));
    let keepers = [link.as_raw_fd(), broker.stream().as_raw_fd()];
    let waiting = spawn::fork(command, &keepers, start.directories, granted);
    let waiting = waiting.map_err(|error| no_command(start, error.into()))?;
    wait_readable([Some(waiting.gate()), Some(link)], Some(GRANT_DEADLINE));
    make_ready(&mut broker, &waiting, granted)?;
    let next = match start.options.on_rotate {
        Some(OnRotate::Restart) => Some(stay_behind(start, next, keepers, &waiting, granted)?),
        _ => None,
    };
    let adopted = slave.as_ref().map_or(Ok(()), |slave| slave.adopt(waiting.pid()));
    adopted.map_err(|errno| Error::internal("give the command its terminal", errno.desc()))?;
    broker.ask::<()>(Question::CommandStarted { pid: waiting.pid() })?;
    let rotation = start
        .options
        .on_rotate
        .map(|what| broker.ask::<()>(Question::TellVersions).map(|()| Rotation::new(what, broker)));
    let rotation = rotation.transpose()?;
    if !front_lets_it_start(link, slave.is_some()) {
        return Err(NoKeeper::CalledOff);
    }
    let command = waiting.release().map_err(|failed| no_command(start, failed))?;
    Ok(Begun { command, slave, next, rotation })
}

/// Who becomes the command next holds nothing of the keeper's, and goes where the first one is.
fn stay_behind(
    start: &Start,
    command: Command,
    [link, broker]: [RawFd; 2],
    waiting: &Waiting,
    granted: &Granted,
) -> Result<Waiting, NoKeeper> {
    let namespaces = start.options.private.then(|| Namespaces::of(waiting.pid())).transpose()?;
    let keepers = [link, broker, waiting.gate().as_raw_fd()];
    spawn::stay_behind(command, &keepers, start.directories, granted, namespaces)
        .map_err(|error| no_command(start, error.into()))
}

fn no_command(start: &Start, failed: Failed) -> NoKeeper {
    match failed {
        Failed::Refused(error) => NoKeeper::Refused(error),
        Failed::NotStarted(error) => {
            let program = start.options.command.first().map(OsString::as_os_str).unwrap_or_default();
            let (code, line) = status::of_failed_start(program, &error);
            NoKeeper::NotStarted(code, line)
        }
    }
}

/// The last moment to call it off. What it writes to a terminal of its own must find the front's as it will be.
fn front_lets_it_start(link: &UnixStream, has_terminal: bool) -> bool {
    if !has_terminal {
        return wait_readable([Some(link)], Some(Duration::ZERO)) == [false];
    }
    Report::Ready.send(link);
    wait_readable([Some(link)], Some(GRANT_DEADLINE)) == [true]
        && Order::read(link)
            .is_some_and(|orders| orders.iter().all(|order| order.signal == 0 && order.ground.is_some()))
}

/// Warns of what is not masked, connects the redactor with the front, and goes to the command's terminal.
fn redirect(output: Keepers, broker: &mut Client, granted: &Granted) -> Result<Keepers> {
    for NotMasked { file, why } in &granted.unmasked {
        super::complain(&format!("warning: {file} is not masked{}", status::because(*why)));
    }
    broker.ask_with_descriptor::<()>(Question::ServeOutput, output.redactors())?;
    output.lead().map_err(|errno| Error::internal("lead the command's terminal", errno.desc()))?;
    Ok(output)
}

/// The device of a private mount goes on to the broker, and stays with nobody else: with it the mount would
/// outlive the broker.
fn make_ready(broker: &mut Client, waiting: &Waiting, granted: &Granted) -> Result<()> {
    match (waiting.ready()?, &granted.private) {
        (Some(device), Some(_)) => {
            broker.ask_with_descriptor(Question::ServeMount { owner: private::owner() }, device.as_fd())
        }
        (None, None) => Ok(()),
        _ => Err(Error::internal("mount for the command", "no device came")),
    }
}

/// The command, for the front's process group, which is still this process's too, with the signal mask and
/// dispositions that the front had (SIGPIPE has its default) and its descriptors.
fn command(start: &Start, granted: &Granted, ignores_children: bool) -> Command {
    let mut words = start.options.command.iter();
    let mut command = Command::new(words.next().map(OsString::as_os_str).unwrap_or_default());
    command.args(words);
    for name in &granted.scrub {
        command.env_remove(name);
    }
    command.envs(start.options.variables.iter().map(|(name, value)| (name, value)));
    command.env("KIN_DIR", &granted.directory);
    match granted.writable.is_empty() {
        true => command.env_remove("KIN_WRITE_DIR"),
        false => command.env("KIN_WRITE_DIR", &granted.writable_directory),
    };
    let paths = granted.environment.iter().map(|(name, file)| (name, granted.path_of(file)));
    command.envs(paths);
    child::start_with_signals(&mut command, start.mask, ignores_children);
    command
}

/// Goes to a session, and so a process group, of its own: out of reach of the terminal's signals, and no
/// reason for the kernel to take the command's group for one that a shell looks after. (A group with a
/// member whose parent is in another group of the same session is not orphaned, and ^Z would stop it for
/// ever where there is no shell: setpgid(2), POSIX on orphaned process groups.)
fn leave_the_terminal(signals: &Signals) {
    let _ = setsid();
    // What was sent to the group was not meant for the keeper.
    while signals.next().is_some() {}
}
