use std::collections::BTreeMap;

use kin_policy::decide_reveal;
use tempfile::TempDir;

use super::*;
use crate::keys::{age_file, authenticate};

struct Fixture {
    _dir: TempDir,
    path: PathBuf,
    place: Place,
    identity: Identity,
}

fn fixture() -> (Fixture, Vault) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("vault.age");
    let place = Place::new(path.clone(), dir.path().join("vault.anchor"));
    let identity = Identity::generate();
    let vault = Vault::made(&place, &identity).unwrap();
    (Fixture { _dir: dir, path, place, identity }, vault)
}

impl Fixture {
    fn open(&self) -> Result<Vault> {
        Vault::open(&self.place, &self.identity)
    }

    /// As if these bytes had been acknowledged.
    fn put(&self, file: &[u8]) {
        std::fs::write(&self.path, file).unwrap();
        let key = self.identity.derive(anchor::PURPOSE);
        let generation = self.payload()["generation"].as_u64().unwrap();
        anchor::prepare(&RealDisk, &self.place.anchor, &key, (generation, None), file)
            .unwrap()
            .put_in_place()
            .unwrap();
    }

    /// The class and code that these bytes are refused with.
    fn refused(&self, file: &[u8]) -> (Class, String) {
        std::fs::write(&self.path, file).unwrap();
        let error = self.open().err().expect("it was opened");
        (error.class, error.code.into_owned())
    }

    /// The payload, as JSON.
    fn payload(&self) -> serde_json::Value {
        let file = std::fs::read(&self.path).unwrap();
        serde_json::from_slice(&age_file::decrypt(&file, &self.identity.age()).unwrap()).unwrap()
    }

    /// A file around `payload`, signed with `key` where there is one.
    fn file(&self, payload: &serde_json::Value, key: Option<&Identity>) -> Vec<u8> {
        let mut json = serde_json::to_vec(payload).unwrap();
        if let Some(key) = key {
            json = authenticate::sign(&key.derive("kin/vault-mac/1"), json);
        }
        age_file::encrypt(&json, &self.identity.age().to_public()).unwrap()
    }
}

fn name(text: &str) -> Reference {
    Reference::new(text).unwrap()
}

fn value(text: &str) -> Plaintext {
    Plaintext::copy_of(text.as_bytes())
}

fn noted(note: &str) -> Facts {
    Facts { note: Some(note.into()), ..Facts::default() }
}

fn permit(reference: &Reference) -> Logged<Permit> {
    Logged::for_test(decide_reveal(reference, false, true).unwrap())
}

fn unseal(vault: &Vault, reference: &str) -> Result<Vec<u8>> {
    vault.unseal(&permit(&name(reference))).map(|value| value.bytes().to_vec())
}

fn integrity(code: &str) -> (Class, String) {
    (Class::Integrity, code.to_owned())
}

#[test]
fn what_was_set_is_there_after_a_reopen() {
    let (at, mut vault) = fixture();
    assert_eq!(vault.generation(), 1);
    let large = Plaintext::copy_of(&vec![9; MAX_VALUE]);
    vault.set(&name("large"), &large, Facts::default(), 3).unwrap();
    vault.set(&name("empty"), &value(""), Facts::default(), 4).unwrap();
    let info = vault.set(&name("db/url"), &value("postgres://"), noted("test"), 5).unwrap();
    assert_eq!((info.version, info.size, info.created), (1, 11, 5));

    let again = at.open().unwrap();
    assert_eq!(again.generation(), 4);
    assert_eq!(unseal(&again, "db/url").unwrap(), b"postgres://");
    assert_eq!(unseal(&again, "empty").unwrap(), b"");
    assert_eq!(unseal(&again, "large").unwrap(), large.bytes());
    let names: Vec<_> = again.list().into_iter().map(|info| info.reference.to_string()).collect();
    assert_eq!(names, ["db/url", "empty", "large"]);
    assert_eq!(again.info(&name("db/url")), Some(info));
}

