//! Are files at their real paths for a tree, links that lead nowhere for all others, and does `kin link` touch
//! nothing else?

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use kin_tests::{Actor, World, leaks_below, program, record};

use crate::{DATABASE, REFUSED, database};

const MANIFEST: &str = r#"schema = 1
[project]
name = "api"
[bindings]
DATABASE_URL = { ref = "db/url", path = "conf/.env" }
API_KEY = { ref = "api/key", path = "~/.api/credentials" }
"#;

fn bound() -> World {
    let world = World::ready();
    world.manifest(MANIFEST);
    world.trust();
    world
}

fn git(world: &World, arguments: &[&str]) -> String {
    let options = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main"];
    world.other("git", options).args(arguments).run().exits(0).text()
}

fn is_link(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink())
}

/// A `.env` in a git work tree, its bytes, and the secret in them.
fn with_env(world: &World) -> (PathBuf, Vec<u8>, String) {
    let secret = world.canary();
    let bytes = format!("# mine\nDATABASE_URL='postgres://x:{secret}@db/x'\r\nEMPTY=\n\n").into_bytes();
    let env = world.project().join(".env");
    std::fs::write(&env, &bytes).expect(".env");
    std::fs::set_permissions(&env, std::fs::Permissions::from_mode(0o640)).expect("a mode");
    git(world, &["init", "-q"]);
    (env, bytes, secret)
}

#[test]
fn an_env_file_becomes_a_secret_a_binding_and_a_link_and_goes_back() {
    let world = World::new().initialised();
    let (env, bytes, secret) = with_env(&world);
    world.kin(["import", ".env", "--link"]).run().refuses(5, &["person"]);
    assert_eq!(std::fs::read(&env).expect(".env"), bytes);
    let done = world.kin(["import", ".env", "--link", "--yes"]).run().exits(0);
    assert!(done.stderr.contains("snapshots and backups"), "{done}");
    assert!(is_link(&env));
    let nowhere = Path::new("");
    assert_eq!(leaks_below(&world.project(), nowhere, std::slice::from_ref(&secret)), [""; 0]);
    // For git there is nothing of it: a manifest, and a line of .gitignore.
    assert_eq!(git(&world, &["status", "--porcelain"]), "?? .gitignore\n?? kin.toml\n");
    git(&world, &["add", "-A"]);
    git(&world, &["commit", "-qm", "all"]);
    assert_eq!(leaks_below(&world.project().join(".git"), nowhere, std::slice::from_ref(&secret)), [""; 0]);
    let (member, outsider) = (world.member(&[]), world.outsider());
    assert_eq!(member.cat(&env), Ok(bytes.clone()));
    let path = env.to_str().expect("a path");
    let copy = world.path("copy");
    for line in [
        &["/usr/bin/python3", "-c", "import sys; sys.stdout.write(open('.env', newline='').read())"][..],
        &["cat", path],
        &["sh", "-c", "less .env | cat"],
        &["sh", "-c", "cp .env ../copy && cat ../copy"],
        &["vim", "-u", "NONE", "-n", "-es", "-c", "set fileformats=", "-c", "w! ../copy2", "-c", "q", path],
    ] {
        let (code, out, errors) = member.run(line);
        assert!(code == 0 && (line[0] == "vim" || out == bytes), "{line:?}: {code} {errors}");
    }
    assert!(std::fs::read(world.path("copy2")).is_ok_and(|copied| copied == bytes));
    for copy in [copy, world.path("copy2")] {
        std::fs::remove_file(copy).expect("the copy");
    }
    assert_eq!(outsider.cat(&env), Err(REFUSED));
    drop(member);
    world.kin(["unlink", "--restore"]).run().refuses(5, &["person"]);
    world.kin(["unlink", "--restore", "--yes"]).run().exits(0);
    assert_eq!(std::fs::read(&env).expect(".env"), bytes);
    let mode = std::fs::metadata(&env).expect(".env").permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    assert_eq!(git(&world, &["status", "--porcelain"]), "", "a restored file stays out of git");
    let records = world.audit();
    let (link, unlink) = (record::of(&records, "policy.link"), record::of(&records, "policy.unlink"));
    assert_eq!((link.len(), unlink.len()), (1, 1), "{records:#?}");
    assert_eq!(record::of(&records, "vault.reveal").len(), 1);
}

