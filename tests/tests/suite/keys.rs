//! Does the vault open with what its owner has, and with nothing else, without ever waiting for nobody? Where its
//! identity is kept, recovery keys, and another identity.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kin_tests::{Actor, Output, World, binary, record};

use crate::{DATABASE, database};

/// A key file of the world's that age-keygen made, and its recipient.
fn age_key(world: &World, name: &str) -> (PathBuf, String) {
    let path = world.path(name);
    assert!(Command::new("age-keygen").arg("-o").arg(&path).output().expect("age-keygen").status.success());
    let output = Command::new("age-keygen").arg("-y").arg(&path).output().expect("age-keygen");
    (path, String::from_utf8(output.stdout).expect("text").trim().to_owned())
}

/// A command that is given `file` as descriptor 3.
fn given(world: &World, file: &Path, arguments: &[&str]) -> Output {
    let script = "exec 3<\"$1\"; shift; exec \"$@\"";
    world.other("bash", ["-c", script, "bash"]).args([file, &binary()]).args(arguments).run()
}

fn state(world: &World) -> String {
    world.status()["vault"]["state"].as_str().expect("a state").to_owned()
}

fn reads(world: &World) {
    assert_eq!(world.member(&[]).cat(&world.file(DATABASE)), Ok(database(world)));
}

fn restart(world: &World) {
    world.kin(["stop"]).run().exits(0);
    world.kin(["daemon"]).run().exits(0);
}

#[test]
fn a_rekeyed_vault_keeps_its_secrets_its_grants_its_trust_and_its_record() {
    let world = World::ready();
    let (member, kept) = (world.member(&[]), world.path("kept.age"));
    let fd = member.open(&world.file(DATABASE)).expect("open");
    world.kin(["backup"]).args([&kept]).run().exits(0);
    let old = std::fs::read(world.path("identity")).expect("the key file");
    let vault = std::fs::read(world.path("kin/data/vault.age")).expect("the vault");
    let said = world.kin(["rekey", "--key-file"]).args([world.path("second")]).run().exits(0);
    assert!(said.text().contains("recipient age1") && said.stderr.contains("backup"), "{said}");
    assert_eq!(member.pread(fd, 100, 0), Ok(database(&world)), "what is open goes on");
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)), "and so does the grant");
    reads(&world);
    world.kin(["audit", "verify"]).run().exits(0);
    restart(&world);
    reads(&world);
    world.kin(["audit", "verify"]).run().exits(0);
    // The old key opens what was made before it, and nothing of today; its file is still there.
    assert_eq!(std::fs::read(world.path("identity")).expect("the old key"), old);
    world.kin(["restore", "--yes"]).args([&kept]).run().refuses(7, &["kept.age"]);
    world.kin(["lock"]).run().exits(0);
    std::fs::write(world.path("kin/data/vault.age"), vault).expect("the old vault");
    world.kin(["unlock", "--accept-rollback"]).run().refuses(7, &["vault.age"]);
    assert_eq!(record::of(&world.audit(), "vault.rekey").len(), 1);
}

#[test]
fn a_rekey_changes_a_passphrase_and_the_place_of_the_key() {
    let world = World::ready();
    let (first, second) = (world.canary(), world.canary());
    world.kin(["rekey", "--key-file"]).args([world.path("identity")]).run().refuses(2, &["already"]);
    world.kin(["rekey"]).run().refuses(2, &["already"]);
    let line = |passphrase: &str| format!("{passphrase}\n");
    world.kin(["rekey", "--passphrase-stdin"]).input(line(&first)).run().exits(0);
    assert_eq!(world.status()["vault"]["key"]["kind"], "passphrase");
    restart(&world);
    assert_eq!(state(&world), "locked");
    // A locked vault is not rekeyed without its passphrase, and none is taken for the old one.
    world.kin(["rekey", "--passphrase-stdin"]).input(line(&second)).run().refuses(4, &["locked"]);
    world.kin(["unlock", "--passphrase-stdin"]).input(line(&first)).run().exits(0);
    world.kin(["rekey", "--passphrase-stdin"]).input(line(&second)).run().exits(0);
    restart(&world);
    world.kin(["unlock", "--passphrase-stdin"]).input(line(&first)).run().refuses(4, &["wrong"]);
    world.kin(["unlock", "--passphrase-stdin"]).input(line(&second)).run().exits(0);
    reads(&world);
    // The identity that the first passphrase opened is kept: backups of then need it.
    let data = std::fs::read_dir(world.path("kin/data")).expect("a listing").flatten();
    let kept = data.filter(|entry| entry.file_name().to_string_lossy().starts_with("identity.age."));
    assert_eq!(kept.count(), 1);
}

