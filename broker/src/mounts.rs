//! What is mounted at a path, as this process's mount namespace has it?

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// How many FUSE mounts stand at `path`, one over the other (proc_pid_mountinfo(5)). Asks nothing of the
/// mounts themselves, so a dead one cannot hold it up.
pub fn fuse_mounts_at(path: &Path) -> usize {
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let canonical = canonical_parent(path);
    let lines = table.split(|byte| *byte == b'\n').filter_map(parse);
    lines.filter(|(at, kind)| kind.starts_with(b"fuse") && (at == path || *at == canonical)).count()
}

/// Whether a FUSE file system is mounted at `path`.
pub fn is_mounted(path: &Path) -> bool {
    fuse_mounts_at(path) > 0
}

/// How much of others' processes `/proc` hides from users (its option `hidepid`, proc(5)); `None` where it
/// hides nothing.
pub fn hidepid() -> Option<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let proc = table.lines().rfind(|line| line.split(' ').nth(4) == Some("/proc"))?;
    let options = proc.rsplit(' ').next()?;
    let level = options.split(',').find_map(|option| option.strip_prefix("hidepid="))?;
    (!matches!(level, "0" | "off")).then(|| level.to_owned())
}

/// `path` with its parent resolved: resolving the path itself would ask the mount.
fn canonical_parent(path: &Path) -> PathBuf {
    match (path.parent().and_then(|parent| parent.canonicalize().ok()), path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}

/// The mount point and the file system type of one line.
fn parse(line: &[u8]) -> Option<(PathBuf, Vec<u8>)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let at = unescape(fields.nth(4)?);
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some((PathBuf::from(at), kind.to_vec()))
}

/// Blanks, tabs, newlines and backslashes stand as three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = (*first == b'\\' && tail.len() >= 3)
            .then(|| {
                std::str::from_utf8(&tail[..3]).ok().and_then(|digits| u8::from_str_radix(digits, 8).ok())
            })
            .flatten();
        match octal {
            Some(byte) => (plain.push(byte), rest = &tail[3..]).1,
            None => (plain.push(*first), rest = tail).1,
        }
    }
    OsString::from_vec(plain)
}

/// Every FUSE mount below `directory`, for `kin doctor`.
pub fn fuse_mounts_below(directory: &Path) -> Vec<PathBuf> {
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let lines = table.split(|byte| *byte == b'\n').filter_map(parse);
    let below = |at: &Path| at.as_os_str().as_bytes().starts_with(directory.as_os_str().as_bytes());
    lines.filter(|(at, kind)| kind.starts_with(b"fuse") && below(at)).map(|(at, _)| at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_reads_whole() {
        let line = b"36 35 98:0 / /run/a\\040b/mnt rw,noatime shared:1 - fuse.kin kin ro,user_id=0";
        assert_eq!(parse(line), Some((PathBuf::from("/run/a b/mnt"), b"fuse.kin".to_vec())));
        assert_eq!(parse(b"garbage"), None);
    }

    #[test]
    fn nothing_is_mounted_where_nothing_is() {
        assert!(!is_mounted(Path::new("/nonexistent/mnt")));
    }
}
