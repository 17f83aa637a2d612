//! Is a file that is made of several bindings a file like any other, and of one state of the vault?

use std::path::PathBuf;

use kin_tests::{Actor, Probe, World, record};
use nix::errno::Errno;
use serde_json::{Value, json};

use crate::{API, DATABASE, REFUSED};

const PYTHON: &str = "/usr/bin/python3";
const BINDINGS: &str =
    "schema = 1\n[project]\nname = \"api\"\n[bindings]\nDATABASE_URL = \"db/url\"\nAPI_KEY = \"api/key\"\n";
const ENV: &str =
    "[files.\".env\"]\nformat = \"dotenv\"\nselect = [\"DATABASE_URL\", \"API_KEY\"]\npath = \".env\"\n";

fn world_of(identity: kin_tests::Identity, manifest: &str) -> World {
    let world = World::ready_with(identity);
    world.manifest(manifest);
    world.trust();
    world
}

fn world(files: &str) -> World {
    world_of(kin_tests::Identity::Native, &format!("{BINDINGS}{files}"))
}

fn text(world: &World, reference: &str) -> String {
    String::from_utf8(world.value(reference)).expect("text")
}

fn env(world: &World) -> Vec<u8> {
    let (database, key) = (text(world, "db/url"), text(world, "api/key"));
    format!("DATABASE_URL='{database}'\nAPI_KEY='{key}'\n").into_bytes()
}

/// How many denials there are for this reason.
fn denials(world: &World, reason: &str) -> u64 {
    let records = world.audit();
    let denied = records.iter().filter(|line| record::is_denial(line) && record::reason(line) == reason);
    denied.map(record::denials).sum()
}

both! {
    fn a_rendered_file_is_a_true_file_for_members_alone(identity) {
        let world = world_of(identity, &format!("{BINDINGS}{ENV}"));
        let (member, outsider) = (world.member(&[]), world.outsider());
        let path = world.file(".env");
        let facts = member.stat(&path).expect("stat");
        assert_eq!((&facts["size"], &facts["mode"]), (&json!(env(&world).len()), &json!(0o100_400)));
        assert_eq!(member.cat(&path), Ok(env(&world)));
        let fd = member.open(&path).expect("open");
        assert_eq!(member.ask("fstat", json!({ "fd": fd })), Ok(facts.clone()));
        assert_eq!(member.pread(fd, 10, 3), Ok(env(&world)[3..13].to_vec()));
        let directory = world.mountpoint().join("api");
        assert_eq!(member.list(&directory), Ok(vec![".env".into(), API.into(), DATABASE.into()]));
        for answer in [outsider.stat(&path).map(drop), outsider.cat(&path).map(drop)] {
            assert_eq!(answer, Err(REFUSED));
        }
        world.kin(["revoke", "--all"]).run().exits(0);
        assert_eq!(member.pread(fd, 10, 0), Err(REFUSED), "an open handle");
        assert_eq!(member.stat(&path).map(drop), Err(REFUSED));
    }
}

#[test]
fn its_size_time_and_inode_are_those_of_what_an_open_gives() {
    let world = world(ENV);
    let member = world.member(&[]);
    let facts = || member.stat(&world.file(".env")).expect("stat");
    // Below the seconds are the numbers of the versions.
    let seconds = |nanoseconds: u64| nanoseconds / 1_000_000_000;
    let newest = || {
        let of = |name: &str| member.stat(&world.file(name)).expect("stat")["mtime_ns"].as_u64();
        of(DATABASE).max(of(API)).map(seconds)
    };
    let first = facts();
    assert_eq!(first["mtime_ns"].as_u64().map(seconds), newest());
    std::thread::sleep(std::time::Duration::from_millis(1100));
    world.set("api/key", b"it's a longer one than before: \"$HOME\"");
    let second = facts();
    assert_eq!((second["mtime_ns"].as_u64().map(seconds), &second["ino"]), (newest(), &first["ino"]));
    assert!(second["mtime_ns"].as_u64() > first["mtime_ns"].as_u64());
    assert_eq!(second["size"], member.cat(&world.file(".env")).expect("cat").len());
    let records = world.audit();
    let renders = record::of(&records, "file.render").len();
    assert_eq!(renders, 2, "once for the grant, once after the rotation");
}

