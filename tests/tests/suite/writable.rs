//! What becomes of what a program writes back? A new version, or nothing, and never a byte on the disk.

use std::path::Path;
use std::time::Duration;

use kin_tests::{Actor, Identity, World, canary, eventually, record};
use nix::errno::Errno;
use serde_json::{Value, json};

use crate::{API, DATABASE, REFUSED, SOON, database};

pub(crate) const MANIFEST: &str = r#"schema = 1

[project]
name = "api"

[bindings]
DATABASE_URL = { ref = "db/url", writable = true, env_path = "DATABASE_FILE", path = ".database" }
API_KEY = "api/key"
"#;

fn ready() -> World {
    ready_with(Identity::Native)
}

fn ready_with(identity: Identity) -> World {
    let world = World::ready_with(identity);
    world.manifest(MANIFEST);
    world.trust();
    world
}

fn put(actor: &dyn Actor, path: &Path, bytes: &[u8]) -> Result<(), Errno> {
    actor.ask("put", json!({ "path": path, "data": canary::encode_standard(bytes) })).map(drop)
}

fn open(actor: &dyn Actor, path: &Path, how: &str) -> Result<u64, Errno> {
    let fd = actor.ask("open", json!({ "path": path, "how": how }))?;
    Ok(fd.as_u64().expect("a descriptor"))
}

fn write(actor: &dyn Actor, fd: u64, bytes: &[u8]) -> Result<u64, Errno> {
    let written = actor.ask("write", json!({ "fd": fd, "data": canary::encode_standard(bytes) }))?;
    Ok(written.as_u64().expect("a number"))
}

fn close(actor: &dyn Actor, fd: u64) -> Result<(), Errno> {
    actor.ask("close", json!({ "fd": fd })).map(drop)
}

/// The versions of `db/url`, the newest first: number, bytes, and the grant that wrote it.
fn history(world: &World) -> Vec<(u64, u64, String)> {
    let versions = world.kin(["history", "db/url", "--json"]).run().exits(0).json();
    let number = |version: &Value, key: &str| version[key].as_u64().expect("a number");
    let by = |version: &Value| version["grant"].as_str().unwrap_or_default().to_owned();
    let one = |version: &Value| (number(version, "version"), number(version, "size"), by(version));
    versions.as_array().expect("versions").iter().rev().map(one).collect()
}

fn newest(world: &World) -> u64 {
    history(world)[0].0
}

fn revealed(world: &World, reference: &str) -> Vec<u8> {
    world.kin(["reveal", reference, "--yes"]).run().exits(0).stdout
}

/// The records of one event about `db/url`.
fn told(world: &World, event: &str) -> Vec<Value> {
    world.audit().into_iter().filter(|line| record::event(line) == event).collect()
}

fn is_mounted(world: &World) -> bool {
    !kin_tests::mount::mounts_on(&world.writable_mountpoint()).is_empty()
}

both! {
    fn what_a_member_writes_is_the_next_version(identity) {
        let world = ready_with(identity);
        let (before, member) = (database(&world), world.member(&[]));
        let (path, next) = (world.writable(DATABASE), world.canary().into_bytes());
        assert_eq!(member.ask("environ", json!({})).expect("variables")["DATABASE_FILE"], json!(path));
        assert_eq!(member.cat(&path), Ok(before.clone()));
        let reader = member.open(&world.file(DATABASE)).expect("open");
        assert_eq!(put(&member, &path, &next), Ok(()));
        // The next open has it, in both mounts; what is open keeps what it had.
        assert_eq!((member.cat(&path), member.cat(&world.file(DATABASE))), (Ok(next.clone()), Ok(next.clone())));
        assert_eq!(member.pread(reader, 100, 0), Ok(before.clone()));
        let id = world.grants()[0]["id"].as_str().expect("an id").to_owned();
        assert_eq!(history(&world)[0], (2, next.len() as u64, id.clone()));
        assert_eq!(history(&world)[1], (1, before.len() as u64, String::new()));
        assert_eq!((revealed(&world, "db/url"), revealed(&world, "db/url@1")), (next, before));
        let written = told(&world, "write.allow");
        let [line] = &written[..] else { panic!("{written:#?}") };
        assert_eq!((&line["reference"], &line["version"]), (&json!("db/url"), &json!(2)));
        assert_eq!((&line["grant"], record::tgid(line)), (&json!(id), Some(member.pid().into())));
        let asked = world.kin(["audit", "--ref", "db/url@2", "--json"]).run().exits(0).text();
        assert!(asked.contains("write.allow"), "{asked}");
    }
}

