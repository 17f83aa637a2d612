//! The process table through `/proc` and plain pidfds (Linux 5.6, for openat2): what stock Debian 12 has.
//!
//! /proc is read by number, and a pidfd opened before and polled after proves whose the number was: it
//! cannot be given to another process while this one lives.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use kin_policy::{Pid, Process, Tid};
use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::namespaces;
use super::pidfd::absent;
use super::table::{Absent, Held, Identity, ProcessTable};
use crate::sys::pidfd;
use crate::sys::proc::{self, Proc, Unusable};

/// See the module.
pub(super) struct ProcfsTable;

impl ProcessTable for ProcfsTable {
    fn name(&self) -> &'static str {
        "procfs"
    }

    fn open(&self, pid: Pid) -> Result<Held, Absent> {
        pin(pid, pidfd::open(pid).map_err(absent)?)
    }

    fn adopt(&self, pid: Pid, fd: OwnedFd) -> Result<Held, Absent> {
        if pidfd::number(fd.as_fd()) == Some(pid) { pin(pid, fd) } else { Err(Absent::Missing) }
    }

    fn leader_of(&self, tid: Tid) -> Result<Pid, Absent> {
        let status = proc::own().map_err(Errno::from).and_then(|proc| proc.read(&format!("{tid}/status")));
        match status {
            Ok(status) => thread_group(status.as_bytes()).ok_or(Absent::Hidden),
            Err(error) if is_gone(error) && !exists(tid) => Err(Absent::Missing),
            Err(_) => Err(Absent::Hidden),
        }
    }

    fn parent(&self, child: &Held) -> Result<Option<Pid>, Absent> {
        Ok(stat_of(child.process().pid, child)?.parent)
    }

    fn has_thread(&self, pid: Pid, tid: Tid) -> bool {
        pidfd::has_thread(pid, tid)
    }

    fn numbers(&self, held: &Held) -> Result<Vec<u32>, Absent> {
        namespaces::numbers_of(held)
    }
}

fn pin(pid: Pid, fd: OwnedFd) -> Result<Held, Absent> {
    let stat = stat_of(pid, &fd)?;
    Ok(Held::new(Identity { process: Process { pid, start: stat.start }, inode: None }, fd))
}

/// The stat of the process that `fd` is a descriptor of, whose number is `pid` while it lives.
fn stat_of(pid: Pid, fd: &impl AsFd) -> Result<Stat, Absent> {
    let stat = Stat::read(pid);
    if !pidfd::is_alive(fd.as_fd()) {
        return Err(Absent::Missing);
    }
    stat.map_err(|_| Absent::Hidden)
}

/// Whether `/proc` is that of this process's pid namespace. In another one its numbers are those of other
/// processes (pid_namespaces(7)), and nothing is read there.
pub fn is_own() -> bool {
    proc::own().is_ok()
}

/// Refuses to go on where nobody could be identified: without a `/proc`, or where something is mounted over the
/// directory of a process in it. That of another pid namespace passes: by it everybody is refused.
///
/// It is opened for this alone: whoever forks afterwards holds nothing of it.
///
/// # Errors
/// `proc_unavailable`, `proc_covered`, `kernel_too_old`.
pub fn check_proc() -> crate::Result<()> {
    let refuse = |code, message: String, hint: String| {
        Err(crate::Error::new(crate::Class::Unreachable, code, message).hint(hint))
    };
    let covered = |over: &str| {
        let message = format!("something is mounted over {over}, so a process could pass for another");
        refuse("proc_covered", message, format!("umount {over}"))
    };
    match Proc::open() {
        Ok(proc) => proc.covered().map_or(Ok(()), |over| covered(&over)),
        Err(Unusable::Foreign) => Ok(()),
        Err(Unusable::Covered) => covered(&format!("/proc/{}", std::process::id())),
        Err(Unusable::Missing) => refuse(
            "proc_unavailable",
            "no /proc is mounted here, so nobody can be identified".to_owned(),
            "mount -t proc proc /proc".to_owned(),
        ),
        Err(Unusable::TooOld) => refuse(
            "kernel_too_old",
            "this kernel has no openat2".to_owned(),
            "Linux 5.6 or newer has it".to_owned(),
        ),
    }
}

/// What is mounted over the directory of a process in `/proc` now, as this process has it: then no executable is
/// taken for proven, and a process whose directory it is cannot be identified.
pub fn covered_in_proc() -> Option<String> {
    proc::own().ok()?.covered()
}

/// Whether this process is in the pid namespace of the machine's init, which has a fixed number
/// (PROC_PID_INIT_INO, linux/proc_ns.h); yes where that cannot be told.
pub fn in_initial_pid_namespace() -> bool {
    let link = proc::own().map_err(Errno::from).and_then(|proc| proc.read_link(&proc::mine("ns/pid")));
    link.map_or(true, |link| link == "pid:[4026531836]")
}

