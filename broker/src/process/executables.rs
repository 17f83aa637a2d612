//! What does a reader run? The content of its executable file, hashed once for as long as it stays what it is.
//!
//! A running executable cannot be written to (ETXTBSY, execve(2)), and whatever changed before it ran shows in
//! its change time, which no call sets. So a digest holds for a file as long as [`FileState`] is the same.
//! Where another program answers for the file system it does not: FUSE may give other bytes to whoever hashes.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use kin_policy::{Exe, ExeDigest};
use lru::LruCache;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::process::Known;
use crate::sys::clock;
use crate::sys::mounts;
use crate::sys::proc;
use crate::sys::statx::{FileState, facts_of};

/// How long a digest may take: a file system may hang, and a reader waits.
const DEADLINE: Duration = Duration::from_secs(2);
/// Files that are hashed at once.
const AT_ONCE: usize = 8;
/// Digests that are remembered.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// Seconds for which a file has to have been left alone: within one tick of the clock a change time does not
/// tell a later change from an earlier one.
const SETTLED: i64 = 2;

type Then = Box<dyn FnOnce(Exe) + Send>;

/// What was hashed, and what is being hashed.
pub(crate) struct Executables {
    known: Mutex<LruCache<FileState, ExeDigest>>,
    under_way: Mutex<HashMap<FileState, Vec<Then>>>,
}

/// What is known of a reader's executable without waiting for anything.
pub(crate) enum Looked {
    /// All that there is to know.
    Done(Exe),
    /// It has to be hashed first: see [`Executables::hash`].
    Unhashed(Unhashed),
}

/// An executable whose digest is not known yet.
#[derive(Debug)]
pub struct Unhashed {
    reader: Arc<Known>,
    file: OwnedFd,
    state: FileState,
    mount: Option<u64>,
}

impl Default for Executables {
    fn default() -> Self {
        let known = Mutex::new(LruCache::new(CAPACITY));
        Self { known, under_way: Mutex::default() }
    }
}

impl Executables {
    /// What the reader runs at this moment. About 8 µs; does not block.
    pub(crate) fn look(&self, reader: &Arc<Known>) -> Looked {
        let Some(file) = reader.executable() else { return Looked::Done(Exe::Unreadable) };
        let Ok(facts) = facts_of(file.as_fd()) else { return Looked::Done(Exe::Unreadable) };
        let deleted = || reader.program().exe.is_none_or(|path| path.as_os_str().as_bytes().ends_with(GONE));
        if !facts.regular || facts.links == 0 || deleted() {
            return Looked::Done(Exe::Unpinnable);
        }
        if let Some(digest) = self.known.lock().get(&facts.state) {
            return Looked::Done(Exe::File(*digest));
        }
        let reader = Arc::clone(reader);
        Looked::Unhashed(Unhashed { reader, file, state: facts.state, mount: facts.mount })
    }

    /// Hashes it on a thread of its own, and calls `then` once, within 2 s: with the digest, or with what
    /// stood in its way.
    pub(crate) fn hash(self: &Arc<Self>, unhashed: Unhashed, then: impl FnOnce(Exe) + Send + 'static) {
        let state = unhashed.state;
        let then: Then = Box::new(then);
        let mut under_way = self.under_way.lock();
        if let Some(waiting) = under_way.get_mut(&state) {
            waiting.push(then);
            return;
        }
        under_way.insert(state, vec![then]);
        drop(under_way);
        let own = Arc::clone(self);
        let work = move || {
            let hasher = Arc::clone(&own);
            let exe = in_time(move || hasher.digest(&unhashed)).unwrap_or(Exe::Unpinnable);
            own.tell(&state, exe);
        };
        if std::thread::Builder::new().name("pins".into()).spawn(work).is_err() {
            self.tell(&state, Exe::Unpinnable);
        }
    }

    fn tell(&self, state: &FileState, exe: Exe) {
        let waiting = self.under_way.lock().remove(state);
        waiting.into_iter().flatten().for_each(|then| then(exe));
    }

