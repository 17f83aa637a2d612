//! Do the bytes of a secret keep its edges and its record in the files beside one that may be written?

use std::path::{Path, PathBuf};
use std::time::Duration;

use kin_tests::{Actor, Identity, World, canary, record};
use nix::errno::Errno;
use serde_json::{Value, json};

use crate::{API, DATABASE, REFUSED, database};

/// A world whose `DATABASE_URL` may be written and has these edges, and whose `API_KEY` has those.
fn world(identity: Identity, database: &str, api: &str) -> World {
    let world = World::ready_with(identity);
    world.manifest(&format!(
        "schema = 1\n[project]\nname = \"api\"\n[bindings]\n\
         DATABASE_URL = {{ ref = \"db/url\", writable = true{database} }}\nAPI_KEY = {{ ref = \"api/key\"{api} }}\n"
    ));
    world.trust();
    world
}

fn pinned_to(world: &World, program: &str) -> String {
    let program = std::fs::canonicalize(program).expect("the program");
    let digest = world.other("sha256sum", [&program]).run().exits(0).text();
    format!(", exe = {{ path = \"{}\", sha256 = \"{}\" }}", program.display(), &digest[..64])
}

fn beside(world: &World, name: &str) -> PathBuf {
    world.writable(name)
}

fn rename(actor: &dyn Actor, old: &Path, new: &Path) -> Result<Value, Errno> {
    actor.ask("rename", json!({ "old": old, "new": new }))
}

fn open(actor: &dyn Actor, path: &Path, how: &str) -> Result<u64, Errno> {
    let fd = actor.ask("open", json!({ "path": path, "how": how }))?;
    Ok(fd.as_u64().expect("a descriptor"))
}

fn write(actor: &dyn Actor, fd: u64, bytes: &[u8]) {
    actor.ask("write", json!({ "fd": fd, "data": canary::encode_standard(bytes) })).expect("written");
}

/// The records of this event about a file of this name.
fn told(world: &World, event: &str, file: &str) -> Vec<Value> {
    let about = |line: &Value| record::event(line) == event && line["file"] == file;
    world.audit().into_iter().filter(about).collect()
}

fn reasons(world: &World, event: &str, file: &str) -> Vec<String> {
    told(world, event, file).iter().map(|line| record::reason(line).to_owned()).collect()
}

both! {
    fn b17_each_read_of_what_was_renamed_away_is_an_open_on_the_record(identity) {
        let world = world(identity, ", max_opens = 4", "");
        let member = world.member(&[]);
        let (path, backup) = (world.writable(DATABASE), beside(&world, "backup"));
        assert_eq!(rename(&member, &path, &backup), Ok(Value::Null), "the first open");
        for reader in [&member as &dyn Actor, &member.child("fork"), &member.child("orphan")] {
            assert_eq!(reader.cat(&backup), Ok(database(&world)));
        }
        assert_eq!((member.cat(&backup), member.cat(&world.file(DATABASE))), (Err(REFUSED), Err(REFUSED)));
        let opened = told(&world, "open.allow", "backup");
        assert_eq!(opened.len(), 3, "{opened:#?}");
        for line in &opened {
            assert_eq!((&line["reference"], &line["version"]), (&json!("db/url"), &json!(1)));
            assert_eq!(record::text(line, "op"), "open");
        }
        assert_eq!(record::tgid(&opened[0]), Some(member.pid().into()));
        let denied = told(&world, "open.deny", "backup");
        let [line] = &denied[..] else { panic!("{denied:#?}") };
        assert_eq!((record::reason(line), &line["reference"]), ("max_opens", &json!("db/url")));
        // Who was delivered the version is told by the copy, too.
        let said = world.kin(["audit", "--exposed", "db/url@1", "--json"]).run().exits(0).json();
        let by = said["exposed"].as_array().expect("a list");
        assert_eq!((by.len(), &by[0]["opens"], by[0]["processes"].as_array().map(Vec::len)), (1, &json!(4), Some(3)));
    }

    fn b17_what_is_for_the_command_alone_stays_so_under_another_name(identity) {
        let world = world(identity, ", descend = \"child\"", "");
        let member = world.member(&[]);
        let backup = beside(&world, "backup");
        assert_eq!(rename(&member, &world.writable(DATABASE), &backup), Ok(Value::Null));
        let child = member.child("fork");
        assert_eq!((child.cat(&backup), child.stat(&backup)), (Err(REFUSED), Err(REFUSED)));
        assert_eq!(member.cat(&backup), Ok(database(&world)));
        // A descriptor that the command opened is read by the command.
        let fd = member.open(&backup).expect("open");
        assert_eq!(member.child("fork").pread(fd, 100, 0), Err(REFUSED));
        assert_eq!(member.pread(fd, 100, 0), Ok(database(&world)));
        assert!(reasons(&world, "open.deny", "backup").iter().all(|reason| reason == "too_far"));
        assert_eq!(reasons(&world, "read.deny", "backup"), ["too_far"]);
    }
}

