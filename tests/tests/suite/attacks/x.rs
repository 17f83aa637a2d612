//! What is left after a crash, a signal, or without FUSE? Crash and fault.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kin_tests::{Actor, World, binary, eventually, is_root, mount, process, record};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::{DATABASE, REFUSED, database};

const GONE: [Errno; 2] = [Errno::ENOTCONN, Errno::ECONNABORTED];

#[test]
fn x04_a_killed_broker_answers_opens_in_flight_with_an_error() {
    let world = World::ready();
    let member = world.member(&[]);
    let (file, hammer) = (world.file(DATABASE), world.member(&[]));
    let flat_out = std::thread::spawn(move || {
        let answer = hammer.ask("hammer", json!({ "path": file }));
        (hammer, answer)
    });
    let fd = member.open(&world.file(DATABASE)).expect("open");
    std::thread::sleep(Duration::from_millis(200));
    world.crash();
    let (hammer, answer) = flat_out.join().expect("no panic");
    assert!(answer.as_ref().is_err_and(|errno| GONE.contains(errno)), "{answer:?}");
    assert_eq!(member.pread(fd, 100, 0).map_err(|errno| GONE.contains(&errno)), Err(true));
    assert_eq!(member.cat(&world.file(DATABASE)), Err(Errno::ENOTCONN));
    let start = Instant::now();
    world.kin(["run", "--", "true"]).run().exits(0);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    // Grants of the broker that is gone are void, whoever of their trees still lives.
    for survivor in [&member, &hammer] {
        assert_eq!(survivor.cat(&world.file(DATABASE)), Err(REFUSED));
    }
    assert_eq!(world.member(&[]).cat(&world.file(DATABASE)), Ok(database(&world)));
    let records = world.audit();
    let starts = record::of(&records, "broker.start");
    assert_eq!(starts.len(), 2, "{records:#?}");
    assert_eq!((&starts[0]["unclean"], &starts[1]["unclean"]), (&json!(false), &json!(true)));
}

#[test]
fn x18_a_stale_mount_of_a_killed_broker_is_cleared_at_the_next_start() {
    let world = World::ready();
    world.crash();
    assert_eq!(mount::mounts_on(&world.mountpoint()).len(), 1, "the kernel keeps the dead mount");
    assert_eq!(world.outsider().stat(&world.mountpoint()), Err(Errno::ENOTCONN));
    let start = Instant::now();
    let output = world.kin(["run", "--", "cat"]).args([world.file(DATABASE)]).run().exits(0);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!(output.stdout, database(&world));
    assert_eq!(mount::mounts_on(&world.mountpoint()).len(), 1);
}

#[test]
fn commands_after_a_crash_say_that_no_broker_answers() {
    let world = World::ready();
    world.crash();
    world.kin(["revoke", "--all"]).run().refuses(6, &["broker"]);
    world.kin(["audit", "verify"]).run().exits(0);
}

#[test]
fn x08_signals_stop_the_broker_cleanly_with_handles_open() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let world = World::ready();
        world.kin(["stop"]).run().exits(0);
        let mut broker = world.foreground();
        let member = world.member(&[]);
        let fd = member.open(&world.file(DATABASE)).expect("open");
        assert_eq!(member.pread(fd, 100, 0), Ok(database(&world)));
        process::signal(broker.pid(), signal);
        let status = broker.wait(Duration::from_secs(3));
        assert_eq!(status.code(), Some(0), "{signal}");
        assert!(mount::mounts_on(&world.mountpoint()).is_empty(), "{signal}");
        assert!(member.pread(fd, 100, 0).is_err(), "{signal}");
        let mode = std::fs::metadata(world.mountpoint()).expect("the directory").permissions().mode();
        assert_eq!(mode & 0o777, 0o500, "{signal}");
        assert!(!world.path("kin/run/socket").exists(), "{signal}");
        let records = world.audit();
        assert_eq!(record::of(&records, "broker.stop").len(), 2, "{signal}: {records:#?}");
    }
}