#[test]
fn one_change_is_one_version_and_none_where_nothing_changed() {
    let world = ready();
    let member = world.member(&[]);
    let path = world.writable(DATABASE);
    // The same bytes once more.
    assert_eq!(put(&member, &path, &database(&world)), Ok(()));
    assert_eq!((newest(&world), told(&world, "vault.compare").len()), (1, 1));
    let fd = open(&member, &path, "read_write").expect("open");
    assert_eq!(close(&member, fd), Ok(()));
    assert_eq!(newest(&world), 1);
    // Written in pieces, synced, and closed twice.
    let fd = open(&member, &path, "empty").expect("open");
    for piece in ["one ", "two ", "three"] {
        write(&member, fd, piece.as_bytes()).expect("written");
    }
    assert_eq!(newest(&world), 1);
    assert_eq!(member.ask("fsync", json!({ "fd": fd })), Ok(Value::Null));
    assert_eq!(newest(&world), 2);
    assert_eq!(member.ask("fsync", json!({ "fd": fd })), Ok(Value::Null));
    assert_eq!(close(&member, fd), Ok(()));
    assert_eq!((newest(&world), revealed(&world, "db/url")), (2, b"one two three".to_vec()));
    let shell = |script: &str| member.run(&["sh", "-c", script, path.to_str().expect("a path")]);
    for (script, content) in [
        ("echo a > \"$0\"", "a\n"),
        ("echo b >> \"$0\"", "a\nb\n"),
        ("{ echo c; /bin/echo d; echo e; } > \"$0\"", "c\nd\ne\n"),
        ("exec 3> \"$0\"; echo f >&3; echo g >&3; exec 3>&-", "f\ng\n"),
        ("truncate -s 1 \"$0\"", "f"),
        ("truncate -s 3 \"$0\"", "f\0\0"),
        (": > \"$0\"", ""),
        ("printf x | dd of=\"$0\" bs=1 seek=2 conv=notrunc status=none", "\0\0x"),
        ("python3 -c 'import sys; f = open(sys.argv[1], \"r+\"); f.write(\"ab\")' \"$0\"", "abx"),
        ("cp /etc/hostname \"$0\" && printf y > \"$0.x\"; printf z > \"$0\"", "z"),
    ] {
        let before = newest(&world);
        let (_, _, errors) = shell(script);
        assert_eq!(revealed(&world, "db/url"), content.as_bytes(), "{script}: {errors}");
        let versions = if script.starts_with("cp") { 2 } else { 1 };
        assert_eq!(newest(&world), before + versions, "{script}: {errors}");
    }
    // By its path alone.
    assert_eq!(
        member.ask("mutate", json!({ "kind": "truncate", "directory": path.parent(), "name": DATABASE })),
        Ok(Value::Null)
    );
    assert_eq!(revealed(&world, "db/url"), b"");
}

#[test]
fn a_handle_reads_and_measures_what_it_wrote_and_nobody_else_does() {
    let world = ready();
    let (member, other) = (world.member(&[]), world.member(&[]));
    let (path, before) = (world.writable(DATABASE), database(&world));
    let fd = open(&member, &path, "read_write").expect("open");
    member
        .ask("pwrite", json!({ "fd": fd, "data": canary::encode_standard(b"new"), "offset": before.len() }))
        .expect("written");
    let after = [&before[..], b"new"].concat();
    assert_eq!(member.pread(fd, 100, 0), Ok(after.clone()));
    assert_eq!(member.ask("fstat", json!({ "fd": fd })).expect("stat")["size"], after.len());
    assert_eq!(member.ask("lseek", json!({ "fd": fd, "offset": 0, "whence": 2 })), Ok(json!(after.len())));
    assert_eq!((member.cat(&path), other.cat(&path)), (Ok(before.clone()), Ok(before.clone())));
    assert_eq!(other.stat(&path).expect("stat")["size"], before.len());
    assert_eq!(close(&member, fd), Ok(()));
    assert_eq!((member.cat(&path), other.cat(&path)), (Ok(after.clone()), Ok(after.clone())));
    let facts = other.stat(&path).expect("stat");
    assert_eq!(
        (&facts["size"], &facts["mode"], &facts["nlink"]),
        (&json!(after.len()), &json!(0o100_600), &json!(1))
    );
    // At the end, wherever that is by now.
    let (first, second) =
        (open(&member, &path, "append").expect("open"), open(&other, &path, "append").expect("open"));
    write(&member, first, b"1").expect("written");
    write(&other, second, b"2").expect("written");
    assert_eq!((close(&member, first), close(&other, second)), (Ok(()), Ok(())));
    // Each had its own copy: the last close wins, and both are there.
    assert_eq!(revealed(&world, "db/url"), [&after[..], b"2"].concat());
    assert_eq!(revealed(&world, "db/url@3"), [&after[..], b"1"].concat());
    // As large as a value may be, and no larger.
    assert_eq!(put(&member, &path, &vec![b'x'; 1 << 20]), Ok(()));
    assert_eq!(newest(&world), 5);
    assert_eq!(put(&member, &path, &vec![b'y'; (1 << 20) + 1]), Err(Errno::EFBIG));
}