/// Makes a recovery key; the one place where it stands is standard output.
fn recovery_key(world: &World) -> String {
    let said = world.kin(["recovery", "new", "--yes"]).run().exits(0);
    let key = said.text().trim().to_owned();
    assert!(key.starts_with("AGE-SECRET-KEY-1") && !said.stderr.contains(&key), "{}", said.stderr);
    for place in ["kin/data", "kin/config", "kin/state"] {
        for entry in std::fs::read_dir(world.path(place)).expect("a listing").flatten() {
            let text = std::fs::read(entry.path()).unwrap_or_default();
            let stands = text.windows(key.len()).any(|window| window == key.as_bytes());
            assert!(!stands, "the key is in {}", entry.path().display());
        }
    }
    key
}

#[test]
fn a_recovery_key_brings_back_a_vault_whose_identity_is_lost() {
    let world = World::ready();
    let key = recovery_key(&world);
    world.kin(["recovery", "new"]).run().refuses(5, &["recovery key"]);
    let listed = world.kin(["recovery", "list", "--json"]).run().exits(0).json();
    assert_eq!((listed.as_array().map(Vec::len), &listed[0]["paper"]), (Some(1), &true.into()), "{listed}");
    let newer = world.secret("db/url");
    std::fs::remove_file(world.path("identity")).expect("the key file");
    restart(&world);
    world.kin(["unlock"]).run().refuses(4, &["missing"]);

    let restore = |input: &str, key_file: &str| {
        let command = world.kin(["recovery", "restore", "--yes", "--key-file"]).args([world.path(key_file)]);
        command.input(input).run()
    };
    let (stranger, _) = age_key(&world, "stranger");
    let stranger = std::fs::read_to_string(stranger).expect("a key");
    restore(&stranger, "x1").refuses(7, &["vault.age"]);
    restore(&key[..60], "x2").refuses(2, &["recovery key"]);
    restore("", "x3").refuses(4, &["recovery key"]);
    // As it is copied from paper.
    let copied = format!("  {} {}\n", key[..20].to_lowercase(), key[20..].to_lowercase());
    restore(&copied, "second").exits(0);
    assert_eq!(world.member(&[]).cat(&world.file(DATABASE)), Ok(newer.into_bytes()), "trust is kept too");
    restart(&world);
    reads(&world);
    // It is for the vault under its new identity as well, until it is removed.
    restore(&format!("# created: today\n# public key: age1\n{key}\n"), "third").exits(0);
    let recipient = listed[0]["recipient"].as_str().expect("a recipient");
    world.kin(["recovery", "remove", &recipient[..14]]).run().exits(0);
    restore(&key, "fourth").refuses(7, &["vault.age"]);
    reads(&world);
    let records = world.audit();
    assert_eq!(record::of(&records, "vault.recover").len(), 2, "{records:#?}");
    assert_eq!(record::of(&records, "vault.recovery_add").len(), 1);
    assert_eq!(record::of(&records, "vault.recovery_remove").len(), 1);
}

#[test]
fn a_recovery_key_opens_a_backup_on_a_machine_that_knows_nothing() {
    let world = World::ready();
    let (key, kept) = (recovery_key(&world), world.path("kept.age"));
    world.kin(["backup"]).args([&kept]).run().exits(0);
    let pinned = std::fs::read_to_string(world.path("kin/config/key.json")).expect("key.json");
    let owner = pinned.split('"').find(|word| word.starts_with("age1")).expect("a recipient").to_owned();

    let other = World::new();
    let restore = |more: &[&str]| {
        let command =
            other.kin(["recovery", "restore", "--yes", "--passphrase-stdin", "--from"]).args([&kept]);
        command.args(more).input(format!("{key}\nthe new passphrase\n")).run()
    };
    restore(&[]).refuses(2, &["whose vault"]);
    let (_, forger) = age_key(&other, "forger");
    restore(&["--owner", &forger]).refuses(7, &["kept.age"]);
    restore(&["--owner", &owner]).exits(0);
    let revealed = other.kin(["reveal", "db/url", "--yes"]).run().exits(0);
    assert_eq!(revealed.stdout, database(&world));
    restart(&other);
    other.kin(["unlock", "--passphrase-stdin"]).input("the new passphrase\n").run().exits(0);
    assert_eq!(other.kin(["reveal", "db/url", "--yes"]).run().exits(0).stdout, database(&world));
}

