use std::cell::RefCell;

use tempfile::TempDir;

use super::*;
use crate::vault::Place;

struct Fixture {
    dir: TempDir,
    identity: Identity,
    vault: RefCell<Vault>,
}

impl Fixture {
    fn new() -> Self {
        let (dir, identity) = (TempDir::new().unwrap(), Identity::generate());
        let place = Place::new(dir.path().join("vault.age"), dir.path().join("vault.anchor"));
        let vault = RefCell::new(Vault::made(&place, &identity).unwrap());
        Self { dir, identity, vault }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("trust.json")
    }

    fn open(&self) -> TrustStore {
        TrustStore::open(&self.path(), &self.identity, self.vault.borrow().store_mark()).unwrap()
    }

    /// A store that must be in order.
    fn store(&self) -> TrustStore {
        let store = self.open();
        assert_eq!(store.refused(), None);
        store
    }

    /// Changes the store as if that were on the record.
    fn commit(&self, store: &mut TrustStore, planned: Planned) -> Result<()> {
        store.commit(Logged::for_test(planned), &mut self.vault.borrow_mut())
    }

    fn trust(&self, store: &mut TrustStore, manifest: &Manifest, now: i64) -> Result<DirectoryName> {
        self.commit(store, store.plan_trust(manifest, now)?)?;
        Ok(store.mounted_as(&manifest.directory).expect("it is trusted"))
    }

    fn untrust(&self, store: &mut TrustStore, directory: &Path) -> Result<bool> {
        let Some(planned) = store.plan_untrust(directory)? else { return Ok(false) };
        self.commit(store, planned).map(|()| true)
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
    assert_eq!(at.trust(&mut store, &manifest, 1).unwrap().as_str(), "api");
    for store in [store, at.store()] {
        assert_eq!(store.check(&manifest), TrustState::Trusted);
        assert_eq!(store.mounted_as(&manifest.directory).unwrap().as_str(), "api");
    }
}

#[test]
fn k02_one_changed_byte_ends_the_trust_and_is_shown() {
    let at = Fixture::new();
    let mut store = at.store();
    at.trust(&mut store, &at.manifest("api", "api", "A = \"a\"\nB = \"b\"\n"), 1).unwrap();
    let changed = at.manifest("api", "api", "A = \"a\"\nB = \"c\"\n");
    let TrustState::Changed { diff } = store.check(&changed) else { panic!("it is trusted") };
    assert!(diff.starts_with("--- trusted\n+++ now\n@@"), "{diff}");
    assert!(diff.contains("\n-B = \"b\"\n+B = \"c\""), "{diff}");
    at.trust(&mut store, &changed, 2).unwrap();
    assert_eq!(at.store().check(&changed), TrustState::Trusted);
}

#[test]
fn k02_a_diff_is_short_and_safe_to_print() {
    let at = Fixture::new();
    let mut store = at.store();
    at.trust(&mut store, &at.manifest("api", "api", ""), 1).unwrap();
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
    at.trust(&mut at.store(), &manifest, 1).unwrap();
    let good = std::fs::read(at.path()).unwrap();
    for position in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[position] ^= 1;
        files::write_atomic(&at.path(), &bad).unwrap();
        let store = at.open();
        assert_eq!((store.refused(), store.check(&manifest)), (Some(Refused::Forged), TrustState::Untrusted));
    }
    let evil = at.manifest("evil", "evil", "A = \"a\"\n");
    let edited = String::from_utf8(good).unwrap().replace(&manifest.hash, &evil.hash);
    files::write_atomic(&at.path(), edited.as_bytes()).unwrap();
    let mut store = at.open();
    assert_eq!(store.refused(), Some(Refused::Forged));
    assert!(!at.untrust(&mut store, &manifest.directory).unwrap());
    assert_eq!(std::fs::read_to_string(at.path()).unwrap(), edited);

