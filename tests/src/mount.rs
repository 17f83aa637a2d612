//! What is mounted where, and how is a mount that hangs taken away?

use std::path::Path;
use std::process::{Command, Stdio};

/// One line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Clone, Debug)]
pub struct Mount {
    /// The minor number of its device: its name under `/sys/fs/fuse/connections`.
    pub minor: u32,
    /// Options of the mount: `ro,nosuid,nodev,noexec`.
    pub options: Vec<String>,
    /// Its type: `fuse`, `fuse.kin`.
    pub kind: String,
    /// Options of the file system: `user_id=0`.
    pub super_options: Vec<String>,
}

/// What is mounted on `path`, the last one first. Nothing is asked of the mount itself.
pub fn mounts_on(path: &Path) -> Vec<Mount> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<Mount> = table.lines().filter_map(|line| parse(line, path)).collect();
    found.reverse();
    found
}

fn parse(line: &str, path: &Path) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let before: Vec<&str> = before.split(' ').collect();
    let after: Vec<&str> = after.split(' ').collect();
    if Path::new(before.get(4)?) != path {
        return None;
    }
    let list = |text: &str| text.split(',').map(str::to_owned).collect();
    Some(Mount {
        minor: before.get(2)?.split_once(':')?.1.parse().ok()?,
        options: list(before.get(5)?),
        kind: (*after.first()?).to_owned(),
        super_options: list(after.get(2)?),
    })
}

/// Takes away whatever is mounted on `path`, also where its daemon hangs: the connection is aborted
/// first, so that readers in state D get their answer.
pub fn clear(path: &Path) {
    for mount in mounts_on(path) {
        let _ = abort(&mount);
        let quietly = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments).arg(path).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        let _ = quietly("fusermount3", &["-uz"]) || quietly("umount", &["-l"]);
    }
}

/// Aborts a FUSE connection through fusectl, which root mounts where it is not.
///
/// # Errors
/// Where it is not FUSE's, or the control cannot be written.
pub fn abort(mount: &Mount) -> std::io::Result<()> {
    if !mount.kind.starts_with("fuse") {
        return Err(std::io::ErrorKind::Unsupported.into());
    }
    let control = format!("/sys/fs/fuse/connections/{}/abort", mount.minor);
    if !Path::new(&control).exists() && crate::is_root() {
        let fusectl = ["-t", "fusectl", "none", "/sys/fs/fuse/connections"];
        let _ = Command::new("mount").args(fusectl).stderr(Stdio::null()).status();
    }
    std::fs::write(control, "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_read() {
        let line = "36 35 0:51 / /tmp/k/run/mnt ro,nosuid shared:1 - fuse.kin kin ro,user_id=5,group_id=5";
        let mount = parse(line, Path::new("/tmp/k/run/mnt")).expect("the line's path");
        assert_eq!((mount.minor, mount.kind.as_str()), (51, "fuse.kin"));
        assert_eq!(mount.options, ["ro", "nosuid"]);
        assert_eq!(mount.super_options, ["ro", "user_id=5", "group_id=5"]);
        assert!(parse(line, Path::new("/tmp/k/run")).is_none());
    }

    #[test]
    fn proc_is_mounted() {
        assert_eq!(
            mounts_on(Path::new("/proc")).first().map(|mount| mount.kind.clone()),
            Some("proc".into())
        );
    }
}
