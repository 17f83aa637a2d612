//! Does a value leave by another way than a read that was decided? Descriptors, mappings, the surface.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use io_uring::{IoUring, opcode, types};
use kin_tests::{Actor, Identity, Probe, World, canary, record};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{API, DATABASE, REFUSED, database};

/// Everything by which an open descriptor gives up bytes.
const WAYS: [&str; 5] = ["read", "sendfile", "splice", "copy_range", "map"];

/// Hands an open descriptor from one process to another.
fn pass(world: &World, fd: u64, from: &dyn Actor, to: &dyn Actor) -> u64 {
    let socket = world.path(&format!("pass{fd}"));
    to.ask("listen", json!({ "path": socket })).expect("a socket");
    from.ask("send", json!({ "fd": fd, "path": socket })).expect("sent");
    let received = to.ask("receive", json!({ "path": socket })).expect("received");
    let _ = std::fs::remove_file(socket);
    received.as_u64().expect("a descriptor")
}

fn by(actor: &dyn Actor, way: &str, fd: u64) -> Result<Value, Errno> {
    match way {
        "map" => actor.ask("map", json!({ "fd": fd, "shared": false })),
        way => actor.ask(way, json!({ "fd": fd })),
    }
}

/// Whether bytes came out, which ends in neither an errno nor a signal nor nothing at all.
fn gave_bytes(answer: &Result<Value, Errno>) -> bool {
    answer.as_ref().is_ok_and(|value| value.as_str().is_some_and(|text| !text.is_empty()))
}

both! {
    fn b01_a_passed_descriptor_reads_nothing(identity) {
        let world = World::ready_with(identity);
        let (member, outsider) = (world.member(&[]), world.outsider());
        let fd = member.open(&world.file(DATABASE)).expect("open");
        assert_eq!(member.pread(fd, 100, 0), Ok(database(&world)));
        let passed = pass(&world, fd, &member, &outsider);
        assert_eq!(outsider.pread(passed, 100, 0), Err(REFUSED));
        assert_eq!(outsider.ask("read", json!({ "fd": passed })), Err(REFUSED));
        // Another grant of the same project is another reader too.
        let other = world.member(&[]);
        let passed = pass(&world, fd, &member, &other);
        assert_eq!(other.pread(passed, 100, 0), Err(REFUSED));
        let records = world.audit();
        for reader in [outsider.pid(), other.pid()] {
            let lines = record::by(&records, reader.into());
            let denied = lines.iter().filter(|line| record::event(line) == "read.deny");
            let reasons: Vec<&str> = denied.map(|line| record::reason(line)).collect();
            assert!(!reasons.is_empty() && reasons.iter().all(|r| *r == "foreign_reader"), "{lines:#?}");
        }
    }
}

#[test]
fn b02_a_reopen_of_a_members_descriptor_is_an_open_of_the_outsider() {
    let world = World::ready();
    let (member, outsider) = (world.member(&[]), world.outsider());
    let fd = member.open(&world.file(DATABASE)).expect("open");
    let reopened = outsider.ask("reopen", json!({ "pid": member.pid(), "fd": fd }));
    assert_eq!(reopened, Err(REFUSED));
    let records = world.audit();
    assert!(
        record::by(&records, outsider.pid().into()).iter().any(|line| record::event(line) == "open.deny")
    );
}

#[test]
fn b03_a_path_descriptor_opens_nothing_for_an_outsider() {
    let world = World::ready();
    let (member, outsider) = (world.member(&[]), world.outsider());
    let fd = member.ask("open", json!({ "path": world.file(DATABASE), "how": "path" })).expect("O_PATH");
    let passed = pass(&world, fd.as_u64().expect("a descriptor"), &member, &outsider);
    let own = format!("/proc/self/fd/{passed}");
    assert_eq!(outsider.cat(Path::new(&own)), Err(REFUSED));
    assert_eq!(outsider.ask("fstat", json!({ "fd": passed })), Err(REFUSED));
}

#[test]
fn b04_every_read_asks_the_broker() {
    let world = World::ready();
    let (member, outsider) = (world.member(&[]), world.outsider());
    let fd = member.open(&world.file(DATABASE)).expect("open");
    for _ in 0..5 {
        assert_eq!(member.pread(fd, 100, 0), Ok(database(&world)));
    }
    assert_eq!(outsider.cat(&world.file(DATABASE)), Err(REFUSED));
    world.kin(["revoke", "--all"]).run().exits(0);
    for (size, offset) in [(100, 0), (1, 0), (1, 10), (4096, 0)] {
        assert_eq!(member.pread(fd, size, offset), Err(REFUSED));
    }
    assert_eq!(outsider.cat(&world.file(DATABASE)), Err(REFUSED));
}

