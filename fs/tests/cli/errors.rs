//! Is every refusal one line, one hint and the right exit code, without a value, a hang or a panic?

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::pipe;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use insta::assert_snapshot;

use crate::broker::{Scene, write_manifest};
use crate::program::{Home, PROGRAM, finish};

const CANARY: &str = "CANARY-91c2";

/// Every line of a table of refusals: the arguments, then all that the program said.
fn transcript(home: &Home, lines: &[&[&str]]) -> String {
    let mut text = String::new();
    for line in lines {
        let ran = home.run(line);
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
        text += &format!("$ kin {}\n{}\n", line.join(" "), ran.transcript(home));
    }
    text
}

#[test]
fn z01_bad_command_lines_are_refused_in_two_lines() {
    assert_snapshot!(transcript(
        &Home::new(),
        &[
            &[],
            &["frobnicate"],
            &["frobnicate\u{1b}[31m"],
            &["--frobnicate"],
            &["list", "--frobnicate=x"],
            &["status", "surplus"],
            &["run"],
            &["run", "--"],
            &["run", ""],
            &["run", "--frobnicate", "ls"],
            &["run", "--ttl"],
            &["run", "--only", "../x", "ls"],
            &["trust", "--yes", "--hash", "x"],
            &["trust", "--hash", "x"],
            &["init", "--keyring", "--key-file", "x"],
            &["init", "--passphrase", "x"],
            &["set", "a", "--stdin", "--generate", "hex:32"],
            &["completions", "basic"],
            &["completions"],
            &["list", "--json", "--json"],
            &["list", "--json=yes"],
            &["revoke"],
            &["revoke", "--all", "1a2b"],
            &["revoke", "not-an-id"],
            &["show", "../x"],
            &["show", "a\u{1b}[31m"],
            &["audit", "--ref", "a//b"],
        ]
    ));
}

#[test]
fn e04_bad_times_are_refused() {
    assert_snapshot!(transcript(
        &Home::new(),
        &[
            &["run", "--ttl", "0", "ls"],
            &["run", "--ttl", "-1", "ls"],
            &["run", "--ttl", "1ns", "ls"],
            &["run", "--ttl=10m5", "ls"],
            &["run", "--ttl", "NaN", "ls"],
            &["run", "--ttl", "18446744073709551616", "ls"],
            &["run", "--ttl", "31d", "ls"],
        ]
    ));
}

#[test]
fn z03_a_value_on_the_command_line_is_refused_and_not_repeated() {
    let home = Home::new();
    for line in [
        &["set", "db/url=CANARY-91c2"][..],
        &["set", "db/url", CANARY],
        &["set", "db/url", "--stdin=CANARY-91c2"],
        &["set", "db/url", "--value", CANARY],
        &["set", "CANARY-91c2 x"],
        &["set", "--json", "db/url=CANARY-91c2"],
        &["init", "--passphrase", CANARY],
        &["unlock", CANARY],
    ] {
        let ran = home.run(line);
        assert!(!ran.stderr.contains(CANARY) && !ran.text().contains(CANARY), "{line:?}: {}", ran.stderr);
        assert!(ran.code == 2 || ran.stderr.contains("bad reference: only"), "{line:?}: {}", ran.stderr);
    }
    assert_snapshot!(transcript(&home, &[&["set", "db/url=x"], &["set", "db/url", "x"]]));
}

#[test]
fn z03_bad_values_on_standard_input_are_refused() {
    let home = Home::new();
    let large = vec![b'x'; (1 << 20) + 1];
    for (input, code) in
        [(&b""[..], "empty_value"), (b"CANARY-91c2\0x", "nul_in_value"), (&large, "value_too_large")]
    {
        let ran = home.run_with(&["set", "db/url", "--stdin", "--json"], input);
        assert_eq!(ran.code, 2, "{code}");
        assert!(ran.stderr.contains(&format!("\"code\":\"{code}\"")), "{}", ran.stderr);
        assert!(!ran.stderr.contains(CANARY));
    }
    let ran = home.run_with(&["unlock", "--passphrase-stdin", "--json"], b"\n");
    assert_eq!((ran.code, ran.stderr.contains("empty_passphrase")), (2, true), "{}", ran.stderr);
}