/// What `/proc/PID/stat` says of a process (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// Field 4: the parent's thread group.
    pub(super) parent: Option<Pid>,
    /// Field 22: clock ticks from boot to its start.
    pub(super) start: u64,
}

impl Stat {
    /// By number, so only a pidfd can say whose it was.
    pub(super) fn read(pid: Pid) -> Result<Self, Errno> {
        read_stat(pid.get(), Self::parse)
    }

    fn parse(line: &[u8]) -> Option<Self> {
        Some(Self { parent: Pid::new(field(line, 4)?), start: field(line, 22)? })
    }
}

/// What `parse` makes of the line that `/proc/N/stat` has of a thread or a process.
fn read_stat<T>(number: u32, parse: impl Fn(&[u8]) -> Option<T>) -> Result<T, Errno> {
    let mut line = [0; 2048];
    let file = proc::own()?.file(&format!("{number}/stat"))?;
    let len = nix::unistd::read(&file, &mut line)?;
    parse(&line[..len]).ok_or(Errno::EINVAL)
}

/// A field of a stat line behind the name, from 3, as proc_pid_stat(5) counts them. Field 2 is a name in brackets that
/// its process chooses, brackets and newlines included; after it come only a state letter and numbers, so the last `)`
/// of all is the one that closes it.
fn field<T: std::str::FromStr>(line: &[u8], number: usize) -> Option<T> {
    let name_ends = line.iter().rposition(|byte| *byte == b')')?;
    let mut fields = std::str::from_utf8(&line[name_ends + 1..]).ok()?.split_ascii_whitespace();
    fields.nth(number - 3)?.parse().ok()
}

/// The `Tgid:` line of `/proc/TID/status`; the name above it has its newlines escaped (proc_pid_status(5)).
fn thread_group(status: &[u8]) -> Option<Pid> {
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Tgid:"))?;
    Pid::new(std::str::from_utf8(line).ok()?.trim().parse().ok()?)
}

/// How many seccomp filters a thread has, by its `status` in its directory (proc_pid_status(5)). The number came with
/// Linux 5.9: before it a thread has at least one or none.
pub(super) fn filters_at(directory: &OwnedFd) -> Option<u32> {
    let mut status = String::new();
    File::from(proc::below(directory, "status", OFlag::O_RDONLY).ok()?).read_to_string(&mut status).ok()?;
    filters(&status)
}

/// No name can forge a line: its newlines are escaped.
fn filters(status: &str) -> Option<u32> {
    let number = |key: &str| status.lines().find_map(|line| line.strip_prefix(key))?.trim().parse().ok();
    match number("Seccomp:")? {
        // SECCOMP_MODE_FILTER, linux/seccomp.h.
        2_u32 => Some(number("Seccomp_filters:").unwrap_or(1)),
        _ => Some(0),
    }
}

/// What a read of /proc says where the process is not, or where hidepid makes it look so.
fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::ENOENT | Errno::ESRCH)
}

/// Room for a comm: 15 bytes and the newline; kernel workers have longer ones (proc_pid_comm(5)).
const COMM: usize = 128;

/// The name that a process gives itself, as bytes of its own choice.
///
/// # Errors
/// Those of open(2); ESRCH where it is gone.
pub(crate) fn comm(pid: Pid) -> io::Result<Vec<u8>> {
    read_comm(&proc::own().map_err(Errno::from)?.file(&format!("{pid}/comm"))?)
}

/// Whether the thread is ending because a signal killed its process: its flags say the one, and the status that the
/// process will have the other (proc_pid_stat(5)). One whose status the kernel does not tell is not.
pub(crate) fn is_being_killed(tid: u32) -> bool {
    read_stat(tid, Exit::parse).is_ok_and(|exit| exit.begun && exit.status & 0x7f != 0)
}

/// Whether the thread is ending, however.
pub(crate) fn is_ending(tid: u32) -> bool {
    read_stat(tid, Exit::parse).is_ok_and(|exit| exit.begun)
}

/// What a thread's stat says of its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Exit {
    /// It is ending.
    begun: bool,
    /// As wait(2) has it; 0 to who may not look into the process.
    status: i32,
}

impl Exit {
    fn parse(line: &[u8]) -> Option<Self> {
        /// `PF_EXITING` of linux/sched.h.
        const EXITING: u64 = 0x4;
        Some(Self { begun: field::<u64>(line, 9)? & EXITING != 0, status: field(line, 52)? })
    }
}

/// Whether the process has a descriptor of the file with this inode number that it could write by
/// (proc_pid_fdinfo(5); the number since Linux 5.14). Where the kernel does not tell, it has not.
pub(crate) fn has_open_to_write(pid: Pid, inode: u64) -> bool {
    let Ok(proc) = proc::own() else { return false };
    let all = format!("{pid}/fdinfo");
    proc.names(&all).unwrap_or_default().iter().filter_map(|name| name.to_str()).any(|name| {
        let info = proc.read(&format!("{all}/{name}")).unwrap_or_default();
        let said = |key: &str| info.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let flags = said("flags:").and_then(|flags| i32::from_str_radix(flags, 8).ok());
        said("ino:").is_some_and(|number| number.parse() == Ok(inode))
            && flags.is_some_and(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY)
    })
}

