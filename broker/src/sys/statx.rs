//! What does the kernel know of a file without asking whoever serves its file system?

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Which file it is, and since when it has the content it has. The change time is the kernel's own: no call
/// sets it (inode(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileState {
    device: (u32, u32),
    inode: u64,
    /// Its size, in bytes.
    pub size: u64,
    modified: (i64, u32),
    changed: (i64, u32),
}

/// A file as statx(2) shows it.
#[derive(Clone, Copy, Debug)]
pub struct FileFacts {
    /// Which, and since when.
    pub state: FileState,
    /// Whether it is a regular file.
    pub regular: bool,
    /// How many names it has.
    pub links: u32,
    /// When it was changed last: seconds of Unix time.
    pub changed: i64,
    /// The number of the mount that it was reached through, as in `/proc/PID/mountinfo`; `None` before
    /// Linux 5.8.
    pub mount: Option<u64>,
}

/// What is known of an open file. Does not wait for a file system that another program serves
/// (AT_STATX_DONT_SYNC).
///
/// # Errors
/// Those of statx(2); ENOSYS before Linux 4.11.
pub fn facts_of(file: BorrowedFd<'_>) -> Result<FileFacts, Errno> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    let mask = libc::STATX_BASIC_STATS | libc::STATX_MNT_ID;
    let mut raw = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is an empty C string, and the kernel writes one `struct statx` to where `raw` is.
    let result = unsafe { libc::statx(file.as_raw_fd(), c"".as_ptr(), flags, mask, raw.as_mut_ptr()) };
    Errno::result(result)?;
    // SAFETY: all zeroes is a valid `struct statx`, and the call has filled it in.
    let raw = unsafe { raw.assume_init() };
    Ok(FileFacts {
        state: FileState {
            device: (raw.stx_dev_major, raw.stx_dev_minor),
            inode: raw.stx_ino,
            size: raw.stx_size,
            modified: (raw.stx_mtime.tv_sec, raw.stx_mtime.tv_nsec),
            changed: (raw.stx_ctime.tv_sec, raw.stx_ctime.tv_nsec),
        },
        regular: u32::from(raw.stx_mode) & libc::S_IFMT == libc::S_IFREG,
        links: raw.stx_nlink,
        changed: raw.stx_ctime.tv_sec,
        mount: (raw.stx_mask & libc::STATX_MNT_ID != 0).then_some(raw.stx_mnt_id),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_change_shows_in_the_state_and_a_removal_in_the_links() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let before = facts_of(file.as_file().as_fd()).unwrap();
        assert!(before.regular && before.links == 1);
        assert_eq!(before.state, facts_of(file.as_file().as_fd()).unwrap().state);
        file.write_all(b"x").unwrap();
        assert_ne!(before.state, facts_of(file.as_file().as_fd()).unwrap().state);
        let (file, path) = file.into_parts();
        drop(path);
        assert_eq!(facts_of(file.as_fd()).unwrap().links, 0);
        let directory = std::fs::File::open("/").unwrap();
        assert!(!facts_of(directory.as_fd()).unwrap().regular);
    }
}
