//! Does the command line say no in one voice, and never hang? Command line.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use kin_tests::{Actor, World, binary};
use serde_json::json;

use crate::{DATABASE, database};

#[test]
fn z01_a_wrong_command_line_is_exit_2() {
    let world = World::ready();
    for args in [
        &["frobnicate"][..],
        &["--frobnicate"],
        &[],
        &["run"],
        &["run", "--"],
        &["run", "--", ""],
        &["run", "--frobnicate", "--", "true"],
        &["run", "--only", "--", "true"],
        &["set"],
        &["set", "a/b", "extra"],
        &["set", "a/b", "--stdin", "--generate", "hex:32"],
        &["show"],
        &["revoke"],
        &["revoke", "0123", "--all"],
        &["status", "--frobnicate"],
        &["audit", "--since", "the day before"],
        &["import"],
        &["import", "one", "two"],
        &["import", "--format", "yaml", "x"],
        &["import", ".env", "--link", "--dry-run"],
        &["export"],
        &["export", "--to"],
        &["export", "--reveal", "--to", "age1x", "x"],
        &["link", "--overwrite"],
        &["link", "--frobnicate"],
        &["unlink", "--yes"],
        &["list", "--attr", "env"],
        &["list", "["],
        &["list", "--expiring", "soon"],
        &["set", "a/b", "--stdin", "--attr", "env"],
    ] {
        let output = world.kin(args).run().exits(2);
        assert!(output.stdout.is_empty(), "{output}");
        let said: Vec<&str> = output.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
        assert!(!said.is_empty(), "{args:?} said nothing");
    }
    for args in [&["frobnicate"][..], &["run", "--frobnicate", "--", "true"], &["set"]] {
        let output = world.kin(args).run();
        assert!(output.stderr.starts_with("error: "), "{output}");
        assert!(output.stderr.lines().count() <= 4, "{output}");
    }
}

#[test]
fn z02_run_ends_as_its_command_did() {
    let world = World::ready();
    let plain = world.path("plain");
    std::fs::write(&plain, "no program").expect("a file");
    for (code, command) in [
        (0, &["true"][..]),
        (1, &["false"]),
        (42, &["sh", "-c", "exit 42"]),
        (255, &["sh", "-c", "exit 255"]),
        (126, &[plain.to_str().expect("a path")]),
        (126, &["/tmp"]),
        (127, &["no-such-program"]),
        (127, &["/no/such/program"]),
    ] {
        let output = world.kin(["run", "--"]).args(command).run().exits(code);
        assert_eq!(output.status.signal(), None, "{output}");
    }
    for signal in [1, 2, 3, 6, 9, 11, 13, 15] {
        let output = world.kin(["run", "--", "sh", "-c", &format!("kill -{signal} $$")]).run();
        assert_eq!(output.status.signal(), Some(signal), "{output}");
    }
    kin_tests::eventually("no grant is left", crate::SOON, || world.grants().is_empty());
}

#[test]
fn a_signal_sent_to_the_front_alone_reaches_the_command() {
    let world = World::ready();
    let member = world.member(&[]);
    kin_tests::process::signal(member.started(), nix::sys::signal::Signal::SIGTERM);
    let status = member.wait(Duration::from_secs(3));
    assert_eq!(status.signal(), Some(15), "{status:?}");
    kin_tests::eventually("the grant ends", crate::SOON, || world.grants().is_empty());
}

#[test]
fn z03_a_value_on_the_command_line_is_refused() {
    let world = World::ready();
    let before = world.kin(["list", "--json"]).run().exits(0).stdout;
    world.kin(["set", "a/b=value"]).run().exits(2);
    world.kin(["set", "A=B"]).input("x").run().exits(2);
    world.kin(["set", "a/b", "--stdin"]).input("").run().exits(2);
    world.kin(["set", "a/b", "--stdin"]).input("with\0nul").run().exits(2);
    world.kin(["set", "a/b", "--stdin"]).input(vec![b'x'; (1 << 20) + 1]).run().exits(2);
    let output = world.kin(["set", "a/b", "--from-file", "/no/such/file"]).run();
    assert!([2, 3, 8].contains(&output.code()), "{output}");
    assert_eq!(world.kin(["list", "--json"]).run().exits(0).stdout, before);
    world.kin(["set", "a/b", "--stdin"]).input(vec![b'x'; 1 << 20]).run().exits(0);
}

