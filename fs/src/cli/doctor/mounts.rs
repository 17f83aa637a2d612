//! Did a killed broker leave a mount behind, and how is it cleared?

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use kin_broker::Class;
use kin_broker::children::programs;
use kin_broker::sys::mounts;
use kin_broker::sys::paths::Directories;
use nix::mount::{MntFlags, umount2};
use nix::unistd::geteuid;

use super::super::output;
use super::Check;

/// A mount whose broker was killed answers ENOTCONN at once; one whose broker lives is the broker's to
/// judge, and asking it here could wait for it.
pub(super) fn stale(directories: &Directories, broker_is_absent: bool) -> Check {
    const NAME: &str = "mount";
    let mounted = mounts::fuse_mounts_below(&directories.runtime);
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
    for path in mounts::fuse_mounts_below(&directories.runtime).iter().filter(|path| is_dead(path)) {
        if clear(path) {
            output::note(&format!("cleared {}", output::printable_path(path)));
        }
    }
}

fn clear(path: &Path) -> bool {
    if geteuid().is_root() {
        return umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok();
    }
    let Some(fusermount) = programs::fusermount() else { return false };
    Command::new(fusermount)
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

#[cfg(test)]
mod tests {
    use super::*;

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
