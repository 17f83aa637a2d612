use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

fn home() -> (TempDir, Directories) {
    let dir = TempDir::new().unwrap();
    let home = dir.path().to_owned().into_os_string();
    let directories =
        Directories::from_variables(&|name| (name == "KIN_HOME").then(|| home.clone())).unwrap();
    directories.create().unwrap();
    (dir, directories)
}

fn value(text: &str) -> Plaintext {
    Plaintext::copy_of(text.as_bytes())
}

/// The class and code of a refusal; an `Identity` cannot be shown, so neither can a `Result` of one.
fn refused<T>(result: Result<T>) -> (Class, String) {
    match result {
        Ok(_) => panic!("it was not refused"),
        Err(error) => (error.class, error.code.into_owned()),
    }
}

fn locked(code: &str) -> (Class, String) {
    (Class::Locked, code.to_owned())
}

#[test]
fn a_passphrase_opens_the_identity_and_no_other_does() {
    let (_dir, at) = home();
    assert_eq!(method(&at).unwrap(), None);
    assert_eq!(refused(load(&at, None, None)), locked("vault_absent"));
    let made = create(&at, &KeyMethod::Passphrase, Some(&value("correct horse")), None).unwrap();
    assert_eq!(method(&at).unwrap(), Some(KeyMethod::Passphrase));
    let loaded = load(&at, Some(&value("correct horse")), None).unwrap();
    assert_eq!(loaded.recipient(), made.recipient());
    assert_eq!(refused(load(&at, Some(&value("correct hors")), None)), locked("wrong_passphrase"));
    assert_eq!(refused(load(&at, Some(&value("")), None)), locked("wrong_passphrase"));
    assert_eq!(refused(load(&at, None, None)), locked("passphrase_needed"));
    std::fs::remove_file(at.identity_file()).unwrap();
    assert_eq!(refused(load(&at, Some(&value("x")), None)), locked("key_file_missing"));
}

#[test]
fn bad_passphrases_are_refused_before_anything_is_written() {
    let (_dir, at) = home();
    let empty = create(&at, &KeyMethod::Passphrase, Some(&value("")), None);
    assert_eq!(refused(empty), (Class::Usage, "empty_passphrase".to_owned()));
    let bytes = Plaintext::copy_of(b"\xff\xfe");
    let binary = create(&at, &KeyMethod::Passphrase, Some(&bytes), None);
    assert_eq!(refused(binary), (Class::Usage, "bad_passphrase".to_owned()));
    assert_eq!(refused(create(&at, &KeyMethod::Passphrase, None, None)), locked("passphrase_needed"));
    assert!(!at.key_config().exists() && !at.identity_file().exists());
}

#[test]
fn f08_work_factors_out_of_bounds_are_refused_at_once() {
    let (_dir, at) = home();
    let identity = Identity::generate();
    let sealed = passphrase::seal(&identity, &value("p")).unwrap();
    let start = sealed.windows(4).position(|window| window == b" 16\n").unwrap();
    create(&at, &KeyMethod::Passphrase, Some(&value("p")), None).unwrap();
    for factor in ["0", "19", "23", "30", "64", "-1", "+1", "01", "256", "18446744073709551616", ""] {
        let file = [&sealed[..=start], factor.as_bytes(), &sealed[start + 3..]].concat();
        files::write_atomic(&at.identity_file(), &file).unwrap();
        let started = std::time::Instant::now();
        let answer = refused(load(&at, Some(&value("p")), None));
        assert_eq!(answer, (Class::Integrity, "key_corrupt".to_owned()), "{factor}");
        assert!(started.elapsed() < std::time::Duration::from_secs(1), "{factor}");
    }
}

#[test]
fn every_cut_of_a_passphrase_file_is_refused() {
    let identity = Identity::generate();
    let sealed = passphrase::seal(&identity, &value("p")).unwrap();
    // The header is whole only near the end; before that no scrypt runs, so every length can be tried.
    let header = sealed.windows(4).position(|window| window == b"\n---").unwrap();
    for len in (0..header).chain([header + 20, sealed.len() - 100, sealed.len() - 1]) {
        let answer = refused(passphrase::open(&sealed[..len], &value("p")));
        assert_eq!(answer, (Class::Integrity, "key_corrupt".to_owned()), "{len}");
    }
}