both! {
    fn everything_else_stays_as_it_is(identity) {
        let world = ready_with(identity);
        let member = world.member(&[]);
        // In the mount that is read, all of it.
        for name in [DATABASE, API] {
            for how in ["write", "read_write", "empty", "append"] {
                assert_eq!(open(&member, &world.file(name), how), Err(Errno::EROFS), "{name} {how}");
            }
        }
        // Where something is writable, that alone is there.
        assert_eq!(member.list(world.writable(API).parent().expect("a directory")), Ok(vec![DATABASE.to_owned()]));
        assert_eq!(open(&member, &world.writable(API), "empty"), Err(Errno::ENOENT));
        assert_eq!(open(&member, &world.writable(API), "new"), Err(Errno::EROFS));
        let directory = world.writable_mountpoint().join("api");
        for kind in ["link", "symlink", "mkdir", "mknod", "unlink", "rmdir"] {
            let answer = member.ask("mutate", json!({ "kind": kind, "directory": directory, "name": DATABASE }));
            assert!(matches!(answer, Err(Errno::EROFS | Errno::EPERM)), "{kind}: {answer:?}");
        }
        // What changes nothing is no error, and changes nothing.
        for kind in ["chmod", "chown", "utime"] {
            let answer = member.ask("mutate", json!({ "kind": kind, "directory": directory, "name": DATABASE }));
            assert_eq!(answer, Ok(Value::Null), "{kind}");
        }
        assert_eq!(member.stat(&world.writable(DATABASE)).expect("stat")["mode"], 0o100_600);
        assert_eq!(member.ask("execute", json!({ "path": world.writable(DATABASE) })), Err(REFUSED));
        assert_eq!(newest(&world), 1);
    }

    fn an_outsider_writes_nothing_and_is_recorded(identity) {
        let world = ready_with(identity);
        let (member, outsider) = (world.member(&[]), world.outsider());
        let path = world.writable(DATABASE);
        for how in ["write", "read_write", "empty", "append"] {
            assert_eq!(open(&outsider, &path, how), Err(REFUSED), "{how}");
        }
        let truncated = json!({ "kind": "truncate", "directory": path.parent(), "name": DATABASE });
        assert_eq!(outsider.ask("mutate", truncated), Err(REFUSED));
        assert_eq!((outsider.cat(&path), outsider.stat(&path)), (Err(REFUSED), Err(REFUSED)));
        // A descriptor that a member passed on is for members.
        let socket = world.path("pass");
        let fd = open(&member, &path, "empty").expect("open");
        outsider.ask("listen", json!({ "path": socket })).expect("a socket");
        member.ask("send", json!({ "fd": fd, "path": socket })).expect("sent");
        let passed = outsider.ask("receive", json!({ "path": socket })).expect("received").as_u64().expect("a descriptor");
        assert_eq!(write(&outsider, passed, b"evil"), Err(REFUSED));
        assert_eq!(outsider.ask("ftruncate", json!({ "fd": passed, "size": 9 })), Err(REFUSED));
        assert_eq!(outsider.ask("fsync", json!({ "fd": passed })), Err(REFUSED));
        assert_eq!(newest(&world), 1);
        let records = world.audit();
        let denied: Vec<_> = record::by(&records, outsider.pid().into()).into_iter().cloned().collect();
        let of = |event: &str, reason: &str| {
            denied.iter().any(|line| record::event(line) == event && record::reason(line) == reason)
        };
        assert!(of("write.deny", "foreign_reader") && of("open.deny", "no_grant"), "{denied:#?}");
        // A grant of the same project that may not write is another reader too.
        world.manifest(&MANIFEST.replace("writable = true, ", ""));
        world.trust();
        let reader = world.member(&[]);
        assert_eq!(open(&reader, &path, "empty"), Err(Errno::ENOENT));
    }
}

#[test]
fn the_mount_is_there_while_somebody_may_write() {
    let world = ready();
    let reader = {
        world.manifest(&MANIFEST.replace("writable = true, ", ""));
        world.trust();
        world.member(&[])
    };
    assert!(!is_mounted(&world));
    assert!(reader.ask("environ", json!({})).expect("variables")["KIN_WRITE_DIR"].is_null());
    world.manifest(MANIFEST);
    world.trust();
    let (one, other) = (world.member(&[]), world.member(&[]));
    let mounts = kin_tests::mount::mounts_on(&world.writable_mountpoint());
    let [mount] = &mounts[..] else { panic!("{mounts:?}") };
    for option in ["rw", "nosuid", "nodev", "noexec"] {
        assert!(mount.options.iter().any(|own| own == option), "{mount:?}");
    }
    assert!(!mount.super_options.iter().any(|option| option.contains("allow_other")), "{mount:?}");
    assert_eq!(world.status()["mount"]["writable"], true);
    assert_eq!(world.grants()[1]["writable"], json!([DATABASE]));
    assert!(one.finish().success());
    assert_eq!(put(&other, &world.writable(DATABASE), b"still"), Ok(()));
    assert!(other.finish().success());
    eventually("it is gone", SOON, || !is_mounted(&world));
    // Nothing can be put in its place by mistake.
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(world.writable_mountpoint()).expect("a directory").permissions(),
    );
    assert_eq!(mode & 0o777, 0o500);
    let again = world.member(&[]);
    assert_eq!(put(&again, &world.writable(DATABASE), b"again"), Ok(()));
    // Somebody else takes it down: it comes back.
    kin_tests::mount::clear(&world.writable_mountpoint());
    eventually("it is back", Duration::from_secs(5), || {
        again.cat(&world.writable(DATABASE)) == Ok(b"again".to_vec())
    });
}

#[test]
fn what_a_killed_process_had_half_written_is_not_stored() {
    let world = ready();
    let member = world.member(&[]);
    let (path, before) = (world.writable(DATABASE), database(&world));
    for number in [9, 15] {
        let killed = json!({ "path": path, "data": canary::encode_standard(b"half"), "number": number });
        assert_eq!(member.ask("die_writing", killed), Ok(json!(number)));
        assert_eq!((member.cat(&path), newest(&world)), (Ok(before.clone()), 1));
    }
    let denied = told(&world, "write.deny");
    assert_eq!(
        denied.iter().filter(|line| record::reason(line) == "writer_killed").count(),
        2,
        "{denied:#?}"
    );
    // Who ends without a close has closed.
    let script =
        "import os, sys\nos.write(os.open(sys.argv[1], os.O_WRONLY | os.O_TRUNC), b'whole')\nos._exit(3)";
    let (code, _, _) = member.run(&["python3", "-c", script, path.to_str().expect("a path")]);
    assert_eq!((code, member.cat(&path), newest(&world)), (3, Ok(b"whole".to_vec()), 2));
}

