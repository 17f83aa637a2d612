//! Do many secrets come in and go out as they are, all of them or none, and never in the clear?

use std::path::Path;
use std::time::Duration;

use kin_tests::{Actor, Kin, World, binary, eventually, leaks_below, record};
use serde_json::{Value, json};

fn import<'w>(world: &'w World, options: &[&str]) -> Kin<'w> {
    world.kin(["import"]).args(options)
}

/// A `.env` file with two values, and what they are.
fn env_file(world: &World) -> (String, String) {
    let (first, second) = (world.canary(), world.canary());
    let text = format!("# mine\nexport ONE={first}\nTWO=\"a\\n{second}\" # two\nEMPTY=\n");
    std::fs::write(world.project().join(".env"), text).expect("a file");
    (first, format!("a\n{second}"))
}

fn revealed(world: &World, reference: &str) -> Vec<u8> {
    world.kin(["reveal", reference, "--yes"]).run().exits(0).stdout
}

fn states(told: &Value) -> Vec<(&str, &str)> {
    let text = |info: &'_ Value, key: &str| info[key].as_str().map(ToOwned::to_owned);
    let all = told.as_array().into_iter().flatten();
    all.filter_map(|info| {
        text(info, "reference")?;
        Some((info["reference"].as_str()?, info["state"].as_str()?))
    })
    .collect()
}

fn generation(world: &World, name: &str) -> u64 {
    let made = world.kin(["backup", "--json"]).args([world.path(name)]).run().exits(0).json();
    made["generation"].as_u64().expect("a number")
}

#[test]
fn an_import_is_shown_first_and_is_one_write_of_the_vault() {
    let world = World::ready();
    let (first, second) = env_file(&world);
    let before = generation(&world, "before");
    let shown = import(&world, &[".env", "--prefix", "api", "--dry-run", "--json"]).run().exits(0);
    let expected = [("api/ONE", "new"), ("api/TWO", "new"), ("api/EMPTY", "new")];
    assert_eq!(states(&shown.json()), expected);
    world.kin(["show", "api/ONE"]).run().refuses(2, &["api/ONE"]);
    let output = import(&world, &[".env", "--prefix", "api"]).run().exits(0);
    assert!(output.text().contains("imported 3 of 3"), "{output}");
    assert!(output.stderr.contains("still holds the values"), "{output}");
    assert_eq!(generation(&world, "after"), before + 1);
    for (reference, value) in [("api/ONE", first), ("api/TWO", second), ("api/EMPTY", String::new())] {
        assert_eq!(revealed(&world, reference), value.into_bytes(), "{reference}");
    }
    let again = import(&world, &[".env", "--prefix", "api", "--json"]).run().exits(0).json();
    assert!(states(&again).iter().all(|(_, state)| *state == "same"), "{again}");
    assert_eq!(generation(&world, "again"), before + 1);
    let records = world.audit();
    let writes = record::of(&records, "vault.write");
    let imported = writes.iter().filter(|line| line["reason"] == "import").count();
    assert_eq!(imported, 3, "{writes:#?}");
    assert!(!record::of(&records, "vault.compare").is_empty(), "a comparison is on the record");
}

#[test]
fn what_is_there_stays_unless_it_is_said_and_then_none_is_stored() {
    let world = World::ready();
    env_file(&world);
    world.set("api/TWO", b"its own");
    let refused = import(&world, &[".env", "--prefix", "api", "--yes"]).run();
    refused.refuses(5, &["another value", "api/TWO"]);
    world.kin(["show", "api/ONE"]).run().refuses(2, &["api/ONE"]);
    assert_eq!(revealed(&world, "api/TWO"), b"its own");
    import(&world, &[".env", "--prefix", "api", "--yes", "--overwrite"]).run().exits(0);
    assert_eq!(world.kin(["show", "api/TWO", "--json"]).run().exits(0).json()["version"], 2);
    assert_eq!(revealed(&world, "api/TWO@1"), b"its own");
}