#[test]
fn a_mount_that_somebody_took_down_comes_back_and_is_recorded() {
    let world = World::ready();
    let member = world.member(&[]);
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
    let mut unmount = Command::new("fusermount3");
    assert!(unmount.arg("-uz").arg(world.mountpoint()).status().is_ok_and(|status| status.success()));
    let there = || member.cat(&world.file(DATABASE)) == Ok(database(&world));
    eventually("the mount is back", Duration::from_secs(1), there);
    assert_eq!(record::of(&world.audit(), "mount.lost").len(), 1);
    assert_eq!(mount::mounts_on(&world.mountpoint()).len(), 1);
}

#[test]
fn x19_a_mount_that_comes_back_is_writable_below_at_no_moment() {
    let world = World::ready();
    let member = world.member(&[]);
    let (point, above) = (world.mountpoint(), world.home().join("run"));
    let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).expect("inotify");
    watch.add_watch(&above, AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_MOVED_TO).expect("a watch");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Root writes into a directory of mode 0500 as well, whenever nothing is mounted on it.
        let writer = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) && !is_root() {
                let _ = std::fs::write(point.join("left"), b"what a program wrote");
            }
        });
        for _ in 0..10 {
            let mut unmount = Command::new("fusermount3");
            assert!(unmount.arg("-uz").arg(&point).status().is_ok_and(|status| status.success()));
            let there = || member.cat(&world.file(DATABASE)) == Ok(database(&world));
            eventually("the mount is back", Duration::from_secs(2), there);
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("no panic");
    });
    let mut named = 0;
    while let Ok(events) = watch.read_events() {
        for event in events.iter().filter(|event| event.name.as_deref() == Some("mnt".as_ref())) {
            assert!(!event.mask.contains(AddWatchFlags::IN_ATTRIB), "its mode changed: {event:?}");
            named += 1;
        }
    }
    assert_eq!(named, 10, "each time it came mounted already");
    assert_eq!(mount::mounts_on(&point).len(), 1);
    assert!(member.finish().success());
    world.kin(["stop"]).run().exits(0);
    let left: Vec<_> =
        std::fs::read_dir(&above).expect("the directory").flatten().map(|entry| entry.path()).collect();
    assert!(std::fs::read_dir(&point).expect("the mountpoint").next().is_none(), "nothing was below");
    assert!(!left.iter().any(|path| path.to_string_lossy().contains("-aside-")), "{left:?}");
}

#[test]
fn a_mount_that_somebody_aborted_comes_back_and_is_recorded() {
    let world = World::ready();
    let member = world.member(&[]);
    let fd = member.open(&world.file(DATABASE)).expect("open");
    let mounted = mount::mounts_on(&world.mountpoint());
    // The control is the mount's owner's: no root is needed.
    mount::abort(&mounted[0]).expect("fusectl");
    let there = || member.cat(&world.file(DATABASE)) == Ok(database(&world));
    eventually("the mount is back", Duration::from_secs(1), there);
    assert!(member.pread(fd, 100, 0).is_err(), "a handle of the aborted mount");
    assert_eq!(record::of(&world.audit(), "mount.lost").len(), 1);
    assert_eq!(mount::mounts_on(&world.mountpoint()).len(), 1);
}

#[test]
fn x10_a_broker_without_descriptors_refuses_and_recovers() {
    let world = World::ready();
    world.kin(["stop"]).run().exits(0);
    let mut command = world.program("prlimit");
    command.arg("--nofile=64:64").arg(binary());
    let broker = world.foreground_by(command);
    let member = world.member(&[]);
    assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
    let socket = world.path("kin/run/socket");
    let connect = || std::os::unix::net::UnixStream::connect(&socket).expect("the backlog has room");
    let held: Vec<_> = (0..80).map(|_| connect()).collect();
    // Who is new cannot be known without a descriptor; nobody gets anything but the value or an error.
    let refused = || match member.child("fork").cat(&world.file(DATABASE)) {
        Ok(value) => {
            assert_eq!(value, database(&world));
            false
        }
        Err(errno) => [Errno::EIO, Errno::EAGAIN, Errno::EACCES].contains(&errno),
    };
    eventually("a reader that cannot be known is refused", Duration::from_secs(5), refused);
    drop(held);
    let works = || member.child("fork").cat(&world.file(DATABASE)) == Ok(database(&world));
    eventually("opens work again", Duration::from_secs(5), works);
    assert_eq!(world.member(&[]).cat(&world.file(DATABASE)), Ok(database(&world)));
    assert_eq!(world.broker().pid, broker.pid());
}