#[test]
fn a_new_version_replaces_the_old_and_a_removed_secret_is_gone() {
    let (at, mut vault) = fixture();
    vault.set(&name("a"), &value("one"), noted("first"), 1).unwrap();
    let info = vault.set(&name("a"), &value("three"), Facts::default(), 2).unwrap();
    assert_eq!((info.version, info.size, info.note), (2, 5, None));
    assert_eq!(unseal(&vault, "a").unwrap(), b"three");
    assert_eq!(vault.remove(&name("a")).unwrap().version, 2);
    for vault in [&vault, &at.open().unwrap()] {
        assert_eq!(unseal(vault, "a").unwrap_err().code, "secret_missing");
        assert!(vault.list().is_empty());
        assert_eq!(vault.generation(), 4);
    }
    assert_eq!(vault.remove(&name("a")).unwrap_err().code, "secret_missing");
}

#[test]
fn old_versions_can_be_read_for_a_while_and_then_are_destroyed() {
    const DAY: i64 = 24 * 60 * 60;
    let (at, mut vault) = fixture();
    for (text, created) in [("one", 0), ("two", DAY), ("three", 2 * DAY)] {
        vault.set(&name("a"), &value(text), noted(text), created).unwrap();
    }
    let read = |vault: &Vault, version, now| {
        let value = vault.unseal_version(&permit(&name("a")), version, now);
        value.map(|value| value.bytes().to_vec()).map_err(|error| error.code.into_owned())
    };
    let vault_then = at.open().unwrap();
    for (version, text) in [(1, "one"), (2, "two"), (3, "three")] {
        assert_eq!(read(&vault_then, version, 2 * DAY).unwrap(), text.as_bytes());
    }
    // A version is replaced when the next one comes; 30 days later it cannot be read any more.
    assert_eq!(read(&vault_then, 1, 31 * DAY - 1).unwrap(), b"one");
    assert_eq!(read(&vault_then, 1, 31 * DAY), Err("version_destroyed".into()));
    assert_eq!(read(&vault_then, 2, 31 * DAY).unwrap(), b"two");
    assert_eq!(read(&vault_then, 3, 1000 * DAY).unwrap(), b"three");
    assert_eq!(read(&vault_then, 4, 0), Err("version_missing".into()));
    // The next write, of any secret, takes what is over out of the file.
    vault.set(&name("b"), &value(""), Facts::default(), 31 * DAY).unwrap();
    let versions = &at.payload()["secrets"]["a"]["versions"];
    let kept: Vec<bool> = (0..3).map(|n| versions[n].get("sealed").is_some()).collect();
    assert_eq!(kept, [false, true, true]);
    assert_eq!(read(&at.open().unwrap(), 1, 2 * DAY), Err("version_destroyed".into()));
    let history = vault.history(&name("a"), 31 * DAY).unwrap();
    let states: Vec<_> = history.iter().map(|of| (of.version, of.replaced, of.readable)).collect();
    assert_eq!(states, [(1, Some(DAY), false), (2, Some(2 * DAY), true), (3, None, true)]);
    vault.remove(&name("a")).unwrap();
    assert_eq!(vault.history(&name("a"), 0).unwrap_err().code, "secret_missing");
}

#[test]
fn a_secret_that_is_set_often_keeps_sixteen_old_values_and_remembers_a_hundred_versions() {
    let (at, mut vault) = fixture();
    for n in 0..120 {
        vault.set(&name("a"), &value("x"), Facts::default(), n).unwrap();
    }
    let history = at.open().unwrap().history(&name("a"), 120).unwrap();
    assert_eq!((history.len(), history[0].version, history[99].version), (100, 21, 120));
    assert_eq!(history.iter().filter(|of| of.readable).count(), 17);
}

#[test]
fn versions_have_times_that_grow() {
    let (_fixture, mut vault) = fixture();
    let mut set = |at| vault.set(&name("a"), &value("x"), Facts::default(), at).unwrap();
    // One second for long, and a clock that goes back and forth.
    let clock = std::iter::repeat_n(1000, 40).chain([7, 5, 1001, 999]).cycle().take(1100);
    let versions: Vec<_> = clock.map(&mut set).collect();
    let times: Vec<_> = versions.iter().map(|version| modified([version])).collect();
    assert!(times.is_sorted_by(|before, after| before < after));
    // A file of several changes with each of them.
    let together = [modified([&versions[3], &versions[8]]), modified([&versions[4], &versions[8]])];
    assert!(together[0] < together[1]);
}

