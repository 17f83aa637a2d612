//! Tests of which files are accepted as the record.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::super::testing::{self, Scene};
use super::super::{AuditLog, Filter, query, verify};
use super::*;

fn refused(dir: &Path) -> (Class, String) {
    let error = AuditLog::open(dir).unwrap_err();
    (error.class, error.code.into_owned())
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

const UNSAFE: (Class, &str) = (Class::Unsafe, "unsafe_file");

/// Each of `broken` is refused by the writer and by both readers.
fn all_refuse(name: &str, make: impl Fn(&Path)) {
    let dir = testing::dir();
    AuditLog::open(dir.path()).unwrap().append(&Scene::new().allow()).unwrap();
    let path = dir.path().join(name);
    std::fs::rename(&path, dir.path().join("moved")).unwrap();
    make(&path);
    let (class, code) = refused(dir.path());
    assert_eq!((class, code.as_str()), UNSAFE, "{name}");
    assert_eq!(verify(dir.path()).unwrap_err().code, "unsafe_file", "{name}");
    if name == "audit.jsonl" {
        let error = query(dir.path(), &Filter::default(), |_| {}).unwrap_err();
        assert_eq!(error.code, "unsafe_file", "{name}");
    }
}

#[test]
fn l14_a_symlink_a_fifo_a_directory_and_an_open_mode_are_refused() {
    for name in ["audit.jsonl", "audit.key"] {
        all_refuse(name, |path| symlink(path.with_file_name("moved"), path).unwrap());
        all_refuse(name, |path| symlink("/dev/full", path).unwrap());
        all_refuse(name, |path| symlink("nowhere", path).unwrap());
        all_refuse(name, |path| {
            nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        });
        all_refuse(name, |path| std::fs::create_dir(path).unwrap());
        for mode in [0o644, 0o640, 0o602] {
            all_refuse(name, |path| {
                std::fs::rename(path.with_file_name("moved"), path).unwrap();
                set_mode(path, mode);
            });
        }
    }
}

#[test]
fn l14_nothing_is_written_through_a_symlink() {
    let dir = testing::dir();
    let target = dir.path().join("target");
    std::fs::write(&target, b"").unwrap();
    set_mode(&target, 0o600);
    symlink(&target, log_path(dir.path())).unwrap();
    assert_eq!(refused(dir.path()).1, "unsafe_file");
    assert_eq!(std::fs::metadata(&target).unwrap().len(), 0);
}

#[test]
fn l14_a_file_or_device_of_another_user_is_refused() {
    let root = nix::unistd::geteuid().is_root();
    // Without privileges a foreign file can only be linked to, and protected_hardlinks forbids even that.
    let foreign = Path::new("/proc/self/status");
    let meta = std::fs::symlink_metadata(if root { foreign } else { Path::new("/etc/passwd") }).unwrap();
    assert_eq!(check_private(foreign, &meta).unwrap_err().code, "unsafe_file");
    if root {
        all_refuse("audit.jsonl", |path| {
            std::fs::write(path, b"").unwrap();
            set_mode(path, 0o600);
            std::os::unix::fs::chown(path, Some(12345), None).unwrap();
        });
    }
    let device = std::fs::symlink_metadata("/dev/null").unwrap();
    assert_eq!(check_private(Path::new("/dev/null"), &device).unwrap_err().code, "unsafe_file");
}

#[test]
fn log_and_key_are_for_their_owner_alone() {
    let dir = testing::dir();
    let _log = AuditLog::open(dir.path()).unwrap();
    for path in [log_path(dir.path()), key_path(dir.path())] {
        assert_eq!(std::fs::metadata(path).unwrap().mode() & 0o7777, 0o600);
    }
    assert_eq!(std::fs::metadata(key_path(dir.path())).unwrap().len(), 32);
}

#[test]
fn l00_a_record_needs_no_vault_and_its_key_stays() {
    let dir = testing::dir();
    AuditLog::open(dir.path()).unwrap().append(&Scene::new().allow()).unwrap();
    let key = std::fs::read(key_path(dir.path())).unwrap();
    AuditLog::open(dir.path()).unwrap().append(&Scene::new().allow()).unwrap();
    assert_eq!(std::fs::read(key_path(dir.path())).unwrap(), key);
    assert_eq!(verify(dir.path()).unwrap().records, 2);
    let mut files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    files.sort();
    let own = ["audit.anchor", "audit.jsonl", "audit.key", "audit.lock", "audit.root", "audit.seal"];
    assert_eq!(files, own);
}

#[test]
fn two_logs_have_two_keys() {
    let (a, b) = (testing::dir(), testing::dir());
    AuditLog::open(a.path()).unwrap().append(&Scene::new().allow()).unwrap();
    AuditLog::open(b.path()).unwrap().append(&Scene::new().allow()).unwrap();
    std::fs::copy(key_path(b.path()), key_path(a.path())).unwrap();
    assert_eq!(verify(a.path()).unwrap_err().code, "audit_broken");
    assert_eq!(refused(a.path()), (Class::Integrity, "audit_broken".into()));
}

#[test]
fn a_log_without_its_key_is_broken() {
    let dir = testing::dir();
    AuditLog::open(dir.path()).unwrap().append(&Scene::new().allow()).unwrap();
    for torn in [None, Some(&b"short"[..]), Some(&[0; 33][..])] {
        match torn {
            None => std::fs::remove_file(key_path(dir.path())).unwrap(),
            Some(bytes) => {
                std::fs::write(key_path(dir.path()), bytes).unwrap();
                set_mode(&key_path(dir.path()), 0o600);
            }
        }
        assert_eq!(refused(dir.path()), (Class::Integrity, "audit_broken".into()));
        assert_eq!(verify(dir.path()).unwrap_err().code, "audit_broken");
    }
}

#[test]
fn a_crash_while_the_key_is_made_is_survived() {
    let dir = testing::dir();
    for len in [0, 31] {
        std::fs::write(key_path(dir.path()), vec![0; len]).unwrap();
        set_mode(&key_path(dir.path()), 0o600);
        drop(AuditLog::open(dir.path()).unwrap());
        assert_eq!(std::fs::metadata(key_path(dir.path())).unwrap().len(), 32);
        assert_eq!(verify(dir.path()).unwrap().records, 0);
    }
}

#[test]
fn only_one_writer_has_the_log() {
    let dir = testing::dir();
    let first = AuditLog::open(dir.path()).unwrap();
    assert_eq!(refused(dir.path()), (Class::Unreachable, "already_running".into()));
    drop(first);
    AuditLog::open(dir.path()).unwrap();
}
