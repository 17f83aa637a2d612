use kin_policy::{Reference, decide_reveal};
use tempfile::TempDir;

use super::*;
use crate::Plaintext;
use crate::audit::Logged;
use crate::keys::age_file;
use crate::vault::Facts;

struct Fixture {
    _dir: TempDir,
    place: Place,
    owner: Identity,
    vault: Vault,
}

fn fixture() -> Fixture {
    let dir = TempDir::new().unwrap();
    let place = Place::new(dir.path().join("vault.age"), dir.path().join("vault.anchor"));
    let owner = Identity::generate();
    let mut vault = Vault::made(&place, &owner).unwrap();
    vault.set(&name(), &Plaintext::copy_of(b"s3cret"), Facts::default(), 1).unwrap();
    Fixture { _dir: dir, place, owner, vault }
}

fn name() -> Reference {
    Reference::new("a").unwrap()
}

fn value(vault: &Vault) -> Vec<u8> {
    let permit = Logged::for_test(decide_reveal(&name(), false, true).unwrap());
    vault.unseal(&permit).unwrap().bytes().to_vec()
}

impl Fixture {
    fn open_as(&self, reader: &Identity) -> Result<Vault> {
        Vault::open_as(&self.place, reader, self.owner.recipient())
    }

    fn code(&self, reader: &Identity) -> String {
        self.open_as(reader).err().expect("it was opened").code.into_owned()
    }

    fn file(&self) -> Vec<u8> {
        std::fs::read(self.place.file()).unwrap()
    }

    fn format(&self) -> u64 {
        let payload = age_file::decrypt(&self.file(), &self.owner.age()).unwrap();
        serde_json::from_slice::<serde_json::Value>(&payload).unwrap()["format"].as_u64().unwrap()
    }
}

#[test]
fn a_recovery_key_opens_the_vault_until_it_is_removed_and_nobody_else_does() {
    let mut at = fixture();
    let (paper, stranger) = (Identity::generate(), Identity::generate());
    assert_eq!((at.format(), at.code(&paper).as_str()), (1, "vault_corrupt"));
    let info = at.vault.add_recipient(&at.owner, paper.recipient(), 7, true).unwrap();
    assert_eq!((info.since, info.paper, at.format()), (7, true, 2));
    assert_eq!(value(&at.open_as(&paper).unwrap()), b"s3cret");
    assert_eq!(at.code(&stranger), "vault_corrupt");
    assert_eq!(value(&Vault::open(&at.place, &at.owner).unwrap()), b"s3cret");
    // What is written later is for it too.
    at.vault.set(&name(), &Plaintext::copy_of(b"newer"), Facts::default(), 2).unwrap();
    assert_eq!(value(&at.open_as(&paper).unwrap()), b"newer");

    at.vault.add_recipient(&at.owner, stranger.recipient(), 8, false).unwrap();
    assert_eq!(at.vault.recipients().len(), 2);
    assert_eq!(at.vault.remove_recipient("age1").unwrap_err().code, "ambiguous_recipient");
    assert_eq!(at.vault.remove_recipient(paper.recipient()).unwrap(), info);
    assert_eq!(at.vault.remove_recipient(paper.recipient()).unwrap_err().code, "unknown_recipient");
    assert_eq!(
        (at.code(&paper).as_str(), value(&at.open_as(&stranger).unwrap())),
        ("vault_corrupt", b"newer".to_vec())
    );
    at.vault.remove_recipient(&stranger.recipient()[..12]).unwrap();
    assert_eq!(at.format(), 1, "one that is for its owner alone is as it was before");
}

#[test]
fn who_is_no_recipient_or_is_one_already_is_refused() {
    let mut at = fixture();
    let other = Identity::generate();
    for bad in ["", "age1", "AGE-SECRET-KEY-1", "ssh-ed25519 AAAA", "age1yubikey1qqq"] {
        assert_eq!(
            at.vault.add_recipient(&at.owner, bad, 1, false).unwrap_err().code,
            "bad_recipient",
            "{bad}"
        );
    }
    at.vault.add_recipient(&at.owner, other.recipient(), 1, false).unwrap();
    for known in [other.recipient(), at.owner.recipient()] {
        assert_eq!(at.vault.add_recipient(&at.owner, known, 1, false).unwrap_err().code, "recipient_exists");
    }
    for n in 1..MOST_RECIPIENTS {
        at.vault
            .add_recipient(&at.owner, Identity::generate().recipient(), 1, false)
            .unwrap_or_else(|_| panic!("{n}"));
    }
    let error = at.vault.add_recipient(&at.owner, Identity::generate().recipient(), 1, false).unwrap_err();
    assert_eq!(error.code, "too_many_recipients");
    // The header of so many is still one that is read.
    assert_eq!(value(&at.open_as(&other).unwrap()), b"s3cret");
    assert_eq!(value(&Vault::open(&at.place, &at.owner).unwrap()), b"s3cret");
}