#[test]
fn a_permit_to_look_opens_nothing() {
    use kin_policy::*;
    const HERE: Namespaces = Namespaces { user: 1, pid: 2 };
    let (_at, vault) = fixture();
    let root = Process { pid: Pid::new(100).unwrap(), start: 1 };
    let reader = Process { pid: Pid::new(200).unwrap(), start: 2 };
    let project = DirectoryName::new("api").unwrap();
    let grant = Grant {
        id: GrantId::from_bytes([1; 16]),
        root,
        project: project.clone(),
        bindings: BTreeMap::new(),
        files: BTreeMap::new(),
        created: Timestamp::from_nanos(0),
        expires: None,
        limits: Limits::default(),
    };
    let lineage = Lineage { tid: Tid::new(200).unwrap(), process: reader, ancestors: vec![root] };
    let request = Request {
        action: Action::Look,
        reader: Reader::Proven(&lineage),
        namespaces: Some(HERE),
        exe: None,
        project: &project,
        file: None,
        through: None,
    };
    let standing = Standing {
        grant: &grant,
        ended: None,
        suspended: false,
        crowded: false,
        command: None,
        orphans: Orphans::Admitted,
        namespaces: Some(HERE),
        uses: Uses::default(),
        around: &[],
    };
    let Decision::Permit(permit) = decide(&request, &[standing], Timestamp::from_nanos(1)) else {
        panic!("a member may look");
    };
    assert_eq!(vault.unseal(&Logged::for_test(permit)).err().unwrap().class, Class::Internal);
}

#[test]
fn a_failed_write_changes_neither_file_nor_memory() {
    let (at, mut vault) = fixture();
    vault.set(&name("a"), &value("old"), Facts::default(), 1).unwrap();
    let before = std::fs::read(&at.path).unwrap();
    let blocked = at.path.with_file_name("vault.age.tmp");
    std::fs::create_dir(&blocked).unwrap();
    assert_eq!(vault.set(&name("a"), &value("new"), Facts::default(), 2).unwrap_err().class, Class::Storage);
    assert_eq!(vault.remove(&name("a")).unwrap_err().class, Class::Storage);
    assert_eq!(unseal(&vault, "a").unwrap(), b"old");
    assert_eq!(std::fs::read(&at.path).unwrap(), before);
    std::fs::remove_dir(&blocked).unwrap();
    vault.set(&name("a"), &value("new"), Facts::default(), 2).unwrap();
    assert_eq!((vault.generation(), unseal(&at.open().unwrap(), "a").unwrap()), (3, b"new".to_vec()));
}

#[test]
fn too_much_is_refused() {
    let (_at, mut vault) = fixture();
    let large = Plaintext::zeroed(MAX_VALUE + 1);
    assert_eq!(vault.set(&name("a"), &large, Facts::default(), 1).unwrap_err().code, "value_too_large");
    let note = "x".repeat(MAX_NOTE + 1);
    assert_eq!(
        vault
            .set(&name("a"), &value(""), Facts { note: Some(note), ..Facts::default() }, 1)
            .unwrap_err()
            .code,
        "note_too_long"
    );
    assert_eq!(vault.generation(), 1);
}

#[test]
fn a_vault_is_never_overwritten_and_an_absent_one_is_said_to_be() {
    let (at, _vault) = fixture();
    let error = Vault::made(&at.place, &at.identity).err().unwrap();
    assert_eq!((error.class, &*error.code), (Class::Denied, "vault_exists"));
    std::fs::remove_file(&at.path).unwrap();
    assert_eq!(at.open().err().unwrap().code, "vault_absent");
}

