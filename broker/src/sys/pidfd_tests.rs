//! Descriptors of real processes.
#![allow(clippy::unwrap_used)]

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use super::*;

fn sleeper() -> (Child, Pid) {
    let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let pid = Pid::new(child.id()).unwrap();
    (child, pid)
}

#[test]
fn an_answer_whose_mask_lacks_the_pid_bit_is_no_answer() {
    let raw = RawInfo { mask: 0, pid: 7, tgid: 7, ppid: 1, ..RawInfo::default() };
    assert_eq!(Info::from_raw(&raw), None);
    let raw = RawInfo { mask: PIDFD_INFO_PID, ..raw };
    assert_eq!(Info::from_raw(&raw), Some(Info { pid: 7, tgid: 7, ppid: 1 }));
    assert_eq!(size_of::<RawInfo>(), 64);
}

#[test]
fn a_descriptor_follows_its_process_from_life_to_reaping() {
    let (mut child, pid) = sleeper();
    let fd = open(pid).unwrap();
    assert!(is_alive(fd.as_fd()));
    assert_eq!(number(fd.as_fd()), Some(pid));
    send_signal(fd.as_fd(), None).unwrap();
    send_signal(fd.as_fd(), Some(Signal::SIGKILL)).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert!(!is_alive(fd.as_fd()));
    assert_eq!(number(fd.as_fd()), None);
    assert_eq!(send_signal(fd.as_fd(), None), Err(Errno::ESRCH));
    assert!(!matches!(info(fd.as_fd()), Ok(Some(_))), "a reaped process has no numbers");
}

#[test]
fn one_poll_sees_either_of_two_die() {
    let (mut one, pid) = sleeper();
    let first = open(pid).unwrap();
    let own = open(Pid::new(std::process::id()).unwrap()).unwrap();
    assert!(are_alive(own.as_fd(), first.as_fd()));
    one.kill().unwrap();
    one.wait().unwrap();
    assert!(!are_alive(own.as_fd(), first.as_fd()));
    assert!(!are_alive(first.as_fd(), own.as_fd()));
}

#[test]
fn a_thread_belongs_to_its_own_group_alone() {
    let (mut child, pid) = sleeper();
    let own = Pid::new(std::process::id()).unwrap();
    let tid = Tid::new(nix::unistd::gettid().as_raw().cast_unsigned()).unwrap();
    assert!(has_thread(own, tid));
    assert!(!has_thread(pid, tid));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!has_thread(pid, Tid::new(pid.get()).unwrap()));
}

#[test]
fn a_thread_descriptor_names_its_group_where_the_kernel_has_them() {
    let own = std::process::id();
    let tid = Tid::new(nix::unistd::gettid().as_raw().cast_unsigned()).unwrap();
    let found = capabilities();
    assert!(found.open);
    if found.thread && found.info {
        let fd = open_thread(tid).unwrap();
        let info = info(fd.as_fd()).unwrap().unwrap();
        assert_eq!((info.pid, info.tgid), (tid.get(), own));
    }
    if found.inode {
        let (one, two) = (open(Pid::new(own).unwrap()).unwrap(), open(Pid::new(own).unwrap()).unwrap());
        assert_eq!(inode(one.as_fd()), inode(two.as_fd()));
        assert!(inode(one.as_fd()).is_some());
    }
}