#[test]
fn what_others_close_stores_nothing_by_halves() {
    let world = ready();
    let member = world.member(&[]);
    let path = world.writable(DATABASE);
    let fd = open(&member, &path, "empty").expect("open");
    write(&member, fd, b"first ").expect("written");
    // A child that closes what it inherited, and one that ends with it.
    let child = member.child("fork");
    assert_eq!(close(&child, fd), Ok(()));
    assert_eq!(member.ask("fork_and_exit", json!({})), Ok(json!(0)));
    assert_eq!(newest(&world), 1);
    write(&member, fd, b"second").expect("written");
    assert_eq!(close(&member, fd), Ok(()));
    assert_eq!((newest(&world), revealed(&world, "db/url")), (2, b"first second".to_vec()));
    // The opener is done with it, and its child writes: the last close stores.
    let script = "import subprocess, sys\nf = open(sys.argv[1], 'a')\n\
                  p = subprocess.Popen(['sh', '-c', 'read x; echo late'], stdout=f, stdin=subprocess.PIPE)\n\
                  f.close()\np.communicate(b'go')";
    let (code, _, errors) = member.run(&["python3", "-c", script, path.to_str().expect("a path")]);
    assert_eq!((code, errors.as_str()), (0, ""));
    eventually("the last close stores", SOON, || newest(&world) == 3);
    assert_eq!(revealed(&world, "db/url"), b"first secondlate\n");
    let by = told(&world, "write.allow");
    assert_eq!(by.last().map(|line| record::text(line, "comm").to_owned()), Some("sh".into()), "{by:#?}");
}

#[test]
fn a_withdrawal_wipes_what_was_written_and_refuses_the_close() {
    let world = ready();
    let member = world.member(&[]);
    let path = world.writable(DATABASE);
    let fds: Vec<u64> =
        ["empty", "read_write"].iter().map(|how| open(&member, &path, how).expect("open")).collect();
    for fd in &fds {
        write(&member, *fd, b"never").expect("written");
    }
    world.kin(["revoke", "--all"]).run().exits(0);
    assert_eq!(write(&member, fds[0], b"more"), Err(REFUSED));
    assert_eq!(member.ask("fsync", json!({ "fd": fds[1] })), Err(REFUSED));
    for fd in fds {
        assert_eq!(close(&member, fd), Err(REFUSED));
    }
    assert_eq!(newest(&world), 1);
    let reasons: Vec<_> =
        told(&world, "write.deny").iter().map(|line| record::reason(line).to_owned()).collect();
    assert!(!reasons.is_empty() && reasons.iter().all(|reason| reason == "revoked"), "{reasons:?}");
}

#[test]
fn a_locked_vault_takes_nothing_and_says_so_at_the_close() {
    let world = ready();
    world.kin(["stop"]).run().exits(0);
    world.configure("[vault]\nauto_lock = \"1s\"\n");
    world.kin(["daemon"]).run().exits(0);
    world.kin(["unlock"]).run().exits(0);
    let member = world.member(&[]);
    let path = world.writable(DATABASE);
    let fd = open(&member, &path, "empty").expect("open");
    write(&member, fd, b"never").expect("written");
    eventually("the vault locks itself", Duration::from_secs(10), || {
        world.status()["vault"]["state"] == "suspended"
    });
    assert_eq!(close(&member, fd), Err(Errno::ENOKEY));
    assert_eq!(open(&member, &path, "empty"), Err(Errno::ENOKEY));
    world.kin(["unlock"]).run().exits(0);
    assert_eq!((newest(&world), put(&member, &path, b"after")), (1, Ok(())));
    assert_eq!(revealed(&world, "db/url"), b"after");
}

mod needs_root {
    use super::*;

    #[test]
    fn a_full_disk_is_said_at_the_close_and_changes_nothing() {
        kin_tests::needs_root();
        let world = World::new();
        let directory = world.path("kin/data");
        std::fs::create_dir(&directory).expect("a directory");
        world.mount_disk(&directory, "1m");
        let world = world.initialised().with_secrets();
        world.manifest(MANIFEST);
        world.trust();
        let member = world.member(&[]);
        let fd = open(&member, &world.writable(DATABASE), "empty").expect("open");
        write(&member, fd, &vec![b'x'; 400_000]).expect("written");
        let full = directory.join("ballast");
        let mut ballast = std::fs::File::create(&full).expect("a file");
        while std::io::Write::write(&mut ballast, &[0; 512]).is_ok() {}
        assert_eq!(close(&member, fd), Err(Errno::ENOSPC));
        drop(ballast);
        std::fs::remove_file(full).expect("removed");
        assert_eq!((newest(&world), revealed(&world, "db/url")), (1, database(&world)));
        let failed = told(&world, "write.fail");
        assert_eq!(failed.len(), 1, "{failed:#?}");
        assert_eq!((record::reason(&failed[0]), &failed[0]["version"]), ("disk_full", &json!(2)));
        assert_eq!(put(&member, &world.writable(DATABASE), b"now"), Ok(()));
        assert_eq!(newest(&world), 2);
    }
}

