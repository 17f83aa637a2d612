//! What the kernel does to a process that goes over a limit.

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, signal};

/// Makes a write beyond `RLIMIT_FSIZE` fail with EFBIG instead of killing the process (setrlimit(2)).
///
/// # Errors
/// None that signal(2) documents for this signal.
pub fn ignore_file_size_signal() -> Result<(), Errno> {
    // SAFETY: ignoring a signal installs no handler that could run.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.map(drop)
}