#[test]
fn a_colleague_opens_the_vault_with_an_age_key_of_their_own() {
    let world = World::ready();
    let (path, recipient) = age_key(&world, "colleague");
    world.kin(["recovery", "add", &recipient]).run().refuses(5, &["recipient"]);
    world.kin(["recovery", "add", "age1nonsense", "--yes"]).run().refuses(2, &["recipient"]);
    world.kin(["recovery", "add", &recipient, "--yes"]).run().exits(0);
    world.kin(["recovery", "add", &recipient, "--yes"]).run().refuses(2, &["already"]);
    let table = world.kin(["recovery", "list"]).run().exits(0).text();
    assert!(table.contains(&recipient) && table.contains("age recipient"), "{table}");
    // Without kin: age, and the documented reader.
    let pinned = std::fs::read_to_string(world.path("kin/config/key.json")).expect("key.json");
    let owner = pinned.split('"').find(|word| word.starts_with("age1")).expect("a recipient").to_owned();
    let recover = world.path("recover.py");
    std::fs::write(&recover, include_str!("../../../docs/recover.py")).expect("the program");
    let script = "age -d -i \"$1\" \"$2\" | /usr/bin/python3 \"$3\" --owner \"$4\" \"$1\" db/url";
    let read = |owner: &str| {
        let files = [path.clone(), world.path("kin/data/vault.age"), recover.clone()];
        let command = world.other("bash", ["-o", "pipefail", "-ec", script, "bash"]).args(files);
        command.args([owner]).run()
    };
    assert_eq!(read(&owner).exits(0).stdout, database(&world));
    assert_eq!(read(&recipient).exits(1).stdout, b"", "not where somebody else is said to be the owner");
}

#[test]
fn inside_a_tree_nobody_changes_who_opens_the_vault() {
    let world = World::ready();
    let member = world.member(&[]);
    let kin = binary();
    for verb in [
        &["rekey", "--key-file", "/nowhere/key"][..],
        &["recovery", "new", "--yes"],
        &["recovery", "remove", "age1"],
        &["recovery", "restore", "--yes", "--key-file", "/nowhere/key"],
        &["unlock", "--session-keyring"],
    ] {
        let line = [&[kin.to_str().expect("UTF-8")], verb].concat();
        assert!([4, 5].contains(&member.run(&line).0), "{verb:?}");
    }
    assert_eq!(record::of(&world.audit(), "vault.rekey").len(), 0);
    reads(&world);
}

#[test]
fn an_identity_that_is_given_is_kept_nowhere() {
    let world = World::new();
    world.kin(["daemon"]).run().exits(0);
    let (key, _) = age_key(&world, "given");
    given(&world, &key, &["init", "--identity-fd", "3"]).exits(0);
    let world = world.with_secrets();
    reads(&world);
    restart(&world);
    world.kin(["run", "--", "true"]).run().refuses(4, &["given"]);
    world.kin(["unlock"]).run().refuses(4, &["given"]);
    let (other, _) = age_key(&world, "other");
    given(&world, &other, &["unlock", "--identity-fd", "3"]).refuses(4, &["identity"]);
    given(&world, Path::new("/etc/hostname"), &["unlock", "--identity-fd", "3"]).refuses(2, &["identity"]);
    world.kin(["unlock", "--identity-fd", "77"]).run().refuses(2, &["descriptor"]);
    given(&world, &key, &["unlock", "--identity-fd", "3"]).exits(0);
    reads(&world);
    let secret = std::fs::read_to_string(&key).expect("a key");
    let secret = secret.lines().last().expect("a line");
    for place in ["kin/data", "kin/config", "kin/state"] {
        for entry in std::fs::read_dir(world.path(place)).expect("a listing").flatten() {
            let text = std::fs::read(entry.path()).unwrap_or_default();
            assert!(!text.windows(secret.len()).any(|window| window == secret.as_bytes()), "{entry:?}");
        }
    }
}