#[test]
fn one_open_is_one_record_that_every_secret_finds() {
    let world = world(ENV);
    let member = world.member(&[]);
    world.set("api/key", b"second");
    assert!(member.cat(&world.file(".env")).is_ok());
    let records = world.audit();
    let allowed = record::of(&records, "open.allow");
    let [line] = allowed[..] else { panic!("{allowed:#?}") };
    assert_eq!(line["references"], json!(["api/key@2", "db/url@1"]));
    assert_eq!((record::tgid(line), record::text(line, "file")), (Some(member.pid().into()), ".env"));
    for (reference, found) in [("db/url", 1), ("api/key", 1), ("api/key@2", 1), ("api/key@1", 0), ("db", 0)] {
        let printed = world.kin(["audit", "--json", "--ref", reference]).run().exits(0).text();
        let opens = printed.lines().filter(|line| line.contains("open.allow")).count();
        assert_eq!(opens, found, "{reference}: {printed}");
        let exposed = world.kin(["audit", "--json", "--exposed", reference]).run().exits(0).json();
        let exposed = exposed["exposed"].as_array().expect("a list").len();
        assert_eq!(exposed, found, "{reference}");
    }
    let table = world.kin(["audit", "--ref", "db/url"]).run().exits(0).text();
    assert!(table.contains("api/.env") && table.contains("db/url@1"), "{table}");
    let exported = world.kin(["audit", "export", "--format", "syslog"]).run().exits(0).text();
    assert!(exported.contains("references=\"api/key@2,db/url@1\""), "{exported}");
}

/// A value of 128 KiB that says its number everywhere.
fn numbered(number: u32) -> Vec<u8> {
    format!("{number:08}").repeat(16 << 10).into_bytes()
}

/// The numbers of both values, each of which has to be of one version.
fn numbers(content: &[u8]) -> (u32, u32) {
    let text = std::str::from_utf8(content).expect("text");
    let of = |line: &str| {
        let value = line.split_once("='").and_then(|(_, value)| value.strip_suffix('\'')).expect("a line");
        let number: u32 = value[..8].parse().expect("a number");
        assert!(value.as_bytes() == numbered(number), "a mix of versions");
        number
    };
    let lines: Vec<u32> = text.lines().map(of).collect();
    (lines[0], lines[1])
}

#[test]
fn b12_a_rendered_file_is_whole_and_of_one_state_of_the_vault() {
    let world = world(ENV);
    world.set("db/url", &numbered(0));
    world.set("api/key", &numbered(0));
    let (member, path) = (world.member(&[]), world.file(".env"));
    let reader = std::thread::spawn(move || {
        let mut seen = Vec::new();
        for _ in 0..60 {
            let fd = member.open(&path).expect("open");
            let (half, large) = (128 << 10, 1 << 20);
            let mut content = member.pread(fd, half, 0).expect("the first half");
            assert_eq!(content.len() as u64, half);
            content.extend(member.pread(fd, large, half).expect("the rest"));
            member.ask("close", json!({ "fd": fd })).expect("closed");
            seen.push(numbers(&content));
        }
        (member, seen)
    });
    let mut round = 0;
    while !reader.is_finished() {
        round += 1;
        world.set("db/url", &numbered(round));
        world.set("api/key", &numbered(round));
    }
    let (_member, seen) = reader.join().expect("a mix of versions");
    for (database, key) in &seen {
        assert!(database == key || *database == key + 1, "no state of the vault: {database} {key}");
    }
    assert!(seen.is_sorted(), "an older state after a newer one: {seen:?}");
    assert!(seen.first() != seen.last(), "no rotation met an open: {seen:?}");
}

