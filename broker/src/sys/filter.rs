//! Who keeps a process from naming its own executable? A seccomp filter (seccomp(2)), which it and all that it starts
//! have for ever.
//!
//! `/proc/PID/exe` is what execve(2) loaded, until somebody says otherwise: `PR_SET_MM` (prctl(2)) is the one call
//! that replaces it (`replace_mm_exe_file` has no other caller, kernel/sys.c). It asks for a capability in the
//! *caller's* user namespace, and a child that shares its parent's memory can make one for itself. Refused here, it
//! fails for every descendant, whatever namespaces those make: a filter is inherited by fork and clone and kept over
//! exec, later ones only add to it, and of what several say the strictest counts.

use libc::{c_long, c_ulong, c_ushort, sock_filter, sock_fprog};
use nix::errno::Errno;
use nix::sys::prctl;

/// One way into the kernel: its name for the audit (linux/audit.h), the bits of a call's number that count, and the
/// number of prctl(2).
struct Abi {
    arch: u32,
    mask: u32,
    prctl: u32,
}

/// x32 calls are those of x86-64 with a bit set (`__X32_SYSCALL_BIT`, asm/unistd.h).
#[cfg(target_arch = "x86_64")]
const ABIS: &[Abi] = &[
    Abi { arch: 0xc000_003e, mask: !0x4000_0000, prctl: 157 },
    Abi { arch: 0x4000_0003, mask: !0, prctl: 172 },
];
#[cfg(target_arch = "aarch64")]
const ABIS: &[Abi] =
    &[Abi { arch: 0xc000_00b7, mask: !0, prctl: 167 }, Abi { arch: 0x4000_0028, mask: !0, prctl: 172 }];
#[cfg(target_arch = "riscv64")]
const ABIS: &[Abi] =
    &[Abi { arch: 0xc000_00f3, mask: !0, prctl: 167 }, Abi { arch: 0x4000_00f3, mask: !0, prctl: 167 }];
/// Elsewhere no filter can be made.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
const ABIS: &[Abi] = &[];

/// Where `struct seccomp_data` has the call's number, its ABI, and the half of the first argument that prctl(2)
/// looks at: an int (linux/seccomp.h).
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const OPTION: u32 = if cfg!(target_endian = "little") { 16 } else { 20 };

/// Lays the filter on this process, which must have one thread. Where the kernel wants it `no_new_privs` is set
/// first, which no descendant can lift either: setuid programs and file capabilities gain nothing then.
///
/// # Errors
/// ENOSYS where this machine's calls are not known or the kernel has no filters; those of seccomp(2).
pub fn keep_executables() -> Result<(), Errno> {
    if ABIS.is_empty() {
        return Err(Errno::ENOSYS);
    }
    let mut program = program();
    match lay(&mut program) {
        // Without CAP_SYS_ADMIN in its user namespace.
        Err(Errno::EACCES) => prctl::set_no_new_privs().and_then(|()| lay(&mut program)),
        laid => laid,
    }
}

/// It is no cage for code that reads others' memory by speculation: without `SPEC_ALLOW` kernels before 5.16 slow
/// the whole process down (Documentation/admin-guide/hw-vuln/spectre.rst).
fn lay(program: &mut [sock_filter]) -> Result<(), Errno> {
    let length = c_ushort::try_from(program.len()).map_err(|_| Errno::E2BIG)?;
    let program = sock_fprog { len: length, filter: program.as_mut_ptr() };
    let lay = |flags: c_ulong| {
        // SAFETY: the kernel copies `len` instructions from `filter`, which live through the call, and writes nothing.
        let laid = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                c_long::from(libc::SECCOMP_SET_MODE_FILTER),
                flags,
                &raw const program,
            )
        };
        Errno::result(laid).map(drop)
    };
    match lay(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW) {
        Err(Errno::EINVAL) => lay(0),
        laid => laid,
    }
}

/// For each ABI: another option than `PR_SET_MM` of prctl(2), and any other call, is let through. A call by an ABI
/// that is not known ends the process.
fn program() -> Vec<sock_filter> {
    let load = |offset| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0);
    let skip_unless = |value, unless| step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, 0, unless);
    let answer = |what| step(libc::BPF_RET | libc::BPF_K, what, 0, 0);
    let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    let mut program = Vec::new();
    for Abi { arch, mask, prctl } in ABIS {
        program.extend([
            load(ARCH),
            skip_unless(*arch, 7),
            load(NUMBER),
            step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, *mask, 0, 0),
            skip_unless(*prctl, 3),
            load(OPTION),
            skip_unless(libc::PR_SET_MM.cast_unsigned(), 1),
            answer(refused),
            answer(libc::SECCOMP_RET_ALLOW),
        ]);
    }
    program.push(answer(libc::SECCOMP_RET_KILL_PROCESS));
    program
}

fn step(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    // Every code is a byte (linux/bpf_common.h).
    sock_filter { code: code as c_ushort, jt, jf, k }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
