use tempfile::TempDir;

use super::*;

struct Fixture {
    dir: TempDir,
    identity: Identity,
}

impl Fixture {
    fn new() -> Self {
        Self { dir: TempDir::new().unwrap(), identity: Identity::generate() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("trust.json")
    }

    fn open(&self) -> (TrustStore, Tampered) {
        TrustStore::open(&self.path(), &self.identity).unwrap()
    }

    /// A store that must be in order.
    fn store(&self) -> TrustStore {
        let (store, tampered) = self.open();
        assert_eq!(tampered, Tampered(false));
        store
    }

    /// The manifest of a checkout called `checkout`, of a project called `project`.
    fn manifest(&self, checkout: &str, project: &str, more: &str) -> Manifest {
        let directory = self.dir.path().join(checkout);
        std::fs::create_dir_all(&directory).unwrap();
        let text = format!("schema = 1\n[project]\nname = \"{project}\"\n[bindings]\n{more}");
        std::fs::write(directory.join("kin.toml"), text).unwrap();
        Manifest::read(&directory).unwrap()
    }
}

#[test]
fn k01_a_manifest_is_untrusted_until_it_is_trusted() {
    let at = Fixture::new();
    let manifest = at.manifest("api", "api", "");
    let mut store = at.store();
    assert_eq!(store.check(&manifest), TrustState::Untrusted);
    assert_eq!(store.mounted_as(&manifest.directory), None);
    assert_eq!(store.would_mount_as(&manifest).as_str(), "api");
    assert_eq!(store.trust(&manifest, 1).unwrap().as_str(), "api");
    for store in [store, at.store()] {
        assert_eq!(store.check(&manifest), TrustState::Trusted);
        assert_eq!(store.mounted_as(&manifest.directory).unwrap().as_str(), "api");
    }
}

#[test]
fn k02_one_changed_byte_ends_the_trust_and_is_shown() {
    let at = Fixture::new();
    let mut store = at.store();
    store.trust(&at.manifest("api", "api", "A = \"a\"\nB = \"b\"\n"), 1).unwrap();
    let changed = at.manifest("api", "api", "A = \"a\"\nB = \"c\"\n");
    let TrustState::Changed { diff } = store.check(&changed) else { panic!("it is trusted") };
    assert!(diff.starts_with("--- trusted\n+++ now\n@@"), "{diff}");
    assert!(diff.contains("\n-B = \"b\"\n+B = \"c\""), "{diff}");
    store.trust(&changed, 2).unwrap();
    assert_eq!(at.store().check(&changed), TrustState::Trusted);
}

#[test]
fn k02_a_diff_is_short_and_safe_to_print() {
    let at = Fixture::new();
    let mut store = at.store();
    store.trust(&at.manifest("api", "api", ""), 1).unwrap();
    let comments: String = (0..20_000).map(|n| format!("# {n} \u{202e}\u{2066}\n")).collect();
    let started = std::time::Instant::now();
    let TrustState::Changed { diff } = store.check(&at.manifest("api", "api", &comments)) else {
        panic!("it is trusted")
    };
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(diff.lines().count(), DIFF_LINES + 1);
    assert!(diff.ends_with("more lines"));
    assert!(diff.contains("\\u{202e}") && !diff.contains('\u{202e}'));
}

#[test]
fn k00_an_edited_store_trusts_nothing_and_is_kept_for_a_look() {
    let at = Fixture::new();
    let manifest = at.manifest("api", "api", "A = \"a\"\n");
    at.store().trust(&manifest, 1).unwrap();
    let good = std::fs::read(at.path()).unwrap();
    for position in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[position] ^= 1;
        files::write_atomic(&at.path(), &bad).unwrap();
        let (store, tampered) = at.open();
        assert_eq!((tampered, store.check(&manifest)), (Tampered(true), TrustState::Untrusted));
    }
    let evil = at.manifest("evil", "evil", "A = \"a\"\n");
    let edited = String::from_utf8(good).unwrap().replace(&manifest.hash, &evil.hash);
    files::write_atomic(&at.path(), edited.as_bytes()).unwrap();
    let (mut store, tampered) = at.open();
    assert_eq!(tampered, Tampered(true));
    assert!(!store.untrust(&manifest.directory).unwrap());
    assert_eq!(std::fs::read_to_string(at.path()).unwrap(), edited);