#[test]
fn b12_a_reader_that_is_half_way_through_keeps_its_version() {
    let world = world(ENV);
    let large = |byte: u8| vec![byte; 256 << 10];
    world.set("db/url", &large(b'a'));
    let member = world.member(&[]);
    for (name, old) in [(DATABASE, large(b'a')), (".env", Vec::new())] {
        let old = if old.is_empty() { member.cat(&world.file(name)).expect("cat") } else { old };
        let fd = member.open(&world.file(name)).expect("open");
        let half = member.pread(fd, 128 << 10, 0).expect("half");
        world.set("db/url", &large(b'b'));
        let rest = member.pread(fd, 1 << 20, 128 << 10).expect("the rest");
        assert!([half, rest].concat() == old, "{name}: mixed");
        let new = member.cat(&world.file(name)).expect("cat");
        let count = |byte: u8| new.iter().filter(|other| **other == byte).count();
        assert!(count(b'b') >= 256 << 10 && count(b'a') < 1000, "{name}: not new");
        world.set("db/url", &large(b'a'));
    }
}

#[test]
fn b10_rendered_names_are_there_where_all_they_are_made_of_is() {
    let world = world(&format!("{ENV}[files.key]\ntemplate = \"{{{{ API_KEY }}}}\"\n"));
    let directory = world.mountpoint().join("api");
    let listed = |member: &Probe| member.list(&directory).expect("a listing");
    let members: Vec<_> = [&["--only", DATABASE][..], &["--only", API], &["--only", ".env"], &[]]
        .iter()
        .map(|options| world.member(options))
        .collect();
    let expected = [&[DATABASE][..], &[API, "key"], &[".env"], &[".env", API, DATABASE, "key"]];
    for (member, expected) in members.iter().zip(expected) {
        assert_eq!(listed(member), expected);
        for name in [".env", "key", API, DATABASE] {
            let absent = member.cat(&world.file(name)).err() == Some(Errno::ENOENT);
            assert_eq!(absent, !expected.contains(&name), "{name}");
        }
    }
    // What a manifest says from now on is for grants from now on.
    world.manifest(BINDINGS);
    world.trust();
    assert_eq!(listed(&members[3]), expected[3]);
    assert_eq!(listed(&world.member(&[])), [API, DATABASE]);
    assert_eq!(world.outsider().list(&directory), Err(REFUSED));
}

#[test]
fn every_edge_of_a_binding_is_an_edge_of_the_file() {
    let edged = |edge: &str| {
        BINDINGS.replace("API_KEY = \"api/key\"", &format!("API_KEY = {{ ref = \"api/key\", {edge} }}")) + ENV
    };
    let native = kin_tests::Identity::Native;
    let world = world_of(native, &edged("max_opens = 2"));
    let member = world.member(&[]);
    assert!(member.cat(&world.file(API)).is_ok() && member.cat(&world.file(".env")).is_ok());
    assert_eq!((member.cat(&world.file(".env")), member.cat(&world.file(API))), (Err(REFUSED), Err(REFUSED)));
    assert!(member.cat(&world.file(DATABASE)).is_ok());
    assert_eq!(denials(&world, "max_opens"), 2);
    world.kin(["run", "--max-opens", ".env=1", "--", "true"]).run().refuses(2, &[".env"]);

    world.manifest(&edged("descend = \"child\""));
    world.trust();
    let member = world.member(&[]);
    let fd = member.open(&world.file(".env")).expect("open");
    let child = member.child("fork");
    assert_eq!(child.cat(&world.file(".env")), Err(REFUSED));
    assert_eq!(child.pread(fd, 10, 0), Err(REFUSED), "an inherited descriptor");
    assert!(child.cat(&world.file(DATABASE)).is_ok());

    let digest = world.other("sha256sum", ["/bin/cat"]).run().exits(0).text();
    let digest = digest.split(' ').next().expect("a digest").to_owned();
    world.manifest(&edged(&format!("exe = {{ path = \"/bin/cat\", sha256 = \"{digest}\" }}")));
    world.trust();
    let member = world.member(&[]);
    assert_eq!(member.cat(&world.file(".env")), Err(REFUSED), "another program");
    assert!(member.stat(&world.file(".env")).is_ok());
    let path = world.file(".env");
    let (code, out, _) = member.run(&["/bin/cat", path.to_str().expect("UTF-8")]);
    assert_eq!((code, out), (0, env(&world)));
    assert_eq!(denials(&world, "exe_hash_mismatch"), 1);
}

