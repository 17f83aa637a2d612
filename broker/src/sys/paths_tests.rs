use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn refused(dir: &Path) -> String {
    let error = create_private(dir).unwrap_err();
    assert_eq!((&*error.code, error.class), ("unsafe_dir", Class::Unsafe), "{error}");
    error.to_string()
}

#[test]
fn what_is_missing_on_the_way_is_made_for_us_alone() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("a/b/kin");
    assert!(check_private(&dir).is_err());
    create_private(&dir).unwrap();
    check_private(&dir).unwrap();
    for made in [home.path().join("a"), home.path().join("a/b"), dir] {
        assert_eq!(std::fs::metadata(&made).unwrap().mode() & 0o7777, 0o700, "{}", made.display());
    }
}

#[test]
fn links_of_our_own_are_followed_on_the_way_and_not_at_its_end() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    std::fs::create_dir(at("real")).unwrap();
    symlink("real", at("relative")).unwrap();
    symlink(at("relative"), at("absolute")).unwrap();
    symlink("real/../absolute", at("around")).unwrap();
    create_private(&at("around/x/../kin")).unwrap();
    assert!(at("real/kin").is_dir() && at("real/x").is_dir());
    symlink("real/kin", at("end")).unwrap();
    assert!(refused(&at("end")).contains("is not a directory"));
    symlink("loop", at("loop")).unwrap();
    assert!(create_private(&at("loop/kin")).is_err());
    std::fs::write(at("file"), "").unwrap();
    assert!(create_private(&at("file/kin")).is_err());
}

/// As root alone: nobody else can give a directory away.
#[test]
fn nothing_is_made_or_taken_below_a_directory_of_another_user() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let theirs = home.path().join("theirs");
    std::fs::create_dir(&theirs).unwrap();
    let (ours, link) = (theirs.join("kin"), home.path().join("link"));
    std::fs::create_dir(&ours).unwrap();
    std::fs::set_permissions(&ours, std::fs::Permissions::from_mode(0o700)).unwrap();
    create_private(&ours).unwrap();
    std::os::unix::fs::lchown(&theirs, Some(4711), Some(4711)).unwrap();
    for dir in [ours, theirs.join("new"), theirs.join("new/kin"), theirs.join("../theirs/kin")] {
        assert!(refused(&dir).contains("belongs to uid 4711"), "{}", dir.display());
    }
    assert!(!theirs.join("new").exists());
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), &link).unwrap();
    std::os::unix::fs::lchown(&link, Some(4711), Some(4711)).unwrap();
    assert!(refused(&link.join("kin")).contains("belongs to uid 4711"));
    assert!(!elsewhere.path().join("kin").exists());
}

#[test]
fn k16_what_others_may_write_on_the_way_is_refused_unless_it_is_sticky() {
    let home = tempfile::tempdir().unwrap();
    let parent = home.path().join("parent");
    let dir = parent.join("home/run");
    create_private(&dir).unwrap();
    let set = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    for on_the_way in [&parent, &parent.join("home")] {
        for mode in [0o777, 0o707, 0o702, 0o2777] {
            set(on_the_way, mode);
            let said = refused(&dir);
            assert!(said.contains("can be written by every user"), "{mode:o} {said}");
            assert!(refused(&parent.join("home/new/run")).contains("every user"), "{mode:o}");
            assert_eq!(check_private(&dir).unwrap_err().code, "unsafe_dir");
        }
        for mode in [0o1777, 0o755, 0o711] {
            set(on_the_way, mode);
            create_private(&dir).unwrap();
        }
    }
    assert!(!parent.join("home/new").exists());
    // A directory of kin's own is nobody else's, sticky or not.
    set(&dir, 0o1777);
    assert!(refused(&dir).contains("has mode"));
}

/// As root alone: nobody else can give a directory to a group that they are not in.
#[test]
fn k16_a_group_of_others_may_not_write_on_the_way() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let parent = home.path().join("parent");
    let dir = parent.join("run");
    create_private(&dir).unwrap();
    std::fs::set_permissions(&parent, PermissionsExt::from_mode(0o775)).unwrap();
    create_private(&dir).unwrap();
    std::os::unix::fs::chown(&parent, None, Some(4711)).unwrap();
    assert!(refused(&dir).contains("can be written by group 4711"));
    std::fs::set_permissions(&parent, PermissionsExt::from_mode(0o755)).unwrap();
    create_private(&dir).unwrap();
}
