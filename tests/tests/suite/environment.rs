//! What is in a command's environment, who was told of it, and what else is not there?

use kin_tests::{Actor, World, record};
use serde_json::{Value, json};

use crate::{API, DATABASE, REFUSED, database};

const MANIFEST: &str = "schema = 1\n[project]\nname = \"api\"\n[bindings]\n\
    DATABASE_URL = { ref = \"db/url\", env_value = \"DB\" }\nAPI_KEY = \"api/key\"\n";

fn world(manifest: &str) -> World {
    let world = World::ready();
    world.manifest(manifest);
    world.trust();
    world
}

fn text(world: &World, reference: &str) -> String {
    String::from_utf8(world.value(reference)).expect("text")
}

/// `printenv` in a run: what it prints, and what was said.
fn printenv(world: &World, options: &[&str], name: &str) -> (i32, String, String) {
    let line = ["run"].iter().chain(options).copied().chain(["--", "printenv", name]);
    let output = world.kin(line).run();
    (output.code(), output.text().trim_end().to_owned(), output.stderr.clone())
}

#[test]
fn g14_a_value_is_in_an_environment_on_request_alone_and_warned_of_once() {
    let world = world(MANIFEST);
    let database = text(&world, "db/url");
    let (code, value, said) = printenv(&world, &[], "DB");
    assert_eq!((code, &value), (0, &database));
    assert_eq!(said.matches("warning: DB is in the command's environment").count(), 1, "{said}");
    let (code, value, said) = printenv(&world, &[], "DB");
    assert_eq!((code, value, said), (0, database, String::new()), "once for a project");
    assert_eq!(printenv(&world, &["--only", API], "DB").0, 1, "not granted");
    // The other file's value is nowhere; nor is this one's on a command line, or with anybody before the command.
    let member = world.member(&[]);
    let variables = member.ask("environ", json!({})).expect("its environment");
    let key = text(&world, "api/key");
    assert!(!variables.to_string().contains(&key));
    let holders: Vec<&String> = variables
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, v)| v.as_str() == Some(&text(&world, "db/url")))
        .map(|(n, _)| n)
        .collect();
    assert_eq!(holders, ["DB"]);
}

#[test]
fn a_value_for_the_environment_is_recorded_and_counted_like_an_open() {
    let manifest = MANIFEST.replace("env_value = \"DB\"", "env_value = \"DB\", max_opens = 1");
    let world = world(&manifest);
    let member = world.member(&[]);
    let records = world.audit();
    let allowed = record::of(&records, "open.allow");
    let [line] = allowed[..] else { panic!("{allowed:#?}") };
    assert_eq!((record::text(line, "op"), record::text(line, "reference")), ("env", "db/url"));
    assert_eq!((record::tgid(line), record::text(line, "file")), (Some(member.pid().into()), DATABASE));
    assert_eq!(member.cat(&world.file(DATABASE)), Err(REFUSED), "that was the one open");
    let exposed = world.kin(["audit", "--json", "--exposed", "db/url@1"]).run().exits(0).json();
    assert_eq!(exposed["exposed"].as_array().map(Vec::len), Some(1));
    // Where nothing can be recorded nothing is delivered, and nothing starts.
    world.kin(["run", "--for-first", "1s", "--", "true"]).run().exits(0);
    world.kin(["lock"]).run().exits(0);
    world.kin(["run", "--", "true"]).run().refuses(4, &["locked"]);
}

#[test]
fn a_value_that_no_variable_can_have_starts_nothing() {
    let world = world(MANIFEST);
    for (value, why) in [(&b"a\0b"[..], "NUL"), (&vec![b'x'; 128 << 10], "too large")] {
        world.set_from_file("db/url", value);
        world.kin(["run", "--", "true"]).run().refuses(3, &[DATABASE, "DB", why]);
        assert!(world.grants().is_empty());
    }
    world.set("db/url", b"a\xffb");
    let raw = world.kin(["run", "--", "printenv", "DB"]).run().exits(0);
    assert_eq!(raw.stdout, b"a\xffb\n", "a variable is bytes");
}