fn key_file(dir: &TempDir) -> (PathBuf, KeyMethod) {
    let path = dir.path().join("key.txt");
    (path.clone(), KeyMethod::KeyFile { path })
}

#[test]
fn a_key_file_is_made_where_there_is_none_and_kept_where_there_is() {
    let (dir, at) = home();
    let (path, method) = key_file(&dir);
    let made = create(&at, &method, None, None).unwrap();
    assert_eq!(load(&at, None, None).unwrap().recipient(), made.recipient());
    let before = std::fs::read(&path).unwrap();
    std::fs::remove_file(at.key_config()).unwrap();
    let again = create(&at, &method, None, None).unwrap();
    assert_eq!(again.recipient(), made.recipient());
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_key_file_that_is_missing_exposed_or_damaged_is_refused() {
    let (dir, at) = home();
    let (path, method) = key_file(&dir);
    create(&at, &method, None, None).unwrap();
    let key = std::fs::read(&path).unwrap();

    std::fs::remove_file(&path).unwrap();
    assert_eq!(refused(load(&at, None, None)), locked("key_file_missing"));
    std::fs::write(&path, &key).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&path, mode).unwrap();
    assert_eq!(refused(load(&at, None, None)), (Class::Unsafe, "unsafe_file".to_owned()));
    for bad in [&b""[..], b"# nothing\n", b"AGE-SECRET-KEY-1ABC\n", &[&key[..], &key[..]].concat()] {
        files::write_atomic(&path, bad).unwrap();
        assert_eq!(refused(load(&at, None, None)), (Class::Integrity, "key_corrupt".to_owned()));
    }
    std::fs::remove_file(at.key_config()).unwrap();
    let relative = KeyMethod::KeyFile { path: "key.txt".into() };
    assert_eq!(refused(create(&at, &relative, None, None)), (Class::Usage, "bad_key_file".to_owned()));
}

#[test]
fn g09_another_identity_than_the_pinned_one_is_refused() {
    let (dir, at) = home();
    let (path, method) = key_file(&dir);
    create(&at, &method, None, None).unwrap();
    std::fs::remove_file(&path).unwrap();
    key_file::create(&path).unwrap();
    assert_eq!(refused(load(&at, None, None)), locked("identity_mismatch"));
}

#[test]
fn an_existing_vault_keeps_its_key() {
    let (dir, at) = home();
    create(&at, &KeyMethod::Passphrase, Some(&value("p")), None).unwrap();
    let sealed = std::fs::read(at.identity_file()).unwrap();
    files::write_atomic(&at.vault_file(), b"a vault").unwrap();
    let (_, method) = key_file(&dir);
    for method in [method, KeyMethod::Passphrase, KeyMethod::Keyring] {
        let answer = refused(create(&at, &method, Some(&value("q")), None));
        assert_eq!(answer, (Class::Denied, "vault_exists".to_owned()));
    }
    assert_eq!(std::fs::read(at.identity_file()).unwrap(), sealed);
}

#[test]
fn an_interrupted_init_is_repeated_once_its_key_is_moved_away_and_no_key_is_lost() {
    let (_dir, at) = home();
    create(&at, &KeyMethod::Passphrase, Some(&value("p")), None).unwrap();
    let first = std::fs::read(at.identity_file()).unwrap();
    let config = std::fs::read(at.key_config()).unwrap();
    let again = create(&at, &KeyMethod::Passphrase, Some(&value("p")), None);
    assert_eq!(refused(again), (Class::Denied, "key_exists".to_owned()));
    assert_eq!(std::fs::read(at.key_config()).unwrap(), config);
    std::fs::remove_file(at.key_config()).unwrap();
    create(&at, &KeyMethod::Passphrase, Some(&value("p")), None).unwrap();
    let kept: Vec<_> = std::fs::read_dir(&at.data)
        .unwrap()
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    assert_eq!(kept.len(), 2);
    assert!(kept.contains(&first));
}

#[test]
fn a_damaged_key_config_is_refused() {
    let (_dir, at) = home();
    for bad in [&b""[..], b"{}", b"[", br#"{"format":2,"method":{"kind":"passphrase"},"recipient":"age1"}"#] {
        files::write_atomic(&at.key_config(), bad).unwrap();
        assert_eq!(refused(method(&at)), (Class::Unsafe, "key_config_invalid".to_owned()));
    }
}