#[test]
fn what_cannot_be_recorded_is_not_stored() {
    let world = ready();
    let member = world.member(&[]);
    let fd = open(&member, &world.writable(DATABASE), "empty").expect("open");
    write(&member, fd, b"never").expect("written");
    // No file of the broker's may become larger than the record is.
    let size = std::fs::metadata(world.log_file()).expect("the record").len();
    let limit = |size: &str| {
        let pid = world.broker().pid.to_string();
        world.other("prlimit", ["--pid", &pid, &format!("--fsize={size}:")]).run().exits(0);
    };
    limit(&size.to_string());
    assert_eq!(close(&member, fd), Err(Errno::EIO));
    limit("unlimited");
    assert_eq!((newest(&world), revealed(&world, "db/url")), (1, database(&world)));
    assert_eq!(put(&member, &world.writable(DATABASE), b"recorded"), Ok(()));
    assert_eq!(newest(&world), 2);
}

#[test]
fn an_old_version_comes_back_and_nobody_sees_it() {
    let world = ready();
    let member = world.member(&[]);
    let before = database(&world);
    assert_eq!(put(&member, &world.writable(DATABASE), b"broken"), Ok(()));
    let said = world.kin(["history", "db/url"]).run().exits(0).text();
    assert!(said.contains("WRITTEN BY") && said.contains("grant "), "{said}");
    world.kin(["rotate", "db/url", "--from-version", "1"]).run().exits(0);
    assert_eq!((newest(&world), member.cat(&world.writable(DATABASE))), (3, Ok(before)));
    let written = told(&world, "vault.write");
    assert_eq!(written.last().map(|line| record::reason(line).to_owned()), Some("from version 1".into()));
    world.kin(["rotate", "db/url", "--from-version", "9"]).run().refuses(2, &["no version 9"]);
    world.kin(["rotate", "db/url", "--from-version", "1", "--stdin"]).run().exits(2);
    let inside = member.run(&[
        kin_tests::binary().to_str().expect("a path"),
        "rotate",
        "db/url",
        "--from-version",
        "1",
    ]);
    assert_eq!(inside.0, 5, "{}", inside.2);
}

#[test]
fn a_writable_file_at_its_real_path_is_written_there() {
    let world = ready();
    let member = world.member(&["--private"]);
    let real = world.project().join(".database");
    assert_eq!(member.cat(&real), Ok(database(&world)));
    assert_eq!(put(&member, &real, b"written there"), Ok(()));
    assert_eq!(
        (member.cat(&real), member.cat(&world.file(DATABASE))),
        (Ok(b"written there".to_vec()), Ok(b"written there".to_vec()))
    );
    assert_eq!(history(&world)[0].0, 2);
    assert_eq!(open(&member, &world.file(DATABASE), "empty"), Err(Errno::EROFS));
    // A bound file cannot be replaced.
    let temporary = world.project().join("temporary");
    assert_eq!(
        member.ask("put", json!({ "path": temporary, "data": "eA==", "how": "new" })),
        Ok(Value::Null)
    );
    assert_eq!(member.ask("rename", json!({ "old": temporary, "new": real })), Err(Errno::EBUSY));
    std::fs::remove_file(temporary).expect("removed");
    assert!(member.finish().success());
    assert!(!real.exists());
}

#[test]
fn a_command_is_not_told_of_what_its_own_tree_wrote() {
    let world = ready();
    let member = world.member(&["--on-rotate", "USR1"]);
    member.ask("count_signals", json!({ "number": 10 })).expect("a handler");
    assert_eq!(put(&member, &world.writable(DATABASE), b"own"), Ok(()));
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(member.ask("counted_signals", json!({})), Ok(json!(0)));
    let other = world.member(&[]);
    assert_eq!(put(&other, &world.writable(DATABASE), b"another's"), Ok(()));
    eventually("it is told", Duration::from_secs(10), || {
        member.ask("counted_signals", json!({})) == Ok(json!(1))
    });
}