    at.trust(&mut store, &manifest, 2).unwrap();
    let rejected = at.dir.path().join("trust.json.rejected");
    assert_eq!(std::fs::read_to_string(rejected).unwrap(), edited);
    assert_eq!(at.store().check(&manifest), TrustState::Trusted);
}

#[test]
fn k00_a_store_of_another_identity_trusts_nothing() {
    let at = Fixture::new();
    let manifest = at.manifest("api", "api", "");
    at.trust(&mut at.store(), &manifest, 1).unwrap();
    let store = TrustStore::open(&at.path(), &Identity::generate(), at.vault.borrow().store_mark()).unwrap();
    assert_eq!((store.refused(), store.check(&manifest)), (Some(Refused::Forged), TrustState::Untrusted));
}

#[test]
fn k05_a_project_that_moved_is_untrusted_at_its_new_path() {
    let at = Fixture::new();
    let manifest = at.manifest("old", "api", "");
    let mut store = at.store();
    at.trust(&mut store, &manifest, 1).unwrap();
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
    assert_eq!(at.trust(&mut store, &first, 1).unwrap().as_str(), "api");
    let announced = store.would_mount_as(&second);
    let tagged = at.trust(&mut store, &second, 2).unwrap();
    let hash = format!("{:x}", Sha256::digest(second.directory.as_os_str().as_bytes()));
    assert_eq!((tagged.as_str(), &announced), (&*format!("api~{}", &hash[..8]), &tagged));

    let changed = at.manifest("two", "api", "A = \"a\"\n");
    assert_eq!(at.trust(&mut store, &changed, 3).unwrap(), tagged);
    assert!(at.untrust(&mut store, &first.directory).unwrap());
    assert!(!at.untrust(&mut store, &first.directory).unwrap());
    let store = at.store();
    assert_eq!(store.check(&first), TrustState::Untrusted);
    assert_eq!(store.mounted_as(&second.directory), Some(tagged));
    assert_eq!(store.would_mount_as(&at.manifest("three", "api", "")).as_str(), "api");
}

#[test]
fn a_project_that_renames_itself_moves_in_the_mount() {
    let at = Fixture::new();
    let mut store = at.store();
    at.trust(&mut store, &at.manifest("one", "api", ""), 1).unwrap();
    assert_eq!(at.trust(&mut store, &at.manifest("one", "web", ""), 2).unwrap().as_str(), "web");
    assert_eq!(at.trust(&mut store, &at.manifest("two", "api", ""), 3).unwrap().as_str(), "api");
}

#[test]
fn a_path_that_is_not_utf8_can_be_trusted() {
    use std::os::unix::ffi::OsStringExt;
    let at = Fixture::new();
    let odd = at.dir.path().join(std::ffi::OsString::from_vec(b"od\xffd".to_vec()));
    std::fs::create_dir(&odd).unwrap();
    std::fs::write(odd.join("kin.toml"), "schema = 1\nproject.name = \"odd\"\n").unwrap();
    let manifest = Manifest::read(&odd).unwrap();
    at.trust(&mut at.store(), &manifest, 1).unwrap();
    assert_eq!(at.store().check(&manifest), TrustState::Trusted);
}

#[test]
fn a_failed_write_trusts_nothing() {
    let at = Fixture::new();
    let manifest = at.manifest("api", "api", "");
    std::fs::create_dir(at.dir.path().join("trust.json.announced.tmp")).unwrap();
    let mut store = at.store();
    assert_eq!(at.trust(&mut store, &manifest, 1).unwrap_err().class, Class::Storage);
    assert_eq!(store.check(&manifest), TrustState::Untrusted);
}