#[test]
fn f01_every_flipped_byte_is_refused() {
    let (at, mut vault) = fixture();
    vault.set(&name("a"), &value("s3cret"), Facts::default(), 1).unwrap();
    let good = std::fs::read(&at.path).unwrap();
    for position in 0..good.len() {
        for flip in [0x01, 0x20, 0xff] {
            let mut bad = good.clone();
            bad[position] ^= flip;
            assert_eq!(at.refused(&bad), integrity("vault_corrupt"), "byte {position} ^ {flip:02x}");
        }
    }
}

#[test]
fn f02_every_cut_and_every_addition_is_refused() {
    let (at, mut vault) = fixture();
    vault.set(&name("a"), &value("s3cret"), Facts::default(), 1).unwrap();
    let good = std::fs::read(&at.path).unwrap();
    for len in 0..good.len() {
        assert_eq!(at.refused(&good[..len]), integrity("vault_corrupt"), "{len} bytes");
    }
    for more in [&b"\0"[..], b"\n", &good] {
        assert_eq!(at.refused(&[&good, more].concat()), integrity("vault_corrupt"));
    }
}

#[test]
fn f03_a_vault_made_by_who_knows_only_the_recipient_is_refused() {
    let (at, mut vault) = fixture();
    vault.set(&name("a"), &value("s3cret"), Facts::default(), 1).unwrap();
    let signed = at.payload();
    let mut unsigned = signed.clone();
    unsigned.as_object_mut().unwrap().remove("mac");
    for forged in [
        at.file(&signed, None),
        at.file(&unsigned, None),
        at.file(&unsigned, Some(&Identity::generate())),
        at.file(&serde_json::json!({}), None),
        at.file(&serde_json::json!({"format": 2}), None),
    ] {
        assert_eq!(at.refused(&forged), integrity("vault_unauthenticated"));
    }
}

#[test]
fn another_identitys_vault_does_not_open() {
    let (at, _vault) = fixture();
    let (other, _) = fixture();
    let file = std::fs::read(&other.path).unwrap();
    assert_eq!(at.refused(&file), integrity("vault_corrupt"));
}

#[test]
fn what_is_signed_but_no_vault_is_refused() {
    let (at, mut vault) = fixture();
    vault.set(&name("a"), &value("s3cret"), Facts::default(), 1).unwrap();
    let mut good = at.payload();
    good.as_object_mut().unwrap().remove("mac");
    let with = |pointer: &str, value: serde_json::Value| {
        let mut changed = good.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        at.file(&changed, Some(&at.identity))
    };
    assert_eq!(at.refused(&with("/format", 3.into())), integrity("vault_format"));
    for (pointer, value) in [
        ("/format", 2.into()),
        ("/format", "1".into()),
        ("/generation", (-1).into()),
        ("/secrets", serde_json::json!({"../x": {"versions": []}})),
        ("/secrets/a/versions", serde_json::json!([])),
        ("/secrets/a/versions/0/size", 7.into()),
        ("/secrets/a/versions/0/sealed", "AAAA".into()),
        ("/secrets/a/versions/0/sealed", "not base64".into()),
        ("/data_key", "AAAA".into()),
    ] {
        assert_eq!(at.refused(&with(pointer, value)), integrity("vault_corrupt"), "{pointer}");
    }
}

#[test]
fn f04_an_older_vault_is_refused_until_a_person_takes_it() {
    let (at, mut vault) = fixture();
    vault.set(&name("a"), &value("first"), Facts::default(), 1).unwrap();
    let old = std::fs::read(&at.path).unwrap();
    vault.set(&name("a"), &value("second"), Facts::default(), 2).unwrap();
    let newest = std::fs::read(&at.path).unwrap();
    assert_eq!(at.refused(&old), integrity("vault_rollback"));
    let error = at.open().err().unwrap();
    assert!(error.message.contains("have generation 2, want 3"), "{error}");

    let taken = Vault::accept_old(&at.place, &at.identity).unwrap();
    assert_eq!((taken.generation(), unseal(&taken, "a").unwrap()), (4, b"first".to_vec()));
    assert_eq!(unseal(&at.open().unwrap(), "a").unwrap(), b"first");
    // What had been the newest is an old one now.
    assert_eq!(at.refused(&newest), integrity("vault_rollback"));
}

