//! What a symbolic link says, read into room that is there already: on the way of every open, where an
//! allocation of PATH_MAX bytes would also have to be wiped.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

/// The longest that a link can say, with room to see that it is not longer (PATH_MAX, limits.h).
pub const ROOM: usize = libc::PATH_MAX as usize + 1;

/// What the link `name` below `directory` says, or an `O_PATH` descriptor of the link itself where `name` is empty
/// (readlinkat(2)).
///
/// # Errors
/// Those of readlinkat(2); ENAMETOOLONG where it fills `room`, as it may say more then.
pub fn read<'r>(directory: &impl AsFd, name: &CStr, room: &'r mut [u8]) -> Result<&'r [u8], Errno> {
    let directory = directory.as_fd().as_raw_fd();
    // SAFETY: `name` ends with a zero byte, and the kernel writes at most `room.len()` bytes into `room`.
    let count = unsafe {
        libc::readlinkat(directory, name.as_ptr(), room.as_mut_ptr().cast::<libc::c_char>(), room.len())
    };
    match usize::try_from(Errno::result(count)?) {
        Ok(count) if count < room.len() => Ok(&room[..count]),
        _ => Err(Errno::ENAMETOOLONG),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;

    use nix::fcntl::{OFlag, open};
    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn a_link_is_read_by_name_and_by_a_descriptor_of_it() {
        let place = tempfile::TempDir::new().unwrap();
        symlink("somewhere/else", place.path().join("link")).unwrap();
        let directory = File::open(place.path()).unwrap();
        let mut room = [0; ROOM];
        assert_eq!(read(&directory, c"link", &mut room), Ok(&b"somewhere/else"[..]));
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let link = open(&place.path().join("link"), flags, Mode::empty()).unwrap();
        assert_eq!(read(&link, c"", &mut room), Ok(&b"somewhere/else"[..]));
        assert_eq!(read(&directory, c"nothing", &mut room), Err(Errno::ENOENT));
    }

    #[test]
    fn what_may_have_been_cut_is_no_answer() {
        let place = tempfile::TempDir::new().unwrap();
        symlink("12345678", place.path().join("link")).unwrap();
        let directory = File::open(place.path()).unwrap();
        assert_eq!(read(&directory, c"link", &mut [0; 9]), Ok(&b"12345678"[..]));
        for short in [8, 4, 1] {
            assert_eq!(read(&directory, c"link", &mut vec![0; short]), Err(Errno::ENAMETOOLONG));
        }
    }
}