#[test]
fn an_import_reads_what_a_pipe_gives_once() {
    let world = World::ready();
    let secret = world.canary();
    let script = format!("\"$0\" import <(printf 'A=%s' {secret}) --prefix piped");
    world.other("/bin/bash", ["-c", &script]).args([binary()]).run().exits(0);
    assert_eq!(revealed(&world, "piped/A"), secret.as_bytes());
}

#[test]
fn json_is_read_by_the_way_to_each_value() {
    let world = World::ready();
    let secret = world.canary();
    let file = world.project().join("all.json");
    let text = format!("{{\"db\":{{\"url\":\"{secret}\",\"port\":5432}},\"a key\":\"x\"}}");
    std::fs::write(&file, text).expect("a file");
    let told = import(&world, &["all.json", "--prefix", "j", "--json"]).run().exits(0).json();
    assert_eq!(states(&told), [("j/db/url", "new"), ("j/db/port", "new"), ("j/a_key", "new")]);
    assert_eq!(revealed(&world, "j/db/url"), secret.as_bytes());
    for (text, code) in [
        (format!("{{\"a b\":\"{secret}\",\"a_b\":\"y\"}}"), "name_collision"),
        (format!("{{\"a\":\"{secret}\""), "bad_json"),
        (format!("{{\"\":\"{secret}\"}}"), "bad_name"),
        ("{}".to_owned(), "nothing_to_import"),
    ] {
        std::fs::write(&file, text).expect("a file");
        let refused = import(&world, &["all.json", "--json"]).run().exits(2);
        assert_eq!(refused.json_error()["code"], code, "{refused}");
    }
}

/// `$1` kin, `$2` the store, `$3` and `$4` two files: a key, two entries, and the import of them.
const PASS: &str = r#"
export GNUPGHOME="$PWD/gnupg"
mkdir -m 0700 "$GNUPGHOME"
trap 'gpgconf --kill all' EXIT
gpg --batch --quiet --passphrase '' --quick-generate-key kin@example.org ed25519 cert never
key=$(gpg --batch --with-colons --list-keys | sed -n 's/^fpr:*\([0-9A-F]*\):/\1/p' | head -n 1)
gpg --batch --quiet --passphrase '' --quick-add-key "$key" cv25519 encr never
mkdir -p "$2/web" "$2/.git"
gpg --batch --quiet --trust-model always -r "$key" -e -o "$2/web/site.gpg" "$3"
gpg --batch --quiet --trust-model always -r "$key" -e -o "$2/mail.gpg" "$4"
cp "$2/mail.gpg" "$2/.git/hidden.gpg"
"$1" import "$2" --prefix pass --json
printf broken > "$2/broken.gpg"
! "$1" import "$2" --prefix pass --overwrite --json
"#;

#[test]
fn a_store_of_pass_is_opened_by_gpg_and_the_first_line_is_the_secret() {
    let world = World::ready();
    let (one, two, rest) = (world.canary(), world.canary(), world.canary());
    let files = [world.path("one"), world.path("two")];
    std::fs::write(&files[0], format!("{one}\nuser: me\nanswer: {rest}\n")).expect("a file");
    std::fs::write(&files[1], format!("{two}\n")).expect("a file");
    let store = world.path("store");
    let command = world.other("sh", ["-ec", PASS, "sh"]).args([binary(), store]).args(files);
    let output = command.cwd(world.path("")).within(std::time::Duration::from_secs(60)).run().exits(0);
    let told = output.text();
    let told: Value = serde_json::from_str(told.lines().next().unwrap_or_default()).expect("JSON");
    let expected = [("pass/mail", "new"), ("pass/web/site", "new"), ("pass/web/site.rest", "new")];
    assert_eq!(states(&told), expected);
    assert_eq!(revealed(&world, "pass/mail"), two.as_bytes());
    assert_eq!(revealed(&world, "pass/web/site"), one.as_bytes());
    assert_eq!(revealed(&world, "pass/web/site.rest"), format!("user: me\nanswer: {rest}\n").as_bytes());
    assert!(output.stderr.contains("gpg_failed"), "{output}");
}