#[test]
fn an_env_file_names_what_is_bound_and_nothing_else() {
    let world = World::ready();
    let file = world.path("dev.env");
    let (file, write) =
        (file.to_str().expect("UTF-8").to_owned(), |text: &str| std::fs::write(&file, text).expect("a file"));
    write("# local\nexport MODE='dev mode'\nDB=kin://db/url\nKEY=\"kin://api/key\"\n");
    let print = |options: &[&str], name: &str| {
        let mut all = vec!["--env-file", &*file];
        all.extend(options);
        printenv(&world, &all, name)
    };
    assert_eq!(print(&[], "DB").1, text(&world, "db/url"));
    assert_eq!(print(&[], "KEY").1, text(&world, "api/key"));
    let (_, mode, said) = print(&[], "MODE");
    assert_eq!((mode.as_str(), said.as_str()), ("dev mode", ""), "warned of before");
    let run = |options: &[&str]| {
        let line = ["run", "--env-file", &*file].into_iter().chain(options.iter().copied());
        world.kin(line.chain(["--", "true"])).run()
    };
    // Neither what is not granted, nor what is not bound, nor an old version.
    run(&["--only", API]).refuses(2, &["DB", "db/url"]);
    world.secret("other/secret");
    for (line, code) in [
        ("A=kin://other/secret", 2),
        ("A=kin://db/url@1", 3),
        ("A=kin://../x", 3),
        ("KIN_HOME=/x", 3),
        ("'", 3),
    ] {
        write(line);
        run(&[]).refuses(code, &[]);
    }
    let denied = record::of(&world.audit(), "open.allow")
        .iter()
        .all(|line| record::text(line, "reference") != "other/secret");
    assert!(denied, "it was never delivered");
    world.kin(["run", "--env-file", "/nonexistent", "--", "true"]).run().refuses(3, &["/nonexistent"]);
    // What is for some programs or levels alone is not for an environment.
    write("DB=kin://db/url\n");
    world.manifest(&MANIFEST.replace("env_value = \"DB\"", "descend = \"child\""));
    world.trust();
    run(&[]).refuses(5, &["DB", "db/url"]);
}

#[test]
fn an_env_file_of_a_person_goes_before_the_manifest() {
    let world = world(
        &MANIFEST
            .replace("API_KEY = \"api/key\"", "API_KEY = { ref = \"api/key\", env_path = \"KEY_FILE\" }"),
    );
    let file = world.path("dev.env");
    std::fs::write(&file, "DB=mine\nKEY_FILE=kin://api/key\n").expect("a file");
    let options = ["--env-file", file.to_str().expect("UTF-8")];
    assert_eq!(printenv(&world, &options, "DB").1, "mine");
    assert_eq!(printenv(&world, &options, "KEY_FILE").1, text(&world, "api/key"));
}

#[test]
fn what_the_parent_exported_under_the_projects_names_is_not_inherited() {
    let manifest = |scrub: &str| MANIFEST.replace("name = \"api\"", &format!("name = \"api\"\n{scrub}"));
    let world = world(&manifest(""));
    let run = |name: &str| {
        let mut kin = world.kin(["run", "--only", API, "--", "printenv", name]);
        for name in ["DB", "API_KEY", DATABASE, "OTHER"] {
            kin = kin.env(name, "exported");
        }
        kin.run().text().trim_end().to_owned()
    };
    assert_eq!(["DB", "API_KEY", DATABASE, "OTHER"].map(run), ["exported"; 4]);
    world.manifest(&manifest("scrub = true"));
    world.trust();
    assert_eq!(["DB", "API_KEY", DATABASE, "OTHER"].map(run), ["", "", "", "exported"]);
    let shown = world.kin(["check"]).run().exits(0).text();
    assert!(shown.contains("not inherited by a command: API_KEY, DATABASE_URL, DB"), "{shown}");
    assert!(shown.contains("its value in DB, for the command and for all that it starts"), "{shown}");
}

#[test]
fn values_come_into_private_and_nested_runs_too() {
    let world = world(MANIFEST);
    let member = world.member(&["--private"]);
    let variables = member.ask("environ", json!({})).expect("its environment");
    assert_eq!(variables["DB"], json!(text(&world, "db/url")));
    let kin = kin_tests::binary();
    let kin = kin.to_str().expect("UTF-8");
    let (code, out, errors) = member.run(&[kin, "run", "--", "printenv", "DB"]);
    assert_eq!((code, String::from_utf8_lossy(&out).trim_end()), (0, &*text(&world, "db/url")), "{errors}");
    let narrow = world.member(&["--only", API]);
    let (code, _, _) = narrow.run(&[kin, "run", "--", "printenv", "DB"]);
    assert_eq!(code, 1, "an outer grant that lacks it");
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
    let opens: Vec<Value> =
        world.audit().into_iter().filter(|line| record::text(line, "op") == "env").collect();
    assert_eq!(opens.len(), 2, "{opens:#?}");
}

mod needs_root {
    use kin_tests::memory_of;

    use super::*;

    #[test]
    fn g14_neither_keeper_nor_front_ever_holds_a_value() {
        kin_tests::needs_root();
        let world = world(MANIFEST);
        let member = world.member(&[]);
        let secret = [text(&world, "db/url")];
        assert!(!memory_of(member.pid(), &secret).is_empty(), "the command has it");
        for (who, pid) in [("keeper", world.keeper(0)), ("front", member.started())] {
            assert_eq!(memory_of(pid, &secret), Vec::<String>::new(), "{who}");
        }
        let environ = std::fs::read(format!("/proc/{}/environ", world.keeper(0))).expect("its environment");
        assert!(!String::from_utf8_lossy(&environ).contains(&secret[0]));
    }
}
