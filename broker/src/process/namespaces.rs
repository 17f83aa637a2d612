//! In which user and pid namespaces is a process at this moment?
//!
//! `/proc/TID/ns/*` says so to whoever may look into the process (ptrace(2), PTRACE_MODE_READ_FSCREDS). Of
//! one that is not dumpable other files still tell whether it is where the broker is: `uid_map`, which every
//! user namespace has one of, and `NSpid`, which has one number for each level of pid namespaces.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

use kin_policy::{Namespaces, Tid};
use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::table::{Absent, Held};
use crate::sys::{link, proc};

/// Room for `user:[4026531837]`, whatever the kind and the number (namespaces(7)).
const ROOM: usize = 64;

/// The broker's own namespaces, which it never leaves.
struct Own {
    namespaces: Namespaces,
    /// Its user namespace's `uid_map`, where that has more than one id: to give a child of the namespace the
    /// same takes CAP_SETUID in it (user_namespaces(7)), and who has that is no reader to keep out.
    uid_map: Option<Vec<u8>>,
}

fn own() -> Option<&'static Own> {
    static OWN: OnceLock<Option<Own>> = OnceLock::new();
    let read = || {
        let proc = proc::own().ok()?;
        let number = |kind: &str| match proc.read_link(&proc::mine(format!("ns/{kind}"))) {
            Ok(link) => number_in(link.as_os_str().as_bytes()),
            // A kernel without this kind has one for all.
            Err(Errno::ENOENT) => Some(0),
            Err(_) => None,
        };
        let namespaces = Namespaces { user: number("user")?, pid: number("pid")? };
        let uid_map = proc.read(&proc::mine("uid_map")).ok().map(String::into_bytes);
        let uid_map = uid_map.filter(|map| ids_in(map) > 1);
        Some(Own { namespaces, uid_map })
    };
    OWN.get_or_init(read).as_ref()
}

/// Where a process says in which namespaces it is, below its directory in `/proc`.
#[derive(Debug)]
pub(super) struct Links {
    /// The link `ns/user` itself, which is read afresh each time; `None` in a kernel without user namespaces.
    user: Option<OwnedFd>,
    /// A process's pid namespace never changes.
    pid: Option<u64>,
    /// The directory, of one whose links may not be read.
    hidden: Option<OwnedFd>,
}

impl Links {
    /// Of the thread's directory in `/proc`, proven to be one of the process `held`.
    pub(super) fn of(directory: OwnedFd, held: &Held) -> Option<Self> {
        let link = |name| proc::below(&directory, name, OFlag::O_PATH | OFlag::O_NOFOLLOW);
        let user = match link("ns/user") {
            Ok(link) => Some(link),
            Err(Errno::ENOENT) => None,
            Err(_) => return None,
        };
        let said = |link: &OwnedFd| number_in(link::read(link, c"", &mut [0; ROOM]).ok()?);
        let pid = match link("ns/pid") {
            Err(Errno::ENOENT) => own().map(|own| own.namespaces.pid).filter(|pid| *pid == 0),
            Err(_) => None,
            Ok(link) => said(&link).or_else(|| {
                let here = numbers_of(held).is_ok_and(|numbers| numbers.len() == 1);
                own().filter(|_| here).map(|own| own.namespaces.pid)
            }),
        };
        let hides = user.as_ref().is_some_and(|link| said(link).is_none());
        Some(Self { user, pid, hidden: hides.then_some(directory) })
    }

    /// The namespaces now: a process's user namespace changes with unshare(2) and setns(2). About 2.5 µs.
    pub(super) fn look(&self) -> Option<Namespaces> {
        Some(Namespaces { user: self.user()?, pid: self.pid? })
    }

    fn user(&self) -> Option<u64> {
        let own = own()?;
        let Some(link) = &self.user else { return (own.namespaces.user == 0).then_some(0) };
        match link::read(link, c"", &mut [0; ROOM]) {
            Ok(name) => number_in(name),
            // Not dumpable, or gone, and then it has no map either.
            Err(Errno::EACCES) => {
                let map = read_at(self.hidden.as_ref()?, "uid_map")?;
                (own.uid_map.as_ref() == Some(&map)).then_some(own.namespaces.user)
            }
            Err(_) => None,
        }
    }
}

