//! Mounts by descriptor: a file's own mount, put over another file that is held open.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

/// `OPEN_TREE_CLONE` of linux/mount.h.
const OPEN_TREE_CLONE: libc::c_uint = 1;
/// `MOVE_MOUNT_F_EMPTY_PATH` and `MOVE_MOUNT_T_EMPTY_PATH` of linux/mount.h.
const MOVE_MOUNT_BY_DESCRIPTORS: libc::c_uint = 0x04 | 0x40;

/// A mount of the file, directory or symbolic link at `path` alone, that is nowhere yet (open_tree(2), Linux 5.2). It
/// is close-on-exec.
///
/// # Errors
/// Those of open_tree(2): EPERM without CAP_SYS_ADMIN in the mount namespace's user namespace.
pub fn clone_of(path: &Path) -> Result<OwnedFd, Errno> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    let flags = OPEN_TREE_CLONE | (libc::O_CLOEXEC | libc::AT_SYMLINK_NOFOLLOW).unsigned_abs();
    // SAFETY: the kernel reads a string that ends in NUL and outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    let fd = Errno::result(fd)?;
    // SAFETY: the call succeeded, so the result is a new descriptor (an int) that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Puts a mount of [`clone_of`] over what `target` refers to (move_mount(2), Linux 5.2).
///
/// # Errors
/// Those of move_mount(2): ENOTDIR or EINVAL where one is a directory and the other is none.
pub fn put_over(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: both paths are the empty string, and the kernel reads no more than that.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_BY_DESCRIPTORS,
        )
    };
    Errno::result(result).map(drop)
}
