//! What nix has no safe call for, of terminals: whose they are, and how large.

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

/// Rows and columns, as TIOCGWINSZ has them (ioctl_tty(2)).
pub type Size = libc::winsize;

/// Makes the terminal the controlling one of the session that this process leads.
///
/// # Errors
/// EPERM where it leads none, or the terminal is another session's.
pub fn take_control(terminal: impl AsFd) -> Result<(), Errno> {
    // SAFETY: the argument is an integer; 0 takes no terminal away from anybody.
    Errno::result(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

/// Gives the controlling terminal up. Other than the exit of a session's leader that hangs nobody up but the
/// foreground group, which gets a SIGHUP (tty_jobctrl.c of the kernel, `disassociate_ctty`).
///
/// # Errors
/// ENOTTY where it is not the controlling one.
pub fn give_up_control(terminal: impl AsFd) -> Result<(), Errno> {
    // SAFETY: the call takes no argument.
    Errno::result(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCNOTTY) }).map(drop)
}

/// How large it is.
///
/// # Errors
/// ENOTTY.
pub fn size(terminal: impl AsFd) -> Result<Size, Errno> {
    let mut size = Size { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes one `struct winsize` to where `size` is.
    Errno::result(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) })?;
    Ok(size)
}

/// Says how large it is. Its foreground group gets a SIGWINCH where that is news.
///
/// # Errors
/// ENOTTY.
pub fn resize(terminal: impl AsFd, size: &Size) -> Result<(), Errno> {
    // SAFETY: the kernel reads one `struct winsize` from where `size` is.
    let result =
        unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, std::ptr::from_ref(size)) };
    Errno::result(result).map(drop)
}