/// The namespaces that a held process is in now; `None` where the kernel would not say.
pub(super) fn of(held: &Held) -> Option<Namespaces> {
    let tid = Tid::new(held.process().pid.get())?;
    let directory = directory_of(tid)?;
    let found = Links::of(directory, held)?.look()?;
    held.is_alive().then_some(found)
}

/// The directory in `/proc` of whatever thread has this number.
pub(super) fn directory_of(tid: Tid) -> Option<OwnedFd> {
    proc::own().ok()?.directory(&tid.to_string()).ok()
}

/// Whether this is the broker's own user namespace.
pub(super) fn is_own_user_namespace(namespaces: Namespaces) -> bool {
    own().is_some_and(|own| own.namespaces.user == namespaces.user)
}

/// The process's numbers in the pid namespaces that it is in, from the broker's own downwards: the `NSpid` line
/// of its descriptor's fdinfo (pidfd_open(2)), which hidepid hides from nobody. They never change.
pub(super) fn numbers_of(held: &Held) -> Result<Vec<u32>, Absent> {
    let own = format!("fdinfo/{}", held.as_fd().as_raw_fd());
    let info = proc::own().ok().and_then(|proc| proc.read(&proc::mine(own)).ok());
    if !held.is_alive() {
        return Err(Absent::Missing);
    }
    let numbers = info.and_then(|info| numbers_in(&info)).ok_or(Absent::Hidden)?;
    if numbers.first() == Some(&held.process().pid.get()) { Ok(numbers) } else { Err(Absent::Hidden) }
}

fn numbers_in(info: &str) -> Option<Vec<u32>> {
    let numbers = info.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_whitespace().map(|number| number.parse().ok()).collect()
}

/// Whether these are of the broker's own pid namespace: `false` too where the kernel would not say.
pub(super) fn is_own_pid_namespace(namespaces: Option<Namespaces>) -> bool {
    own().zip(namespaces).is_some_and(|(own, other)| own.namespaces.pid == other.pid)
}

/// All of a file below a directory.
pub(super) fn read_at(directory: &OwnedFd, name: &str) -> Option<Vec<u8>> {
    let file = proc::below(directory, name, OFlag::O_RDONLY).ok()?;
    let mut bytes = Vec::new();
    std::fs::File::from(file).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The number in `user:[4026531837]`.
fn number_in(link: &[u8]) -> Option<u64> {
    let number = link.split(|byte| *byte == b'[').nth(1)?.strip_suffix(b"]")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// How many ids a `uid_map` has: the third column (user_namespaces(7)).
fn ids_in(map: &[u8]) -> u64 {
    let lines = map.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    lines.filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_has_its_number_in_brackets() {
        assert_eq!(number_in(b"user:[4026531837]"), Some(4_026_531_837));
        for bad in [&b""[..], b"user:", b"user:[]", b"user:[x]", b"user:[1", b"user:[-1]"] {
            assert_eq!(number_in(bad), None);
        }
    }

    #[test]
    fn the_numbers_are_the_line_of_that_name() {
        let info = "pos:\t0\nflags:\t02000002\nPid:\t77\nNSpid:\t77\t5\t1\n";
        assert_eq!(numbers_in(info), Some(vec![77, 5, 1]));
        assert_eq!((numbers_in("Pid:\t7\n"), numbers_in("NSpid:\t7\tx\n")), (None, None));
    }

    #[test]
    fn a_map_of_one_id_proves_nothing() {
        assert_eq!(ids_in(b"         0          0 4294967295\n"), 4_294_967_295);
        assert_eq!(ids_in(b"         0       1000          1\n         1     100000      65536\n"), 65_537);
        assert_eq!((ids_in(b"      1000       1000          1\n"), ids_in(b"")), (1, 0));
    }
}