#[test]
fn nested_runs_write_what_the_outer_one_may_and_their_own_files() {
    let world = ready();
    let outer = world.member(&[]);
    let inner = outer.spawn(&world.run_line(&[]).iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(put(&inner, &world.writable(DATABASE), b"inner"), Ok(()));
    assert_eq!(outer.cat(&world.writable(DATABASE)), Ok(b"inner".to_vec()));
    inner.dismiss();
    assert_eq!(put(&outer, &world.writable(DATABASE), b"outer"), Ok(()));
    let limited = world.member(&["--max-opens", "1"]);
    assert_eq!(put(&limited, &world.writable(DATABASE), b"once"), Ok(()));
    assert_eq!(put(&limited, &world.writable(DATABASE), b"twice"), Err(REFUSED));
    assert_eq!(revealed(&world, "db/url"), b"once");
}

fn beside(world: &World, name: &str) -> std::path::PathBuf {
    world.writable_mountpoint().join("api").join(name)
}

fn rename(actor: &dyn Actor, old: &Path, new: &Path) -> Result<Value, Errno> {
    actor.ask("rename", json!({ "old": old, "new": new }))
}

both! {
    fn a_file_beside_takes_the_name_and_is_the_next_version(identity) {
        let world = ready_with(identity);
        let (member, next) = (world.member(&[]), world.canary().into_bytes());
        let (path, temporary) = (world.writable(DATABASE), beside(&world, ".database.tmp"));
        let inode = member.stat(&path).expect("stat")["ino"].clone();
        let reader = open(&member, &path, "read").expect("open");
        let fd = open(&member, &temporary, "new").expect("a file");
        write(&member, fd, &next).expect("written");
        assert_eq!(member.pread(fd, 100, 0), Ok(next.clone()));
        assert_eq!(member.ask("fsync", json!({ "fd": fd })), Ok(Value::Null));
        assert_eq!(member.ask("fstat", json!({ "fd": fd })).expect("stat")["size"], next.len());
        assert_eq!(newest(&world), 1);
        assert_eq!(rename(&member, &temporary, &path), Ok(Value::Null));
        assert_eq!((member.cat(&path), member.cat(&temporary)), (Ok(next.clone()), Err(Errno::ENOENT)));
        assert_eq!(member.stat(&path).expect("stat")["ino"], inode);
        assert_eq!((newest(&world), revealed(&world, "db/url")), (2, next));
        assert_eq!(member.pread(reader, 100, 0), Ok(database(&world)));
        // It is the vault's now, and no file to write any more.
        assert_eq!(write(&member, fd, b"more"), Err(Errno::EROFS));
        assert_eq!(close(&member, fd), Ok(()));
        let written = told(&world, "write.allow");
        let [line] = &written[..] else { panic!("{written:#?}") };
        assert_eq!((record::text(line, "op"), &line["version"]), ("rename", &json!(2)));
    }

    fn a_file_beside_is_its_grants_alone(identity) {
        let world = ready_with(identity);
        let (member, other, outsider) = (world.member(&[]), world.member(&[]), world.outsider());
        let (lock, directory) = (beside(&world, "config.lock"), world.writable_mountpoint().join("api"));
        let fd = open(&member, &lock, "new").expect("a lock");
        write(&member, fd, b"mine").expect("written");
        // For the whole tree, once.
        let child = member.child("fork");
        assert_eq!(open(&child, &lock, "new"), Err(Errno::EEXIST));
        assert_eq!(child.cat(&lock), Ok(b"mine".to_vec()));
        assert_eq!(child.list(&directory), Ok(vec![DATABASE.into(), "config.lock".into()]));
        // For nobody else: another grant has a lock of its own.
        assert_eq!((other.cat(&lock), other.list(&directory)), (Err(Errno::ENOENT), Ok(vec![DATABASE.into()])));
        assert_eq!((outsider.cat(&lock), outsider.stat(&lock)), (Err(REFUSED), Err(REFUSED)));
        assert_eq!(open(&outsider, &beside(&world, "x"), "new"), Err(REFUSED));
        assert!(open(&other, &lock, "new").is_ok());
        assert_eq!(member.cat(&lock), Ok(b"mine".to_vec()));
        assert_eq!(other.cat(&lock), Ok(Vec::new()));
        assert_eq!(member.ask("unlink", json!({ "path": lock })), Ok(Value::Null));
        assert_eq!(member.ask("unlink", json!({ "path": lock })), Err(Errno::ENOENT));
        assert_eq!((member.cat(&lock), member.pread(fd, 9, 0)), (Err(Errno::ENOENT), Ok(b"mine".to_vec())));
        assert!(open(&member, &lock, "new").is_ok());
        assert_eq!(newest(&world), 1);
    }
}

#[test]
fn nothing_but_a_writable_file_is_replaced() {
    let world = ready();
    let member = world.member(&[]);
    let (path, temporary) = (world.writable(DATABASE), beside(&world, "temporary"));
    put_new(&member, &temporary, b"content");
    assert_eq!(rename(&member, &temporary, &beside(&world, API)), Err(Errno::EROFS));
    assert_eq!(rename(&member, &path, &beside(&world, API)), Err(Errno::EROFS));
    assert_eq!(member.ask("unlink", json!({ "path": path })), Err(Errno::EROFS));
    assert!(matches!(rename(&member, &temporary, &world.file(DATABASE)), Err(Errno::EXDEV | Errno::EROFS)));
    assert!(matches!(rename(&member, &temporary, &world.path("outside")), Err(Errno::EXDEV)));
    assert!(open(&member, &beside(&world, "-x"), "new").is_err_and(|errno| errno == Errno::EINVAL));
    assert!(open(&member, &world.writable_mountpoint().join("x"), "new").is_err());
    // Among themselves they change names.
    put_new(&member, &beside(&world, "second"), b"second");
    assert_eq!(rename(&member, &temporary, &beside(&world, "second")), Ok(Value::Null));
    assert_eq!(
        (member.cat(&beside(&world, "second")), member.cat(&temporary)),
        (Ok(b"content".to_vec()), Err(Errno::ENOENT))
    );
    // So many, and so large.
    let made = (0..100).map(|number| open(&member, &beside(&world, &format!("n{number}")), "new"));
    let made: Vec<_> = made.collect();
    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 63, "{made:?}");
    assert_eq!(made.last(), Some(&Err(Errno::ENOSPC)));
    let fd = *made[0].as_ref().expect("a file");
    write(&member, fd, &vec![b'x'; 1 << 20]).expect("written");
    assert_eq!(write(&member, fd, b"y"), Err(Errno::EFBIG));
    assert_eq!(newest(&world), 1);
    assert_eq!(revealed(&world, "api/key"), world.value("api/key"));
}

fn put_new(actor: &dyn Actor, path: &Path, bytes: &[u8]) {
    let data = canary::encode_standard(bytes);
    actor.ask("put", json!({ "path": path, "data": data, "how": "new" })).expect("a file");
}