#[test]
fn an_env_file_becomes_a_secret_for_each_key_and_goes_back() {
    let world = World::new().initialised();
    let (secret, token, old) = (world.canary(), world.canary(), world.canary());
    let bytes = format!(
        "# was {old}\nexport DATABASE_URL='postgres://x:{secret}@db/x'\r\nTOKEN=\"{token}\" # t\nEMPTY=\n"
    );
    let env = world.project().join(".env");
    std::fs::write(&env, &bytes).expect(".env");
    world.kin(["import", ".env", "--by-key"]).run().exits(2);
    let done = world.kin(["import", ".env", "--link", "--by-key", "--yes"]).run().exits(0);
    assert!(done.text().contains("stored project/.env and its 3 keys"), "{done}");
    assert!(is_link(&env));
    let secrets = [secret.clone(), token.clone(), old];
    assert_eq!(
        leaks_below(&world.project(), Path::new(""), &secrets),
        [""; 0],
        "comments stay out of kin.toml too"
    );
    // The file has what its keys have now, for every reader of such files.
    let member = world.member(&[]);
    let shown = |token: &str| {
        format!("DATABASE_URL='postgres://x:{secret}@db/x'\nTOKEN='{token}'\nEMPTY=''\n").into_bytes()
    };
    assert_eq!(member.cat(&env), Ok(shown(&token)));
    let path = env.to_str().expect("a path");
    let (code, out, errors) =
        member.run(&["sh", "-c", ". \"$0\"; printf %s \"$DATABASE_URL|$TOKEN|$EMPTY\"", path]);
    assert_eq!((code, out), (0, format!("postgres://x:{secret}@db/x|{token}|").into_bytes()), "{errors}");
    let (code, out, errors) = member.run(&["sh", "-c", "cat \"$KIN_DIR/TOKEN\""]);
    assert_eq!((code, out), (0, token.clone().into_bytes()), "{errors}");
    assert_eq!(world.outsider().cat(&env), Err(REFUSED));
    let newer = world.secret("project/TOKEN");
    assert_eq!(member.cat(&env), Ok(shown(&newer)));
    let asked = world.kin(["audit", "--ref", "project/TOKEN", "--json"]).run().exits(0).text();
    assert!(asked.contains("project/TOKEN@2"), "{asked}");
    drop(member);
    world.kin(["unlink", "--restore", "--yes"]).run().exits(0);
    assert_eq!(std::fs::read(&env).expect(".env"), bytes.as_bytes(), "as it was imported");
    // And once more: kin.toml has it already.
    let manifest = std::fs::read(world.project().join("kin.toml")).expect("kin.toml");
    world.kin(["link", "--adopt", "--yes"]).run().refuses(2, &["made of several secrets"]);
    let again = world.kin(["import", ".env", "--link", "--by-key", "--overwrite", "--yes"]).run().exits(0);
    assert!(again.text().contains("as kin.toml has it") && is_link(&env), "{again}");
    assert_eq!(world.member(&[]).cat(&env), Ok(shown(&token)));
    assert_eq!(std::fs::read(world.project().join("kin.toml")).expect("kin.toml"), manifest);
}

#[test]
fn a_file_that_cannot_be_made_of_its_keys_is_not_taken_apart() {
    let world = World::ready();
    let env = world.project().join(".env");
    let manifest = std::fs::read_to_string(world.project().join("kin.toml")).expect("kin.toml");
    let before = world.kin(["list", "--json"]).run().exits(0).json();
    for (text, why) in [
        ("# nothing\n", "has none"),
        ("a.b=CANARY\n", "no variable's name"),
        ("A=it's \"CANARY\"\n", "the value of A needs quotes of several kinds"),
        ("A=1\nA=CANARY\n", "api/A"),
        ("DATABASE_URL=CANARY\n", "DATABASE_URL already"),
        ("CANARY\n", "line 1"),
    ] {
        std::fs::write(&env, text).expect(".env");
        let refused = world.kin(["import", ".env", "--link", "--by-key", "--yes"]).run().refuses(2, &[why]);
        assert!(!refused.stderr.contains("CANARY"), "{refused}");
        assert_eq!(std::fs::read_to_string(&env).expect(".env"), text);
    }
    assert_eq!(std::fs::read_to_string(world.project().join("kin.toml")).expect("kin.toml"), manifest);
    assert_eq!(world.kin(["list", "--json"]).run().exits(0).json(), before, "nothing was stored");
}