#[test]
fn f03_a_vault_forged_for_a_recovery_key_by_who_knows_only_recipients_is_refused() {
    let mut at = fixture();
    let paper = Identity::generate();
    at.vault.add_recipient(&at.owner, paper.recipient(), 1, true).unwrap();
    // A whole vault of the forger's own, for the same paper key; and that with the sealed root of the true one.
    let mut forger = fixture();
    forger.vault.add_recipient(&forger.owner, paper.recipient(), 1, true).unwrap();
    let forged = forger.file();
    let refused = |bytes: &[u8]| {
        let opened = Vault::of_backup_as(&at.place, at.place.file(), bytes, &paper, at.owner.recipient());
        opened.err().expect("it was opened").code.into_owned()
    };
    assert_eq!(refused(&forged), "vault_unauthenticated");
    let payload = |at: &Fixture| -> serde_json::Value {
        serde_json::from_slice(&age_file::decrypt(&at.file(), &at.owner.age()).unwrap()).unwrap()
    };
    let mut mixed = payload(&forger);
    mixed["recipients"] = payload(&at)["recipients"].clone();
    for payload in
        [mixed, serde_json::json!({"recipients": []}), serde_json::json!([1]), serde_json::json!({})]
    {
        let to_paper =
            age_file::encrypt(&serde_json::to_vec(&payload).unwrap(), &paper.age().to_public()).unwrap();
        assert_eq!(refused(&to_paper), "vault_unauthenticated", "{payload}");
    }
    // Whoever believes the forger's own word for whose vault it is takes it: so the owner has to be known.
    let believed = Vault::of_backup_as(&at.place, at.place.file(), &forged, &paper, forger.owner.recipient());
    assert_eq!(value(&believed.unwrap()), b"s3cret");
}

#[test]
fn f04_an_older_vault_is_no_better_for_a_recovery_key() {
    let mut at = fixture();
    let paper = Identity::generate();
    at.vault.add_recipient(&at.owner, paper.recipient(), 1, true).unwrap();
    let old = at.file();
    at.vault.set(&name(), &Plaintext::copy_of(b"newer"), Facts::default(), 2).unwrap();
    std::fs::write(at.place.file(), old).unwrap();
    assert_eq!(at.code(&paper), "vault_rollback");
}

#[test]
fn a_rekeyed_vault_has_the_same_secrets_and_recipients_and_nothing_else_of_the_old() {
    let mut at = fixture();
    let (paper, new) = (Identity::generate(), Identity::generate());
    at.vault.add_recipient(&at.owner, paper.recipient(), 1, true).unwrap();
    let old: Vec<_> = at.vault.content.secrets[&name()].versions.iter().map(|of| of.sealed.clone()).collect();
    let rekeyed = at.vault.rekeyed(&new).unwrap();
    assert_eq!(rekeyed.vault.generation(), at.vault.generation() + 1);
    assert_eq!(value(&Vault::open(&at.place, &at.owner).unwrap()), b"s3cret", "nothing is written yet");
    let path = at.place.file();
    let open = |reader: &Identity, owner: &Identity| {
        let opened = Vault::of_backup_as(&at.place, path, &rekeyed.file, reader, owner.recipient());
        opened.map(|vault| value(&vault)).map_err(|error| error.code.into_owned())
    };
    for reader in [&new, &paper] {
        assert_eq!(open(reader, &new), Ok(b"s3cret".to_vec()));
    }
    assert_eq!(open(&at.owner, &at.owner), Err("vault_corrupt".into()));
    assert_eq!(
        open(&paper, &at.owner),
        Err("vault_unauthenticated".into()),
        "the paper key knows the old owner"
    );
    for (version, old) in rekeyed.vault.content.secrets[&name()].versions.iter().zip(old) {
        assert_ne!(version.sealed.as_ref().unwrap().0, old.unwrap().0);
    }
    assert_ne!(rekeyed.vault.data_key.bytes(), at.vault.data_key.bytes());
}