/// What a program in a member prints.
fn said(member: &Probe, argv: &[&str]) -> String {
    let (code, out, errors) = member.run(argv);
    assert_eq!(code, 0, "{argv:?}: {errors}");
    String::from_utf8(out).expect("text")
}

#[test]
fn real_programs_read_back_what_was_stored() {
    let world = world(
        "[files.\"x.json\"]\nformat = \"json\"\nselect = { db = { url = \"{{ DATABASE_URL }}\" }, key = \"{{ API_KEY }}\" }\n\
         [files.\"x.yaml\"]\nformat = \"yaml\"\nselect = { db = { url = \"{{ DATABASE_URL }}\" }, key = \"{{ API_KEY }}\" }\n\
         [files.\"x.toml\"]\nformat = \"toml\"\nselect = { db = { url = \"{{ DATABASE_URL }}\" }, key = \"{{ API_KEY }}\" }\n\
         [files.\"x.env\"]\nformat = \"dotenv\"\nselect = [\"DATABASE_URL\", \"API_KEY\"]\n\
         [files.netrc]\nformat = \"netrc\"\nselect = [{ machine = \"example.com\", login = \"me\", password = \"{{ API_KEY }}\" }]\n\
         [files.aws]\nformat = \"aws-credentials\"\nselect.default = { aws_access_key_id = \"AKIA\", aws_secret_access_key = \"{{ API_KEY }}\" }\n\
         [files.docker]\nformat = \"docker-config\"\nselect.\"ghcr.io\" = { username = \"me\", password = \"{{ API_KEY }}\" }\n\
         [files.gitconfig]\ntemplate = \"\"\"\n[http]\n\textraHeader = {{ (\"Authorization: Bearer \" ~ 1) | trim }}{{ API_KEY }}\n\"\"\"\n",
    );
    let (url, key) = ("it's \"q\" $HOME `id` # \\n \\\n- : {}\té✓\r\nend\\", "pa ss\"w\\ord#1");
    world.set("db/url", url.as_bytes());
    world.set("api/key", key.as_bytes());
    let member = world.member(&[]);
    let tree = json!({ "db": { "url": url }, "key": key });
    for (name, module) in
        [("x.json", "json.load(f)"), ("x.yaml", "yaml.safe_load(f)"), ("x.toml", "tomllib.load(f)")]
    {
        let program = format!(
            "import json, sys, tomllib\nif 'yaml' in sys.argv[1]: import yaml\nf = open(sys.argv[1], 'rb'); print(json.dumps({module}))"
        );
        let read = said(&member, &[PYTHON, "-c", &program, path(&world, name).to_str().expect("UTF-8")]);
        assert_eq!(serde_json::from_str::<Value>(&read).expect("JSON"), tree, "{name}");
    }
    let at = |name: &str| path(&world, name).to_str().expect("UTF-8").to_owned();
    let sourced = format!(". {}; printf '%s|%s' \"$DATABASE_URL\" \"$API_KEY\"", at("x.env"));
    assert_eq!(said(&member, &["/bin/sh", "-c", &sourced]), format!("{url}|{key}"));
    let netrc = "import netrc, sys; print(netrc.netrc(sys.argv[1]).authenticators('example.com')[2], end='')";
    assert_eq!(said(&member, &[PYTHON, "-c", netrc, &at("netrc")]), key);
    let aws = "import configparser as c, sys; p = c.RawConfigParser(); p.read(sys.argv[1]); \
        print(p['default']['aws_secret_access_key'], end='')";
    assert_eq!(said(&member, &[PYTHON, "-c", aws, &at("aws")]), key);
    let docker = "import json, base64, sys; a = json.load(open(sys.argv[1]))['auths']['ghcr.io']['auth']; \
        print(base64.b64decode(a).decode(), end='')";
    assert_eq!(said(&member, &[PYTHON, "-c", docker, &at("docker")]), format!("me:{key}"));
    world.set("api/key", b"k3y");
    let header = said(&member, &["git", "config", "--file", &at("gitconfig"), "http.extraHeader"]);
    assert_eq!(header, "Authorization: Bearer 1k3y\n");
}