#[test]
fn a_manifest_that_is_there_is_extended_only_where_it_is_trusted() {
    let world = World::ready();
    let (env, bytes, _) = with_env(&world);
    let text = std::fs::read_to_string(world.project().join("kin.toml")).expect("kin.toml");
    let changed = format!("# not read by anybody yet\n{text}");
    world.manifest(&changed);
    world.kin(["import", ".env", "--link", "--yes"]).run().refuses(3, &["changed"]);
    assert_eq!(std::fs::read(&env).expect(".env"), bytes);
    assert_eq!(std::fs::read_to_string(world.project().join("kin.toml")).expect("kin.toml"), changed);
    world.trust();
    world.kin(["import", ".env", "--link", "--yes"]).run().exits(0);
    let now = std::fs::read_to_string(world.project().join("kin.toml")).expect("kin.toml");
    assert_eq!(now, format!("{changed}\".env\" = {{ ref = \"api/.env\", path = \".env\" }}\n"));
    let member = world.member(&[]);
    assert_eq!(member.cat(&env), Ok(bytes));
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
}

#[test]
fn links_are_put_where_the_manifest_says_and_taken_away_again() {
    let world = bound();
    git(&world, &["init", "-q"]);
    world.kin(["link"]).run().exits(0);
    let (env, credentials) = (world.project().join("conf/.env"), world.path("home/.api/credentials"));
    let member = world.member(&[]);
    assert_eq!(member.cat(&env), Ok(database(&world)));
    assert_eq!(member.cat(&credentials), Ok(world.value("api/key")));
    assert_eq!(world.outsider().cat(&credentials), Err(REFUSED));
    let ignored = world.project().join(".gitignore");
    assert_eq!(std::fs::read_to_string(&ignored).expect("a file"), "/conf/.env\n");
    world.kin(["link"]).run().exits(0);
    assert_eq!(std::fs::read_to_string(&ignored).expect("a file"), "/conf/.env\n");
    world.kin(["unlink", "API_KEY"]).run().exits(0);
    assert!(!world.path("home/.api").exists() && is_link(&env));
    world.kin(["unlink", "API_KEY"]).run().refuses(2, &["API_KEY"]);
    world.kin(["unlink"]).run().exits(0);
    assert!(!world.project().join("conf").exists() && !ignored.exists());
    assert_eq!(git(&world, &["status", "--porcelain"]), "?? kin.toml\n");
}

#[test]
fn a_link_to_a_writable_file_is_written_through() {
    let world = bound();
    let (link, other) = (world.project().join("conf/.env"), world.path("home/.api/credentials"));
    world.kin(["link"]).run().exits(0);
    world.kin(["unlink", DATABASE]).run().exits(0);
    world.manifest(&MANIFEST.replacen("{ ref", "{ writable = true, ref", 1));
    world.trust();
    world.kin(["link"]).run().exits(0);
    assert!(is_link(&link) && is_link(&other));
    for options in [&[][..], &["--private"]] {
        let (member, next) = (world.member(options), world.canary());
        let write = ["sh", "-c", "printf %s \"$1\" >\"$0\"", link.to_str().expect("a path"), &next];
        let (code, _, errors) = member.run(&write);
        assert_eq!(code, 0, "{options:?}: {errors}");
        assert_eq!(member.cat(&link), Ok(next.clone().into_bytes()), "{options:?}");
        assert_eq!(member.cat(&world.file(DATABASE)), Ok(next.into_bytes()));
        let (code, _, errors) = member.run(&["sh", "-c", ": >\"$0\"", other.to_str().expect("a path")]);
        assert!(code != 0 && errors.contains("Read-only"), "{code} {errors}");
        assert_eq!(world.outsider().cat(&link), Err(REFUSED));
    }
    assert!(is_link(&link));
    let versions = world.kin(["history", "db/url", "--json"]).run().exits(0).json();
    assert_eq!(versions.as_array().map(Vec::len), Some(3), "{versions}");
}

