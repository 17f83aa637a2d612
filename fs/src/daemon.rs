//! How does the broker start, run and stop? One per user, never below a keeper, down within three
//! seconds of being told.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, RawFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kin_broker::keys::given::Given;
use kin_broker::process::Choice;
use kin_broker::sys::inherited;
use kin_broker::sys::paths::Directories;
use kin_broker::sys::places::{self, Inode, inode};
use kin_broker::{Broker, Class, Error, Result, control, sys};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{ForkResult, Pid};

use crate::ancestry;
use crate::mount::deadlines::Deadlines;
use crate::mount::filesystem::Surface;
use crate::mount::private::PrivateMounts;
use crate::mount::session::{self, Mount};
use crate::mount::watches::Watches;
use crate::mount::writable::WritableMount;

/// How long a broker that starts in the background may take until it answers.
const START: Duration = Duration::from_secs(10);

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct DaemonOptions {
    /// In the foreground, for a service supervisor.
    pub foreground: bool,
    /// Also where the user's mount cannot be made: private mounts want no fusermount3.
    pub private_only: bool,
    /// The identity that opens the vault, where it is given to the broker itself.
    pub identity: Option<Given>,
}

/// Runs the broker; in the background, returns once it answers.
///
/// # Errors
/// `already_running` where another broker holds the lock; `no_broker_in_tree` below a keeper;
/// `fuse_unavailable`; what the directories or the record refuse.
pub fn run(directories: &Directories, options: DaemonOptions) -> Result<()> {
    // A broker below a keeper would be its descendant, and keep that tree alive for ever.
    ancestry::refuse_below_a_keeper()?;
    if options.foreground {
        return serve(directories, &options, || Ok(()));
    }
    let (ours, theirs) = UnixStream::pair().map_err(|error| Error::internal("make a pipe", error))?;
    match sys::process::fork_single_threaded().map_err(|error| Error::internal("fork", error))? {
        ForkResult::Parent { child } => {
            drop(theirs);
            let outcome = hear(ours);
            let _ = nix::sys::wait::waitpid(child, None);
            outcome
        }
        ForkResult::Child => {
            drop(ours);
            detach(directories, options, theirs)
        }
    }
}

/// The first child: a session of its own, then a second fork, so that no terminal can come back to it
/// and init (or the user's service manager) is its parent.
fn detach(directories: &Directories, options: DaemonOptions, mut teller: UnixStream) -> ! {
    let _ = nix::unistd::setsid();
    match sys::process::fork_single_threaded() {
        Ok(ForkResult::Parent { .. }) => std::process::exit(0),
        Ok(ForkResult::Child) => {}
        Err(error) => {
            tell(&mut teller, &Err(Error::internal("fork", error)));
            std::process::exit(1);
        }
    }
    let mut teller = Some(teller);
    let outcome = leave(directories, options).and_then(|options| {
        serve(directories, &options, || {
            // Gone then: nothing of the caller's stays.
            teller.take().iter_mut().for_each(|teller| tell(teller, &Ok(())));
            Ok(())
        })
    });
    let code = outcome.as_ref().err().map_or(0, Error::exit_code);
    teller.iter_mut().for_each(|teller| tell(teller, &outcome));
    std::process::exit(code.into());
}

/// Lets go of everything that was the caller's, before there is a thread: one with descriptors of its own would keep
/// them, and whoever reads the caller's output to its end would wait for this process.
fn leave(directories: &Directories, mut options: DaemonOptions) -> Result<DaemonOptions> {
    let mut kept = None;
    if let Some(Given::Descriptor(fd)) = &mut options.identity {
        *fd = above_the_standard_ones(*fd)?;
        kept = Some(*fd);
    }
    inherited::close_passed(kept).map_err(|error| Error::internal("close what was inherited", error))?;
    inherited::reset_signals();
    inherited::shed_limits();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    nix::unistd::chdir("/").map_err(|error| Error::internal("leave the directory", error))?;
    directories.create()?;
    redirect(directories)?;
    Ok(options)
}

/// A descriptor that gives the identity, or its copy where it is one of the three that are about to be redirected.
fn above_the_standard_ones(fd: RawFd) -> Result<RawFd> {
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let standard = [input.as_fd(), output.as_fd(), error.as_fd()];
    let Some(from) = usize::try_from(fd).ok().and_then(|fd| standard.get(fd)) else { return Ok(fd) };
    fcntl(from, FcntlArg::F_DUPFD(libc::STDERR_FILENO + 1))
        .map_err(|error| Error::internal("copy a descriptor", error))
}