#[test]
fn an_export_is_for_its_key_alone_and_reads_back() {
    let world = World::ready();
    world.set("bin/ary", b"\xff\xfe");
    world.kin(["set", "n/ote", "--stdin", "--note", "why", "--attr", "env=prod"]).input("x").run().exits(0);
    let (passphrase, file) = (world.canary(), world.path("kept.age"));
    let export = || world.kin(["export", "--passphrase-stdin"]).args([&file]);
    export().input(format!("{passphrase}\n")).run().exits(0);
    export().input(format!("{passphrase}\n")).run().refuses(5, &["there already"]);
    let bytes = std::fs::read(&file).expect("the export");
    assert!(bytes.starts_with(b"age-encryption.org/v1\n"));
    assert_eq!(
        leaks_below(&file, Path::new(""), &[String::from_utf8(world.value("db/url")).expect("text")]),
        [""; 0]
    );
    let name = file.to_str().expect("a path");
    import(&world, &[name, "--passphrase-stdin"]).input("wrong\n").run().refuses(4, &["passphrase"]);
    import(&world, &[name]).run().refuses(4, &["not encrypted to"]);
    let options = [name, "--passphrase-stdin", "--prefix", "copy", "--json"];
    let told = import(&world, &options).input(format!("{passphrase}\n")).run().exits(0).json();
    assert_eq!(states(&told).len(), 4, "{told}");
    assert_eq!(revealed(&world, "copy/db/url"), world.value("db/url"));
    assert_eq!(revealed(&world, "copy/bin/ary"), b"\xff\xfe");
    let shown = world.kin(["show", "copy/n/ote", "--json"]).run().exits(0).json();
    assert_eq!((&shown["note"], &shown["attributes"]), (&json!("why"), &json!({ "env": "prod" })));
    let mut cut = bytes.clone();
    cut.truncate(bytes.len() - 1);
    std::fs::write(&file, cut).expect("the export");
    let damaged = import(&world, &options).input(format!("{passphrase}\n")).run();
    assert_eq!(damaged.exits(7).json_error()["code"], "export_corrupt");
    let records = world.audit();
    assert_eq!(record::of(&records, "vault.export").len(), 4, "{records:#?}");
}

#[test]
fn an_export_to_recipients_is_an_age_file_around_documented_json() {
    let world = World::ready();
    let key = world.path("age-key");
    world.other("age-keygen", ["-o"]).args([&key]).run().exits(0);
    let text = std::fs::read_to_string(&key).expect("the key");
    let recipient = text.lines().find_map(|line| line.strip_prefix("# public key: ")).expect("a recipient");
    let config: Value =
        serde_json::from_slice(&std::fs::read(world.path("kin/config/key.json")).expect("it")).expect("JSON");
    let own = config["recipient"].as_str().expect("a recipient");
    let file = world.path("out.age");
    world.kin(["export", "--to", recipient, "--to", own, "--only", "db/*"]).args([&file]).run().exits(0);
    let opened = world.other("age", ["-d", "-i"]).args([&key, &file]).run().exits(0).json();
    assert_eq!(opened["kin-export"], 1);
    let secrets = opened["secrets"].as_array().expect("secrets");
    assert_eq!(secrets.len(), 1);
    assert_eq!(secrets[0]["reference"], "db/url");
    assert_eq!(secrets[0]["value"].as_str().map(str::as_bytes), Some(&world.value("db/url")[..]));
    // The vault's own identity opens it, and so does the other one.
    let name = file.to_str().expect("a path");
    import(&world, &[name, "--prefix", "own"]).run().exits(0);
    let key = key.to_str().expect("a path");
    import(&world, &[name, "--prefix", "other", "--identity", key]).run().exits(0);
    for reference in ["own/db/url", "other/db/url"] {
        assert_eq!(revealed(&world, reference), world.value("db/url"));
    }
    for bad in [&["--to", "age1nonsense"][..], &["--to", recipient, "--only", "no/such"]] {
        let refused = world.kin(["export"]).args(bad).args([world.path("no.age")]).run().exits(2);
        assert!(!world.path("no.age").exists(), "{refused}");
    }
}

