use std::os::unix::fs::PermissionsExt;

use nix::unistd::mkfifo;
use tempfile::TempDir;

use super::*;

fn private(dir: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    write_atomic(&path, bytes).unwrap();
    path
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn refusal(path: &Path) -> (Class, String) {
    let error = read_private(path, 1 << 20).expect_err("it was read");
    (error.class, error.code.into_owned())
}

#[test]
fn what_was_written_reads_back_and_is_private() {
    let dir = TempDir::new().unwrap();
    let path = private(&dir, "f", b"first");
    write_atomic(&path, b"second").unwrap();
    assert_eq!(**read_private(&path, 6).unwrap().unwrap(), *b"second");
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assert!(read_private(&dir.path().join("absent"), 1).unwrap().is_none());
}

#[test]
fn f10_only_a_private_regular_file_is_read_and_nothing_blocks() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let unsafe_file = (Class::Unsafe, "unsafe_file".to_owned());

    let target = private(&dir, "target", b"x");
    std::os::unix::fs::symlink(&target, at("symlink")).unwrap();
    mkfifo(&at("fifo"), Mode::from_bits_truncate(0o600)).unwrap();
    std::fs::create_dir(at("directory")).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    for mode in [0o644, 0o640, 0o620, 0o601] {
        let path = private(&dir, &format!("mode{mode:o}"), b"x");
        chmod(&path, mode);
        assert_eq!(refusal(&path), unsafe_file, "{mode:o}");
    }
    private(&dir, "linked", b"x");
    std::fs::hard_link(at("linked"), at("second")).unwrap();
    private(&dir, "large", &vec![0; (1 << 20) + 1]);
    for name in ["symlink", "fifo", "directory", "socket", "linked", "large"] {
        assert_eq!(refusal(&at(name)), unsafe_file, "{name}");
    }
    assert_eq!(refusal(Path::new("/dev/null")), unsafe_file);
}

#[test]
fn k07_a_shared_file_and_its_directory_are_nobody_elses_to_write() {
    let dir = TempDir::new().unwrap();
    let path = private(&dir, "shared", b"text");
    for mode in [0o644, 0o664, 0o400] {
        chmod(&path, mode);
        assert_eq!(read_shared(&path, 4).unwrap().unwrap(), b"text", "{mode:o}");
    }
    assert_eq!(read_shared(&path, 3).unwrap_err().code, "unsafe_file");
    chmod(&path, 0o646);
    assert_eq!(read_shared(&path, 4).unwrap_err().code, "unsafe_owner");
    chmod(&path, 0o644);
    chmod(dir.path(), 0o777);
    assert_eq!(read_shared(&path, 4).unwrap_err().code, "unsafe_owner");
    chmod(dir.path(), 0o700);
    assert!(read_shared(&dir.path().join("absent"), 1).unwrap().is_none());
}

#[test]
fn a_failed_write_leaves_the_old_file_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let path = private(&dir, "f", b"old");
    std::fs::create_dir(dir.path().join("f.tmp")).unwrap();
    let error = write_atomic(&path, b"new").unwrap_err();
    assert_eq!(error.class, Class::Storage);
    assert_eq!(**read_private(&path, 3).unwrap().unwrap(), *b"old");

    let occupied = dir.path().join("occupied");
    std::fs::create_dir_all(occupied.join("below")).unwrap();
    assert!(write_atomic(&occupied, b"new").is_err());
    assert!(!exists(&dir.path().join("occupied.tmp")));
}

#[test]
fn a_full_disk_is_told_apart() {
    for errno in [libc::ENOSPC, libc::EDQUOT] {
        let error = Error::storage("write", &std::io::Error::from_raw_os_error(errno));
        assert_eq!((error.class, &*error.code), (Class::Storage, "disk_full"));
    }
}

#[test]
fn what_a_killed_write_left_behind_is_replaced() {
    let dir = TempDir::new().unwrap();
    let path = private(&dir, "f", b"old");
    std::fs::write(dir.path().join("f.tmp"), b"half of someth").unwrap();
    write_atomic(&path, b"new").unwrap();
    assert_eq!(**read_private(&path, 3).unwrap().unwrap(), *b"new");
    assert!(!exists(&dir.path().join("f.tmp")));
}