#[test]
fn b05_the_page_cache_is_never_filled() {
    let world = World::ready();
    let member = world.member(&[]);
    let fd = member.open(&world.file(DATABASE)).expect("open");
    assert_eq!(member.ask("map", json!({ "fd": fd, "shared": true })), Err(Errno::ENODEV));
    let touched = member.ask("map", json!({ "fd": fd, "shared": false }));
    assert_eq!(touched, Ok(json!({ "signal": Signal::SIGBUS as i32 })));
    for way in ["sendfile", "splice"] {
        assert_eq!(by(&member, way, fd), Err(Errno::EINVAL), "{way}");
    }
    // Between file systems the kernel may refuse before it asks.
    let copied = by(&member, "copy_range", fd);
    assert!(matches!(copied, Err(Errno::EINVAL | Errno::EXDEV)), "{copied:?}");
    // Readahead may report what it likes; it must not bring bytes in.
    let _ = member.ask("willneed", json!({ "fd": fd }));
    assert_eq!(member.pread(fd, 100, 0), Ok(database(&world)));
    assert_eq!(by(&member, "sendfile", fd), Err(Errno::EINVAL));
}

#[test]
fn b14_no_way_around_a_read_gives_a_byte() {
    let world = World::ready();
    let (member, outsider) = (world.member(&[]), world.outsider());
    let fd = member.open(&world.file(DATABASE)).expect("open");
    let passed = pass(&world, fd, &member, &outsider);
    let tried = |when: &str, member_reads: bool| {
        for way in WAYS {
            let own = by(&member, way, fd);
            assert_eq!(
                gave_bytes(&own),
                member_reads && way == "read",
                "{when}: the member's {way}: {own:?}"
            );
            let foreign = by(&outsider, way, passed);
            assert!(!gave_bytes(&foreign), "{when}: the outsider's {way}: {foreign:?}");
            let _ = member.ask("lseek", json!({ "fd": fd, "offset": 0, "whence": 0 }));
        }
    };
    tried("while the grant lives", true);
    world.kin(["revoke", "--all"]).run().exits(0);
    tried("after it was revoked", false);
    world.crash();
    tried("after the broker was killed", false);
}

#[test]
fn b08_nothing_can_be_changed() {
    let world = World::ready();
    let (member, outsider) = (world.member(&[]), world.outsider());
    let (project, root) = (world.mountpoint().join("api"), world.mountpoint());
    let changes = [
        "write",
        "append",
        "read_write",
        "open_truncate",
        "create",
        "tmpfile",
        "unlink",
        "rename",
        "link",
        "symlink",
        "mkdir",
        "mknod",
        "chmod",
        "chown",
        "truncate",
        "utime",
    ];
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
    for kind in changes {
        let change = json!({ "kind": kind, "directory": project, "name": DATABASE });
        let tmpfile = kind == "tmpfile";
        let answer = member.ask("mutate", change.clone());
        assert!(
            answer == Err(Errno::EROFS) || tmpfile && answer == Err(Errno::EOPNOTSUPP),
            "{kind}: {answer:?}"
        );
        let answer = outsider.ask("mutate", change);
        let refusals = [Errno::EROFS, REFUSED, Errno::EOPNOTSUPP];
        assert!(answer.as_ref().is_err_and(|errno| refusals.contains(errno)), "{kind}: {answer:?}");
    }
    for kind in ["setxattr", "removexattr"] {
        let answer = member.ask("mutate", json!({ "kind": kind, "directory": project, "name": DATABASE }));
        assert!(matches!(answer, Err(Errno::EROFS | Errno::ENOTSUP)), "{kind}: {answer:?}");
    }
    let rmdir = member.ask("mutate", json!({ "kind": "rmdir", "directory": project, "name": "" }));
    assert_eq!(rmdir, Err(Errno::EROFS));
    let mkdir = member.ask("mutate", json!({ "kind": "mkdir", "directory": root, "name": "" }));
    assert!(matches!(mkdir, Err(Errno::EROFS | REFUSED)), "{mkdir:?}");
    assert_eq!(member.ask("execute", json!({ "path": world.file(DATABASE) })), Err(REFUSED));
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
}

#[test]
fn b09_an_outsider_never_sees_a_members_attributes() {
    let world = World::ready();
    let (member, outsider) = (world.member(&[]), world.outsider());
    let (path, project) = (world.file(DATABASE), world.mountpoint().join("api"));
    let size = json!(database(&world).len());
    member.ask("chdir", json!({ "path": project })).expect("a member may go there");
    for round in 0..1000 {
        assert_eq!(member.stat(&path).map(|facts| facts["size"].clone()), Ok(size.clone()), "round {round}");
        assert_eq!(outsider.stat(&path), Err(REFUSED), "round {round}");
        if round % 50 == 0 {
            assert_eq!(outsider.stat(&project), Err(REFUSED));
            assert_eq!(outsider.list(&project), Err(REFUSED));
            assert_eq!(member.ask("getcwd", json!({})), Ok(json!(project)));
        }
    }
}