#[test]
fn f04_another_vault_of_the_same_generation_is_refused() {
    let (at, mut vault) = fixture();
    let mut other = vault.clone();
    vault.set(&name("a"), &value("mine"), Facts::default(), 1).unwrap();
    let (file, mark) = (std::fs::read(&at.path).unwrap(), std::fs::read(&at.place.anchor).unwrap());
    std::fs::remove_file(&at.place.anchor).unwrap();
    other.set(&name("a"), &value("a fork"), Facts::default(), 1).unwrap();
    let fork = std::fs::read(&at.path).unwrap();
    std::fs::write(&at.place.anchor, mark).unwrap();
    assert_eq!(at.refused(&fork), integrity("vault_rollback"));
    std::fs::write(&at.path, file).unwrap();
    assert_eq!(unseal(&at.open().unwrap(), "a").unwrap(), b"mine");
}

#[test]
fn f04_a_missing_or_forged_anchor_is_refused() {
    let (at, mut vault) = fixture();
    vault.set(&name("a"), &value("s3cret"), Facts::default(), 1).unwrap();
    let mark = std::fs::read(&at.place.anchor).unwrap();
    let code = || at.open().err().map(|error| (error.class, error.code.into_owned()));
    std::fs::remove_file(&at.place.anchor).unwrap();
    assert_eq!(code(), Some(integrity("vault_unanchored")));
    let lower = String::from_utf8(mark.clone()).unwrap().replace("\"generation\":2", "\"generation\":1");
    for forged in [&b""[..], b"{}", lower.as_bytes(), &mark[..mark.len() - 1]] {
        std::fs::write(&at.place.anchor, forged).unwrap();
        std::fs::set_permissions(&at.place.anchor, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        assert_eq!(code(), Some(integrity("vault_unanchored")));
    }
    std::fs::write(&at.place.anchor, mark).unwrap();
    assert_eq!(code(), None);
}

#[test]
fn f04_a_vault_that_is_ahead_of_its_anchor_is_accepted_and_marked() {
    let (at, mut vault) = fixture();
    let mark = std::fs::read(&at.place.anchor).unwrap();
    vault.set(&name("a"), &value("s3cret"), Facts::default(), 1).unwrap();
    std::fs::write(&at.place.anchor, &mark).unwrap();
    assert_eq!(unseal(&at.open().unwrap(), "a").unwrap(), b"s3cret");
    assert_ne!(std::fs::read(&at.place.anchor).unwrap(), mark);
    // Also where the making of the vault was cut short before there was an anchor.
    let (fresh, _vault) = fixture();
    std::fs::remove_file(&fresh.place.anchor).unwrap();
    fresh.open().unwrap();
    assert!(fresh.place.anchor.exists());
}

#[test]
fn f06_values_do_not_open_in_each_others_place() {
    let (at, mut vault) = fixture();
    vault.set(&name("a"), &value("value of a"), Facts::default(), 1).unwrap();
    vault.set(&name("b"), &value("value of b"), Facts::default(), 1).unwrap();
    let mut payload = at.payload();
    payload.as_object_mut().unwrap().remove("mac");
    let secrets = payload["secrets"].clone();
    payload["secrets"] = serde_json::json!({"a": secrets["b"], "b": secrets["a"]});
    assert_eq!(at.refused(&at.file(&payload, None)), integrity("vault_unauthenticated"));

    at.put(&at.file(&payload, Some(&at.identity)));
    let swapped = at.open().unwrap();
    for reference in ["a", "b"] {
        assert_eq!(unseal(&swapped, reference).unwrap_err().code, "vault_corrupt");
    }
    payload["secrets"] = secrets;
    payload["secrets"]["a"]["versions"][0]["version"] = 2.into();
    at.put(&at.file(&payload, Some(&at.identity)));
    assert_eq!(unseal(&at.open().unwrap(), "a").unwrap_err().code, "vault_corrupt");
}

#[test]
fn f10_an_unsafe_vault_file_is_refused_and_never_waited_for() {
    use std::os::unix::fs::PermissionsExt;
    let (at, _vault) = fixture();
    let moved = at.path.with_extension("moved");
    let refused = |what: &str| {
        let started = std::time::Instant::now();
        let error = at.open().err().unwrap_or_else(|| panic!("{what} was opened"));
        assert_eq!((error.class, &*error.code), (Class::Unsafe, "unsafe_file"), "{what}: {error}");
        assert!(started.elapsed() < std::time::Duration::from_secs(1), "{what}");
    };
    let open_to_others = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&at.path, open_to_others).unwrap();
    refused("mode 0644");
    std::fs::set_permissions(&at.path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::hard_link(&at.path, &moved).unwrap();
    refused("a second link");
    std::fs::remove_file(&at.path).unwrap();
    std::os::unix::fs::symlink(&moved, &at.path).unwrap();
    refused("a symbolic link");
    std::fs::remove_file(&at.path).unwrap();
    nix::unistd::mkfifo(&at.path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused("a FIFO");
    std::fs::remove_file(&at.path).unwrap();
    std::fs::create_dir(&at.path).unwrap();
    refused("a directory");
    std::fs::remove_dir(&at.path).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(&at.path).unwrap();
    refused("a socket");
    drop(socket);
    for device in ["/dev/null", "/dev/full"] {
        let place = Place::new(device.into(), at.place.anchor.clone());
        let error = Vault::open(&place, &at.identity).err().unwrap();
        assert_eq!((error.class, &*error.code), (Class::Unsafe, "unsafe_file"), "{device}");
    }
}

#[test]
fn no_value_is_in_the_file_or_in_what_age_decrypts() {
    let (at, mut vault) = fixture();
    vault.set(&name("a"), &value("a canary of some length"), Facts::default(), 1).unwrap();
    let file = std::fs::read(&at.path).unwrap();
    let payload = age_file::decrypt(&file, &at.identity.age()).unwrap();
    let encoded = <base64ct::Base64 as base64ct::Encoding>::encode_string(b"a canary of some length");
    for haystack in [&file[..], &payload[..]] {
        for needle in [&b"a canary"[..], &encoded.as_bytes()[..16], vault.data_key.bytes()] {
            assert!(!haystack.windows(needle.len()).any(|window| window == needle));
        }
    }
}

#[test]
fn an_old_version_comes_back_under_the_next_number() {
    let (at, mut vault) = fixture();
    let (db, grant) = (name("db/url"), kin_policy::GrantId::from_bytes([7; 16]));
    vault.set(&db, &value("first"), noted("kept"), 5).unwrap();
    let written = Facts { grant: Some(grant), ..Facts::default() };
    vault.set(&db, &value("broken"), written, 6).unwrap();
    let back = vault.bring_back(&db, 1, noted("again"), 7).unwrap();
    assert_eq!((back.version, back.size, back.note.as_deref()), (3, 5, Some("again")));
    let again = at.open().unwrap();
    assert_eq!(unseal(&again, "db/url").unwrap(), b"first");
    let by: Vec<_> = again.history(&db, 8).unwrap().into_iter().map(|version| version.grant).collect();
    assert_eq!(by, [None, Some(grant), None]);
    for (version, code) in [(0, "version_missing"), (4, "version_missing")] {
        assert_eq!(vault.bring_back(&db, version, Facts::default(), 9).unwrap_err().code, code);
    }
    let late = 8 + 31 * 24 * 60 * 60;
    assert_eq!(vault.bring_back(&db, 1, Facts::default(), late).unwrap_err().code, "version_destroyed");
    assert_eq!(vault.version(&db), Some(3));
}

#[test]
fn a_value_is_compared_for_a_permit_alone() {
    let (_at, mut vault) = fixture();
    let db = name("db/url");
    vault.set(&db, &value("first"), Facts::default(), 5).unwrap();
    let permit = |reference: &Reference| decide_reveal(reference, false, true).unwrap();
    for (other, same) in [("first", true), ("firsT", false), ("", false), ("first ", false)] {
        assert_eq!(vault.has(&permit(&db), &value(other)).unwrap(), same, "{other}");
    }
    assert_eq!(vault.has(&permit(&name("none")), &value("first")).unwrap_err().code, "secret_missing");
}