/// Nothing to read, and the broker's own log for what it says.
fn redirect(directories: &Directories) -> Result<()> {
    let fault = |error: std::io::Error| Error::storage("open the broker's own log", &error);
    let null = File::options().read(true).write(true).open("/dev/null").map_err(fault)?;
    let log = directories.state.join("broker.log");
    let mut open = File::options();
    let log =
        open.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(log).map_err(fault)?;
    let redirect =
        |result: nix::Result<()>| result.map_err(|error| Error::internal("redirect a stream", error));
    redirect(nix::unistd::dup2_stdin(&null))?;
    redirect(nix::unistd::dup2_stdout(&log))?;
    redirect(nix::unistd::dup2_stderr(&log))
}

fn tell(teller: &mut UnixStream, outcome: &Result<()>) {
    if let Ok(line) = serde_json::to_vec(outcome) {
        let _ = teller.write_all(&line);
    }
    let _ = teller.shutdown(std::net::Shutdown::Write);
}

/// Waits for the broker in the background to say that it answers, or why it will not.
fn hear(mut from: UnixStream) -> Result<()> {
    let mut said = Vec::new();
    let _ = from.set_read_timeout(Some(START));
    let _ = from.read_to_end(&mut said);
    serde_json::from_slice(&said).unwrap_or_else(|_| {
        Err(Error::new(Class::Timeout, "broker_start", "the broker did not come up").hint("see `kin doctor`"))
    })
}

/// Comes up, serves until told to stop, goes down.
fn serve(
    directories: &Directories,
    options: &DaemonOptions,
    ready: impl FnOnce() -> Result<()>,
) -> Result<()> {
    sys::process::harden().map_err(|error| Error::internal("harden the process", error))?;
    // A touched page takes 4 KiB, also on a machine that makes large pages of every mapping (transhuge.rst): the stacks and
    // buffers of a session are large and hardly used.
    sys::process::make_large_pages(false);
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    sys::allocator::keep_little();
    // Before there is a lock, a value or a thread that it could take along.
    let zygote = Broker::start_zygote()?;
    directories.create()?;
    let locks = only_one(directories)?;
    show_holder(&locks.0)?;
    raise_descriptor_limit();
    let stop = block_stop_signals()?;
    for point in [directories.mountpoint(), directories.writable_mountpoint()] {
        session::clear(&point);
        session::clear_aside(&point);
    }
    let broker = Broker::new(directories.clone(), identity_choice()?)?;
    broker.fork_by(zygote);
    // Here, and not before the forks: they leave no value behind.
    if let Some(given) = &options.identity {
        let opened = given.read().and_then(|identity| broker.unlock_with(&identity));
        opened.inspect_err(|_| broker.shut("no identity"))?;
    }
    // It did not stop by a fault that nobody heard of: the record says that this start failed.
    let up = come_up(options, &broker).inspect_err(|_| broker.shut(START_FAILED))?;
    if let Err(error) = ready() {
        broker.shut(START_FAILED);
        up.go_down(&broker);
        return Err(error);
    }
    let told = stop.wait().map_or("unknown", |signal| signal.as_str());
    up.hang_up(&broker);
    broker.shut(told);
    up.go_down(&broker);
    // Not left to the exit: threads end one by one then, and who waits for this process sees the first.
    drop(locks);
    std::process::exit(0)
}

/// Why a broker stopped that never answered.
const START_FAILED: &str = "start failed";

/// What stands while the broker answers.
struct Up {
    socket: Option<Inode>,
    mount: Option<Mount>,
    writable: WritableMount,
}

impl Up {
    /// Nobody finds the socket any more. Another broker's, at the same name, stays.
    fn hang_up(&self, broker: &Broker) {
        let socket = broker.directories.socket();
        if inode(&socket) == self.socket {
            let _ = std::fs::remove_file(socket);
        }
    }

    /// The mounts go. Where the directory is another by now, what is mounted in it is not ours.
    fn go_down(&self, broker: &Broker) {
        self.hang_up(broker);
        if broker.is_in_place() {
            self.writable.take_down();
            self.mount.iter().for_each(Mount::take_down);
        }
    }
}

/// Everything that a broker needs beside itself, the socket last. What fails leaves nothing mounted.
fn come_up(options: &DaemonOptions, broker: &Arc<Broker>) -> Result<Up> {
    let deadlines = Deadlines::start().map_err(|error| Error::internal("start the watchdog", error))?;
    let watches = Watches::start()?;
    let mount = match Mount::put_up(broker, &deadlines, &watches, Surface::Read) {
        Err(error) if options.private_only && session::wants_only_fusermount(&error) => {
            broker.has_no_mount(error);
            None
        }
        mount => Some(mount?),
    };
    let answering = answer(broker, deadlines, watches);
    let (socket, writable) = answering.inspect_err(|_| mount.iter().for_each(Mount::take_down))?;
    Ok(Up { socket, mount, writable })
}

