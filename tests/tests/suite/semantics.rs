//! Are the files true files? What programs may rely on.

use std::time::Duration;

use kin_tests::{Actor, World};
use nix::errno::Errno;
use serde_json::{Value, json};

use crate::{API, DATABASE, database};

#[test]
fn a_file_looks_right_before_it_is_opened() {
    let world = World::ready();
    let member = world.member(&[]);
    let facts = member.stat(&world.file(DATABASE)).expect("stat");
    assert_eq!(facts["size"], database(&world).len());
    assert_eq!(facts["mode"], 0o100_400);
    assert_eq!(facts["uid"], nix::unistd::getuid().as_raw());
    assert_eq!(facts["gid"], nix::unistd::getgid().as_raw());
    assert_eq!(facts["nlink"], 1);
    let fd = member.open(&world.file(DATABASE)).expect("open");
    let opened = member.ask("fstat", json!({ "fd": fd })).expect("fstat");
    assert_eq!(opened, facts);
    let directory = member.stat(&world.mountpoint().join("api")).expect("stat");
    assert_eq!((&directory["mode"], &directory["uid"]), (&json!(0o040_500), &facts["uid"]));
    let root = member.stat(&world.mountpoint()).expect("stat");
    assert_eq!(root["mode"], 0o040_500);
}

#[test]
fn times_and_inodes_are_stable() {
    let world = World::ready();
    let (one, other) = (world.member(&[]), world.member(&[]));
    let facts = |probe: &dyn Actor, name: &str| {
        let all = probe.stat(&world.file(name)).expect("stat");
        (all["ino"].clone(), all["mtime_ns"].clone())
    };
    let first = facts(&one, DATABASE);
    assert!(one.cat(&world.file(DATABASE)).is_ok());
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(facts(&one, DATABASE), first);
    assert_eq!(facts(&other, DATABASE), first);
    assert_ne!(facts(&one, API).0, first.0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("now").as_nanos();
    let made = first.1.as_u64().expect("a time");
    assert!(u128::from(made) <= now && now - u128::from(made) < 60_000_000_000, "{made}");
    world.secret("db/url");
    let newer = facts(&one, DATABASE);
    assert!(newer.1.as_u64() > first.1.as_u64(), "a new version is newer: {newer:?}");
}

#[test]
fn a_file_can_be_sought_and_read_again_by_many() {
    let world = World::ready();
    let (one, other) = (world.member(&[]), world.member(&[]));
    let content = database(&world);
    let fd = one.open(&world.file(DATABASE)).expect("open");
    let seek =
        |offset: i64, whence: i32| one.ask("lseek", json!({ "fd": fd, "offset": offset, "whence": whence }));
    let read = |size: usize| {
        let data = one.ask("read", json!({ "fd": fd, "size": size })).expect("read");
        kin_tests::canary::decode(data.as_str().expect("bytes"))
    };
    assert_eq!(read(1 << 16), content);
    assert_eq!(read(1 << 16), b"");
    assert_eq!(seek(10, 0), Ok(json!(10)));
    assert_eq!(read(5), content[10..15]);
    assert_eq!(seek(0, 1), Ok(json!(15)));
    assert_eq!(seek(-3, 2), Ok(json!(content.len() - 3)));
    assert_eq!(read(100), content[content.len() - 3..]);
    assert_eq!(seek(-1, 0), Err(Errno::EINVAL));
    let fds: Vec<u64> = (0..50).map(|_| other.open(&world.file(DATABASE)).expect("open")).collect();
    for fd in fds {
        assert_eq!(other.pread(fd, 100, 0), Ok(content.clone()));
    }
}

#[test]
fn copying_tools_give_exact_bytes() {
    let world = World::ready();
    let value: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8 | 1).collect();
    world.set("db/url", &value);
    let member = world.member(&[]);
    let (source, copy) = (world.file(DATABASE), world.path("copy"));
    let (source, copy) = (source.to_str().expect("a path"), copy.to_str().expect("a path"));
    let to_stdout = [
        "cat \"$0\"",
        "dd if=\"$0\" bs=1 status=none",
        "dd if=\"$0\" bs=1M status=none",
        "tail -c +1 \"$0\"",
        "head -c 200000 \"$0\"",
        "tar -C \"$(dirname \"$0\")\" -cf - DATABASE_URL | tar -xOf -",
        "python3 -c 'import sys; sys.stdout.buffer.write(open(sys.argv[1], \"rb\").read())' \"$0\"",
        "exec 5<\"$0\"; cat <&5",
        "cat < \"$0\"",
        "base64 < \"$0\" | base64 -d",
    ];
    for script in to_stdout {
        let (code, output, errors) = member.run(&["sh", "-c", script, source]);
        assert_eq!((code, errors.as_str()), (0, ""), "{script}");
        assert!(output == value, "{script}: {} bytes", output.len());
    }
    let to_file = [
        "cp \"$0\" \"$1\"",
        "cp --reflink=never \"$0\" \"$1\"",
        "cp --sparse=never \"$0\" \"$1\"",
        "install -m 600 \"$0\" \"$1\"",
        "python3 -c 'import shutil, sys; shutil.copy(*sys.argv[1:])' \"$0\" \"$1\"",
        "python3 -c 'import shutil, sys; shutil.copyfile(*sys.argv[1:])' \"$0\" \"$1\"",
    ];
    let node = std::path::Path::new("/usr/bin/node").exists();
    let nodes = "node -e 'require(\"fs\").copyFileSync(...process.argv.slice(1))' \"$0\" \"$1\"";
    for script in to_file.into_iter().chain(node.then_some(nodes)) {
        let (code, _, errors) = member.run(&["sh", "-c", script, source, copy]);
        assert_eq!((code, errors.as_str()), (0, ""), "{script}");
        assert!(std::fs::read(copy).expect("the copy") == value, "{script}");
        std::fs::remove_file(copy).expect("removed");
    }
    let (code, output, _) = member.run(&["tail", "-c", "7", source]);
    assert_eq!((code, &output[..]), (0, &value[value.len() - 7..]));
    let (code, output, _) = member.run(&["wc", "-c", source]);
    assert!(code == 0 && String::from_utf8_lossy(&output).starts_with("100000 "));
    assert_eq!(member.run(&["cmp", source, source]).0, 0);
}

