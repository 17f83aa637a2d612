//! What is mounted at a path, as this process's mount namespace has it?

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::sys::proc;

/// How many FUSE mounts stand at `path`, one over the other. Asks nothing of the mounts themselves, so a
/// dead one cannot hold it up.
pub fn fuse_mounts_at(path: &Path) -> usize {
    let canonical = canonical_parent(path);
    fuse_mounts().iter().filter(|at| *at == path || **at == canonical).count()
}

/// The FUSE mounts in `directory`, the newest first.
pub fn fuse_mounts_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(directory) = directory.canonicalize() else { return Vec::new() };
    let mut found = fuse_mounts();
    found.retain(|path| path.starts_with(&directory));
    found.reverse();
    found
}

/// Whether a FUSE file system is mounted at `path`.
pub fn is_mounted(path: &Path) -> bool {
    fuse_mounts_at(path) > 0
}

/// How much of others' processes `/proc` hides from users (its option `hidepid`, proc(5)); `None` where it
/// hides nothing.
pub fn hidepid() -> Option<String> {
    let proc = proc::own().ok()?.line()?;
    let options = proc.rsplit(' ').next()?;
    let level = options.split(',').find_map(|option| option.strip_prefix("hidepid="))?;
    (!matches!(level, "0" | "off")).then(|| level.to_owned())
}

/// The type of the file system that the mount of this number has, by a table such as
/// `/proc/self/mountinfo`; `None` where the mount is not in it.
pub fn kind_of(mount: u64, table: &[u8]) -> Option<String> {
    let number = mount.to_string();
    let lines = table.split(|byte| *byte == b'\n');
    let fields =
        |line: &[u8]| -> Vec<Vec<u8>> { line.split(|byte| *byte == b' ').map(<[u8]>::to_vec).collect() };
    let line = lines.map(fields).find(|fields| fields[0] == number.as_bytes())?;
    let kind = line.into_iter().skip_while(|field| field != b"-").nth(1)?;
    String::from_utf8(kind).ok()
}

/// The table of mounts as this process sees them; empty where it cannot be had. By a `/proc` that proves nobody,
/// which is another pid namespace's, mounts are still found and taken down.
pub(crate) fn table() -> Vec<u8> {
    match proc::own() {
        Ok(proc) => proc.read(&proc::mine("mountinfo")).unwrap_or_default().into_bytes(),
        Err(_) => std::fs::read("/proc/self/mountinfo").unwrap_or_default(),
    }
}

/// `path` with its parent resolved: resolving the path itself would ask the mount.
fn canonical_parent(path: &Path) -> PathBuf {
    match (path.parent().and_then(|parent| parent.canonicalize().ok()), path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}

fn fuse_mounts() -> Vec<PathBuf> {
    in_table(&table())
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
    fn a_line_of_mountinfo_reads_whole() {
        let line = b"36 35 98:0 / /run/a\\040b/mnt rw,noatime shared:1 - fuse.kin kin ro,user_id=0";
        assert_eq!(in_table(line), [PathBuf::from("/run/a b/mnt")]);
        assert!(in_table(b"garbage").is_empty());
    }

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
    fn nothing_is_mounted_where_nothing_is() {
        assert!(!is_mounted(Path::new("/nonexistent/mnt")));
    }
}