#[test]
fn a_broker_that_nobody_can_reach_ends() {
    let world = World::ready();
    let broker = world.broker();
    std::fs::remove_file(world.path("kin/run/socket")).expect("the socket");
    eventually("the broker ends", Duration::from_secs(5), || !broker.is_alive());
    assert!(mount::mounts_on(&world.mountpoint()).is_empty());
}

mod needs_root {
    use super::*;

    /// A disk of its own, which can be frozen: every write to it then waits, in the kernel, for ever.
    struct Disk<'w>(&'w std::path::Path);

    impl Disk<'_> {
        fn freeze(&self, how: &str) {
            let status = Command::new("fsfreeze").arg(how).arg(self.0).status();
            assert!(status.is_ok_and(|status| status.success()), "fsfreeze {how}");
        }
    }

    impl Drop for Disk<'_> {
        fn drop(&mut self) {
            let _ = Command::new("fsfreeze").arg("-u").arg(self.0).stderr(Stdio::null()).status();
            let _ = Command::new("umount").arg("-l").arg(self.0).status();
        }
    }

    #[test]
    fn a18_where_proc_hides_processes_and_is_needed_no_broker_starts() {
        kin_tests::needs_root();
        let script = "mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid=65534 --regid=65534 \
            --clear-groups -- env -i PATH=/usr/bin:/bin KIN_HOME=$2 KIN_IDENTITY=procfs \"$1\" daemon --json";
        let place = tempfile::Builder::new().prefix("kin").tempdir_in("/tmp").expect("a directory");
        let home = place.path().join("home");
        std::fs::create_dir(&home).expect("a directory");
        std::os::unix::fs::chown(&home, Some(65534), Some(65534)).expect("chown");
        std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
        std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o700)).expect("chmod");
        let mut staged = Command::new("unshare");
        staged.args(["--mount", "--propagation", "private", "--", "sh", "-ec", script, "sh"]);
        let output = staged.arg(binary()).arg(&home).output().expect("unshare");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(6) && said.contains("proc_hidden"), "{output:?}");
    }

    /// A world whose state, the log in it, is on a disk of its own.
    fn on_a_disk() -> (World, std::path::PathBuf) {
        let world = World::new();
        let (image, state) = (world.path("image"), world.path("kin/state"));
        std::fs::create_dir(&state).expect("a directory");
        let script = "truncate -s 16M \"$1\" && mkfs.ext4 -q \"$1\" && mount -o loop \"$1\" \"$2\" && chmod 0700 \"$2\"";
        let made = Command::new("sh").args(["-ec", script, "sh"]).args([&image, &state]).status();
        assert!(made.is_ok_and(|status| status.success()), "a disk of its own");
        let world = world.initialised();
        world.secret("db/url");
        world.manifest("schema = 1\n[project]\nname = \"api\"\n[bindings]\nDATABASE_URL = \"db/url\"\n");
        world.trust();
        (world, state)
    }

    /// Whatever becomes of a test, its disk thaws: a process that waits for it ignores SIGKILL.
    fn thaw_later(state: &std::path::Path) -> std::process::Child {
        let mut thaw = Command::new("sh");
        thaw.args(["-c", "sleep 20; fsfreeze -u \"$1\" 2>/dev/null", "sh"]).arg(state);
        thaw.spawn().expect("sh")
    }

    #[test]
    fn x07_a_reader_killed_while_the_log_hangs_is_gone_in_time() {
        kin_tests::needs_root();
        let (world, state) = on_a_disk();
        let disk = Disk(&state);
        let stuck = world.member(&[]);
        let mut thaw = thaw_later(&state);
        disk.freeze("-f");
        let start = Instant::now();
        let reader = process::Process::of(stuck.pid()).expect("the reader");
        stuck.begin("cat", &json!({ "path": world.file(DATABASE) }));
        std::thread::sleep(Duration::from_millis(500));
        reader.kill();
        std::thread::sleep(Duration::from_millis(500));
        assert!(reader.is_alive(), "its request hangs in the kernel");
        let left = Duration::from_secs(10).saturating_sub(start.elapsed());
        eventually("the killed reader is gone", left, || !reader.is_alive());
        disk.freeze("-u");
        assert_eq!(world.member(&[]).cat(&world.file(DATABASE)), Ok(database(&world)));
        drop(stuck);
        world.kin(["stop"]).run().exits(0);
        drop(disk);
        let _ = thaw.kill();
        let _ = thaw.wait();
    }

    #[test]
    fn x07_a_log_that_hangs_refuses_opens_in_time_and_nothing_else() {
        kin_tests::needs_root();
        let (world, state) = on_a_disk();
        let disk = Disk(&state);
        let (stuck, other, reader) = (world.member(&[]), world.member(&[]), world.member(&[]));
        let fd = reader.open(&world.file(DATABASE)).expect("open");
        let mut thaw = thaw_later(&state);
        disk.freeze("-f");
        let start = Instant::now();
        let file = world.file(DATABASE);
        let first = std::thread::spawn(move || (stuck.cat(&file), stuck));
        // While one request hangs in the kernel, others go on, and what needs the record is refused soon.
        assert_eq!(reader.pread(fd, 100, 0), Ok(database(&world)));
        assert_eq!(other.cat(&world.file(DATABASE)), Err(Errno::EIO));
        assert!(start.elapsed() < Duration::from_secs(7), "{:?}", start.elapsed());
        let (answer, stuck) = first.join().expect("no panic");
        assert_eq!(answer, Err(Errno::EIO));
        assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
        disk.freeze("-u");
        let works = || stuck.cat(&world.file(DATABASE)) == Ok(database(&world));
        eventually("opens work again", Duration::from_secs(5), works);
        world.kin(["audit", "verify"]).run().exits(0);
        drop((stuck, other, reader));
        world.kin(["stop"]).run().exits(0);
        drop(disk);
        let _ = thaw.kill();
        let _ = thaw.wait();
    }
}

