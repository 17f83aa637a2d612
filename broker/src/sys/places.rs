//! Are the directories of this broker still where it found them? Whoever moves them away, or makes others in their
//! place, makes room for a second broker.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::Mode;

use crate::sys::paths::Directories;

/// Device and number of an inode.
pub type Inode = (u64, u64);

/// What has this name, whatever it is; `None` where nothing has.
pub fn inode(path: &Path) -> Option<Inode> {
    std::fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Locks a directory itself, which cannot be removed while it holds anything; `None` where its file system locks
/// files alone (NFS wants them open for writing, flock(2)).
///
/// # Errors
/// EWOULDBLOCK where somebody else holds it; those of open(2) and flock(2).
pub fn hold(directory: &Path) -> nix::Result<Option<Flock<File>>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = File::from(open(directory, flags, Mode::empty())?);
    match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EBADF | Errno::EINVAL | Errno::ENOLCK | Errno::EOPNOTSUPP)) => Ok(None),
        Err((_, errno)) => Err(errno),
    }
}

/// The socket and the directories that a broker lives in, as they were when it came up.
pub(crate) struct Places {
    own: Vec<(PathBuf, Option<Inode>)>,
    moves: Option<Inotify>,
}

impl Places {
    /// As they are now.
    pub(crate) fn of(directories: &Directories) -> Self {
        let paths = [directories.socket(), directories.runtime.clone(), directories.state.clone()];
        let own = paths.map(|path| (path.clone(), inode(&path))).into();
        Self { own, moves: watched(directories).ok() }
    }

    /// Whether each name still means the same.
    pub(crate) fn are_own(&self) -> bool {
        self.own.iter().all(|(path, own)| inode(path) == *own)
    }

    /// Waits until something was moved, and not longer than `limit`.
    pub(crate) fn wait(&self, limit: Duration) {
        let Some(moves) = &self.moves else { return std::thread::sleep(limit) };
        let mut fds = [PollFd::new(moves.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        if poll(&mut fds, limit).is_ok_and(|ready| ready > 0) {
            // What is not taken out would end the next wait at once.
            let _ = moves.read_events();
        }
    }
}

/// Tells of a move of one of the directories or of what is above it, and of a change of the names beside the socket.
/// A directory that may not be read cannot be watched (inotify_add_watch(2)): then the next look finds out.
fn watched(directories: &Directories) -> nix::Result<Inotify> {
    let moves = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let own = AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DELETE_SELF;
    for above in [&directories.runtime, &directories.state].into_iter().flat_map(|dir| dir.ancestors()) {
        let _ = moves.add_watch(above, own | AddWatchFlags::IN_ONLYDIR);
    }
    Ok(moves)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn l21_a_directory_that_was_moved_is_noticed_at_once() {
        let home = tempfile::tempdir().unwrap();
        let under = |name: &str| home.path().join("kin").join(name);
        let directories = Directories {
            config: under("config"),
            data: under("data"),
            state: under("state"),
            runtime: under("run"),
        };
        directories.create().unwrap();
        for moved in ["kin/run", "kin/state", "kin"] {
            let places = Places::of(&directories);
            places.wait(Duration::ZERO);
            assert!(places.are_own());
            let (there, away) = (home.path().join(moved), home.path().join("away"));
            std::fs::rename(&there, &away).unwrap();
            directories.create().unwrap();
            let before = Instant::now();
            places.wait(Duration::from_secs(60));
            assert!(before.elapsed() < Duration::from_secs(30) && !places.are_own(), "{moved}");
            std::fs::remove_dir_all(&there).unwrap();
            std::fs::rename(&away, &there).unwrap();
        }
    }
}