#[test]
fn an_export_in_the_clear_needs_a_person_and_is_a_reveal_each() {
    let world = World::ready();
    world.kin(["export", "--reveal"]).run().refuses(5, &["person"]);
    let printed = world.kin(["export", "--reveal", "--yes", "--project"]).run().exits(0).json();
    for reference in ["db/url", "api/key"] {
        assert_eq!(printed[reference].as_str().map(str::as_bytes), Some(&world.value(reference)[..]));
    }
    assert_eq!(record::of(&world.audit(), "vault.reveal").len(), 2);
    let file = world.path("clear.json");
    world.kin(["export", "--reveal", "--yes", "--only", "db"]).args([&file]).run().exits(0);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).expect("it").permissions());
    assert_eq!(mode & 0o777, 0o600);
    import(&world, &[file.to_str().expect("a path"), "--prefix", "again"]).run().exits(0);
    assert_eq!(revealed(&world, "again/db/url"), world.value("db/url"));
    world.set("not/text", b"\xff");
    world.kin(["export", "--reveal", "--yes"]).run().refuses(2, &["not/text"]);
}

#[test]
fn inside_a_tree_nothing_is_imported_exported_or_linked() {
    let world = World::ready();
    env_file(&world);
    let member = world.member(&[]);
    let kin = binary();
    let kin = kin.to_str().expect("a path");
    let file = world.path("out.age");
    let file = file.to_str().expect("a path");
    let key = "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg";
    for line in [
        &["import", ".env", "--yes"][..],
        &["import", ".env", "--dry-run"],
        &["import", ".env", "--link", "--yes"],
        &["export", "--to", key, file],
        &["export", "--reveal", "--yes"],
        &["link"],
        &["unlink"],
    ] {
        let (code, out, errors) = member.run(&[&[kin], line].concat());
        assert_eq!(code, 5, "{line:?}: {errors}");
        assert!(out.is_empty(), "{line:?}");
    }
    assert!(!world.path("out.age").exists());
    assert_eq!(world.kin(["list", "--json"]).run().exits(0).json().as_array().map(Vec::len), Some(2));
}

#[test]
fn secrets_are_found_by_name_attribute_and_time_without_a_value() {
    let world = World::ready();
    world
        .kin(["set", "web/key", "--generate", "hex", "--attr", "env=prod", "--expires", "10d"])
        .run()
        .exits(0);
    world
        .kin(["set", "web/old", "--generate", "hex", "--attr", "env=test", "--expires", "90d"])
        .run()
        .exits(0);
    let names = |options: &[&str]| {
        let listed = world.kin(["list", "--json"]).args(options).run().exits(0).json();
        let name = |secret: &Value| secret["reference"].as_str().map(ToOwned::to_owned);
        listed.as_array().into_iter().flatten().filter_map(name).collect::<Vec<_>>()
    };
    assert_eq!(names(&["web/*"]), ["web/key", "web/old"]);
    assert_eq!(names(&["key"]), ["api/key", "web/key"]);
    assert_eq!(names(&["--attr", "env=prod"]), ["web/key"]);
    assert_eq!(names(&["--expiring", "30d"]), ["web/key"]);
    assert_eq!(names(&["none/such"]), [""; 0]);
    world.kin(["rotate", "web/key", "--attr", "owner=ops"]).run().exits(0);
    let shown = world.kin(["show", "web/key", "--json"]).run().exits(0).json();
    assert_eq!(shown["attributes"], json!({ "env": "prod", "owner": "ops" }));
    let before = world.audit().len();
    world.kin(["list", "db", "--attr", "a=b"]).run().exits(0);
    assert_eq!(world.audit().len(), before, "no value was touched");
}

/// A person at a terminal: `$1` are the answers, one letter a question, and the rest is the command.
const TYPED: &str = r#"
import os, pty, sys, termios
pid, terminal = pty.fork()
if pid == 0:
    termios.tcsetwinsize(0, (24, 100))
    os.execv(sys.argv[2], sys.argv[2:])
