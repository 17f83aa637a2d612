use std::os::unix::fs::PermissionsExt;

use kin_policy::FilePath;
use tempfile::TempDir;

use super::*;
use crate::sys::error::Class;

struct Place {
    dir: TempDir,
    placeholders: Placeholders,
}

impl Place {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        for name in ["state", "base"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let placeholders = Placeholders::begin(&dir.path().join("state")).unwrap();
        Self { dir, placeholders }
    }

    fn base(&self) -> PathBuf {
        self.dir.path().join("base")
    }

    fn stand(&self, path: &str, grant: u8) -> Result<()> {
        let (base, path) = (self.base(), FilePath::new(path).unwrap());
        let way = Way { base: &base, path: &path, link: Path::new("/mnt/api/x") };
        self.placeholders.stand(way, GrantId::from_bytes([grant; 16]))
    }

    fn release(&self, grant: u8) {
        self.placeholders.release(GrantId::from_bytes([grant; 16]));
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.base()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn a_missing_file_is_put_there_and_goes_with_the_last_grant() {
    let place = Place::new();
    place.stand(".env", 1).unwrap();
    place.stand("~/.aws/credentials", 1).unwrap();
    place.stand("~/.aws/credentials", 2).unwrap();
    let file = place.base().join(".aws/credentials");
    let meta = std::fs::metadata(&file).unwrap();
    assert_eq!((meta.len(), meta.permissions().mode() & 0o7777), (0, 0o400));
    assert_eq!(place.placeholders.of(GrantId::from_bytes([1; 16])).len(), 3);
    place.release(1);
    assert_eq!(place.names(), [".aws"]);
    assert!(file.exists());
    place.release(2);
    assert!(place.names().is_empty());
    assert_eq!(std::fs::read(place.dir.path().join("state/placeholders")).unwrap(), b"");
}

#[test]
fn what_is_there_already_stays() {
    let place = Place::new();
    let own = place.base().join(".env");
    std::fs::write(&own, b"").unwrap();
    place.stand(".env", 1).unwrap();
    place.release(1);
    assert!(own.exists());
}

#[test]
fn a_placeholder_that_was_filled_or_replaced_stays() {
    let place = Place::new();
    for name in ["filled", "replaced", "d/f"] {
        place.stand(name, 1).unwrap();
    }
    let filled = place.base().join("filled");
    std::fs::set_permissions(&filled, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&filled, b"mine").unwrap();
    std::fs::write(place.base().join("new"), b"").unwrap();
    std::fs::rename(place.base().join("new"), place.base().join("replaced")).unwrap();
    std::fs::write(place.base().join("d/cache"), b"").unwrap();
    place.release(1);
    assert_eq!(place.names(), ["d", "filled", "replaced"]);
    assert!(!place.base().join("d/f").exists());
}

#[test]
fn what_a_killed_broker_left_goes_at_the_next_start() {
    let place = Place::new();
    place.stand(".env", 1).unwrap();
    place.stand("a/b/c", 1).unwrap();
    std::fs::write(place.base().join("mine"), b"").unwrap();
    let _next = Placeholders::begin(&place.dir.path().join("state")).unwrap();
    assert_eq!(place.names(), ["mine"]);
}

#[test]
fn no_file_is_laid_over_what_is_none_or_outside() {
    let place = Place::new();
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, place.base().join(name)).unwrap();
    std::fs::create_dir(place.base().join("dir")).unwrap();
    nix::unistd::mkfifo(&place.base().join("fifo"), Mode::S_IRWXU).unwrap();
    link("dir", "inside");
    link("..", "outside");
    link("/etc", "away");
    link("/etc/hostname", "link");
    link("/mnt/api/x", "own");
    std::fs::write(place.base().join("file"), b"x").unwrap();
    for bad in ["dir", "fifo", "outside/x", "away/x", "link", "file/x"] {
        let error = place.stand(bad, 1).unwrap_err();
        assert_eq!((error.class, &*error.code), (Class::Unsafe, "unsafe_target"), "{bad}: {error}");
        assert!(error.hint.is_some());
    }
    for good in ["inside/x", "own", "file"] {
        place.stand(good, 1).unwrap();
    }
    assert!(place.base().join("dir/x").exists());
    place.release(1);
    assert!(!place.base().join("dir/x").exists());
    assert_eq!(std::fs::read(place.base().join("file")).unwrap(), b"x");
}
