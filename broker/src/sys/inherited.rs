//! What did whoever started this process leave it? Descriptors, signals and limits that a long-lived process lets
//! go of.

use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::SigSet;
use nix::unistd::{Pid, close};

use super::child::{is_ignored, passed_descriptors, set_default};

/// Closes every descriptor of this thread's table but the three standard ones and those in `kept`. Nothing that owns
/// one of the others may be used or dropped afterwards.
///
/// # Errors
/// Those of close_range(2) and, where a sandbox does not know that call, of reading `/proc/thread-self/fd`.
pub fn close_all_but(kept: &[RawFd]) -> Result<(), Errno> {
    let mut kept: Vec<u32> =
        kept.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|fd| *fd > 2).collect();
    kept.sort_unstable();
    let mut first = 3;
    for fd in &kept {
        close_range(first, fd - 1).or_else(|_| close_listed(&kept))?;
        first = fd + 1;
    }
    close_range(first, u32::MAX).or_else(|_| close_listed(&kept))
}

/// Closes what was passed to this process, but those in `kept` and the three standard ones: what is open and not
/// close-on-exec. What this process has opened itself stays.
///
/// # Errors
/// Those of reading `/proc/self/fd`.
pub fn close_passed(kept: Option<RawFd>) -> std::io::Result<()> {
    for fd in passed_descriptors()?.into_iter().filter(|fd| Some(*fd) != kept) {
        let _ = close(fd);
    }
    Ok(())
}

fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    if first > last {
        return Ok(());
    }
    // SAFETY: the call touches no memory of this process; the caller gives up what owns the descriptors.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

fn close_listed(kept: &[u32]) -> Result<(), Errno> {
    let open = std::fs::read_dir("/proc/thread-self/fd").map_err(|_| Errno::ENOENT)?;
    let open: Vec<u32> =
        open.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // The directory that was listed is among them, and closed by now.
    for fd in open.into_iter().filter(|fd| *fd > 2 && !kept.contains(fd)) {
        let _ = close(fd.cast_signed());
    }
    Ok(())
}

/// Signals as a fresh process of ours has them: none is blocked, and none is ignored but SIGPIPE, which Rust's own
/// start ignores. An ignored SIGCHLD, for one, would lose the status of every child (waitpid(2)).
pub fn reset_signals() {
    let ignored = |signal: &i32| *signal != libc::SIGPIPE && is_ignored(*signal);
    (1..=libc::SIGRTMAX()).filter(ignored).for_each(set_default);
    let _ = SigSet::empty().thread_set_mask();
}

/// Limits and scheduling that were meant for one command go, as far as this user may: soft limits of time, of
/// the size of files and of memory, one processor of many, being the first to be killed when memory is short. To be
/// called before this process is not dumpable: its files in `/proc` are root's then (proc(5)).
pub fn shed_limits() {
    for resource in [Resource::RLIMIT_CPU, Resource::RLIMIT_FSIZE, Resource::RLIMIT_DATA, Resource::RLIMIT_AS]
    {
        if let Ok((soft, hard)) = getrlimit(resource)
            && soft != hard
        {
            let _ = setrlimit(resource, hard, hard);
        }
    }
    let mut all = CpuSet::new();
    for cpu in 0..CpuSet::count() {
        let _ = all.set(cpu);
    }
    // The kernel takes those of them that the cpuset has (sched_setaffinity(2)).
    let _ = sched_setaffinity(Pid::from_raw(0), &all);
    let adjusted = std::fs::read_to_string("/proc/self/oom_score_adj");
    if adjusted.is_ok_and(|text| text.trim().parse().is_ok_and(|score: i32| score > 0)) {
        let _ = std::fs::write("/proc/self/oom_score_adj", "0");
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn all_descriptors_but_those_that_are_kept_are_closed() {
        let files: Vec<_> = (0..4).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let numbers: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let open = |numbers: &[RawFd]| -> Vec<bool> {
            numbers
                .iter()
                .map(|fd| std::path::Path::new(&format!("/proc/thread-self/fd/{fd}")).exists())
                .collect()
        };
        for close in [close_all_but, |kept: &[RawFd]| {
            close_listed(&kept.iter().map(|fd| fd.cast_unsigned()).collect::<Vec<_>>())
        }] {
            let left = std::thread::scope(|scope| {
                let alone = scope.spawn(|| {
                    // The table of this thread alone: the test runner keeps its own.
                    unshare(CloneFlags::CLONE_FILES).unwrap();
                    close(&[numbers[2], numbers[0], 1]).unwrap();
                    open(&numbers)
                });
                alone.join().unwrap()
            });
            assert_eq!(left, [true, false, true, false]);
        }
        assert_eq!(open(&numbers), [true; 4]);
    }
}