    store.trust(&manifest, 2).unwrap();
    let rejected = at.dir.path().join("trust.json.rejected");
    assert_eq!(std::fs::read_to_string(rejected).unwrap(), edited);
    assert_eq!(at.store().check(&manifest), TrustState::Trusted);
}

#[test]
fn k00_a_store_of_another_identity_trusts_nothing() {
    let at = Fixture::new();
    let manifest = at.manifest("api", "api", "");
    at.store().trust(&manifest, 1).unwrap();
    let (store, tampered) = TrustStore::open(&at.path(), &Identity::generate()).unwrap();
    assert_eq!((tampered, store.check(&manifest)), (Tampered(true), TrustState::Untrusted));
}

#[test]
fn k05_a_project_that_moved_is_untrusted_at_its_new_path() {
    let at = Fixture::new();
    let manifest = at.manifest("old", "api", "");
    let mut store = at.store();
    store.trust(&manifest, 1).unwrap();
    let (old, new) = (at.dir.path().join("old"), at.dir.path().join("new"));
    std::fs::rename(&old, &new).unwrap();
    assert_eq!(store.check(&Manifest::read(&new).unwrap()), TrustState::Untrusted);
    std::os::unix::fs::symlink(&new, &old).unwrap();
    assert_eq!(store.check(&Manifest::read(&old).unwrap()), TrustState::Untrusted);
}

#[test]
fn two_checkouts_of_one_name_do_not_collide_and_keep_their_paths() {
    let at = Fixture::new();
    let (first, second) = (at.manifest("one", "api", ""), at.manifest("two", "api", ""));
    let mut store = at.store();
    assert_eq!(store.trust(&first, 1).unwrap().as_str(), "api");
    let announced = store.would_mount_as(&second);
    let tagged = store.trust(&second, 2).unwrap();
    let hash = format!("{:x}", Sha256::digest(second.directory.as_os_str().as_bytes()));
    assert_eq!((tagged.as_str(), &announced), (&*format!("api~{}", &hash[..8]), &tagged));

    let changed = at.manifest("two", "api", "A = \"a\"\n");
    assert_eq!(store.trust(&changed, 3).unwrap(), tagged);
    assert!(store.untrust(&first.directory).unwrap());
    assert!(!store.untrust(&first.directory).unwrap());
    let store = at.store();
    assert_eq!(store.check(&first), TrustState::Untrusted);
    assert_eq!(store.mounted_as(&second.directory), Some(tagged));
    assert_eq!(store.would_mount_as(&at.manifest("three", "api", "")).as_str(), "api");
}

#[test]
fn a_project_that_renames_itself_moves_in_the_mount() {
    let at = Fixture::new();
    let mut store = at.store();
    store.trust(&at.manifest("one", "api", ""), 1).unwrap();
    assert_eq!(store.trust(&at.manifest("one", "web", ""), 2).unwrap().as_str(), "web");
    assert_eq!(store.trust(&at.manifest("two", "api", ""), 3).unwrap().as_str(), "api");
}

#[test]
fn a_path_that_is_not_utf8_can_be_trusted() {
    use std::os::unix::ffi::OsStringExt;
    let at = Fixture::new();
    let odd = at.dir.path().join(std::ffi::OsString::from_vec(b"od\xffd".to_vec()));
    std::fs::create_dir(&odd).unwrap();
    std::fs::write(odd.join("kin.toml"), "schema = 1\nproject.name = \"odd\"\n").unwrap();
    let manifest = Manifest::read(&odd).unwrap();
    at.store().trust(&manifest, 1).unwrap();
    assert_eq!(at.store().check(&manifest), TrustState::Trusted);
}

#[test]
fn a_failed_write_trusts_nothing() {
    let at = Fixture::new();
    let manifest = at.manifest("api", "api", "");
    std::fs::create_dir(at.dir.path().join("trust.json.tmp")).unwrap();
    let mut store = at.store();
    assert_eq!(store.trust(&manifest, 1).unwrap_err().class, Class::Storage);
    assert_eq!(store.check(&manifest), TrustState::Untrusted);
}