said, answers = b"", iter(sys.argv[1])
try:
    while got := os.read(terminal, 4096):
        said += got
        if said.endswith(b"[y/N] "):
            os.write(terminal, next(answers).encode() + b"\n")
except OSError:
    pass
sys.stdout.buffer.write(said)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

fn typed<'w>(world: &'w World, answers: &str, line: &[&str]) -> Kin<'w> {
    world.other("/usr/bin/python3", ["-c", TYPED, answers]).args([binary()]).args(line)
}

#[test]
fn a_person_sees_what_an_import_changes_and_no_value_and_agrees() {
    let world = World::ready();
    let (first, second) = env_file(&world);
    world.set("api/TWO", b"its own");
    let line = ["import", ".env", "--prefix", "api"];
    for (answers, code) in [("n", 5), ("yn", 5), ("yy", 0)] {
        let output = typed(&world, answers, &line).run().exits(code);
        let text = output.text();
        assert!(
            text.contains("api/ONE") && text.contains("changed") && text.contains("Import them?"),
            "{text}"
        );
        assert!(!text.contains(&first) && !text.contains(&second[2..]), "a value is shown");
        let stored = world.kin(["show", "api/ONE"]).run().code() == 0;
        assert_eq!(stored, code == 0, "{answers}");
    }
    assert_eq!(revealed(&world, "api/TWO"), second.as_bytes());
    // What it means to link a file is shown too, and nothing is done without a yes.
    let before = std::fs::read(world.project().join("kin.toml")).expect("kin.toml");
    let output = typed(&world, "n", &["import", ".env", "--link"]).run().exits(5);
    assert!(output.text().contains("+ \".env\" = { ref = \"api/.env\", path = \".env\" }"), "{output}");
    assert_eq!(std::fs::read(world.project().join("kin.toml")).expect("kin.toml"), before);
    assert!(std::fs::read(world.project().join(".env")).is_ok());
    typed(&world, "y", &["import", ".env", "--link"]).run().exits(0);
    assert!(std::fs::read(world.project().join(".env")).is_err(), "it is closed outside a tree");
    typed(&world, "n", &["unlink", "--restore"]).run().exits(5);
    typed(&world, "y", &["unlink", "--restore"]).run().exits(0);
    assert!(std::fs::read(world.project().join(".env")).is_ok());
    typed(&world, "n", &["export", "--reveal"]).run().exits(5);
}

#[test]
fn a_rotation_that_is_overdue_or_due_within_two_weeks_is_named_with_its_date() {
    let world = World::ready();
    for (reference, expires) in [("db/url", "1s"), ("api/key", "13d"), ("web/key", "15d")] {
        let command = world.kin(["set", reference, "--generate", "hex", "--expires", expires]);
        command.run().exits(0);
    }
    let overdue = || world.status()["vault"]["overdue"] == 1;
    eventually("a rotation that is overdue", Duration::from_secs(10), overdue);
    let due = world.status()["vault"]["due"].clone();
    let named = |at: usize| (due[at]["reference"].clone(), due[at]["overdue"].clone());
    assert_eq!(due.as_array().map(Vec::len), Some(2), "{due}");
    assert_eq!([named(0), named(1)], [(json!("db/url"), json!(true)), (json!("api/key"), json!(false))]);
    assert!(due[1]["due"].as_i64() > due[0]["due"].as_i64(), "{due}");
    let status = world.kin(["status"]).run().exits(0).text();
    let check = world.kin(["check"]).run().exits(0).text();
    for text in [&status, &check] {
        let line = |name: &str| text.lines().find(|line| line.contains(name)).unwrap_or_default();
        assert!(line("db/url").contains("overdue for rotation since 20"), "{text}");
        assert!(line("api/key").contains("due for rotation on 20"), "{text}");
        assert!(!text.contains("web/key"), "{text}");
    }
    let bound = world.kin(["check", "--json"]).run().exits(0).json()["bindings"].clone();
    let dated = bound.as_array().into_iter().flatten().filter(|binding| binding["due"].is_i64());
    assert_eq!(dated.count(), 2, "{bound}");
}
