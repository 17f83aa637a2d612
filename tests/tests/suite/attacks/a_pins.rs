//! Does a pinned binding open to its program alone?

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use kin_tests::{Actor, Identity, Role, World, as_nobody, program, record};
use serde_json::{Value, json};

use crate::{API, DATABASE, REFUSED, database};

const CAT: &str = "/bin/cat";

/// What `sha256sum` says of a file.
fn digest(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().expect("sha256sum");
    String::from_utf8(output.stdout).expect("text").split(' ').next().expect("a digest").to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// `DATABASE_URL` is for `program`, as it is now; `API_KEY` for every member.
pub(crate) fn pin(world: &World, program: &Path) {
    let pin = format!("{{ path = \"{}\", sha256 = \"{}\" }}", text(program), digest(program));
    world.manifest(&format!(
        "schema = 1\n[project]\nname = \"api\"\n[bindings]\nAPI_KEY = \"api/key\"\n\
         DATABASE_URL = {{ ref = \"db/url\", exe = {pin} }}\n"
    ));
    world.trust();
}

fn copy_of(program: &str, to: PathBuf) -> PathBuf {
    by(&["cp", "--remove-destination", program, text(&to)]);
    to
}

/// Does it in another process: a descriptor of this one that is open for writing, and inherited by whatever
/// another test forks meanwhile, would make the file ETXTBSY.
fn by(argv: &[&str]) {
    let status = Command::new(argv[0]).args(&argv[1..]).stderr(std::process::Stdio::null()).status();
    assert!(status.is_ok_and(|status| status.success()), "{argv:?}");
}

fn denials_of(world: &World, pid: u32) -> Vec<String> {
    let records = world.audit();
    let lines = record::by(&records, pid.into()).into_iter().filter(|line| record::is_denial(line));
    lines.map(|line| record::reason(line).to_owned()).collect()
}

/// The reasons for which anybody was refused `DATABASE_URL`.
fn reasons(world: &World) -> Vec<String> {
    let records = world.audit();
    let denied = records.iter().filter(|line| record::is_denial(line) && line["file"] == DATABASE);
    denied.map(|line| record::reason(line).to_owned()).collect()
}

/// Runs a program on the pinned file: whether it read it.
fn reads(member: &dyn Actor, world: &World, argv: &[&str]) -> bool {
    let file = world.file(DATABASE);
    let argv: Vec<&str> = argv.iter().copied().chain([text(&file)]).collect();
    let (code, out, errors) = member.run(&argv);
    assert_eq!(code == 0, out == database(world), "{argv:?}: {errors}");
    assert!(code == 0 || errors.contains("Permission denied"), "{argv:?}: {errors}");
    code == 0
}

#[test]
fn a_pinned_grant_is_found_in_the_record_like_any_other() {
    let world = World::ready();
    pin(&world, Path::new(CAT));
    let member = world.member(&[]);
    assert!(reads(&member, &world, &[CAT]));
    let output = world.kin(["audit", "--json"]).run().exits(0);
    assert_eq!(output.stderr, "");
    let grant = world.grants()[0]["id"].as_str().expect("an id").to_owned();
    let created = record::of(&world.audit(), "grant.create").len();
    assert_eq!(created, 1);
    let tree = world.kin(["audit", "--json", "--tree", &grant]).run().exits(0).json();
    assert!(tree["command"].as_str().is_some_and(|command| !command.is_empty()), "{tree}");
    let exported = world.kin(["audit", "export", "--format", "jsonl"]).run().exits(0);
    assert!(exported.text().contains("\"grant.create\"") && exported.stderr.is_empty(), "{exported}");
}

both! {
    fn a11_only_the_pinned_program_reads(identity) {
        let world = World::ready_with(identity);
        pin(&world, Path::new(CAT));
        let member = world.member(&[]);
        for _ in 0..3 {
            assert!(reads(&member, &world, &[CAT]));
            assert!(!reads(&member, &world, &["/usr/bin/head"]));
        }
        // Every member may see that it is there, and has the other file.
        let size = json!(database(&world).len());
        assert_eq!(member.stat(&world.file(DATABASE)).map(|facts| facts["size"].clone()), Ok(size));
        assert_eq!(member.list(&world.mountpoint().join("api")), Ok(vec![API.into(), DATABASE.into()]));
        assert_eq!(member.cat(&world.file(API)), Ok(world.value("api/key")));
        assert_eq!(member.cat(&world.file(DATABASE)), Err(REFUSED));
        assert_eq!(denials_of(&world, member.pid()), ["exe_hash_mismatch"]);
        let reasons = reasons(&world);
        assert!(reasons.len() >= 4 && reasons.iter().all(|reason| reason == "exe_hash_mismatch"), "{reasons:?}");
    }

    fn a11_a_pinned_program_that_was_replaced_reads_nothing(identity) {
        let world = World::ready_with(identity);
        let program = copy_of(CAT, world.path("tool"));
        pin(&world, &program);
        let member = world.member(&[]);
        assert!(reads(&member, &world, &[text(&program)]));
        // Renamed over, and back.
        let kept = world.path("kept");
        std::fs::rename(&program, &kept).expect("renamed");
        copy_of("/usr/bin/head", program.clone());
        assert!(!reads(&member, &world, &[text(&program)]));
        std::fs::rename(&kept, &program).expect("renamed");
        assert!(reads(&member, &world, &[text(&program)]));
        // Written over in place, and the time put back.
        let times = world.path("times");
        by(&["touch", "-r", text(&program), text(&times)]);
        by(&["cp", "/usr/bin/head", text(&program)]);
        by(&["touch", "-r", text(&times), text(&program)]);
        assert!(!reads(&member, &world, &[text(&program)]));
        let reasons = reasons(&world);
        assert!(!reasons.is_empty() && reasons.iter().all(|reason| reason == "exe_hash_mismatch"), "{reasons:?}");
    }

    fn a11_a_program_without_a_name_is_unpinnable(identity) {
        let world = World::ready_with(identity);
        pin(&world, Path::new(CAT));
        let member = world.member(&[]);
        let file = world.file(DATABASE);
        let request = json!({ "program": CAT, "argv": ["cat", file] });
        let done = member.ask("from_memory", request).expect("it ran");
        assert_ne!(done["code"], 0, "{done}");
        let deleted = copy_of(CAT, world.path("cat (deleted)"));
        assert!(!reads(&member, &world, &[text(&deleted)]));
        assert_eq!(reasons(&world), ["exe_unpinnable", "exe_unpinnable"]);
    }

    fn a11_what_runs_is_asked_at_every_open_and_read(identity) {
        let world = World::ready_with(identity);
        let python = copy_of("/usr/bin/python3", world.path("python"));
        // Not what the other member runs.
        by(&["sh", "-c", "echo >> \"$0\"", text(&python)]);
        pin(&world, &python);
        let member = world.member(&[]);
        let probe = world.path("probe.py");
        let pinned = member.spawn(&[text(&python), "-IS", text(&probe)]);
        let file = world.file(DATABASE);
        assert_eq!(pinned.cat(&file), Ok(database(&world)));
        let fd = pinned.open(&file).expect("open");
        // Passed on to another program of the same grant.
        let socket = world.path("pass");
        member.ask("listen", json!({ "path": socket })).expect("a socket");
        pinned.ask("send", json!({ "fd": fd, "path": socket })).expect("sent");
        let passed = member.ask("receive", json!({ "path": socket })).expect("received").as_u64().expect("a descriptor");
        assert_eq!(member.pread(passed, 100, 0), Err(REFUSED));
        assert_eq!(pinned.pread(fd, 100, 0), Ok(database(&world)));
        // The pinned program starts another one.
        assert!(!reads(&pinned, &world, &[CAT]));
        // Its file goes away while it runs.
        std::fs::remove_file(&python).expect("removed");
        assert_eq!(pinned.cat(&file), Err(REFUSED));
        assert_eq!(pinned.pread(fd, 100, 0), Err(REFUSED));
        assert_eq!(denials_of(&world, member.pid()), ["exe_hash_mismatch"]);
        assert_eq!(denials_of(&world, pinned.pid()), ["exe_unpinnable", "exe_unpinnable"]);
    }

    fn a12_a_loader_or_interpreter_is_itself_and_not_what_it_runs(identity) {
        let world = World::ready_with(identity);
        pin(&world, Path::new(CAT));
        let member = world.member(&[]);
        let loader = std::fs::read_dir("/lib64").into_iter().chain(std::fs::read_dir("/lib")).flatten().flatten();
        let loader = loader.map(|entry| entry.path()).find(|path| text(path).contains("/ld-linux")).expect("a loader");
        assert!(!reads(&member, &world, &[text(&loader), CAT]));
        let reads_itself = format!("#!/bin/sh\nIFS= read -r line < \"$1\" || [ -n \"$line\" ] || exit 1\n{CAT} \"$2\"\n");
        let script = program::script(world.path("script"), &reads_itself);
        assert!(!reads(&member, &world, &[text(&script), text(&world.file(DATABASE))]));
        let reasons = reasons(&world);
        assert!(reasons.len() == 2 && reasons.iter().all(|reason| reason == "exe_hash_mismatch"), "{reasons:?}");
    }
}

#[test]
fn a12_pinning_an_interpreter_is_warned_of() {
    let world = World::ready();
    for (program, warned) in [("/usr/bin/python3", true), ("/bin/sh", true), (CAT, false)] {
        let pin = format!("{{ path = \"{program}\", sha256 = \"{}\" }}", digest(Path::new(program)));
        world.manifest(&format!(
            "schema = 1\n[project]\nname = \"api\"\n[bindings]\nDB = {{ ref = \"db/url\", exe = {pin} }}\n"
        ));
        let trusted = world.kin(["trust", "--yes"]).run().exits(0);
        assert_eq!(trusted.stderr.contains("warning: DB: "), warned, "{trusted}");
        // A link is resolved and shown.
        let resolved = std::fs::canonicalize(program).expect("a program");
        assert!(trusted.text().contains(text(&resolved)), "{trusted}");
    }
}

/// Runs only where the reader's user has no power over it, so as root as nobody.
fn unreadable(name: &str, identity: Identity) {
    if as_nobody(name) == Role::Done {
        return;
    }
    let world = World::ready_with(identity);
    let program = copy_of(CAT, world.path("tool"));
    pin(&world, &program);
    let member = world.member(&[]);
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o111)).expect("a mode");
    let hidden = member.child("fork");
    hidden.ask("not_dumpable", json!({})).expect("prctl");
    assert_eq!(hidden.cat(&world.file(API)), Ok(world.value("api/key")));
    assert_eq!(hidden.cat(&world.file(DATABASE)), Err(REFUSED));
    let api = world.file(API);
    let (code, out, errors) = member.run(&[text(&program), text(&api)]);
    assert_eq!((code, out), (0, world.value("api/key")), "{errors}");
    assert!(!reads(&member, &world, &[text(&program)]));
    let records = world.audit();
    let allowed: Vec<&Value> = record::of(&records, "open.allow");
    assert!(allowed.len() == 2 && allowed.iter().all(|line| line["exe"] == Value::Null), "{allowed:#?}");
    assert_eq!(reasons(&world), ["identity_unverifiable", "identity_unverifiable"]);
}

mod a17_a_reader_that_is_not_dumpable_reads_what_is_not_pinned {
    use super::*;

    const NAME: &str = "attacks::a_pins::a17_a_reader_that_is_not_dumpable_reads_what_is_not_pinned";

    #[test]
    fn natively() {
        unreadable(&format!("{NAME}::natively"), Identity::Native);
    }

    #[test]
    fn by_procfs() {
        unreadable(&format!("{NAME}::by_procfs"), Identity::Procfs);
    }
}