fn path(world: &World, name: &str) -> PathBuf {
    world.file(name)
}

#[test]
fn a_value_that_its_format_cannot_have_is_refused_and_never_delivered_broken() {
    let world = world(ENV);
    world.set_from_file("db/url", b"a\0b");
    world.kin(["run", "--", "true"]).run().refuses(3, &[DATABASE, ".env", "NUL"]);
    assert!(world.grants().is_empty());
    world.set("db/url", b"good");
    let member = world.member(&[]);
    world.set("db/url", b"not \xff UTF-8");
    assert_eq!(member.stat(&world.file(".env")).map(drop), Err(Errno::EIO));
    assert_eq!(member.cat(&world.file(".env")), Err(Errno::EIO));
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(b"not \xff UTF-8".to_vec()));
    world.kin(["rm", "db/url", "--yes"]).run().exits(0);
    assert_eq!(member.cat(&world.file(".env")), Err(Errno::ENOENT));
    assert_eq!(member.stat(&world.file(".env")).map(drop), Err(Errno::ENOENT));
}

#[test]
fn a_rendered_file_is_at_its_real_path_for_the_tree_alone() {
    let world = world(ENV);
    let (member, outsider) = (world.member(&["--private"]), world.outsider());
    let real = world.project().join(".env");
    assert_eq!(member.cat(&real), Ok(env(&world)));
    assert_eq!(member.stat(&real).expect("stat")["size"], env(&world).len());
    assert_eq!(outsider.cat(&real), Ok(Vec::new()), "the empty file that it is laid over");
    world.secret("db/url");
    assert_eq!(member.cat(&real), Ok(env(&world)), "a rotation");
    assert!(member.finish().success());
    assert!(!real.exists());
}

#[test]
fn check_and_trust_show_what_files_are_made_of_and_what_is_wrong_with_them() {
    let world = world(ENV);
    let shown = world.kin(["check"]).run().exits(0).text();
    assert!(
        shown.contains(".env is made of API_KEY, DATABASE_URL (dotenv), at .env with --private"),
        "{shown}"
    );
    let json = world.kin(["check", "--json"]).run().exits(0).json();
    assert_eq!(
        json["files"],
        json!([{ "file": ".env", "format": "dotenv", "uses": [API, DATABASE], "path": ".env" }])
    );
    let trusted = world.kin(["trust", "--yes"]).run().exits(0).text();
    assert!(trusted.contains(".env is made of"), "{trusted}");
    let bad = |files: &str| world.manifest(&format!("{BINDINGS}{files}"));
    bad("[files.x]\ntemplate = \"\"\"\nfirst\n{{ DATABASE_URI }}\n\"\"\"\n");
    for verb in [&["check"][..], &["trust", "--yes"], &["run", "--", "true"]] {
        world.kin(verb).run().refuses(3, &["kin.toml line 10", "no binding \"DATABASE_URI\""]);
    }
    bad("[files.x]\ntemplate = \"{{ DATABASE_URL | jsn }}\"\n");
    world.kin(["check"]).run().refuses(3, &["kin.toml line 8", "jsn"]);
    bad("[files.x]\nformat = \"dotenv\"\nselekt = []\n");
    world.kin(["check"]).run().refuses(3, &["unknown key"]);
}
