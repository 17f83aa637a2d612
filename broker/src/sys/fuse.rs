//! One more descriptor of a FUSE connection.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

nix::ioctl_read!(
    /// FUSE_DEV_IOC_CLONE: ioctl(2).
    fuse_dev_ioc_clone,
    229,
    0,
    u32
);

/// `FUSE_DEV_IOC_CLONE` of linux/fuse.h (Linux 4.2): a device of its own for the connection of `device`. What
/// was read through one of them and has no answer ends with that one (`fuse_dev_release`, fs/fuse/dev.c).
///
/// # Errors
/// Those of open(2) on /dev/fuse; EINVAL where `device` is no mounted FUSE device.
pub fn clone_device(device: BorrowedFd<'_>) -> Result<File, Errno> {
    let clone = File::options().read(true).write(true).open("/dev/fuse");
    let clone = clone.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    let mut from = device.as_raw_fd().cast_unsigned();
    // SAFETY: the kernel reads one u32, which lives through the call.
    unsafe { fuse_dev_ioc_clone(clone.as_raw_fd(), &raw mut from) }?;
    Ok(clone)
}