fn script(dir: &TempDir, text: &str) -> Agent {
    let program = dir.path().join("agent");
    // Written by another process: a fork of a concurrent test cannot hold it open for writing (ETXTBSY).
    let write = r#"printf '#!/bin/sh\n%s\n' "$2" > "$1" && chmod 700 "$1""#;
    let status = std::process::Command::new("sh").args(["-c", write, "sh"]).arg(&program).arg(text).status();
    assert!(status.unwrap().success());
    Agent { program, deadline: std::time::Duration::from_millis(400) }
}

#[test]
fn g08_a_keyring_that_hangs_or_fails_locks_in_time_and_never_falls_back() {
    let (dir, at) = home();
    let create = |agent: &Agent| refused(create_through(agent, &at, &KeyMethod::Keyring, None, None));
    let started = std::time::Instant::now();
    assert_eq!(create(&script(&dir, "exec sleep 60")), locked("keyring_timeout"));
    assert_eq!(create(&script(&dir, "exec >&-; exec sleep 60")), locked("keyring_timeout"));
    assert_eq!(create(&script(&dir, "echo 'locked: prompt dismissed'; exit 1")), locked("keyring_locked"));
    assert_eq!(create(&script(&dir, "exit 1")), locked("keyring_unavailable"));
    assert_eq!(create(&script(&dir, "kill -9 $$")), locked("keyring_unavailable"));
    assert_eq!(create(&script(&dir, "printf missing; exit 1")), locked("keyring_item_missing"));
    let absent = Agent { program: dir.path().join("absent"), ..script(&dir, "") };
    assert_eq!(create(&absent), locked("keyring_unavailable"));
    assert!(started.elapsed() < std::time::Duration::from_secs(5));
    assert!(!at.key_config().exists());
}

#[test]
fn a_keyring_that_is_locked_hints_at_what_helps_a_vault_that_is_there_and_one_that_is_made() {
    let (dir, at) = home();
    let locked = script(&dir, "echo 'locked: prompt dismissed'; exit 1");
    let hint = |refused: Result<Identity>| refused.err().and_then(|error| error.hint).unwrap_or_default();
    let made = hint(create_through(&locked, &at, &KeyMethod::Keyring, None, None));
    assert!(made.contains("--passphrase-stdin") && !made.contains("kin unlock"), "{made}");
    let recipient = Identity::generate().recipient().to_owned();
    let config = Config { format: FORMAT, method: KeyMethod::Keyring, recipient };
    files::write_atomic(&at.key_config(), &config.render().unwrap()).unwrap();
    let there = hint(load_through(&locked, &at, None, None));
    assert!(there.contains("kin unlock --identity-fd") && !there.contains("--passphrase-stdin"), "{there}");
}

#[test]
fn g09_a_keyring_that_returns_garbage_is_a_mismatch() {
    let (dir, at) = home();
    let create = |agent: &Agent| refused(create_through(agent, &at, &KeyMethod::Keyring, None, None));
    let other = Identity::generate();
    let other = std::str::from_utf8(other.text().bytes()).unwrap().to_owned();
    for said in ["garbage", &other, ""] {
        assert_eq!(create(&script(&dir, &format!("printf '{said}'"))), locked("identity_mismatch"));
    }
    assert_eq!(create(&script(&dir, "exec cat /dev/zero")), locked("keyring_unavailable"));
    assert_eq!(create(&script(&dir, "printf ambiguous; exit 1")), locked("identity_mismatch"));
}

#[test]
fn the_agent_sees_no_more_of_the_environment_than_it_needs() {
    let (dir, _at) = home();
    let seen = dir.path().join("seen");
    let agent = script(&dir, &format!("env > {}", seen.display()));
    agent.probe(Some("unix:path=/nowhere")).unwrap();
    let seen = std::fs::read_to_string(seen).unwrap();
    assert!(seen.contains("DBUS_SESSION_BUS_ADDRESS=unix:path=/nowhere"));
    // The shell itself adds PWD, SHLVL and _.
    let known = [
        "HOME=",
        "XDG_RUNTIME_DIR=",
        "PATH=",
        "DBUS_SESSION_BUS_ADDRESS=",
        "PWD=",
        "OLDPWD=",
        "SHLVL=",
        "_=",
    ];
    for line in seen.lines() {
        assert!(known.iter().any(|name| line.starts_with(name)), "{line}");
    }
}