#[test]
fn z04_arguments_that_are_not_text_are_escaped() {
    let home = Home::new();
    for line in [
        [OsStr::new("show"), OsStr::from_bytes(b"caf\xe9\x1b")],
        [OsStr::new("set"), OsStr::from_bytes(b"caf\xe9\x1b")],
        [OsStr::new("caf\u{e9}"), OsStr::from_bytes(b"\xe9\x1b")],
        [OsStr::new("revoke"), OsStr::from_bytes(b"\xe9\x1b")],
    ] {
        let ran = home.run(&line);
        assert!(ran.code == 2 || ran.code == 3, "{line:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains('\u{1b}') && ran.stderr.starts_with("error: "), "{:?}", ran.stderr);
    }
}

#[test]
fn z05_a_reader_that_went_away_ends_it_by_sigpipe() {
    let home = Home::new();
    for line in [&["--help"][..], &["man"], &["completions", "bash"], &["stop"], &["doctor"]] {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let ran = finish(home.command(line).stdout(writer).spawn().unwrap());
        assert_eq!((ran.code, ran.stderr.as_str()), (128 + libc::SIGPIPE, ""), "{line:?}");
    }
}

#[test]
fn z05_a_full_disk_behind_standard_output_is_storage() {
    let home = Home::new();
    for line in [&["--help"][..], &["man"], &["stop"], &["stop", "--json"], &["--version"]] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let ran = finish(home.command(line).stdout(full).spawn().unwrap());
        assert_eq!(ran.code, 8, "{line:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("no space left on device"), "{}", ran.stderr);
    }
}

#[test]
fn z05_a_closed_standard_output_is_storage() {
    let home = Home::new();
    for line in ["--help", "stop"] {
        let mut shell = Command::new("sh");
        home.prepare(&mut shell);
        shell.args(["-c", &format!("exec {PROGRAM} {line} >&-")]);
        let ran = finish(shell.spawn().unwrap());
        assert_eq!(ran.code, 8, "{line}: {}", ran.stderr);
    }
}

#[test]
fn z05_a_closed_standard_error_changes_no_exit_code() {
    let home = Home::new();
    let mut shell = Command::new("sh");
    home.prepare(&mut shell);
    shell.args(["-c", &format!("exec {PROGRAM} frobnicate 2>&-")]);
    assert_eq!(finish(shell.spawn().unwrap()).code, 2);
    let full = File::options().write(true).open("/dev/full").unwrap();
    assert_eq!(finish(home.command(&["frobnicate"]).stderr(full).spawn().unwrap()).code, 2);
}

#[test]
fn z06_errors_are_one_json_object() {
    let home = Home::new();
    for (line, code, class) in [
        (&["status", "--json"][..], 6, "unreachable"),
        (&["show", "--json", "../x"], 3, "unsafe"),
        (&["list", "--json", "--frobnicate"], 2, "usage"),
        (&["set", "--json", "a=CANARY-91c2"], 2, "usage"),
        (&["set", "--json", "a", CANARY], 2, "usage"),
        (&["init", "--json"], 4, "locked"),
        (&["check", "--json"], 3, "unsafe"),
    ] {
        let ran = home.run(line);
        assert_eq!((ran.code, ran.text()), (code, ""), "{line:?}: {}", ran.stderr);
        let error: serde_json::Value = serde_json::from_str(&ran.stderr).expect(&ran.stderr);
        assert_eq!(error["class"], class);
        assert!(error["code"].is_string() && error["message"].is_string(), "{error}");
        let known = ["class", "code", "message", "hint", "detail"];
        assert!(error.as_object().unwrap().keys().all(|key| known.contains(&key.as_str())), "{error}");
        assert!(!ran.stderr.contains(CANARY));
    }
}

#[test]
fn z09_without_a_terminal_nothing_waits_for_one() {
    let home = Home::new();
    write_manifest(&home);
    for (line, code, word) in [
        (&["init", "--json"][..], 4, "passphrase_needed"),
        (&["set", "db/url", "--json"], 5, "value_needed"),
        (&["trust", "--json"], 5, "confirmation_needed"),
        (&["reveal", "db/url"], 5, "needs a person to agree"),
    ] {
        let ran = home.run(line);
        assert_eq!(ran.code, code, "{line:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(word), "{line:?}: {}", ran.stderr);
        let mut shell = Command::new("sh");
        home.prepare(&mut shell);
        shell.args(["-c", &format!("exec {PROGRAM} {} <&-", line.join(" "))]);
        assert_eq!(finish(shell.spawn().unwrap()).code, code, "{line:?} with standard input closed");
    }
}

#[test]
fn z09_a_locked_vault_is_exit_4_where_nobody_can_type() {
    let home = Home::new();
    write_manifest(&home);
    Scene { locked: true, ..Scene::default() }.play(&home);
    assert_snapshot!(transcript(
        &home,
        &[&["list"], &["show", "db/url"], &["check"], &["unlock"], &["reveal", "db/url", "--yes"]]
    ));
}

#[test]
fn refusals_without_a_broker_are_as_they_were_agreed() {
    let home = Home::new();
    assert_snapshot!(transcript(
        &home,
        &[
            &["status"],
            &["revoke", "--all"],
            &["lock"],
            &["lock", "--json"],
            &["stop"],
            &["trust"],
            &["check"],
            &["init"],
            &["set", "db/url"],
            &["set", "db/url", "--from-file", "absent"],
            &["reveal", "db/url"],
        ]
    ));
}

#[test]
fn a_runtime_directory_that_others_can_enter_is_refused() {
    let home = Home::new();
    fs::set_permissions(home.path().join("run"), Permissions::from_mode(0o755)).unwrap();
    assert_snapshot!(transcript(&home, &[&["status"], &["lock"], &["stop"]]));
    let ran = home.run(&["doctor"]);
    assert_ne!(ran.code, 0, "{}", ran.text());
    assert!(ran.text().contains("fix: chmod 700 "), "{}", ran.text());
    let ran = home.run(&["doctor", "--fix"]);
    assert!(!ran.text().contains("fix: chmod 700 "), "{}", ran.text());
    assert!(ran.stderr.starts_with("made "), "{}", ran.stderr);
}

#[test]
fn a_relative_kin_home_is_refused() {
    let home = Home::new();
    let ran = finish(home.command(&["status"]).env("KIN_HOME", "here").spawn().unwrap());
    assert_eq!(ran.transcript(&home), "stderr:\nerror: KIN_HOME is not an absolute path\nexit 3\n");
}

#[test]
fn a_broker_of_another_protocol_is_refused() {
    use std::io::Write;
    let home = Home::new();
    let listener = std::os::unix::net::UnixListener::bind(home.path().join("run/socket")).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&[0xff; 64]).unwrap();
        stream
    });
    let ran = home.run(&["status"]);
    drop(server.join().unwrap());
    assert_snapshot!(ran.transcript(&home));
}

#[test]
fn below_a_keeper_no_broker_is_started() {
    let home = Home::new();
    // Bash keeps the name that it writes to its own comm (proc_pid_comm(5)) while it waits for its child.
    let script = format!("printf kin-keeper > /proc/$$/comm; {PROGRAM} list; exit $?");
    let mut shell = Command::new("bash");
    home.prepare(&mut shell);
    shell.args(["-c", &script]).stdin(Stdio::null());
    assert_snapshot!(finish(shell.spawn().unwrap()).transcript(&home));
}