/// Runs a shell script as root of a user and mount namespace of its own: `$1` is kin.
fn staged(world: &World, script: &str) -> kin_tests::Output {
    let kin = binary();
    let namespace =
        ["--user", "--map-root-user", "--mount", "--propagation", "private", "--", "sh", "-ec", script, "sh"];
    world.other("unshare", namespace).args([kin]).run()
}

fn names_fuse(output: kin_tests::Output) {
    let output = output.refuses(6, &[]);
    assert!(output.stderr.to_lowercase().contains("fuse"), "{output}");
}

#[test]
fn x15_without_dev_fuse_run_says_what_to_do() {
    let world = World::ready();
    world.kin(["stop"]).run().exits(0);
    // A socket cannot be opened as a device: ENXIO.
    let nothing = world.path("project/nothing");
    let _socket = std::os::unix::net::UnixListener::bind(nothing).expect("a socket");
    names_fuse(staged(&world, "mount --bind nothing /dev/fuse; exec \"$1\" run -- true"));
    names_fuse(staged(&world, "mount --bind nothing /dev/fuse; exec \"$1\" daemon"));
    assert!(!world.is_broker_running());
    // With the device back, all is well.
    assert_eq!(world.member(&[]).cat(&world.file(DATABASE)), Ok(database(&world)));
}

#[test]
fn x15_without_fusermount3_a_user_is_told_what_to_do() {
    let world = World::ready();
    world.kin(["stop"]).run().exits(0);
    let script = "for each in /usr/bin/fusermount3 /usr/bin/fusermount; do
            if [ -f $each ]; then mount --bind /dev/null $each; fi
        done
        exec unshare --user --map-user=1000 --map-group=1000 -- \"$1\" run -- true";
    names_fuse(staged(&world, script));
    assert!(!world.is_broker_running());
}