    fn digest(&self, unhashed: &Unhashed) -> Exe {
        if served_by_a_program(unhashed) {
            return Exe::Unpinnable;
        }
        let Ok(file) = reopened(&unhashed.file) else { return Exe::Unreadable };
        let Some(digest) = hashed(&file) else { return Exe::Unpinnable };
        match facts_of(file.as_fd()) {
            Ok(after) if after.state == unhashed.state => {
                if clock::unix_seconds() - after.changed > SETTLED {
                    self.known.lock().push(after.state, digest);
                }
                Exe::File(digest)
            }
            _ => Exe::Unpinnable,
        }
    }
}

/// Does it on another thread; `None` where it takes too long, or too many do already.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);
    let done = || UNDER_WAY.fetch_sub(1, Ordering::AcqRel);
    if UNDER_WAY.fetch_add(1, Ordering::AcqRel) >= AT_ONCE {
        done();
        return None;
    }
    let (sender, receiver) = mpsc::channel();
    let counted = move || {
        let _ = sender.send(work());
        done();
    };
    if std::thread::Builder::new().name("hasher".into()).spawn(counted).is_err() {
        done();
        return None;
    }
    receiver.recv_timeout(DEADLINE).ok()
}

/// The regular file at a path, with its links resolved, and its digest; `None` where there is none that can be
/// read in time. For people who write or agree to a pin, never for a decision.
pub(crate) fn at(path: &Path) -> Option<(PathBuf, ExeDigest)> {
    let path = path.to_owned();
    in_time(move || {
        let resolved = std::fs::canonicalize(path).ok()?;
        let place = File::options().read(true).custom_flags(libc::O_PATH).open(&resolved).ok()?;
        let place = OwnedFd::from(place);
        let regular = facts_of(place.as_fd()).is_ok_and(|facts| facts.regular);
        let digest = hashed(&reopened(&place).ok().filter(|_| regular)?)?;
        Some((resolved, digest))
    })?
}

/// How the kernel ends the path of a file whose name is gone (proc_pid_exe(5)).
const GONE: &[u8] = b" (deleted)";

fn reopened(file: &OwnedFd) -> std::io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    Ok(proc::own().map_err(Errno::from)?.reopened(file, flags)?.into())
}

fn hashed(mut file: &File) -> Option<ExeDigest> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 1 << 17];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Some(ExeDigest::from_bytes(hash.finalize().into())),
            Ok(got) => hash.update(&chunk[..got]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// Whether another program answers for the file system that the file is on, or nobody knows which one that
/// is. Without numbers of mounts (before Linux 5.8) the file system itself is asked.
fn served_by_a_program(unhashed: &Unhashed) -> bool {
    let Some(mount) = unhashed.mount else {
        let kind = nix::sys::statfs::fstatfs(&unhashed.file).map(|fs| fs.filesystem_type());
        return kind.is_ok_and(|kind| kind == nix::sys::statfs::FUSE_SUPER_MAGIC);
    };
    let kind = mounts::kind_of(mount, &mounts::table())
        .or_else(|| mounts::kind_of(mount, &unhashed.reader.mounts()?));
    kind.is_none_or(|kind| kind == "fuse" || kind == "fuseblk" || kind.starts_with("fuse."))
}

/// Whether the program runs whatever it is given, so that a pin of it is a pin of nothing: interpreters,
/// loaders, and programs that start others.
pub(crate) fn runs_anything(path: &Path) -> bool {
    const NAMES: [&str; 27] = [
        "python", "pypy", "perl", "ruby", "node", "nodejs", "deno", "bun", "php", "lua", "luajit", "tclsh",
        "java", "dotnet", "sh", "bash", "dash", "zsh", "ksh", "fish", "busybox", "toybox", "env", "awk",
        "gawk", "mawk", "gdb",
    ];
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let bare = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    NAMES.contains(&bare) || name.starts_with("ld-") || name.starts_with("ld.so")
}

#[cfg(test)]
#[path = "executables_tests.rs"]
mod tests;
