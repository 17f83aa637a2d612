//! How does a keeper come to its grant, and its command to its start? One step after the other, each of which may
//! call it off.

use std::ffi::{CString, OsString};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use kin_broker::control::Client;
use kin_broker::control::protocol::{GrantRequest, Granted, KEEPER_COMM, PrivateRequest, Question};
use kin_broker::grants::placeholders::Placeholder;
use kin_broker::sys::child;
use kin_broker::sys::standard::pipe_was_ignored;
use kin_broker::{Class, Error, Result};
use kin_policy::Ending;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::setsid;

use super::broker::Broker;
use super::link::{Order, Report, wait_readable};
use super::output::{Keepers, Slave};
use super::private::Namespaces;
use super::rotation::{OnRotate, Rotation};
use super::signals::Signals;
use super::spawn::{Failed, Waiting};
use super::{Start, complain, gains, private, spawn, status, values};

/// How long the broker may take to make a grant; its own deadlines are shorter.
pub(super) const GRANT_DEADLINE: Duration = Duration::from_secs(30);

/// Why there is no command to keep.
pub(super) enum NoKeeper {
    /// The front said so, or is gone.
    CalledOff,
    /// There is no grant.
    Refused(Error),
    /// There is a grant, and the command could not be started: an exit code and a line.
    NotStarted(i32, String),
}

impl NoKeeper {
    /// How a grant ended whose command never ran.
    fn ending(&self) -> Ending {
        match self {
            Self::CalledOff => Ending::CalledOff,
            Self::Refused(_) | Self::NotStarted(..) => Ending::NotStarted,
        }
    }
}

impl From<Error> for NoKeeper {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// A command that runs, and what it takes to keep it.
pub(super) struct Begun<'a> {
    pub(super) broker: Broker<'a>,
    pub(super) signals: Signals,
    pub(super) command: u32,
    pub(super) slave: Option<Slave>,
    pub(super) next: Option<Waiting>,
    pub(super) rotation: Option<Rotation>,
    pub(super) placeholders: Vec<Placeholder>,
}

/// From the question for a grant to a command that runs.
pub(super) fn begin<'a>(
    start: &'a Start<'a>,
    link: &UnixStream,
    output: Option<Keepers>,
) -> Result<Begun<'a>, NoKeeper> {
    let (signals, ignores_children) = become_keeper()?;
    let (mut client, mut granted) = ask_for_grant(start, link)?;
    give_way(&mut granted, start);
    if granted.warn_of_values && !granted.values.is_empty() {
        complain(&values::warning(&granted));
    }
    if granted.pinned {
        gains::warning(start.options).iter().for_each(|line| complain(line));
    }
    let broker = Broker::behind(&client, start.directories)?;
    let finish = |why: &NoKeeper| broker.finish(why.ending());
    let output = output.map(|output| redirect(output, &mut client, &granted)).transpose();
    let output = output.map_err(NoKeeper::Refused).inspect_err(finish)?;
    let how = (ignores_children, output);
    let started = start_command(start, link, client, &granted, how).inspect_err(finish)?;
    let Started { command, slave, next, rotation } = started;
    let placeholders = granted.private.map(|private| private.placeholders).unwrap_or_default();
    Ok(Begun { broker, signals, command, slave, next, rotation, placeholders })
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
        (true, true) => {
            if broker.answer::<Granted>().is_ok() {
                Broker::behind(&broker, start.directories)?.finish(Ending::CalledOff);
            }
            Err(NoKeeper::CalledOff)
        }
        // Where the broker makes the grant after all, it sees that nobody keeps it.
        (true, false) => Err(NoKeeper::CalledOff),
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
        redact: start.redact,
        private: options.private.then(|| PrivateRequest { home: private::home() }),
    }
}

/// A command that runs, and what it takes to start it again or to signal it.
struct Started {
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
) -> Result<Started, NoKeeper> {
    let mut next = command(start, granted, ignores_children);
    let mut command = command(start, granted, ignores_children);
    let slave =
        output.map(|output| redirected(start, output, &mut command, &mut next)).transpose()?.flatten();
    let keepers = [link.as_raw_fd(), broker.stream().as_raw_fd()];
    let waiting = spawn::fork(command, &keepers, start.directories, granted);
    let waiting = waiting.map_err(|error| no_command(start, error.into()))?;
    wait_readable([Some(waiting.gate()), Some(link)], Some(GRANT_DEADLINE));
    make_ready(&mut broker, &waiting, granted)?;
    let next = match start.options.on_rotate {
        Some(OnRotate::Restart) => Some(stay_behind(start, next, keepers, &waiting, granted)?),
        _ => None,
    };
    adopt(slave.as_ref(), &waiting)?;
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
    Ok(Started { command, slave, next, rotation })
}

/// Gives both of them the streams, where there is to be a next one; what is left is the terminal.
fn redirected(
    start: &Start,
    output: Keepers,
    command: &mut Command,
    next: &mut Command,
) -> Result<Option<Slave>> {
    if start.options.on_rotate == Some(OnRotate::Restart) {
        output.lend_to(next).map_err(|error| Error::internal("lend the next command its streams", error))?;
    }
    Ok(output.give_to(command))
}

/// Puts the command onto its terminal, where it has one of its own.
pub(super) fn adopt(slave: Option<&Slave>, waiting: &Waiting) -> Result<()> {
    let adopted = slave.map_or(Ok(()), |slave| slave.adopt(waiting.pid()));
    adopted.map_err(|errno| Error::internal("give the command its terminal", errno.desc()))
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

pub(super) fn no_command(start: &Start, failed: Failed) -> NoKeeper {
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
    granted.unmasked.iter().for_each(|what| complain(&status::not_masked(what)));
    broker.ask_with_descriptor::<()>(Question::ServeOutput, output.redactors())?;
    output.lead().map_err(|errno| Error::internal("lead the command's terminal", errno.desc()))?;
    Ok(output)
}

/// Has the broker mount where the command waits, where its grant has a mount of its own.
fn make_ready(broker: &mut Client, waiting: &Waiting, granted: &Granted) -> Result<()> {
    waiting.ready()?;
    match granted.private {
        Some(_) => broker.ask(Question::ServeMount { pid: waiting.pid(), owner: private::owner() }),
        None => Ok(()),
    }
}

/// The command, for the front's process group, which is still this process's too, with the signal mask and
/// dispositions that the front was started with, and its descriptors.
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
    let ignored = [(libc::SIGCHLD, ignores_children), (libc::SIGPIPE, pipe_was_ignored())];
    let ignored = ignored.into_iter().filter_map(|(signal, is)| is.then_some(signal)).collect();
    child::start_with_signals(&mut command, start.mask, ignored);
    command
}

/// Goes to a session, and so a process group, of its own: out of reach of the terminal's signals, and no
/// reason for the kernel to take the command's group for one that a shell looks after. (A group with a
/// member whose parent is in another group of the same session is not orphaned, and ^Z would stop it for
/// ever where there is no shell: setpgid(2), POSIX on orphaned process groups.)
pub(super) fn leave_the_terminal(signals: &Signals) {
    let _ = setsid();
    // What was sent to the group was not meant for the keeper.
    while signals.next().is_some() {}
}
