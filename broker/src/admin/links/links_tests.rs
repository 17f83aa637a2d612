use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;
use crate::keys::Identity;

fn path(text: &str) -> FilePath {
    FilePath::new(text).unwrap()
}

#[test]
fn a_line_for_git_is_added_once_and_only_that_is_taken_out() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(".gitignore");
    let added = ignored::add(dir.path(), &path("a b/[x].env")).unwrap().unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "/a\\ b/\\[x].env\n");
    assert_eq!(ignored::add(dir.path(), &path("a b/[x].env")).unwrap(), None);
    std::fs::write(&file, "target\n/a\\ b/\\[x].env\nx").unwrap();
    ignored::remove(dir.path(), &path("a b/[x].env"), &added).unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "target\nx");
    let added = ignored::add(dir.path(), &path(".env")).unwrap().unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "target\nx\n/.env\n");
    std::fs::write(&file, "/.env\n").unwrap();
    ignored::remove(dir.path(), &path(".env"), &added).unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "", "a file that was there stays");
}

#[test]
fn a_gitignore_that_leads_elsewhere_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "its own").unwrap();
    let project = dir.path().join("project");
    std::fs::create_dir(&project).unwrap();
    symlink(&victim, project.join(".gitignore")).unwrap();
    let error = ignored::add(&project, &path(".env")).unwrap_err();
    assert_eq!(&*error.code, "unsafe_target");
    std::fs::remove_file(project.join(".gitignore")).unwrap();
    std::fs::hard_link(&victim, project.join(".gitignore")).unwrap();
    assert_eq!(&*ignored::add(&project, &path(".env")).unwrap_err().code, "unsafe_target");
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "its own");
}

#[test]
fn a_place_never_leaves_its_base_and_nothing_is_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let (base, outside) = (dir.path().join("base"), dir.path().join("outside"));
    std::fs::create_dir_all(&base).unwrap();
    std::fs::create_dir_all(&outside).unwrap();
    symlink(&outside, base.join("out")).unwrap();
    symlink("../outside", base.join("up")).unwrap();
    let target = Path::new("/mnt/x");
    for text in ["out/x", "up/x", "out/new/x"] {
        let path = path(text);
        let error = Place::make(Way { base: &base, path: &path, link: target }).err().expect(text);
        assert_eq!((&*error.code, error.exit_code()), ("unsafe_target", 3), "{text}");
    }
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    let there = path("a/b/x");
    let way = Way { base: &base, path: &there, link: target };
    let place = Place::make(way).unwrap();
    assert_eq!(place.made().len(), 2);
    place.link(target).unwrap();
    assert_eq!(std::fs::read_link(base.join("a/b/x")).unwrap(), target);
    assert_eq!(&*place.link(target).unwrap_err().code, "file_exists");
}

#[test]
fn a_file_that_changed_after_it_was_read_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (file, there) = (dir.path().join("x"), path("x"));
    std::fs::write(&file, "one").unwrap();
    let way = Way { base: dir.path(), path: &there, link: Path::new("/mnt/x") };
    let place = Place::make(way).unwrap();
    let old = place.read(way).unwrap();
    assert!(old.bytes().bytes() == b"one");
    let write = |_| {
        std::fs::write(&file, "two").unwrap();
        Ok(())
    };
    let error = place.replace(old, Path::new("/mnt/x"), write).unwrap_err();
    assert_eq!(&*error.code, "file_changed");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "two");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    place.replace(place.read(way).unwrap(), Path::new("/mnt/x"), |_| Ok(())).unwrap();
    assert_eq!(std::fs::read_link(&file).unwrap(), Path::new("/mnt/x"));
}

#[test]
fn what_another_program_wrote_is_no_memory_of_links() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("links.json");
    let identity = Identity::generate();
    assert!(Store::open(&file, &identity).unwrap().of(dir.path(), None).unwrap().is_empty());
    crate::sys::files::write_atomic(&file, br#"{"format":1,"links":[]}"#).unwrap();
    let error = Store::open(&file, &identity).err().unwrap();
    assert_eq!((error.exit_code(), &*error.code), (7, "links_unauthenticated"));
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    assert_eq!(&*Store::open(&file, &identity).err().unwrap().code, "unsafe_file");
}
