//! What does a process with the filter get from the kernel? Each is asked in a child of its own.

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::ForkResult;

use super::*;
use crate::sys::process::fork_beside_an_idle_runner;

/// `PR_SET_MM_MAP_SIZE` wants no privilege and writes a number: what it is refused is refused by a filter alone.
const SIZE: c_long = 15;
const SET_MM: c_long = libc::PR_SET_MM as c_long;

/// What a child makes of a question: its exit code, or a signal.
fn child(ask: impl FnOnce() -> i32) -> WaitStatus {
    match fork_beside_an_idle_runner().unwrap() {
        ForkResult::Child => {
            let code = ask();
            // SAFETY: nothing of the test runner's is run down in its copy.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => waitpid(child, None).unwrap(),
    }
}

fn said(errno: i32, status: WaitStatus) -> bool {
    matches!(status, WaitStatus::Exited(_, code) if code == errno)
}

/// The error of a call of this number with prctl's arguments; 0 is success.
fn call(number: c_long, option: c_long) -> i32 {
    let mut size = 0_u32;
    // SAFETY: PR_SET_MM_MAP_SIZE writes one int to where the argument points.
    let result = unsafe { libc::syscall(number, option, SIZE, &raw mut size, 0, 0) };
    Errno::result(result).err().map_or(0, |errno| errno as i32)
}

#[test]
fn a21_a_process_with_the_filter_cannot_name_its_executable() {
    let with = |option| move || keep_executables().map_or(99, |()| call(libc::SYS_prctl, option));
    assert!(said(0, child(|| call(libc::SYS_prctl, SET_MM))));
    assert!(said(libc::EPERM, child(with(SET_MM))));
    // The kernel looks at an int: what is above it is nothing to tell the option by.
    assert!(said(libc::EPERM, child(with(SET_MM | 1 << 32))));
    assert!(said(libc::EPERM, child(with(SET_MM | 1 << 63))));
    // Another option, with these arguments, is as it was.
    let name = |filtered: bool| {
        move || {
            assert!(!filtered || keep_executables().is_ok());
            prctl::set_name(c"x").map_or_else(|errno| errno as i32, |()| 0)
        }
    };
    assert!(said(0, child(name(false))) && said(0, child(name(true))));
}

#[test]
fn a21_nor_can_what_it_forks_or_one_that_adds_a_filter() {
    let below = || {
        keep_executables().unwrap();
        let mut all = [sock_filter { code: 6, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW }];
        lay(&mut all).unwrap();
        match child(|| call(libc::SYS_prctl, SET_MM)) {
            WaitStatus::Exited(_, code) => code,
            _ => 99,
        }
    };
    assert!(said(libc::EPERM, child(below)));
}

#[cfg(target_arch = "x86_64")]
mod other_abis {
    use std::arch::asm;

    use super::*;

    /// prctl(2) as a 32-bit program calls it, with an address that is nobody's: the negated error.
    fn by_interrupt() -> i32 {
        let mut result: i64 = 172;
        // SAFETY: the call writes to no memory of this process; rbx, which the compiler keeps, is put back.
        unsafe {
            asm!("push rbx", "mov ebx, 35", "int 0x80", "pop rbx", inout("rax") result, in("rcx") SIZE, in("rdx") 1,
                in("rsi") 0, in("rdi") 0, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        }
        -(result as i32)
    }

    #[test]
    fn a21_a_process_with_the_filter_cannot_do_it_by_another_abi() {
        const X32: c_long = 0x4000_0000;
        let filtered = || keep_executables().map_or(99, |()| call(libc::SYS_prctl | X32, SET_MM));
        assert!(said(libc::EPERM, child(filtered)));
        let without = child(by_interrupt);
        // A kernel without 32-bit programs ends who calls as one does.
        if said(libc::EFAULT, without) {
            assert!(said(libc::EPERM, child(|| keep_executables().map_or(99, |()| by_interrupt()))));
        } else {
            assert!(matches!(without, WaitStatus::Signaled(..)), "{without:?}");
        }
    }
}

#[test]
fn a21_a_call_by_an_unknown_abi_ends_the_process() {
    let last = program().pop().map(|step| step.k);
    assert_eq!(last, Some(libc::SECCOMP_RET_KILL_PROCESS));
    assert_eq!(program().len(), 9 * ABIS.len() + 1);
}