#[test]
fn b17_a_pin_holds_for_the_copies_that_its_program_makes() {
    let unpinned = world(Identity::Native, "", "");
    let pin = pinned_to(&unpinned, "/usr/bin/sed");
    drop(unpinned);
    let world = world(Identity::Native, &pin, "");
    let member = world.member(&[]);
    let path = world.writable(DATABASE);
    let shell = |script: &str| member.run(&["sh", "-c", script, path.to_str().expect("a path")]);
    let (code, _, errors) =
        shell("sed -i.bak 's/$/ more/' \"$0\" && sed 's/more/most/w '\"$0.copy\" \"$0\" >/dev/null");
    assert_eq!(code, 0, "{errors}");
    for copy in ["DATABASE_URL.bak", "DATABASE_URL.copy"] {
        for reader in ["cat", "cp", "head -c 9", "grep -c .", "dd status=none if="] {
            let script = match reader {
                "cp" => format!("cp \"${{0%/*}}/{copy}\" /dev/stdout"),
                "dd status=none if=" => format!("dd status=none if=\"${{0%/*}}/{copy}\""),
                reader => format!("{reader} \"${{0%/*}}/{copy}\""),
            };
            let (code, output, _) = shell(&script);
            assert!(code != 0 && output.is_empty(), "{copy} {script}: {code}");
        }
        assert_eq!(member.cat(&beside(&world, copy)), Err(REFUSED));
        let (code, output, _) = shell(&format!("sed '' \"${{0%/*}}/{copy}\""));
        assert!(code == 0 && output.starts_with(&database(&world)), "{copy}");
        let reasons = reasons(&world, "open.deny", copy);
        assert!(
            reasons.len() >= 2 && reasons.iter().all(|reason| reason == "exe_hash_mismatch"),
            "{reasons:?}"
        );
        assert_eq!(told(&world, "open.allow", copy).len(), 1, "{copy}");
    }
    // Nor does another program move what a pin is for.
    assert_ne!(shell("mv \"$0\" \"$0.moved\"").0, 0);
}

#[test]
fn b17_a_window_that_is_over_is_over_for_copies() {
    let world = world(Identity::Native, ", for_first = \"2s\"", "");
    let member = world.member(&[]);
    let backup = beside(&world, "backup");
    assert_eq!(rename(&member, &world.writable(DATABASE), &backup), Ok(Value::Null));
    let fd = member.open(&backup).expect("open");
    let empty = open(&member, &beside(&world, "other"), "new").expect("a file");
    std::thread::sleep(Duration::from_millis(2200));
    assert_eq!(member.cat(&backup), Err(REFUSED));
    assert_eq!(member.pread(fd, 100, 0), Ok(database(&world)), "what is open stays open");
    // A file that was made and never opened is opened by the first read of it.
    write(&member, empty, b"copied");
    assert_eq!(member.pread(empty, 100, 0), Err(REFUSED));
    assert_eq!(reasons(&world, "open.deny", "backup"), ["window_closed"]);
    assert_eq!(reasons(&world, "read.deny", "other"), ["window_closed"]);
}

#[test]
fn b17_what_a_member_copies_is_of_all_that_was_delivered() {
    let world = world(Identity::Native, "", ", max_opens = 2");
    let member = world.member(&[]);
    let (api, copy) = (world.file(API), beside(&world, "copy"));
    let script = "cat \"$0\" | tee \"$1\" >/dev/null";
    let words = [api.to_str().expect("a path"), copy.to_str().expect("a path")];
    assert_eq!(member.run(&["sh", "-c", script, words[0], words[1]]).0, 0);
    // The second open of the key, whichever file it is read from.
    assert_eq!(member.cat(&copy), Ok(world.value("api/key")));
    assert_eq!((member.cat(&copy), member.cat(&api)), (Err(REFUSED), Err(REFUSED)));
    let opened = told(&world, "open.allow", "copy");
    let [line] = &opened[..] else { panic!("{opened:#?}") };
    assert_eq!(line["references"], json!(["api/key@1", "db/url@1"]));
    assert_eq!(reasons(&world, "open.deny", "copy"), ["max_opens"]);
    // Nothing is delivered by making, writing, looking at, renaming and removing one.
    let other = beside(&world, "other");
    let fd = open(&member, &other, "new").expect("a file");
    write(&member, fd, b"new");
    assert_eq!(member.stat(&other).expect("stat")["size"], 3);
    assert_eq!(rename(&member, &other, &world.writable(DATABASE)), Ok(Value::Null));
    assert_eq!(member.cat(&world.writable(DATABASE)), Ok(b"new".to_vec()));
}