#[test]
fn a_file_that_is_there_stays_until_it_is_adopted() {
    let world = bound();
    let (conf, secret) = (world.project().join("conf"), world.canary());
    let env = conf.join(".env");
    std::fs::create_dir(&conf).expect("a directory");
    std::fs::write(&env, &secret).expect("a file");
    world.kin(["link"]).run().refuses(5, &["is a file already"]);
    assert!(!world.path("home/.api").exists(), "nothing is done where one has to stay");
    let other = world.path("other");
    std::fs::hard_link(&env, &other).expect("another name");
    world.kin(["link", "--adopt", "--overwrite"]).run().refuses(3, &["other names"]);
    std::fs::remove_file(&other).expect("it");
    assert_eq!(world.kin(["show", "db/url", "--json"]).run().exits(0).json()["version"], 1);
    // The vault has another value, which nobody said to replace.
    world.kin(["link", "--adopt"]).run().refuses(5, &["another value"]);
    assert_eq!(std::fs::read_to_string(&env).expect("a file"), secret);
    world.kin(["link", "--adopt", "--overwrite"]).run().exits(0);
    assert!(is_link(&env));
    assert_eq!(leaks_below(&world.project(), Path::new(""), std::slice::from_ref(&secret)), [""; 0]);
    assert_eq!(world.member(&[]).cat(&env), Ok(secret.clone().into_bytes()));
    let writes = world.audit();
    let adopted = record::of(&writes, "vault.write").iter().filter(|line| line["reason"] == "adopt").count();
    assert_eq!(adopted, 1);
    // Something stands in its way, and it can be brought back later; its directory may be gone too.
    std::fs::remove_file(&env).expect("the link");
    std::fs::write(&env, "in the way").expect("a file");
    let output = world.kin(["unlink", "--restore", "--yes", DATABASE]).run().exits(0);
    assert!(output.text().contains("stays"), "{output}");
    assert_eq!(std::fs::read_to_string(&env).expect("a file"), "in the way");
    std::fs::remove_dir_all(&conf).expect("the directory");
    world.kin(["unlink", "--restore", "--yes", DATABASE]).run().exits(0);
    assert_eq!(std::fs::read_to_string(&env).expect("a file"), secret);
}

#[test]
fn what_is_no_file_of_its_own_becomes_no_link() {
    let world = World::ready();
    let before = world.kin(["list", "--json"]).run().exits(0).stdout;
    let (env, other) = (world.project().join(".env"), world.path("other"));
    std::fs::write(&other, world.canary()).expect("a file");
    symlink(&other, &env).expect("a link");
    world.kin(["import", ".env", "--link", "--yes"]).run().refuses(2, &["cannot be linked"]);
    std::fs::remove_file(&env).expect("the link");
    std::fs::hard_link(&other, &env).expect("another name");
    world.kin(["import", ".env", "--link", "--yes"]).run().refuses(2, &["cannot be linked"]);
    std::fs::remove_file(&env).expect("the name");
    std::fs::create_dir(&env).expect("a directory");
    world.kin(["import", ".env", "--link", "--yes"]).run().refuses(2, &["cannot be linked"]);
    assert_eq!(world.kin(["list", "--json"]).run().exits(0).stdout, before);
}

#[test]
fn only_what_kin_made_and_is_still_the_same_is_taken_away() {
    let world = bound();
    world.kin(["link", DATABASE]).run().exits(0);
    let env = world.project().join("conf/.env");
    // The same link, but made by somebody else: another inode.
    let says = std::fs::read_link(&env).expect("a link");
    std::fs::remove_file(&env).expect("the link");
    std::fs::write(world.project().join("conf/spacer"), "").expect("a file that takes the inode");
    symlink(&says, &env).expect("a link");
    let output = world.kin(["unlink"]).run().exits(0);
    assert!(output.text().contains("stays") && is_link(&env), "{output}");
    std::fs::remove_file(&env).expect("the link");
    world.kin(["link", DATABASE]).run().exits(0);
    std::fs::remove_file(&env).expect("the link");
    std::fs::write(&env, "its own").expect("a file");
    world.kin(["unlink"]).run().exits(0);
    assert_eq!(std::fs::read_to_string(&env).expect("a file"), "its own");
    // What another program wrote into the memory of links is believed in nothing.
    let store = world.path("kin/state/links.json");
    let mut bytes = std::fs::read(&store).expect("the links");
    bytes[3] ^= 1;
    std::fs::write(&store, bytes).expect("the links");
    world.kin(["unlink"]).run().refuses(7, &["links.json"]);
    world.kin(["link"]).run().refuses(7, &["links.json"]);
}