#[test]
fn x11_on_a_full_disk_no_mount_appears() {
    let name = "attacks::x::x11_on_a_full_disk_no_mount_appears";
    if !kin_tests::is_root() && kin_tests::in_user_namespace(name) == kin_tests::Role::Done {
        return;
    }
    let world = World::ready();
    world.kin(["stop"]).run().exits(0);
    let state = world.path("kin/state");
    world.mount_disk(&state, "16k");
    let full = std::fs::write(state.join("ballast"), vec![0; 1 << 16]);
    let output = world.kin(["daemon"]).run();
    let mounted = mount::mounts_on(&world.mountpoint()).len();
    world.unmount_disks();
    assert!(full.is_err());
    output.refuses(8, &[]);
    assert_eq!(mounted, 0);
}

/// Calls of the thread that serves `kin import --link`: a vault, a trust store, links and a swap.
const ADOPTING: [(&str, u32); 12] = [
    ("rename", 1),
    ("rename", 2),
    ("rename", 3),
    ("rename", 4),
    ("fsync", 2),
    ("fsync", 4),
    ("fsync", 6),
    ("fsync", 7),
    ("fsync", 8),
    ("symlinkat", 1),
    ("renameat", 1),
    ("readlinkat", 1),
];

/// Makes a file a link under a broker of which each thread is killed at its `when`-th `call`; whether one was. Where
/// its first thread is, before it answers, the command starts another.
fn adopted_until(world: &World, (call, when): (&str, u32), bytes: &[u8]) -> bool {
    let env = world.project().join(".env");
    std::fs::write(&env, bytes).expect(".env");
    let mut strace = world.program("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e"]).arg(format!("trace={call}"));
    strace.arg("-e").arg(format!("inject={call}:signal=KILL:when={when}")).arg(kin_tests::binary());
    strace.args(["daemon", "--foreground"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut strace = strace.spawn().expect("strace");
    let (socket, end) = (world.path("kin/run/socket"), Instant::now() + Duration::from_secs(10));
    while !(world.is_broker_running() && socket.exists())
        && strace.try_wait().expect("wait").is_none()
        && Instant::now() < end
    {
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = world.kin(["import", ".env", "--link", "--yes", "--overwrite"]).run();
    let killed = output.code() != 0;
    world.kin(["stop"]).run();
    let _ = strace.wait();
    eventually("the broker is gone", Duration::from_secs(5), || !world.is_broker_running());
    if std::fs::symlink_metadata(&env).is_ok_and(|meta| meta.is_file()) {
        assert_eq!(std::fs::read(&env).expect(".env"), bytes, "{call} {when}: {output}");
    } else {
        let kept = world.kin(["reveal", "project/.env", "--yes"]).run().exits(0);
        assert_eq!(kept.stdout, bytes, "{call} {when}: {output}");
        world.kin(["unlink", "--restore", "--yes"]).run().exits(0);
        assert_eq!(std::fs::read(&env).expect(".env"), bytes, "{call} {when}: {output}");
    }
    let _ = std::fs::remove_file(world.project().join("kin.toml"));
    // Where none runs yet, one clears the mount that was left.
    world.kin(["daemon"]).run();
    world.kin(["stop"]).run().exits(0);
    killed
}

#[test]
fn x01_a_broker_killed_while_a_file_becomes_a_link_loses_nothing_of_it() {
    let name = "attacks::x::x01_a_broker_killed_while_a_file_becomes_a_link_loses_nothing_of_it";
    // Below strace no program gains rights, so fusermount3 needs them already.
    if !kin_tests::is_root() && kin_tests::in_user_namespace(name) == kin_tests::Role::Done {
        return;
    }
    let mut killed = 0;
    for points in ADOPTING.chunks(4) {
        let world = World::new().initialised();
        world.kin(["stop"]).run().exits(0);
        for (number, point) in points.iter().enumerate() {
            let bytes = format!("A={}\nB={number}\n", world.canary());
            let hit = adopted_until(&world, *point, bytes.as_bytes());
            killed += usize::from(hit);
        }
    }
    assert!(killed >= 6, "only {killed} were killed on the way");
}
