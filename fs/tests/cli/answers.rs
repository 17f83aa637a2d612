//! What does each command show of what the broker answers, and what does it ask?

use insta::assert_snapshot;
use kin_broker::control::protocol::{Question, Status, TrustState};

use crate::broker::{HASH, PASSPHRASE, Scene, write_manifest};
use crate::program::Home;

fn transcript(home: &Home, lines: &[&[&str]]) -> String {
    lines
        .iter()
        .map(|line| format!("$ kin {}\n{}\n", line.join(" "), home.run(line).transcript(home)))
        .collect()
}

#[test]
fn secrets_are_shown_without_their_values() {
    let home = Home::new();
    Scene::default().play(&home);
    let text = transcript(
        &home,
        &[
            &["list"],
            &["list", "--json"],
            &["show", "db/url"],
            &["show", "db/url", "--json"],
            &["show", "no/such"],
            &["rm", "db/url", "--yes"],
            &["init", "--key-file", "key"],
            &["set", "db/url", "--generate", "hex:32"],
        ],
    );
    assert!(!text.contains('\u{1b}'));
    assert_snapshot!(text);
}

#[test]
fn a_value_travels_byte_for_byte() {
    let home = Home::served();
    assert_eq!(home.run(&["init", "--key-file", "key"]).code, 0);
    let ran = home.run_with(&["set", "db/url", "--stdin"], b" x\n");
    assert_eq!((ran.code, ran.text()), (0, "stored db/url, version 1, 3 bytes\n"), "{}", ran.stderr);
    assert_eq!(home.run(&["reveal", "db/url", "--yes"]).stdout, b" x\n");
    std::fs::write(home.work().join("empty"), "").unwrap();
    assert_eq!(home.run(&["set", "db/url", "--from-file", "empty"]).code, 0);
    let ran = home.run(&["reveal", "db/url", "--yes"]);
    assert_eq!((ran.code, ran.stdout.as_slice()), (0, &b""[..]));
}

#[test]
fn a_passphrase_is_the_first_line_of_standard_input() {
    let home = Home::served();
    let line = [PASSPHRASE, b"\nmore\n"].concat();
    assert_eq!(home.run_with(&["init", "--passphrase-stdin"], &line).code, 0);
    assert_eq!(home.run(&["lock"]).code, 0);
    assert_eq!(home.run_with(&["unlock", "--passphrase-stdin"], b"wrong\n").code, 4);
    let line = [PASSPHRASE, b"\n"].concat();
    let ran = home.run_with(&["unlock", "--passphrase-stdin"], &line);
    assert_eq!((ran.code, ran.text()), (0, "the vault is unlocked\n"), "{}", ran.stderr);
    assert_eq!(home.run(&["list"]).code, 0);
}

#[test]
fn check_says_what_is_missing() {
    let home = Home::new();
    write_manifest(&home);
    Scene { lacks: true, trust: Some(TrustState::Trusted), ..Scene::default() }.play(&home);
    assert_snapshot!(transcript(&home, &[&["check"], &["check", "--json"]]));
    let whole = Home::new();
    write_manifest(&whole);
    Scene::default().play(&whole);
    assert_eq!(whole.run(&["check"]).code, 0);
}

#[test]
fn k02_trust_by_hash_is_for_that_content_alone() {
    let home = Home::new();
    write_manifest(&home);
    let scene = Scene::default().play(&home);
    let is_trust = |question: &Question| matches!(question, Question::Trust { .. });
    let other = "0".repeat(64);
    assert_snapshot!(transcript(&home, &[&["trust", "--hash", &other]]));
    assert!(!scene.was_asked(is_trust));
    assert_eq!(home.run(&["trust", "--hash", HASH]).code, 0);
    assert!(scene.was_asked(
        |question| matches!(question, Question::Trust { hash, confirmed: true, .. } if hash == HASH)
    ));
}

#[test]
fn trust_finds_the_project_from_below() {
    let home = Home::new();
    write_manifest(&home);
    let scene = Scene::default().play(&home);
    let below = home.work().join("a/b");
    std::fs::create_dir_all(&below).unwrap();
    let child = home.command(&["trust", "--yes"]).current_dir(&below).spawn().unwrap();
    let ran = crate::program::finish(child);
    assert_snapshot!(ran.transcript(&home));
    assert!(scene.was_asked(
        |question| matches!(question, Question::Trust { directory, .. } if *directory == home.work())
    ));
}

#[test]
fn the_broker_judges_trust_even_where_nothing_changes() {
    let home = Home::new();
    write_manifest(&home);
    let scene = Scene { trust: Some(TrustState::Trusted), ..Scene::default() }.play(&home);
    let ran = home.run(&["trust", "--yes"]);
    assert!(ran.code == 0 && ran.text().starts_with("already trusted: api in "), "{}", ran.text());
    assert!(scene.was_asked(|question| matches!(question, Question::Trust { .. })));
}

#[test]
fn status_shows_grants_and_their_trees() {
    let home = Home::new();
    Scene { grants: 2, ..Scene::default() }.play(&home);
    let text = transcript(&home, &[&["status"], &["revoke", "--all"], &["revoke", "0101"], &["lock"]]);
    assert!(!text.contains(['\u{1b}', '\u{202e}']));
    assert_snapshot!(text);
    let ran = home.run(&["status", "--json"]);
    let status: Status = serde_json::from_str(ran.text()).unwrap();
    assert_eq!(status.grants[0].tree[2].comm, "no\u{202e}de");
    assert!(!ran.text().contains(['\u{1b}', '\u{202e}']));
}

#[test]
fn doctor_names_the_broker_and_lists_every_check() {
    let home = Home::new();
    Scene::default().play(&home);
    let ran = home.run(&["doctor"]);
    let names = [
        "fuse device",
        "fusermount3",
        "directories",
        "kernel",
        "memory",
        "ptrace",
        "swap",
        "mount",
        "broker",
        "vault",
        "keyring",
    ];
    for name in names {
        assert!(ran.text().contains(&format!("  {name}")), "{name}: {}", ran.text());
    }
    assert!(ran.text().contains("pid 4001, version "), "{}", ran.text());
    let json = home.run(&["doctor", "--json"]);
    let checks: Vec<serde_json::Value> = serde_json::from_str(json.text()).unwrap();
    assert!(checks.iter().all(|check| check["name"].is_string() && check["state"].is_string()));
}

#[test]
fn what_people_read_names_no_grant_by_more_than_it_needs() {
    let home = Home::new();
    Scene::default().play(&home);
    assert_snapshot!(transcript(&home, &[&["status"], &["revoke", "--all"], &["lock", "--json"]]));
}