/// Starts to answer: which socket it is, and the mount that can be written.
fn answer(
    broker: &Arc<Broker>,
    deadlines: Arc<Deadlines>,
    watches: Watches,
) -> Result<(Option<Inode>, WritableMount)> {
    let (writable, server) = WritableMount::new(broker.clone(), deadlines.clone(), watches.clone())?;
    broker.show_writable_by(Box::new(server));
    broker.serve_private_mounts_by(Box::new(PrivateMounts::new(broker.clone(), deadlines, watches.clone())));
    broker.show_versions_by(Box::new(watches));
    let socket = broker.directories.socket();
    let listener = listen(&socket)?;
    spawn("warden", broker, |broker| broker.stand_watch())?;
    spawn("recorder", broker, |broker| {
        broker.keep_record();
        let _ = kill(Pid::this(), Signal::SIGTERM);
    })?;
    spawn("rotation", broker, |broker| broker.tell_of_versions())?;
    spawn("control", broker, move |broker| control::serve(broker, listener))?;
    Ok((inode(&socket), writable))
}

fn spawn(name: &str, broker: &Arc<Broker>, work: impl FnOnce(&Arc<Broker>) + Send + 'static) -> Result<()> {
    let broker = broker.clone();
    let spawned = std::thread::Builder::new().name(name.into()).spawn(move || work(&broker));
    spawned.map(drop).map_err(|error| Error::internal("start a thread", error))
}

/// The locks are held for the broker's life; the kernel drops them however that ends. The directory's own holds where
/// somebody takes the file away.
fn only_one(directories: &Directories) -> Result<(Flock<File>, Option<Flock<File>>)> {
    let refuse = |errno: Errno| match errno {
        Errno::EWOULDBLOCK => {
            Error::new(Class::Unreachable, "already_running", "a broker is already running")
                .hint("`kin status` shows it")
        }
        errno => Error::storage("lock the broker's lock", &errno.into()),
    };
    let mut open = File::options();
    open.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let file = open.open(directories.lock_file());
    let file = file.map_err(|error| Error::storage("open the broker's lock", &error))?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| refuse(errno))?;
    Ok((lock, places::hold(&directories.runtime).map_err(refuse)?))
}

/// Clients see by a record lock on the same file who holds it. This process must close no other descriptor of it.
fn show_holder(lock: &File) -> Result<()> {
    sys::lock::hold(lock).map_err(|errno| {
        let holder = sys::lock::holder(std::os::fd::AsFd::as_fd(lock)).ok().flatten();
        let who = holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
        let message = format!("{who} holds the broker's lock and is no broker: {}", errno.desc());
        Error::new(Class::Unreachable, "broker_untrusted", message).hint("end it, then try again")
    })
}

fn listen(path: &Path) -> Result<UnixListener> {
    let storage = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::InvalidInput => {
            let message = format!("{} is too long for a socket", path.display());
            Error::new(Class::Unsafe, "unsafe_dir", message)
                .hint("set XDG_RUNTIME_DIR or KIN_HOME to a shorter path")
        }
        _ => Error::storage("make the socket", &error),
    };
    let _ = std::fs::remove_file(path);
    let listener = sys::socket::listen(path).map_err(storage)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(storage)?;
    Ok(listener)
}

/// Blocks, in this thread and all that it will start, what asks the broker to stop.
fn block_stop_signals() -> Result<SigSet> {
    let mut stop = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().for_each(|signal| stop.add(signal));
    let fault = |error| Error::internal("set up signals", error);
    // A service manager may have left it ignored, and then no status of a child comes (waitpid(2)).
    sys::child::set_default(libc::SIGCHLD);
    stop.thread_block().map_err(fault)?;
    sys::process::ignore(Signal::SIGPIPE).map_err(fault)?;
    Ok(stop)
}

/// Held identities and open grants cost descriptors: up to the hard limit is ours to take.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard);
    }
}

/// `KIN_IDENTITY=procfs` forces what kernels before 6.13 have, `pidfd` what newer ones do.
fn identity_choice() -> Result<Choice> {
    match std::env::var("KIN_IDENTITY").as_deref() {
        Err(_) | Ok("" | "auto") => Ok(Choice::Auto),
        Ok("pidfd") => Ok(Choice::Pidfd),
        Ok("procfs") => Ok(Choice::Procfs),
        Ok(_) => Err(Error::new(Class::Usage, "bad_identity", "KIN_IDENTITY is none of auto, pidfd, procfs")),
    }
}
