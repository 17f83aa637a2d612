//! What has become of standard output: closed before the start, or a pipe that nobody reads. What Rust's own start
//! changes is looked at before it.

use std::sync::atomic::{AtomicBool, Ordering};

use super::child::is_ignored;
use nix::sys::signal::{SigHandler, SigSet, Signal, raise, signal};

static STDOUT_CLOSED: AtomicBool = AtomicBool::new(false);
static PIPE_IGNORED: AtomicBool = AtomicBool::new(false);

extern "C" fn look_around() {
    PIPE_IGNORED.store(is_ignored(libc::SIGPIPE), Ordering::Relaxed);
    // SAFETY: fcntl(F_GETFD) reads one flag of a descriptor number and touches no memory.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    STDOUT_CLOSED.store(flags < 0, Ordering::Relaxed);
}

// SAFETY: the section holds pointers to functions of the C calling convention that the loader calls once,
// before `main` (System V ABI, "Initialization and Termination Functions"); this one needs nothing of Rust's.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK_AROUND: extern "C" fn() = look_around;

/// Whether this process was started with SIGPIPE ignored. Rust's own start ignores it in every program, and its
/// exec gives every other program the default again, whatever it was.
pub fn pipe_was_ignored() -> bool {
    PIPE_IGNORED.load(Ordering::Relaxed)
}

/// Whether this process was started without a standard output. Rust's own start puts `/dev/null` in its
/// place, after which nothing can tell it from a wanted one: what is printed would be lost unseen.
pub fn stdout_was_closed() -> bool {
    STDOUT_CLOSED.load(Ordering::Relaxed)
}

/// Ends this process by SIGPIPE, as a program dies that writes where nobody reads (signal(7)). Until then
/// the signal stays ignored, so that a socket whose peer went away is an error and not an end.
pub fn die_by_sigpipe() -> ! {
    // SAFETY: the default disposition runs no code of ours.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    let mut pipe = SigSet::empty();
    pipe.add(Signal::SIGPIPE);
    let _ = pipe.thread_unblock();
    let _ = raise(Signal::SIGPIPE);
    std::process::exit(128 + Signal::SIGPIPE as i32)
}
