//! Did a killed broker leave a mount behind, and how is it cleared?

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kin_broker::Class;
use kin_broker::paths::Directories;
use nix::mount::{MntFlags, umount2};
use nix::unistd::geteuid;

use super::super::output;
use super::Check;

/// A mount whose broker was killed answers ENOTCONN at once; one whose broker lives is the broker's to
/// judge, and asking it here could wait for it.
pub(super) fn stale(directories: &Directories, broker_is_absent: bool) -> Check {
    const NAME: &str = "mount";
    let mounted = below(&directories.runtime);
    let Some(first) = mounted.first() else {
        return Check::ok(NAME, "nothing is left over from a killed broker");
    };
    let path = first.display();
    if !broker_is_absent {
        return Check::ok(NAME, format!("{path} is mounted"));
    }
    let fix = format!("kin doctor --fix, or fusermount3 -u -z {path}");
    match is_dead(first) {
        true => Check::fail(Class::Unreachable, NAME, format!("a killed broker left {path}"), fix),
        false => Check::warn(NAME, format!("{path} is mounted, but no broker answers"), "kin daemon"),
    }
}

/// Clears what a killed broker left, and takes others' rights from the runtime directory if it is ours.
/// What could not be mended shows in the checks that follow.
pub(super) fn fix(directories: &Directories, broker_is_absent: bool) {
    if let Ok(meta) = directories.runtime.symlink_metadata()
        && meta.is_dir()
        && meta.uid() == geteuid().as_raw()
        && meta.mode() & 0o077 != 0
    {
        let private = std::fs::Permissions::from_mode(0o700);
        if std::fs::set_permissions(&directories.runtime, private).is_ok() {
            output::note(&format!("made {} private", output::printable_path(&directories.runtime)));
        }
    }
    if !broker_is_absent {
        return;
    }
    for path in below(&directories.runtime).iter().filter(|path| is_dead(path)) {
        if clear(path) {
            output::note(&format!("cleared {}", output::printable_path(path)));
        }
    }
}

fn clear(path: &Path) -> bool {
    if geteuid().is_root() {
        return umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok();
    }
    Command::new("fusermount3")
        .args(["-u", "-z", "--"])
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Whether its server is gone: the connection of a killed FUSE server is aborted (ENOTCONN, fuse(4)).
fn is_dead(path: &Path) -> bool {
    path.metadata().is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
}

/// The FUSE mounts in `dir`, the newest first.
fn below(dir: &Path) -> Vec<PathBuf> {
    let Ok(dir) = dir.canonicalize() else { return Vec::new() };
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mut found = in_table(&table);
    found.retain(|path| path.starts_with(&dir));
    found.reverse();
    found
}

/// The mount points of FUSE file systems (proc_pid_mountinfo(5): the fifth field; the type follows ` - `).
fn in_table(table: &[u8]) -> Vec<PathBuf> {
    let point = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ');
        let path = fields.nth(4)?.to_vec();
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        (kind == b"fuse" || kind.starts_with(b"fuse."))
            .then(|| PathBuf::from(OsString::from_vec(unescape(&path))))
    };
    table.split(|byte| *byte == b'\n').filter_map(point).collect()
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuse_mounts_are_found_in_the_mount_table() {
        let table = b"22 1 0:20 / /proc rw - proc proc rw\n\
            90 22 0:51 / /run/a\\040b/kin/mnt ro,nosuid shared:1 - fuse.kin kin ro,user_id=1000\n\
            91 22 0:52 / /mnt ro - fuse x ro\n\
            92 22 0:53 / /sys/fs/fuse/connections rw - fusectl fusectl rw\n";
        assert_eq!(in_table(table), [PathBuf::from("/run/a b/kin/mnt"), PathBuf::from("/mnt")]);
    }

    #[test]
    fn paths_in_the_mount_table_are_unescaped() {
        assert_eq!(unescape(b"a\\040b\\134c\\011"), b"a b\\c\t");
        assert_eq!(unescape(b"a\\04"), b"a\\04");
        assert_eq!(unescape(b"\\999"), b"\\999");
    }

    #[test]
    fn a_runtime_directory_is_made_private() {
        let home = tempfile::tempdir().unwrap();
        let runtime = home.path().join("run");
        std::fs::create_dir(&runtime).unwrap();
        std::fs::set_permissions(&runtime, std::fs::Permissions::from_mode(0o755)).unwrap();
        let directories = Directories {
            config: home.path().into(),
            data: home.path().into(),
            state: home.path().into(),
            runtime: runtime.clone(),
        };
        fix(&directories, true);
        assert_eq!(runtime.metadata().unwrap().mode() & 0o777, 0o700);
    }
}