#[test]
fn a_checkout_cannot_have_a_link_put_outside_of_it() {
    let world = World::ready();
    let outside = world.path("outside");
    std::fs::create_dir(&outside).expect("a directory");
    symlink(&outside, world.project().join("out")).expect("a link");
    symlink("../outside", world.project().join("up")).expect("a link");
    for path in ["out/x", "up/x", "out/deep/er/x"] {
        let manifest = format!(
            "schema = 1\n[project]\nname = \"api\"\n[bindings]\nX = {{ ref = \"db/url\", path = \"{path}\" }}\n"
        );
        world.manifest(&manifest);
        world.kin(["link"]).run().exits(3);
        world.trust();
        for line in [&["link"][..], &["link", "--adopt"]] {
            world.kin(line).run().refuses(3, &["leads out of"]);
        }
    }
    for path in ["../x", "/etc/x", "a/../../x"] {
        let manifest = format!(
            "schema = 1\n[project]\nname = \"api\"\n[bindings]\nX = {{ ref = \"db/url\", path = \"{path}\" }}\n"
        );
        world.manifest(&manifest);
        let refused = world.kin(["link"]).run().exits(3);
        assert!(refused.stderr.contains("bad path"), "{refused}");
    }
    assert_eq!(std::fs::read_dir(&outside).expect("it").count(), 0);
    // Nor is .gitignore written through a link.
    let victim = world.path("victim");
    std::fs::write(&victim, "its own\n").expect("a file");
    git(&world, &["init", "-q"]);
    symlink(&victim, world.project().join(".gitignore")).expect("a link");
    world.manifest(
        "schema = 1\n[project]\nname = \"api\"\n[bindings]\nX = { ref = \"db/url\", path = \"x\" }\n",
    );
    world.trust();
    world.kin(["link"]).run().refuses(3, &[".gitignore", "symbolic link"]);
    assert_eq!(std::fs::read_to_string(&victim).expect("a file"), "its own\n");
    assert!(!is_link(&world.project().join("x")));
}

#[test]
fn a_checkouts_own_git_configuration_starts_nothing() {
    let world = bound();
    git(&world, &["init", "-q"]);
    let started = world.path("started");
    let program = program::script(world.path("monitor"), &format!("#!/bin/sh\n: > {}\n", started.display()));
    git(&world, &["add", "kin.toml"]);
    git(&world, &["config", "core.fsmonitor", program.to_str().expect("a path")]);
    git(&world, &["status"]);
    assert!(std::fs::remove_file(&started).is_ok(), "git would start it");
    world.kin(["link"]).run().exits(0);
    assert!(is_link(&world.project().join("conf/.env")) && !started.exists());
}

#[test]
fn what_git_tracks_is_said_when_it_becomes_a_link() {
    let world = World::ready();
    let (env, ..) = with_env(&world);
    git(&world, &["add", "-f", ".env"]);
    git(&world, &["commit", "-qm", "oh"]);
    let output = world.kin(["import", ".env", "--link", "--yes"]).run().exits(0);
    assert!(output.stderr.contains("git tracks .env") && output.stderr.contains("rotate"), "{output}");
    assert!(is_link(&env));
}

#[test]
fn without_a_broker_a_link_leads_nowhere() {
    let world = bound();
    world.kin(["link", DATABASE]).run().exits(0);
    world.kin(["stop"]).run().exits(0);
    let env = world.project().join("conf/.env");
    assert!(std::fs::read(&env).is_err() && is_link(&env));
    let output = world.kin(["run", "--", "cat"]).args([&env]).run().exits(0);
    assert_eq!(output.stdout, database(&world));
}