/// What the kernel has in memory of a file it hands out unasked (AT_STATX_DONT_SYNC), and a descriptor of its place.
fn cached_by(reader: &Probe, path: &Path) -> Vec<(i64, String)> {
    let path = path.to_str().expect("a path");
    let keep = "import os, sys; os.open(sys.argv[1], os.O_PATH)";
    let asked = [&["stat", "--cached=always", "-c", "%s %Y", path][..], &["python3", "-c", keep, path]];
    asked
        .map(|line| reader.run(line))
        .map(|(code, output, _)| (code, String::from_utf8_lossy(&output).into()))
        .into()
}

both! {
    fn b16_the_kernels_memory_of_a_file_is_for_members(identity) {
        let world = World::ready_with(identity);
        let (member, outsider) = (world.member(&[]), world.outsider());
        let paths = [DATABASE, API, "made-up"].map(|name| world.file(name));
        let learnt = |when: &str| {
            // As long as the kernel may keep a name.
            std::thread::sleep(Duration::from_millis(50));
            for path in &paths {
                for (code, output) in cached_by(&outsider, path) {
                    assert!(code != 0 && output.is_empty(), "{when} {path:?}: {code} {output}");
                }
            }
        };
        learnt("never looked at");
        assert!(member.cat(&paths[0]).is_ok() && member.stat(&paths[0]).is_ok());
        let fd = member.open(&paths[0]).expect("open");
        let known = cached_by(&member, &paths[0]);
        assert!(known.iter().all(|(code, _)| *code == 0), "{known:?}");
        learnt("looked at");
        assert!(member.stat(&paths[0]).is_ok());
        world.kin(["revoke", "--all"]).run().exits(0);
        learnt("after the end");
        assert_eq!(member.pread(fd, 1, 0), Err(REFUSED));
        let denied: Vec<_> = world.audit().into_iter().filter(record::is_denial).collect();
        for name in [DATABASE, API, "made-up"] {
            let asked = denied.iter().filter(|line| line["file"] == name && record::text(line, "op") == "lookup");
            let asked: u64 = asked.map(record::denials).sum();
            assert!(asked >= 6, "{name}: {asked} {denied:#?}");
        }
    }
}

#[test]
fn b10_a_member_sees_exactly_its_names() {
    let world = World::ready();
    let project = world.mountpoint().join("api");
    let (all, narrow) = (world.member(&[]), world.member(&["--only", API]));
    assert_eq!(all.list(&project), Ok(vec![API.into(), DATABASE.into()]));
    assert_eq!(narrow.list(&project), Ok(vec![API.into()]));
    assert_eq!(narrow.cat(&world.file(DATABASE)), Err(Errno::ENOENT));
    assert_eq!(narrow.stat(&world.file("made-up")), Err(Errno::ENOENT));
    assert_eq!(world.outsider().list(&project), Err(REFUSED));
}

#[test]
fn b10_a_listing_stays_whole_while_bindings_change() {
    let world = World::ready();
    let project = world.mountpoint().join("api");
    let manifest = |names: std::ops::Range<u32>| {
        let bindings: String = names.map(|n| format!("file{n:04} = \"db/url\"\n")).collect();
        world.manifest(&format!("schema = 1\n[project]\nname = \"api\"\n[bindings]\n{bindings}"));
        world.trust();
    };
    let listed = |names: std::ops::Range<u32>| Ok(names.map(|n| format!("file{n:04}")).collect::<Vec<_>>());
    manifest(0..1000);
    let member = world.member(&[]);
    assert_eq!(member.list(&project), listed(0..1000));
    let half = member.ask("list_half", json!({ "path": project })).expect("the first entries");
    manifest(500..700);
    let other = world.member(&[]);
    let outsider = world.outsider();
    for _ in 0..5 {
        assert_eq!(member.list(&project), listed(0..1000));
        assert_eq!(other.list(&project), listed(500..700));
        assert_eq!(outsider.list(&project), Err(REFUSED));
    }
    // A listing that began before goes on where it stood.
    let rest = member.ask("list_rest", json!({})).expect("the others");
    let mut all: Vec<&str> = [&half, &rest]
        .into_iter()
        .flat_map(|part| part.as_array().expect("names"))
        .filter_map(Value::as_str)
        .collect();
    all.sort_unstable();
    assert_eq!(Ok(all.into_iter().map(str::to_owned).collect::<Vec<_>>()), listed(0..1000));
}