#[test]
fn a_broker_is_given_the_identity_by_a_descriptor_or_a_credential() {
    let world = World::ready();
    let key = world.path("identity");
    let credentials = world.path("credentials");
    std::fs::create_dir(&credentials).expect("a directory");
    let (credential, mode) = (credentials.join("kin.identity"), |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a mode");
    });
    std::fs::copy(&key, &credential).expect("a copy");
    // The key file itself is not there: a credential alone opens the vault.
    std::fs::rename(&key, world.path("elsewhere")).expect("moved");
    world.kin(["stop"]).run().exits(0);
    let daemon = |directory: Option<&Path>, arguments: &[&str]| {
        let command = world.kin(["daemon"]).args(arguments);
        directory.into_iter().fold(command, |command, dir| command.env("CREDENTIALS_DIRECTORY", dir)).run()
    };
    daemon(None, &["--identity-credential"]).refuses(4, &["CREDENTIALS_DIRECTORY"]);
    mode(&credential, 0o444);
    daemon(Some(&credentials), &["--identity-credential"]).refuses(3, &["kin.identity", "0444"]);
    mode(&credential, 0o400);
    daemon(Some(&credentials), &["--identity-credential", "absent"]).refuses(4, &["absent"]);
    daemon(Some(&credentials), &["--identity-credential", "../elsewhere"]).refuses(2, &["credential"]);
    assert!(!world.is_broker_running(), "none of these starts");
    daemon(Some(&credentials), &["--identity-credential"]).exits(0);
    assert_eq!(state(&world), "unlocked");
    reads(&world);
    world.kin(["stop"]).run().exits(0);
    given(&world, &world.path("elsewhere"), &["daemon", "--identity-fd", "3"]).exits(0);
    assert_eq!(state(&world), "unlocked");
    reads(&world);
    // What it was given by is closed, and in neither arguments nor environment.
    let broker = world.broker().pid;
    let secret = std::fs::read_to_string(world.path("elsewhere")).expect("a key");
    let secret = secret.lines().last().expect("a line");
    for file in ["cmdline", "environ"] {
        let text = std::fs::read(format!("/proc/{broker}/{file}")).unwrap_or_default();
        assert!(!text.windows(secret.len()).any(|window| window == secret.as_bytes()), "{file}");
    }
}

#[test]
fn the_session_remembers_an_identity_until_a_lock() {
    let world = World::new();
    world.configure("[vault]\nremember = \"kernel\"\n");
    world.kin(["daemon"]).run().exits(0);
    world.kin(["init", "--passphrase-stdin"]).input("correct horse\n").run().exits(0);
    let world = world.with_secrets();
    restart(&world);
    world.kin(["unlock"]).run().refuses(4, &["passphrase"]);
    world.kin(["unlock", "--passphrase-stdin"]).input("correct horse\n").run().exits(0);
    restart(&world);
    // Nobody types anything: neither for `kin unlock` nor for a run.
    reads(&world);
    restart(&world);
    world.kin(["unlock"]).run().exits(0);
    world.kin(["lock"]).run().exits(0);
    world.kin(["unlock"]).run().refuses(4, &["passphrase"]);
    restart(&world);
    world.kin(["run", "--", "true"]).run().refuses(4, &["locked"]);
    // The flag does it without the configuration.
    world.configure("");
    restart(&world);
    let unlock = world.kin(["unlock", "--passphrase-stdin", "--session-keyring"]);
    unlock.input("correct horse\n").run().exits(0);
    restart(&world);
    reads(&world);
    world.kin(["lock"]).run().exits(0);
}

#[test]
fn each_place_of_the_key_says_what_it_protects_against() {
    let world = World::new();
    let said = world.kin(["init", "--key-file"]).args([world.path("identity")]).run().exits(0);
    assert!(said.text().contains("safe from nobody who reads that file"), "{said}");
    assert!(!said.stderr.contains("warning"), "{said}");
    let doctor = world.kin(["doctor"]).run().text();
    assert!(doctor.contains("safe from nobody who reads that file"), "{doctor}");
    world.kin(["rekey", "--passphrase-stdin"]).input("correct horse\n").run().exits(0);
    let doctor = world.kin(["doctor"]).run().text();
    assert!(doctor.contains("as strong as the passphrase"), "{doctor}");
}

#[test]
fn z09_nothing_that_unlocks_waits_for_a_person_who_is_not_there() {
    let world = World::new();
    world.kin(["daemon"]).run().exits(0);
    let quickly = |script: &str, code: i32| {
        let start = Instant::now();
        // A session of its own has no terminal that could be opened as /dev/tty.
        let command = world.other("setsid", ["--wait", "sh", "-c", script]).args([binary()]);
        let output = command.within(Duration::from_secs(6)).run().refuses(code, &[]);
        assert!(start.elapsed() < Duration::from_secs(5), "{script}: {:?}", start.elapsed());
        output
    };
    for closed in ["", " <&-"] {
        quickly(&format!("\"$0\" init{closed}"), 4);
    }
    world.kin(["init", "--passphrase-stdin"]).input("correct horse\n").run().exits(0);
    world.kin(["stop"]).run().exits(0);
    world.kin(["daemon"]).run().exits(0);
    for closed in ["", " <&-"] {
        for (verb, code) in [
            ("unlock", 4),
            ("list", 4),
            ("rekey", 4),
            ("rekey --keyring", 4),
            ("backup /nowhere/file", 4),
            ("recovery list", 4),
            ("recovery new --yes", 4),
            ("recovery new", 5),
            ("recovery restore", 5),
            ("recovery restore --yes --keyring", 4),
        ] {
            quickly(&format!("\"$0\" {verb}{closed}"), code);
        }
    }
    // A pipe that nobody ever writes to.
    quickly("mkfifo fifo; exec 3<>fifo; \"$0\" unlock --identity-fd 3", 4);
    assert_eq!(state(&world), "locked");
}

