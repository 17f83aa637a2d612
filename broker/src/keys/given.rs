//! Which identity was given to this process? By a descriptor, or as a credential of its service manager: never by
//! an argument or a variable, which others can read.

use std::os::fd::{AsFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::Plaintext;
use crate::sys::child::take_passed;
use crate::sys::error::{Class, Error, Result, describe};
use crate::sys::files;
use crate::sys::paths::check_credentials;

/// Where systemd lays credentials out (systemd.exec(5)).
const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
/// The name of the credential, where none is said.
pub const CREDENTIAL: &str = "kin.identity";
/// Bytes of an identity with its comments, at most.
const LIMIT: usize = 4096;
/// How long a descriptor may be silent: whoever gives an identity has it.
const PATIENCE: Duration = Duration::from_secs(3);

/// How an identity is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// By a descriptor that was passed to this process.
    Descriptor(RawFd),
    /// By a file of this name among the credentials.
    Credential(String),
}

impl Given {
    /// The text that was given.
    ///
    /// # Errors
    /// `bad_descriptor`, `bad_credential` (Usage); `identity_unavailable` (Locked) where nothing comes in time, or
    /// there is no such credential; `unsafe_file`, `unsafe_owner`.
    pub fn read(&self) -> Result<Plaintext> {
        match self {
            Self::Descriptor(fd) => from_descriptor(*fd),
            Self::Credential(name) => from_credential(std::env::var_os(DIRECTORY).map(PathBuf::from), name),
        }
    }
}

fn from_descriptor(fd: RawFd) -> Result<Plaintext> {
    let from = take_passed(fd).map_err(|error| {
        let message = format!("descriptor {fd} cannot be read: {}", describe(&error));
        Error::new(Class::Usage, "bad_descriptor", message).hint("pass it: `kin … --identity-fd 3 3< FILE`")
    })?;
    let (mut text, mut length) = (Plaintext::zeroed(LIMIT + 1), 0);
    let until = Instant::now() + PATIENCE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], left) {
            Ok(0) => return Err(unavailable(format!("descriptor {fd} gave no identity in time"))),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(unavailable(format!("descriptor {fd}: {}", errno.desc()))),
        }
        match nix::unistd::read(&from, &mut text.bytes_mut()[length..]) {
            Ok(0) => break,
            Ok(got) => length += got,
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => {
                return Err(unavailable(format!("descriptor {fd}: {}", errno.desc().to_lowercase())));
            }
        }
        if length > LIMIT {
            return Err(unavailable(format!("descriptor {fd} gives more than an identity")));
        }
    }
    text.truncate(length);
    Ok(text)
}

fn from_credential(directory: Option<PathBuf>, name: &str) -> Result<Plaintext> {
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        let message = "a credential's name is the name of a file, without a directory";
        return Err(Error::new(Class::Usage, "bad_credential", message).hint(format!("such as {CREDENTIAL}")));
    }
    let directory = directory
        .filter(|directory| directory.is_absolute())
        .ok_or_else(|| unavailable(format!("there are no credentials: {DIRECTORY} is not set")))?;
    let path = directory.join(name);
    if files::exists(&directory) {
        check_credentials(&directory)?;
    }
    match files::read_credential(&path, LIMIT as u64)? {
        Some(bytes) => Ok(Plaintext::copy_of(&bytes)),
        None => Err(unavailable(format!("there is no credential {}", shown(&path)))),
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn unavailable(message: String) -> Error {
    Error::new(Class::Locked, "identity_unavailable", message)
        .hint("LoadCredential= in the unit gives it, or a descriptor: `kin daemon --identity-fd N`")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::{AsRawFd, IntoRawFd};
    use std::os::unix::fs::PermissionsExt;

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    use super::*;

    /// A descriptor as another program would have passed it.
    fn passed(of: impl Into<std::os::fd::OwnedFd>) -> RawFd {
        let fd = of.into();
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        fd.into_raw_fd()
    }

    fn code(result: Result<Plaintext>) -> (Class, String) {
        result.map(|_| ()).map_err(|error| (error.class, error.code.into_owned())).unwrap_err()
    }

    #[test]
    fn what_a_descriptor_gives_is_read_to_its_end_and_closed() {
        let (reading, mut writing) = std::io::pipe().unwrap();
        writing.write_all(b"AGE-SECRET-KEY-1X").unwrap();
        drop(writing);
        let fd = passed(reading);
        assert_eq!(Given::Descriptor(fd).read().unwrap().bytes(), b"AGE-SECRET-KEY-1X");
    }

    #[test]
    fn z09_a_descriptor_that_is_silent_closed_or_endless_is_refused_in_time() {
        let started = Instant::now();
        let (reading, _writing) = std::io::pipe().unwrap();
        let silent = Given::Descriptor(passed(reading)).read();
        assert_eq!(code(silent), (Class::Locked, "identity_unavailable".into()));
        let endless = Given::Descriptor(passed(std::fs::File::open("/dev/zero").unwrap())).read();
        assert_eq!(code(endless), (Class::Locked, "identity_unavailable".into()));
        assert_eq!(code(Given::Descriptor(-1).read()), (Class::Usage, "bad_descriptor".into()));
        // One of our own, which nobody passed.
        let ours = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(code(Given::Descriptor(ours.as_raw_fd()).read()), (Class::Usage, "bad_descriptor".into()));
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_credential_is_a_safe_file_of_a_safe_directory() {
        let dir = tempfile::TempDir::new().unwrap();
        let (at, name) = (|| Some(dir.path().to_owned()), CREDENTIAL);
        let mode =
            |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        assert_eq!(code(from_credential(at(), name)), (Class::Locked, "identity_unavailable".into()));
        let path = dir.path().join(name);
        std::fs::write(&path, "AGE-SECRET-KEY-1X\n").unwrap();
        for allowed in [0o400, 0o440, 0o600] {
            mode(&path, allowed);
            assert_eq!(from_credential(at(), name).unwrap().bytes(), b"AGE-SECRET-KEY-1X\n");
        }
        for open in [0o444, 0o460, 0o402] {
            mode(&path, open);
            let (class, code) = code(from_credential(at(), name));
            assert!(class == Class::Unsafe && code.starts_with("unsafe_"), "{open:o} {code}");
        }
        mode(&path, 0o400);
        mode(dir.path(), 0o777);
        assert_eq!(code(from_credential(at(), name)), (Class::Unsafe, "unsafe_dir".into()));
        mode(dir.path(), 0o700);
        std::fs::rename(&path, dir.path().join("other")).unwrap();
        std::os::unix::fs::symlink("other", &path).unwrap();
        assert_eq!(code(from_credential(at(), name)), (Class::Unsafe, "unsafe_file".into()));
        for bad in ["", ".", "..", "../other", "/etc/passwd"] {
            assert_eq!(code(from_credential(at(), bad)), (Class::Usage, "bad_credential".into()));
        }
        for nowhere in [None, Some(PathBuf::from("relative"))] {
            assert_eq!(code(from_credential(nowhere, name)), (Class::Locked, "identity_unavailable".into()));
        }
    }
}