#[test]
fn b13_reads_at_the_edges_are_exact() {
    let world = World::ready();
    let large: Vec<u8> = (0..1 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(world.path("empty"), b"").expect("a file");
    std::fs::write(world.path("large"), &large).expect("a file");
    for name in ["empty", "large"] {
        let file = world.path(name);
        world.kin(["set".as_ref(), name.as_ref(), "--from-file".as_ref(), file.as_os_str()]).run().exits(0);
    }
    world.manifest(
        "schema = 1\n[project]\nname = \"api\"\n[bindings]\nsmall = \"db/url\"\nempty = \"empty\"\nlarge = \"large\"\n",
    );
    world.trust();
    let member = world.member(&[]);
    for (name, content) in [("small", database(&world)), ("empty", Vec::new()), ("large", large)] {
        edges(&member, &world.file(name), &content);
    }
}

fn edges(member: &Probe, path: &Path, content: &[u8]) {
    let fd = member.open(path).expect("open");
    let len = content.len() as u64;
    assert_eq!(member.pread(fd, 2 << 20, 0).as_deref(), Ok(content));
    for offset in [len, len + 1, 1 << 40] {
        assert_eq!(member.pread(fd, 100, offset), Ok(Vec::new()), "at {offset}");
    }
    let last = member.pread(fd, 1, i64::MAX as u64);
    assert!(matches!(last.as_deref(), Ok(b"") | Err(Errno::EINVAL | Errno::EOVERFLOW)), "{last:?}");
    assert_eq!(member.pread(fd, 0, 0), Ok(Vec::new()));
    for offset in [0, len / 2, len.saturating_sub(1)].into_iter().filter(|offset| *offset < len) {
        assert_eq!(member.pread(fd, 1, offset).as_deref(), Ok(&content[offset as usize..=offset as usize]));
    }
    if len <= 4096 {
        let bytewise = member.ask("cat", json!({ "path": path, "size": 1 })).expect("byte by byte");
        assert_eq!(canary::decode(bytewise.as_str().expect("bytes")), content);
    }
    let direct = member.ask("direct", json!({ "path": path })).expect("O_DIRECT");
    assert_eq!(canary::decode(direct.as_str().expect("bytes")), content);
}

#[test]
fn b15_an_io_uring_read_gives_the_content_once() {
    let name = "attacks::b::b15_an_io_uring_read_gives_the_content_once";
    let start = || {
        let world = World::ready();
        world.set("db/url", &[b'x'; 64]);
        let path = world.file(DATABASE);
        (world, path.to_str().expect("a path in UTF-8").to_owned())
    };
    match kin_tests::as_member(name, start) {
        Err(path) => kin_tests::answer(&format!("{:?}", ring_read(Path::new(&path), 256))),
        Ok((_world, answer)) => assert_eq!(answer, format!("{:?}", Ok::<_, i32>("x".repeat(64)))),
    }
}

/// One read through io_uring, as a member; the errno where it fails.
#[allow(unsafe_code)]
fn ring_read(path: &Path, size: u32) -> Result<String, i32> {
    let fail = |error: std::io::Error| error.raw_os_error().unwrap_or(0);
    let file = std::fs::File::open(path).map_err(fail)?;
    let mut buffer = vec![0_u8; size as usize];
    let mut ring = IoUring::new(4).map_err(fail)?;
    let read = opcode::Read::new(types::Fd(file.as_raw_fd()), buffer.as_mut_ptr(), size).build();
    // SAFETY: the descriptor and the buffer outlive the operation, which is waited for below.
    unsafe { ring.submission().push(&read) }.map_err(|_| 0)?;
    ring.submit_and_wait(1).map_err(fail)?;
    let result = ring.completion().next().map_or(-1, |entry| entry.result());
    let got = usize::try_from(result).map_err(|_| -result)?;
    Ok(String::from_utf8_lossy(&buffer[..got]).into_owned())
}

#[test]
fn a_denial_is_never_lost_from_the_count() {
    let world = World::ready_with(Identity::Native);
    let _member = world.member(&[]);
    let outsider = world.outsider();
    let burst =
        outsider.ask("burst", json!({ "path": world.file(DATABASE), "times": 1000 })).expect("a count");
    assert_eq!(burst, json!({ (REFUSED as i32).to_string(): 1000 }));
    let records = world.audit();
    let denied: Vec<&Value> = record::by(&records, outsider.pid().into());
    assert_eq!(denied.iter().map(|line| record::denials(line)).sum::<u64>(), 1000, "{denied:#?}");
    assert!(denied.len() < 50, "{} records for one reader's repeats", denied.len());
}