#[test]
fn a_new_version_shows_at_the_next_open_and_never_in_an_open_handle() {
    let world = World::ready();
    let member = world.member(&[]);
    let old = database(&world);
    let fd = member.open(&world.file(DATABASE)).expect("open");
    assert_eq!(member.pread(fd, 10, 0), Ok(old[..10].to_vec()));
    let new = world.secret("db/url").into_bytes();
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(new.clone()));
    assert_eq!(member.pread(fd, 1000, 10), Ok(old[10..].to_vec()));
    world.set("db/url", b"short");
    assert_eq!(member.stat(&world.file(DATABASE)).expect("stat")["size"], 5);
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(b"short".to_vec()));
    assert_eq!(member.pread(fd, 1000, 0), Ok(old));
}

#[test]
fn b12_a_reader_sees_whole_old_or_whole_new_values() {
    let world = World::ready();
    let values = [vec![b'a'; 256 << 10], vec![b'b'; 256 << 10]];
    world.set("db/url", &values[0]);
    let member = world.member(&[]);
    let expected: Vec<String> =
        values.iter().map(|value| kin_tests::canary::encode_standard(value)).collect();
    let path = world.file(DATABASE);
    let reader = std::thread::spawn(move || {
        let seen = member.ask("watch_values", json!({ "path": path, "expected": expected, "times": 150 }));
        (member, seen)
    });
    let mut round = 0;
    while !reader.is_finished() {
        round += 1;
        world.set("db/url", &values[round % 2]);
    }
    let (_member, seen) = reader.join().expect("no panic");
    let seen: Value = seen.expect("an answer");
    assert_eq!(seen["wrong"], 0, "{seen} after {round} rotations");
}

#[test]
fn names_beside_a_file_are_absent_for_a_member() {
    let world = World::ready();
    let member = world.member(&[]);
    for name in ["DATABASE_URL.pub", "DATABASE_URL-cert.pub", ".git", "DATABASE_URL.lock", "database_url"] {
        assert_eq!(member.stat(&world.file(name)), Err(Errno::ENOENT), "{name}");
        assert_eq!(member.cat(&world.file(name)), Err(Errno::ENOENT), "{name}");
    }
    let below = world.file(DATABASE).join("x");
    assert_eq!(member.stat(&below), Err(Errno::ENOTDIR));
}

#[test]
fn a_removed_secret_is_gone_for_new_opens() {
    let world = World::ready();
    let member = world.member(&[]);
    assert!(member.cat(&world.file(DATABASE)).is_ok());
    world.kin(["rm", "db/url", "--yes"]).run().exits(0);
    assert!(member.cat(&world.file(DATABASE)).is_err());
    assert_eq!(member.cat(&world.file(API)), Ok(world.value("api/key")));
}