#[test]
fn z03_files_of_values_that_are_none_are_refused() {
    let world = World::ready();
    let before = world.kin(["list", "--json"]).run().exits(0).stdout;
    let file = world.project().join("many.env");
    let large = [&b"A="[..], &vec![b'x'; 1 << 20]].concat();
    for (bytes, word) in [
        (&b""[..], "nothing to import"),
        (b"# nothing\n", "nothing to import"),
        (b"A=1\nno value\n", "line 2"),
        (b"A=1\nA=2\n", "more than one key"),
        (b"A='1\n", "not closed"),
        (&large, "1 MiB"),
    ] {
        std::fs::write(&file, bytes).expect("a file");
        world.kin(["import", "many.env"]).run().refuses(2, &[word]);
    }
    for place in ["no/such", "/dev/zero", "/proc/self/mem"] {
        world.kin(["import", place]).run().exits(2);
    }
    assert_eq!(world.kin(["list", "--json"]).run().exits(0).stdout, before);
    // Its own file the largest value fits into, and an empty one is a value.
    std::fs::write(&file, [b"A=\nB=", &vec![b'x'; (1 << 20) - 6][..]].concat()).expect("a file");
    world.kin(["import", "many.env"]).run().exits(0);
}

#[test]
fn z04_bytes_that_are_not_text_pass_through_and_are_escaped() {
    let world = World::ready();
    let raw = OsString::from_vec(b"caf\xe9\x1b[31m".to_vec());
    let command = [OsStr::new("run"), OsStr::new("--"), OsStr::new("printf"), OsStr::new("%s"), &raw];
    let output = world.kin(command).run().exits(0);
    assert_eq!(output.stdout, raw.as_bytes());
    let output = world.kin(["run", "--", "sh", "-c", "printf %s \"$RAW\""]).env("RAW", &raw).run().exits(0);
    assert_eq!(output.stdout, raw.as_bytes());
    // A project whose directory is no text.
    let place = world.path("").join(&raw);
    std::fs::create_dir(&place).expect("a directory");
    std::fs::copy(world.project().join("kin.toml"), place.join("kin.toml")).expect("a copy");
    world.kin(["run", "--", "true"]).cwd(&place).run().refuses(3, &["trust"]);
    world.kin(["trust", "--yes"]).cwd(&place).run().exits(0);
    let line = "cat \"$KIN_DIR/DATABASE_URL\"; sleep 0.1; exit 0";
    let output =
        world.kin([OsStr::new("run"), OsStr::new("--"), "sh".as_ref(), "-c".as_ref(), line.as_ref(), &raw]);
    assert_eq!(output.cwd(&place).run().exits(0).stdout, database(&world));
    // Files and links in it.
    let env = place.join(OsStr::from_bytes(b"env\xe9"));
    std::fs::write(&env, "A=1\n").expect("a file");
    let import = [OsStr::new("import"), env.as_os_str(), OsStr::new("--prefix"), OsStr::new("raw")];
    world.kin(import).cwd(&place).run().exits(0);
    let output =
        world.kin([OsStr::new("import"), env.as_os_str(), OsStr::new("--link"), OsStr::new("--yes")]);
    let output = output.cwd(&place).run().exits(2);
    assert!(!output.stderr.contains('\u{1b}') && output.stderr.contains("\\xe9"), "{output}");
    std::fs::write(place.join(".env"), "A=1\n").expect("a file");
    let output = world.kin(["import", ".env", "--link", "--yes"]).cwd(&place).run().exits(0);
    assert!(!output.text().contains('\u{1b}'), "{output}");
    let output = world.kin(["run", "--", "cat", ".env"]).cwd(&place).run().exits(0);
    assert_eq!(output.stdout, b"A=1\n");
    world.kin(["unlink", "--restore", "--yes"]).cwd(&place).run().exits(0);
    assert_eq!(std::fs::read(place.join(".env")).expect(".env"), b"A=1\n");
    for args in [
        &["no\u{1b}[31mcommand"][..],
        &["list", "a\u{1b}[31mb["],
        &["import", "a\u{1b}[31mb"],
        &["link", "a\u{1b}[31mb"],
        &["unlink", "a\u{1b}[31mb"],
        &["show", "a\u{1b}[31mb"],
        &["run", "--only", "a\u{1b}b", "--", "true"],
    ] {
        let output = world.kin(args).run();
        assert!(output.code() != 0 && !output.stderr.contains('\u{1b}'), "{output}");
    }
    let unusual = [OsStr::new("show"), &raw];
    let output = world.kin(unusual).run();
    assert!([2, 3].contains(&output.code()) && !output.stderr.contains('\u{1b}'), "{output}");
    for text in [world.kin(["audit"]).run().exits(0).text(), world.kin(["status"]).run().exits(0).text()] {
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}

#[test]
fn z05_output_that_nobody_takes_is_no_panic() {
    let world = World::ready();
    world.manifest(
        "schema = 1\n[project]\nname = \"api\"\n[bindings]\nDATABASE_URL = { ref = \"db/url\", path = \"x\" }\n",
    );
    world.trust();
    std::fs::write(world.project().join("x.env"), "A=1\n").expect("a file");
    let member = world.member(&[]);
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
    for args in [
        &["audit", "--json"][..],
        &["audit"],
        &["list"],
        &["status"],
        &["--help"],
        &["reveal", "db/url", "--yes"],
        &["export", "--reveal", "--yes"],
        &["import", "x.env", "--dry-run"],
        &["link"],
        &["list", "--json", "db"],
    ] {
        let full = File::options().write(true).open("/dev/full").expect("/dev/full");
        world.kin(args).output(full).run().exits(8);
        let (reading, writing) = std::io::pipe().expect("a pipe");
        drop(reading);
        let output = world.kin(args).output(File::from(std::os::fd::OwnedFd::from(writing))).run();
        assert!([141, 8].contains(&output.code()), "{output}");
        assert!(!output.stderr.contains("panicked"), "{output}");
        let script = format!("exec \"$0\" {} >&-", args.join(" "));
        let output = world.other("sh", ["-c", &script]).args([binary()]).run();
        assert!([0, 8, 141].contains(&output.code()), "{output}");
        assert!(!output.stderr.contains("panicked"), "{output}");
    }
}

#[test]
fn z06_errors_in_json_have_class_code_and_message() {
    let world = World::ready();
    world.manifest("schema = 1\n[project]\nname = \"other\"\n[bindings]\nX = \"no/such\"\n");
    // The world looks for its canaries in all that is said.
    let secret = world.canary();
    std::fs::write(world.project().join("bad.env"), format!("A='{secret}")).expect("a file");
    std::fs::write(world.project().join("bad.json"), format!("{{\"A\": \"{secret}")).expect("a file");
    for (args, class, code) in [
        (&["show", "no/such", "--json"][..], "usage", "unknown_reference"),
        (&["show", "../x", "--json"], "", "bad_name"),
        (&["audit", "--since", "nonsense", "--json"], "usage", ""),
        (&["import", "no-such", "--json"], "usage", "file_unreadable"),
        (&["import", "bad.env", "--json"], "usage", "bad_dotenv"),
        (&["import", "bad.json", "--json"], "usage", "bad_json"),
        (&["import", "bad.env", "--json", "--link"], "denied", "confirmation_needed"),
        (&["export", "out", "--json", "--to", "age1x"], "usage", "bad_recipient"),
        (&["export", "--json", "--reveal"], "denied", "confirmation_needed"),
        (&["link", "--json"], "unsafe", "manifest_changed"),
        (&["unlink", "--json", "NONE"], "usage", "unknown_link"),
        (&["list", "--json", "a["], "usage", "bad_pattern"),
    ] {
        let output = world.kin(args).run();
        let error = output.json_error();
        assert!(class.is_empty() || error["class"] == class, "{output}");
        assert!(code.is_empty() || error["code"] == code, "{output}");
        assert!(error["code"].is_string() && error["message"].is_string(), "{output}");
    }
    world.kin(["stop"]).run().exits(0);
    let output = world.kin(["revoke", "--all", "--json"]).run();
    if output.code() != 2 {
        assert_eq!(
            (output.code(), output.json_error()["class"].clone()),
            (6, json!("unreachable")),
            "{output}"
        );
    }
}

#[test]
fn z09_without_a_terminal_nothing_waits_for_one() {
    let world = World::ready();
    world.manifest("schema = 1\n[project]\nname = \"other\"\n[bindings]\nX = \"db/url\"\n");
    let quickly = |args: &[&str], codes: &[i32]| {
        let start = Instant::now();
        // A session of its own has no terminal that could be opened as /dev/tty.
        let command = world.other("setsid", ["--wait"]).args([binary()]).args(args);
        let output = command.within(Duration::from_secs(6)).run();
        assert!(codes.contains(&output.code()), "{output}");
        assert!(start.elapsed() < Duration::from_secs(5), "{args:?}: {:?}", start.elapsed());
        assert!(output.stderr.contains("hint: "), "{output}");
    };
    quickly(&["reveal", "db/url"], &[5]);
    quickly(&["trust"], &[5]);
    quickly(&["set", "a/b"], &[2, 4, 5]);
    quickly(&["rm", "no/such"], &[2, 4, 5]);
    std::fs::write(world.project().join(".env"), "A=1\n").expect("a file");
    quickly(&["import", ".env", "--link"], &[5]);
    quickly(&["export", "--reveal"], &[5]);
    quickly(&["export", "out"], &[4, 5]);
    quickly(&["unlink", "--restore"], &[5]);
    quickly(&["link"], &[3]);
    world.kin(["lock"]).run().exits(0);
    quickly(&["reveal", "db/url", "--yes"], &[4]);
    quickly(&["run", "--", "true"], &[3, 4]);
    let closed = world.other("sh", ["-c", "exec \"$0\" reveal db/url <&- >&- 2>&-"]).args([binary()]);
    let output = closed.within(Duration::from_secs(5)).run();
    assert!([4, 5].contains(&output.code()), "{output}");
    world.kin(["unlock"]).run().exits(0);
    for args in ["import .env --link", "export --reveal", "unlink --restore", "link --adopt"] {
        let script = format!("exec \"$0\" {args} <&- >&- 2>&-");
        let closed = world.other("sh", ["-c", &script]).args([binary()]);
        let output = closed.within(Duration::from_secs(5)).run();
        assert!([3, 4, 5].contains(&output.code()), "{args}: {output}");
    }
}

/// A pseudo-terminal's own session, in which the shell puts the command in the background: `$1` kin, and more.
const BACKGROUND: &str = r#"
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv("/bin/bash", ["bash", "-c", "set -m; \"$@\" & wait $!; echo code $?", "bash"] + sys.argv[1:])
said = b""
try:
    while got := os.read(terminal, 4096):
        said += got
except OSError:
    pass
os.waitpid(pid, 0)
sys.stdout.buffer.write(said)
"#;

#[test]
fn z09_in_the_background_of_a_terminal_nothing_waits_for_it() {
    let world = World::ready();
    std::fs::write(world.project().join(".env"), "A=1\n").expect("a file");
    for (args, code) in [
        (&["import", ".env", "--link"][..], 5),
        (&["export", "--reveal"], 5),
        (&["unlink", "--restore"], 5),
        (&["reveal", "db/url"], 5),
        (&["import", ".env", "--dry-run"], 0),
    ] {
        let command = world.other("/usr/bin/python3", ["-c", BACKGROUND]).args([binary()]).args(args);
        let output = command.within(Duration::from_secs(5)).run().exits(0);
        assert!(output.text().contains(&format!("code {code}")), "{args:?}: {output}");
    }
}

#[test]
fn a_background_run_without_a_terminal_works() {
    let world = World::ready();
    let output = world.other("setsid", ["--wait"]).args([binary()]).args(["run", "--", "cat"]);
    let output = output.args([world.file(DATABASE)]).run().exits(0);
    assert_eq!(output.stdout, database(&world));
}