both! {
    fn what_is_renamed_away_is_a_copy_and_the_vault_keeps_it(identity) {
        let world = ready_with(identity);
        let (member, other) = (world.member(&[]), world.member(&[]));
        let (path, backup, before) = (world.writable(DATABASE), beside(&world, "backup"), database(&world));
        assert_eq!(rename(&member, &path, &backup), Ok(Value::Null));
        assert_eq!((member.cat(&path), member.cat(&backup)), (Err(Errno::ENOENT), Ok(before.clone())));
        assert_eq!(member.list(path.parent().expect("a directory")), Ok(vec!["backup".to_owned()]));
        assert_eq!(rename(&member, &path, &backup), Err(Errno::ENOENT));
        // For others nothing happened.
        assert_eq!((other.cat(&path), member.cat(&world.file(DATABASE))), (Ok(before.clone()), Ok(before.clone())));
        assert_eq!((newest(&world), revealed(&world, "db/url")), (1, before.clone()));
        // Back again.
        assert_eq!(rename(&member, &backup, &path), Ok(Value::Null));
        assert_eq!((member.cat(&path), newest(&world)), (Ok(before), 1));
        // Or another in its place, made new or by a rename.
        assert_eq!(rename(&member, &path, &backup), Ok(Value::Null));
        put_new(&member, &path, b"made new");
        assert_eq!((member.cat(&path), newest(&world)), (Ok(b"made new".to_vec()), 2));
        assert_eq!(rename(&member, &path, &backup), Ok(Value::Null));
        assert_eq!(member.cat(&backup), Ok(b"made new".to_vec()));
        put_new(&member, &beside(&world, "next"), b"renamed");
        assert_eq!(rename(&member, &beside(&world, "next"), &path), Ok(Value::Null));
        assert_eq!((member.cat(&path), newest(&world)), (Ok(b"renamed".to_vec()), 3));
        // An outsider moves nothing, and a grant that ends half-way has changed nothing.
        assert_eq!(rename(&world.outsider(), &path, &backup), Err(REFUSED));
        assert_eq!(rename(&member, &path, &backup), Ok(Value::Null));
        assert!(member.finish().success());
        assert_eq!((other.cat(&path), newest(&world)), (Ok(b"renamed".to_vec()), 3));
    }
}

#[test]
fn files_beside_go_with_their_grant() {
    let world = ready();
    let (member, temporary) = (world.member(&[]), beside(&world, "temporary"));
    let fd = open(&member, &temporary, "new").expect("a file");
    write(&member, fd, world.canary().as_bytes()).expect("written");
    let other = world.member(&[]);
    world.kin(["revoke", &world.grants()[0]["id"].as_str().expect("an id")[..16]]).run().exits(0);
    assert_eq!(member.pread(fd, 9, 0), Err(REFUSED));
    assert_eq!(write(&member, fd, b"x"), Err(REFUSED));
    assert_eq!(rename(&member, &temporary, &world.writable(DATABASE)), Err(REFUSED));
    assert_eq!(member.ask("unlink", json!({ "path": temporary })), Err(REFUSED));
    assert_eq!(other.list(&world.writable_mountpoint().join("api")), Ok(vec![DATABASE.to_owned()]));
    assert_eq!(newest(&world), 1);
}

#[test]
fn programs_that_write_a_credential_back_do() {
    let world = ready();
    let member = world.member(&[]);
    let path = world.writable(DATABASE);
    let file = path.to_str().expect("a path");
    let sh = |script: &str| {
        let (code, output, errors) = member.run(&["sh", "-c", script, file]);
        assert_eq!(code, 0, "{script}: {errors}{}", String::from_utf8_lossy(&output));
    };
    let content = || String::from_utf8(revealed(&world, "db/url")).expect("text");
    let mut versions = newest(&world);
    let mut stored = |more: u64, what: &str| {
        versions += more;
        assert_eq!(newest(&world), versions, "{what}");
    };
    // A lock beside it, and a rename.
    sh("printf '' > \"$0\"");
    stored(1, "emptied");
    sh(
        "printf 'protocol=https\\nhost=a.example\\nusername=me\\npassword=pw\\n\\n' | git credential-store --file \"$0\" store",
    );
    assert_eq!(content(), "https://me:pw@a.example\n");
    stored(1, "git credential-store");
    sh(
        "printf 'protocol=https\\nhost=a.example\\n\\n' | git credential-store --file \"$0\" get | grep -qx password=pw",
    );
    sh(": > \"$0\"; git config --file \"$0\" user.token one");
    assert_eq!(content(), "[user]\n\ttoken = one\n");
    stored(2, "git config");
    // A file of another name, and a rename.
    sh("sed -i 's/one/two/' \"$0\"");
    assert_eq!(content(), "[user]\n\ttoken = two\n");
    stored(1, "sed -i");
    sh("perl -pi -e 's/two/three/' \"$0\" 2>/dev/null || sed -i 's/two/three/' \"$0\"");
    assert_eq!(content(), "[user]\n\ttoken = three\n");
    let replace = "import json, os, sys, tempfile\np = sys.argv[1]\n\
                   fd, name = tempfile.mkstemp(dir=os.path.dirname(p))\n\
                   with os.fdopen(fd, 'w') as f:\n    json.dump({'token': 'four'}, f)\n    f.flush()\n    os.fsync(f.fileno())\n\
                   os.chmod(name, 0o600)\nos.replace(name, p)";
    let (code, _, errors) = member.run(&["python3", "-c", replace, file]);
    assert_eq!((code, errors.as_str()), (0, ""));
    assert_eq!(content(), "{\"token\": \"four\"}");
    // In place.
    let (code, _, errors) = member.run(&[
        "python3",
        "-c",
        "import json, sys\njson.dump({'token': 'five'}, open(sys.argv[1], 'w'))",
        file,
    ]);
    assert_eq!((code, errors.as_str()), (0, ""));
    assert_eq!(content(), "{\"token\": \"five\"}");
    sh(
        "cp /etc/hostname \"$0\"; printf six | tee \"$0\" >/dev/null; printf x | dd of=\"$0\" conv=notrunc status=none",
    );
    assert_eq!(content(), "xix");
    let key = world.path("home/key");
    let key = key.to_str().expect("a path");
    let (code, _, errors) = member.run(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key]);
    assert_eq!(code, 0, "{errors}");
    sh(&format!(
        "cat {key} > \"$0\" && rm {key} && ssh-keygen -q -p -P '' -N phrase -f \"$0\" && ssh-keygen -y -P phrase -f \"$0\" | diff - {key}.pub -b >/dev/null || true"
    ));
    assert_eq!(member.run(&["ssh-keygen", "-y", "-P", "phrase", "-f", file]).0, 0);
    assert_ne!(member.run(&["ssh-keygen", "-y", "-P", "", "-f", file]).0, 0);
    // Nothing is left beside it.
    assert_eq!(member.list(path.parent().expect("a directory")), Ok(vec![DATABASE.to_owned()]));
}