/// Takes the vault's file away, under a broker that has it closed.
fn lose(world: &World) {
    world.kin(["lock"]).run().exits(0);
    std::fs::remove_file(world.path("kin/data/vault.age")).expect("the vault");
}

#[test]
fn a_lost_vault_keeps_its_key_until_a_backup_is_restored() {
    let world = World::ready();
    let kept = world.path("kept.age");
    world.kin(["backup"]).args([&kept]).run().exits(0);
    lose(&world);
    let key = std::fs::read(world.path("kin/config/key.json")).expect("key.json");
    assert!(world.kin(["unlock"]).run().refuses(4, &["no vault"]).stderr.contains("kin restore"));
    for left in [&["key.json", "vault.anchor"][..], &["vault.anchor"]] {
        let refused = world.kin(["init", "--key-file"]).args([world.path("other")]).run().refuses(5, left);
        assert!(
            refused.stderr.contains("kin restore BACKUP") && refused.stderr.contains("move"),
            "{refused}"
        );
        let _ = std::fs::rename(world.path("kin/config/key.json"), world.path("key.json"));
    }
    std::fs::rename(world.path("key.json"), world.path("kin/config/key.json")).expect("put back");
    assert_eq!(std::fs::read(world.path("kin/config/key.json")).expect("key.json"), key);
    world.kin(["restore", "--yes"]).args([&kept]).run().exits(0);
    reads(&world);
}

#[test]
fn a_backup_moves_to_a_machine_that_knows_nothing_with_its_passphrase_or_its_key() {
    let world = World::ready();
    let (key, kept) = (world.path("identity"), world.path("kept.age"));
    world.kin(["backup"]).args([&kept]).run().exits(0);
    let (other, kept) = (World::new(), kept.to_str().expect("text").to_owned());
    let refused = other.kin(["restore", "--yes", &kept]).run().refuses(4, &["no vault"]);
    assert!(refused.stderr.contains("--identity-fd"), "{refused}");
    given(&other, &key, &["restore", "--yes", &kept, "--identity-fd", "3"]).exits(0);
    assert_eq!(other.kin(["reveal", "db/url", "--yes"]).run().exits(0).stdout, database(&world));
    // It is lost there too: what was given is given again.
    lose(&other);
    given(&other, &key, &["restore", "--yes", &kept, "--identity-fd", "3"]).exits(0);

    let third = world.path("third.age").to_str().expect("text").to_owned();
    world.kin(["rekey", "--passphrase-stdin"]).input("correct horse\n").run().exits(0);
    world.kin(["backup", &third]).run().exits(0);
    let other = World::new();
    let restore = |passphrase: &str| {
        other.kin(["restore", "--yes", "--passphrase-stdin", &third]).input(passphrase).run()
    };
    restore("wrong\n").refuses(4, &["wrong"]);
    assert!(!other.path("kin/config/key.json").exists(), "what does not open leaves nothing");
    restore("correct horse\n").exits(0);
    restart(&other);
    other.kin(["unlock", "--passphrase-stdin"]).input("correct horse\n").run().exits(0);
    assert_eq!(other.kin(["reveal", "db/url", "--yes"]).run().exits(0).stdout, database(&world));
}

#[test]
fn a_file_that_is_no_backup_of_this_vault_is_refused_by_what_it_is() {
    let world = World::ready();
    let (kept, text) = (world.path("kept.age"), world.path("notes.txt"));
    world.kin(["backup"]).args([&kept]).run().exits(0);
    std::fs::write(&text, "not a backup\n").expect("a file");
    world.kin(["rekey", "--key-file"]).args([world.path("second")]).run().exits(0);
    for (file, what) in [(&text, "no file of a vault's"), (&kept, "another key")] {
        let refused = world.kin(["restore", "--yes"]).args([file]).run().refuses(7, &[what]);
        assert!(refused.stderr.contains("before a `kin rekey`"), "{refused}");
    }
}