/// What an open `comm` says now. One read has all of it.
pub(super) fn read_comm(file: &File) -> io::Result<Vec<u8>> {
    let mut comm = [0; COMM];
    let length = file.read_at(&mut comm, 0)?;
    let comm = &comm[..length];
    Ok(comm.strip_suffix(b"\n").unwrap_or(comm).to_vec())
}

/// Whether /proc would not tell, rather than could not for want of something of ours.
pub(super) fn is_refusal(error: Errno) -> bool {
    is_gone(error) || matches!(error, Errno::EACCES | Errno::EPERM)
}

fn exists(tid: Tid) -> bool {
    let Ok(number) = i32::try_from(tid.get()) else { return false };
    !matches!(nix::sys::signal::kill(nix::unistd::Pid::from_raw(number), None), Err(nix::errno::Errno::ESRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(comm: &[u8]) -> Option<Stat> {
        let tail = b") S 41 1 1 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 2 3\n";
        Stat::parse(&[b"42 (", comm, tail].concat())
    }

    #[test]
    fn a05_a_name_cannot_speak_for_the_parent() {
        let honest = Some(Stat { parent: Pid::new(41), start: 987_654 });
        for comm in [&b"cat"[..], b"x) S 1 (", b"a\nb", b") S 1 1 1 (", b"", b"\xff\xfe)", b"((("] {
            assert_eq!(stat(comm), honest, "{comm:?}");
        }
    }

    #[test]
    fn a_name_cannot_speak_for_the_end() {
        // Fields 3 to 52: flags is the ninth, exit_code the last.
        let line = |comm: &[u8], flags: u32, status: i32| {
            let zeroes = " 0".repeat(42);
            let tail = format!(") R 1 1 1 0 -1 {flags}{zeroes} {status}\n");
            Exit::parse(&[b"42 (", comm, tail.as_bytes()].concat())
        };
        for comm in [&b"cat"[..], b"x) R 1 1 1 0 -1 0 (", b"\xff\xfe)", b"a\nb", b") ) ("] {
            assert_eq!(line(comm, 4, 9), Some(Exit { begun: true, status: 9 }), "{comm:?}");
            assert_eq!(line(comm, 0x40_0040, 0), Some(Exit { begun: false, status: 0 }), "{comm:?}");
        }
        assert_eq!(Exit::parse(b"42 (x) R 1 1 1 0 -1 4"), None);
    }

    #[test]
    fn cut_or_strange_lines_are_no_answer() {
        for line in [&b""[..], b"42", b"42 (x", b"42 (x)", b"42 (x) S", b"42 (x) S 1 2 3", b"42 (x) S y 1"] {
            assert_eq!(Stat::parse(line), None, "{line:?}");
        }
        let top = Stat::parse(b"1 (init) S 0 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 3 1");
        assert_eq!(top, Some(Stat { parent: None, start: 3 }));
    }

    #[test]
    fn who_can_write_a_file_is_told_by_its_number_and_way() {
        use std::os::unix::fs::MetadataExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        let (own, inode) = (Pid::new(std::process::id()).unwrap(), file.as_file().metadata().unwrap().ino());
        assert!(has_open_to_write(own, inode));
        let reading = File::open(file.path()).unwrap();
        drop(file);
        assert!(!has_open_to_write(own, inode));
        drop(reading);
    }

    #[test]
    fn who_runs_is_neither_ending_nor_being_killed() {
        let tid = nix::unistd::gettid().as_raw().unsigned_abs();
        assert!(read_stat(tid, Exit::parse).is_ok());
        assert!(!is_ending(tid) && !is_being_killed(tid));
        assert!(!is_ending(0) && !is_being_killed(u32::MAX));
    }

    #[test]
    fn filters_are_counted_where_the_kernel_counts_them() {
        assert_eq!(filters("Name:\tx\nSeccomp:\t0\nSeccomp_filters:\t0\n"), Some(0));
        assert_eq!(filters("Seccomp:\t2\nSeccomp_filters:\t3\n"), Some(3));
        assert_eq!(filters("Seccomp:\t2\n"), Some(1));
        // Strict mode, which has no filter (SECCOMP_MODE_STRICT); a kernel without seccomp.
        assert_eq!((filters("Seccomp:\t1\n"), filters("Name:\tSeccomp:\\t2\n")), (Some(0), None));
    }

    #[test]
    fn the_thread_group_is_the_line_of_that_name() {
        let status = b"Name:\tTgid:\\n7\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t42\nNgid:\t0\nPid:\t43\n";
        assert_eq!(thread_group(status), Pid::new(42));
        assert_eq!(thread_group(b"Name:\tx\n"), None);
        assert_eq!(thread_group(b"Tgid:\t0\n"), None);
    }
}