#[test]
fn a_pinned_program_alone_writes_also_where_it_ends_without_a_close() {
    let world = ready();
    let python = std::fs::canonicalize("/usr/bin/python3").expect("python");
    let digest = world.other("sha256sum", [&python]).run().exits(0).text();
    let exe = format!("exe = {{ path = \"{}\", sha256 = \"{}\" }}, ", python.display(), &digest[..64]);
    world.manifest(&MANIFEST.replace("writable = true, ", &format!("writable = true, {exe}")));
    world.trust();
    let member = world.member(&[]);
    let path = world.writable(DATABASE);
    let file = path.to_str().expect("a path");
    assert_eq!(put(&member, &path, b"by python"), Ok(()));
    assert_ne!(member.run(&["dd", "if=/etc/hostname", &format!("of={file}"), "status=none"]).0, 0);
    assert_ne!(member.run(&["sh", "-c", "echo x > \"$0\"", file]).0, 0);
    assert_eq!(revealed(&world, "db/url"), b"by python");
    let script =
        "import os, sys\nos.write(os.open(sys.argv[1], os.O_WRONLY | os.O_TRUNC), b'and gone')\nos._exit(0)";
    assert_eq!(member.run(&["python3", "-c", script, file]).0, 0);
    assert_eq!(revealed(&world, "db/url"), b"and gone");
    let script = "import os, sys\nfd = os.open(sys.argv[1], os.O_WRONLY | os.O_TRUNC)\nos.set_inheritable(fd, True)\n\
                  os.execv('/bin/sh', ['sh', '-c', f'echo evil >&{fd}'])";
    assert_ne!(member.run(&["python3", "-c", script, file]).0, 0);
    assert_ne!(revealed(&world, "db/url"), b"evil\n");
    // Another program's file takes no name that is pinned.
    assert_eq!(member.run(&["sh", "-c", "echo x > \"$0.tmp\"", file]).0, 0);
    assert_ne!(member.run(&["mv", "-f", &format!("{file}.tmp"), file]).0, 0);
    let reasons: Vec<_> =
        told(&world, "write.deny").iter().map(|line| record::reason(line).to_owned()).collect();
    assert!(reasons.contains(&"exe_hash_mismatch".to_owned()), "{reasons:?}");
}

#[test]
fn the_record_tells_who_wrote_from_who_was_delivered_something() {
    let world = ready();
    let member = world.member(&[]);
    assert_eq!(put(&member, &world.writable(DATABASE), b"written"), Ok(()));
    let exposed = |what: &str| {
        let said = world.kin(["audit", "--exposed", what, "--json"]).run().exits(0).json();
        said["exposed"].as_array().map_or(0, Vec::len)
    };
    assert_eq!((exposed("db/url"), exposed("db/url@2")), (0, 0));
    let grant = world.grants()[0]["id"].as_str().expect("an id").to_owned();
    let tree = world.kin(["audit", "--json", "--tree", &grant]).run().exits(0).json();
    let file = &tree["processes"][0]["children"][0]["files"][0];
    assert_eq!((&file["file"], &file["opens"], &file["writes"]), (&json!(DATABASE), &json!(1), &json!(1)));
    assert!(world.kin(["audit", "--tree", &grant]).run().exits(0).text().contains("written × 1"));
    assert_eq!(member.cat(&world.writable(DATABASE)), Ok(b"written".to_vec()));
    assert_eq!((exposed("db/url@1"), exposed("db/url@2")), (0, 1));
}

#[test]
fn r15_a_value_that_was_written_back_is_masked_like_any_other() {
    let world = ready();
    let (script, token) = ("cat > \"$DATABASE_FILE\"; cat \"$DATABASE_FILE\"", world.canary());
    let run = world.kin(["run", "--redact", "--", "sh", "-c", script]).input(token.clone()).run().exits(0);
    assert!(!run.text().contains(&token) && !run.text().is_empty(), "{run}");
    assert_eq!(revealed(&world, "db/url"), token.into_bytes());
}