#[test]
fn k15_an_old_store_put_back_trusts_nothing() {
    let at = Fixture::new();
    let (api, web) = (at.manifest("api", "api", ""), at.manifest("web", "web", ""));
    let mut store = at.store();
    at.trust(&mut store, &api, 1).unwrap();
    let old = std::fs::read(at.path()).unwrap();
    at.trust(&mut store, &web, 2).unwrap();
    assert!(at.untrust(&mut store, &api.directory).unwrap());
    assert_eq!(at.store().check(&api), TrustState::Untrusted);

    files::write_atomic(&at.path(), &old).unwrap();
    let mut store = at.open();
    assert_eq!(store.refused(), Some(Refused::RolledBack));
    assert_eq!((store.check(&api), store.check(&web)), (TrustState::Untrusted, TrustState::Untrusted));
    // A person begins anew; what was put back stays for a look.
    at.trust(&mut store, &web, 3).unwrap();
    assert_eq!(store.refused(), None);
    let store = at.store();
    assert_eq!((store.check(&api), store.check(&web)), (TrustState::Untrusted, TrustState::Trusted));
    assert_eq!(std::fs::read(at.dir.path().join("trust.json.rejected")).unwrap(), old);
}

#[test]
fn k15_a_store_that_is_gone_or_of_an_earlier_vault_trusts_nothing() {
    let at = Fixture::new();
    let manifest = at.manifest("api", "api", "");
    at.trust(&mut at.store(), &manifest, 1).unwrap();
    let old = std::fs::read(at.path()).unwrap();
    std::fs::remove_file(at.path()).unwrap();
    let store = at.open();
    assert_eq!((store.refused(), store.check(&manifest)), (Some(Refused::Missing), TrustState::Untrusted));

    // The same identity, for another vault, which has trusted nothing.
    let place = Place::new(at.dir.path().join("other.age"), at.dir.path().join("other.anchor"));
    *at.vault.borrow_mut() = Vault::made(&place, &at.identity).unwrap();
    assert_eq!(at.open().refused(), None);
    files::write_atomic(&at.path(), &old).unwrap();
    let store = at.open();
    assert_eq!((store.refused(), store.check(&manifest)), (Some(Refused::RolledBack), TrustState::Untrusted));
}

#[test]
fn a_vault_that_remembers_no_store_adopts_the_one_that_is_there_and_from_then_on_no_older() {
    let at = Fixture::new();
    let (api, web) = (at.manifest("api", "api", ""), at.manifest("web", "web", ""));
    at.trust(&mut at.store(), &api, 1).unwrap();
    let old = std::fs::read(at.path()).unwrap();
    at.trust(&mut at.store(), &web, 2).unwrap();
    at.vault.borrow_mut().forget_store_mark();
    let store = at.store();
    assert_eq!(store.check(&web), TrustState::Trusted);
    let adoption = store.to_adopt(&at.vault.borrow()).expect("it is unknown");
    at.vault.borrow_mut().acknowledge(&Logged::for_test(adoption)).unwrap();
    assert!(at.store().to_adopt(&at.vault.borrow()).is_none());
    files::write_atomic(&at.path(), &old).unwrap();
    assert_eq!(at.open().refused(), Some(Refused::RolledBack));
}

#[test]
fn a_store_that_was_announced_counts_once_the_vault_names_it() {
    let at = Fixture::new();
    let manifest = at.manifest("api", "api", "");
    let announced = at.dir.path().join("trust.json.announced");
    at.trust(&mut at.store(), &manifest, 1).unwrap();
    let new = std::fs::read(at.path()).unwrap();
    // The vault names it, and it has not its place yet.
    std::fs::rename(at.path(), &announced).unwrap();
    assert_eq!(at.store().check(&manifest), TrustState::Trusted);
    assert!(!announced.exists() && std::fs::read(at.path()).unwrap() == new);
    // The vault names the other: this one was never taken.
    let planned = at.store().plan_untrust(&manifest.directory).unwrap().unwrap();
    files::write_atomic(&announced, &planned.bytes).unwrap();
    assert_eq!(at.store().check(&manifest), TrustState::Trusted);
    assert!(!announced.exists() && std::fs::read(at.path()).unwrap() == new);
}