#[test]
fn b17_a_descriptor_that_was_there_before_reads_nothing_for_nothing() {
    let world = world(Identity::Native, ", max_opens = 2", "");
    let member = world.member(&[]);
    let early = beside(&world, "early");
    let fd = open(&member, &early, "new").expect("a file");
    assert_eq!(member.pread(fd, 100, 0), Ok(Vec::new()));
    let words = [world.file(DATABASE), early].map(|path| path.to_str().expect("a path").to_owned());
    let (code, _, errors) = member.run(&["sh", "-c", "cat \"$0\" > \"$1\"", &words[0], &words[1]]);
    assert_eq!((code, errors.as_str()), (0, ""));
    // Empty it was one open; with something in it, it is another one, and there is none left.
    assert_eq!(member.pread(fd, 100, 0), Err(REFUSED));
    assert_eq!(reasons(&world, "read.deny", "early"), ["max_opens"]);
    assert_eq!(told(&world, "open.allow", "early").len(), 1);
}

#[test]
fn b17_what_was_moved_takes_no_other_name_unread() {
    let world = World::ready();
    let pin = pinned_to(&world, "/bin/mv");
    world.manifest(&format!(
        "schema = 1\n[project]\nname = \"api\"\n[bindings]\n\
         DATABASE_URL = {{ ref = \"db/url\", writable = true, max_opens = 1 }}\n\
         API_KEY = {{ ref = \"api/key\", writable = true }}\n\
         OTHER = {{ ref = \"api/key\"{pin} }}\n"
    ));
    world.trust();
    let member = world.member(&[]);
    let (moved, api) = (beside(&world, "moved"), world.writable(API));
    assert_eq!(rename(&member, &world.writable(DATABASE), &moved), Ok(Value::Null), "the one open");
    assert_eq!(rename(&member, &moved, &api), Err(REFUSED));
    assert_eq!(member.cat(&api), Ok(world.value("api/key")));
    assert_eq!(reasons(&world, "write.deny", "moved"), ["max_opens"]);
    // Its own name is its own again.
    assert_eq!(rename(&member, &moved, &world.writable(DATABASE)), Err(REFUSED));
}

/// Whatever makes copies: each read of one is on the record, and no other program's file is in the way.
#[test]
fn b17_copies_that_real_programs_leave_are_on_the_record() {
    let world = world(Identity::Native, "", "");
    world.set("db/url", b"[user]\n\ttoken = one\n");
    let member = world.member(&[]);
    let path = world.writable(DATABASE);
    let shell = |script: &str| {
        let (code, output, errors) = member.run(&["sh", "-c", script, path.to_str().expect("a path")]);
        assert_eq!(code, 0, "{script}: {errors}");
        String::from_utf8(output).expect("text")
    };
    for (script, copy) in [
        ("sed -i.bak s/one/two/ \"$0\"", "DATABASE_URL.bak"),
        ("perl -i.orig -pe s/two/three/ \"$0\"", "DATABASE_URL.orig"),
        (
            "vim -es -u NONE -i NONE -c 'set backup backupskip= backupdir=. backupcopy=no directory=.' -c '%s/user/user/' -c wq \"$0\"",
            "DATABASE_URL~",
        ),
        (
            "vim -es -u NONE -i NONE -c 'set backup backupskip= backupdir=. backupcopy=yes backupext=.yes directory=.' -c '%s/user/user/' -c wq \"$0\"",
            "DATABASE_URL.yes",
        ),
        ("cp \"$0\" \"$0.cp\"", "DATABASE_URL.cp"),
        ("cat \"$0\" > \"${0%/*}/cat\"", "cat"),
        ("tee \"${0%/*}/tee\" < \"$0\" > /dev/null", "tee"),
        ("mv \"$0\" \"$0.mv\"; cat \"$0.mv\" > \"$0\"", "DATABASE_URL.mv"),
    ] {
        shell(&format!("cd \"${{0%/*}}\"; {script}"));
        let before = told(&world, "open.allow", copy).len();
        assert!(shell(&format!("cat \"${{0%/*}}/{copy}\"")).contains("token = "), "{copy}");
        let opened = told(&world, "open.allow", copy);
        assert_eq!(opened.len(), before + 1, "{copy}: {opened:#?}");
        assert!(opened.iter().all(|line| line["reference"] == "db/url" || line["references"].is_array()));
        shell(&format!("rm -f \"${{0%/*}}/{copy}\""));
    }
    assert_eq!(member.list(path.parent().expect("a directory")), Ok(vec![DATABASE.to_owned()]));
}
