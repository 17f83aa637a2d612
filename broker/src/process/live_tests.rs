//! Real processes, through both tables.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use kin_policy::{Pid, Process, Unidentified};
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::ForkResult;

use super::soak::{Chance, Tally, amount};
use super::*;
use crate::sys::process::fork_beside_an_idle_runner;

const DEADLINE: Duration = Duration::from_secs(60);

struct Tree(Identity);

impl Roots for Tree {
    fn is_root(&self, candidate: &Identity) -> bool {
        self.0.is_same(candidate)
    }
}

struct Nobody;

impl Roots for Nobody {
    fn is_root(&self, _: &Identity) -> bool {
        false
    }
}

/// One identifier for every table that this kernel has.
fn identifiers() -> Vec<Identifier> {
    let mut found = vec![Identifier::new(Choice::Procfs, 64).unwrap()];
    match Identifier::new(Choice::Pidfd, 64) {
        Ok(identifier) => found.push(identifier),
        Err(error) => eprintln!("the pidfd table is not tested: {error}"),
    }
    found
}

fn pid(number: u32) -> Pid {
    Pid::new(number).unwrap()
}

fn tree_at(identifier: &Identifier, number: u32) -> Tree {
    Tree(identifier.hold(pid(number), None).unwrap().identity())
}

fn own_tree(identifier: &Identifier) -> Tree {
    tree_at(identifier, std::process::id())
}

fn numbers(ancestors: &[Process]) -> Vec<u32> {
    ancestors.iter().map(|process| process.pid.get()).collect()
}

/// A child that ends when it is dropped.
struct Waiting(Child);

impl Waiting {
    fn new(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn cat() -> Self {
        Self::new(&mut Command::new("cat"))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < DEADLINE, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A subreaper that runs a shell script; whatever waits on its standard input ends when this is dropped.
struct Keeper {
    child: Child,
    stdin: Option<ChildStdin>,
    ready: mpsc::Receiver<u32>,
}

const KEEPER: &str = "KIN_TEST_KEEPER";

#[test]
#[ignore = "the keeper process of other tests, which run it by name"]
fn a_keeper_for_the_tests_here() {
    let Some(script) = std::env::var_os(KEEPER) else { return };
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    Command::new("sh").arg("-c").arg(script).status().unwrap();
    // Its orphans.
    while waitpid(None, None).is_ok() {}
}

impl Keeper {
    /// The script prints `ready PID` for each process that tests are to look at.
    fn run(script: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process::live_tests::a_keeper_for_the_tests_here", "--ignored", "--nocapture"])
            .env(KEEPER, script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, ready) = mpsc::channel();
        std::thread::spawn(move || {
            let numbers = lines.map_while(|line| line.ok());
            for number in numbers.filter_map(|line| line.split_once("ready ")?.1.trim().parse().ok()) {
                let _ = sender.send(number);
            }
        });
        Self { stdin: child.stdin.take(), child, ready }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn reader(&self) -> u32 {
        self.ready.recv_timeout(DEADLINE).unwrap()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stdin.take();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `depth` shells, each the parent of the next; the last one waits.
fn nested(depth: usize) -> String {
    let level = r#"if [ $1 -gt 1 ]; then sh -c "$0" "$0" $(($1 - 1)); else echo "ready $$"; read x; fi; :"#;
    format!("f='{level}'; exec sh -c \"$f\" \"$f\" {depth}")
}

#[test]
fn a02_members_at_every_depth_descend_from_their_keeper() {
    for depth in [1, 2, 50] {
        let keeper = Keeper::run(&nested(depth));
        let reader = keeper.reader();
        for identifier in identifiers() {
            let root = tree_at(&identifier, keeper.pid());
            let known = identifier.identify(reader, &root).unwrap();
            assert_eq!(known.root(), Some(root.0.process), "{}", identifier.table());
            assert_eq!(known.lineage().ancestors.len(), depth);
            assert_eq!(known.lineage().process.pid, pid(reader));
            let hit = identifier.identify(reader, &root).unwrap();
            assert!(Arc::ptr_eq(&known, &hit));
            let other = identifier.identify(reader, &Tree(known.identity())).unwrap();
            assert!(Arc::ptr_eq(&known, &other), "a process is not its own ancestor");
        }
    }
}

#[test]
fn a02_an_orphan_in_a_session_of_its_own_stays_with_the_keeper() {
    let orphan = r#"exec 3<&0; (setsid sh -c 'echo "ready $$"; read x <&3' &); read x"#;
    let keeper = Keeper::run(orphan);
    let reader = keeper.reader();
    for identifier in identifiers() {
        let root = tree_at(&identifier, keeper.pid());
        until("the orphan's adoption", || {
            let known = identifier.identify(reader, &root).unwrap();
            assert_eq!(known.root(), Some(root.0.process), "while its parents exit, too");
            identifier.forget_all();
            numbers(&known.lineage().ancestors) == [keeper.pid()]
        });
    }
}

#[test]
fn a01_a_process_beside_the_tree_is_an_outsider() {
    let (keeper, outsider) = (Keeper::run(&nested(1)), Waiting::cat());
    keeper.reader();
    for identifier in identifiers() {
        let root = tree_at(&identifier, keeper.pid());
        let known = identifier.identify(outsider.0.id(), &root).unwrap();
        assert_eq!(known.root(), None);
        assert_eq!(known.lineage().ancestors[0].pid, pid(std::process::id()));
        assert_eq!(known.lineage().ancestors.last().unwrap().pid, pid(1));
        assert_eq!(known.program().comm, b"cat");
    }
}

#[test]
fn a03_a_thread_that_is_not_the_main_one_is_its_processes() {
    let (send_tid, tid) = mpsc::channel();
    let (stop, stopped) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        nix::sys::prctl::set_name(c"a) S 1 (\nb\n").unwrap();
        send_tid.send(nix::unistd::gettid().as_raw().cast_unsigned()).unwrap();
        let _ = stopped.recv();
    });
    let tid = tid.recv_timeout(DEADLINE).unwrap();
    let all = identifiers();
    for identifier in &all {
        let parent = nix::unistd::getppid().as_raw().cast_unsigned();
        let root = tree_at(identifier, parent);
        let known = identifier.identify(tid, &root).unwrap();
        assert_eq!(known.lineage().process.pid, pid(std::process::id()));
        assert_eq!(numbers(&known.lineage().ancestors), [parent]);
        assert!(Arc::ptr_eq(&known, &identifier.identify(tid, &root).unwrap()));
        let program = known.program();
        assert_eq!(program.comm, b"a) S 1 (\nb\n", "only the kernel's own newline goes");
        assert_eq!(program.exe, Some(std::env::current_exe().unwrap()));
    }
    drop(stop);
    thread.join().unwrap();
    for identifier in &all {
        let gone = || identifier.identify(tid, &Nobody).err() == Some(Unidentified::Gone);
        until("the thread's end", gone);
    }
}

#[test]
fn a05_a_name_cannot_put_a_process_into_a_tree() {
    let root = Waiting::cat();
    let dir = tempfile::tempdir().unwrap();
    for name in [format!("x) S {} (", root.0.id()), "a\nb".into(), format!(") S {} 1 1", root.0.id())] {
        let path = dir.path().join(&name);
        symlink("/bin/cat", &path).unwrap();
        let spoofer = Waiting::new(&mut Command::new(&path));
        for identifier in identifiers() {
            let tree = tree_at(&identifier, root.0.id());
            let known = identifier.identify(spoofer.0.id(), &tree).unwrap();
            assert_eq!(known.root(), None);
            assert_eq!(known.lineage().ancestors[0].pid, pid(std::process::id()));
            assert_eq!(known.program().comm, &name.as_bytes()[..name.len().min(15)]);
        }
    }
}

#[test]
fn a10_a_zombie_and_a_dead_process_are_gone() {
    let mut child = Command::new("true").spawn().unwrap();
    let id = Id::Pid(nix::unistd::Pid::from_raw(child.id().cast_signed()));
    waitid(id, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
    for identifier in identifiers() {
        let zombie = identifier.identify(child.id(), &own_tree(&identifier));
        assert_eq!(zombie.err(), Some(Unidentified::Gone), "{}", identifier.table());
        assert_eq!(identifier.hold(pid(child.id()), None).err(), Some(Unidentified::Gone));
    }
    child.wait().unwrap();
    for identifier in identifiers() {
        let dead = identifier.identify(child.id(), &own_tree(&identifier));
        assert_eq!(dead.err(), Some(Unidentified::Gone));
    }
}

#[test]
fn a_held_process_tells_its_end_and_its_parent() {
    for identifier in identifiers() {
        let mut child = Waiting::cat();
        let held = identifier.hold(pid(child.0.id()), None).unwrap();
        assert!(held.is_alive());
        assert_eq!(identifier.parent_of(&held), Some(pid(std::process::id())));
        let lineage = identifier.walk_up(&held, &own_tree(&identifier)).unwrap();
        assert_eq!(numbers(&lineage.ancestors), [std::process::id()]);
        child.0.kill().unwrap();
        until("the child's end", || !held.is_alive());
        assert_eq!(identifier.parent_of(&held), None, "a zombie's parent is nobody's business");
        child.0.wait().unwrap();
        assert_eq!(identifier.walk_up(&held, &Nobody).err(), Some(Unidentified::Gone));
    }
}

#[test]
fn j06_a_descriptor_that_is_not_the_peers_pins_nobody() {
    let descriptor = |of: u32| -> OwnedFd { crate::sys::pidfd::open(pid(of)).unwrap() };
    for identifier in identifiers() {
        let (mut one, other) = (Waiting::cat(), Waiting::cat());
        let held = identifier.hold(pid(one.0.id()), Some(descriptor(one.0.id()))).unwrap();
        assert_eq!(held.identity(), identifier.hold(pid(one.0.id()), None).unwrap().identity());
        let swapped = identifier.hold(pid(one.0.id()), Some(descriptor(other.0.id())));
        assert_eq!(swapped.err(), Some(Unidentified::Gone));
        let dead = descriptor(one.0.id());
        one.0.kill().unwrap();
        one.0.wait().unwrap();
        assert_eq!(identifier.hold(pid(one.0.id()), Some(dead)).err(), Some(Unidentified::Gone));
    }
}

#[test]
fn a_known_thread_stays_known_across_an_exec_and_its_program_is_the_new_one() {
    for identifier in identifiers() {
        let mut child = Waiting::new(Command::new("sh").args(["-c", "read x; exec cat"]));
        let (number, root) = (child.0.id(), own_tree(&identifier));
        until("the shell", || identifier.identify(number, &root).unwrap().program().comm == b"sh");
        let known = identifier.identify(number, &root).unwrap();
        child.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        until("the exec", || known.program().comm == b"cat");
        assert!(Arc::ptr_eq(&known, &identifier.identify(number, &root).unwrap()));
        let exe = std::fs::read_link(format!("/proc/{number}/exe")).unwrap();
        assert_eq!(known.program().exe, Some(exe));
        child.0.kill().unwrap();
        child.0.wait().unwrap();
        assert_eq!(known.program(), Program::default());
        assert_eq!(identifier.identify(number, &root).err(), Some(Unidentified::Gone));
        assert_eq!(identifier.known(), 0, "and its descriptors are closed");
    }
}

#[test]
fn both_tables_say_the_same_of_every_process_there_is() {
    let all = identifiers();
    let [procfs, pidfd] = &all[..] else { return };
    let lineage = |identifier: &Identifier, number| {
        let known = identifier.identify(number, &Nobody)?;
        Ok::<_, Unidentified>(known.lineage().clone())
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    assert!(numbers.contains(&std::process::id()));
    for number in numbers {
        // Others come and go and are adopted meanwhile: then both are asked again.
        until(&format!("one answer about {number}"), || lineage(procfs, number) == lineage(pidfd, number));
    }
}

#[test]
fn a_tree_is_shown_with_its_depths_and_names() {
    let keeper = Keeper::run(&nested(3));
    let reader = keeper.reader();
    let identifier = Identifier::new(Choice::Auto, 8).unwrap();
    let root = tree_at(&identifier, keeper.pid()).0.process;
    let tree = tree_of(root);
    assert_eq!(tree.iter().map(|branch| branch.depth).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!((tree[0].pid, tree[3].pid), (root.pid, pid(reader)));
    assert_eq!(tree[3].comm, b"sh");
    assert_eq!(tree_of(Process { start: root.start + 1, ..root }), []);
}

const NAMESPACE: &str = "KIN_TEST_NAMESPACE";
/// Two for each reader.
const FORKS: u64 = 10_000;

/// A process that, told by a byte, forks a child that forks a reader and exits at once.
struct Spawner {
    pid: u32,
    command: std::io::PipeWriter,
    release: std::io::PipeWriter,
    born: std::io::PipeReader,
}

impl Spawner {
    fn new() -> Self {
        let (mut commands, command) = std::io::pipe().unwrap();
        let (mut released, release) = std::io::pipe().unwrap();
        let (born, mut birth) = std::io::pipe().unwrap();
        match fork_beside_an_idle_runner().unwrap() {
            ForkResult::Parent { child } => {
                Self { pid: child.as_raw().cast_unsigned(), command, release, born }
            }
            ForkResult::Child => {
                drop((command, release, born));
                let ended = nix::sys::prctl::set_child_subreaper(true).is_err();
                while !ended && commands.read_exact(&mut [0]).is_ok() {
                    Self::spawn(&mut birth, &mut released);
                    while waitpid(None, None).is_ok() {}
                }
                std::process::exit(0)
            }
        }
    }

    fn spawn(birth: &mut std::io::PipeWriter, released: &mut std::io::PipeReader) {
        if !matches!(fork_beside_an_idle_runner(), Ok(ForkResult::Child)) {
            return;
        }
        if matches!(fork_beside_an_idle_runner(), Ok(ForkResult::Child)) {
            let _ = birth.write_all(&std::process::id().to_ne_bytes());
            let _ = released.read_exact(&mut [0]);
        }
        std::process::exit(0)
    }

    /// The number of a reader that lives during `look`.
    fn with_reader(&mut self, look: impl FnOnce(u32)) {
        self.command.write_all(&[0]).unwrap();
        let mut number = [0; 4];
        self.born.read_exact(&mut number).unwrap();
        look(u32::from_ne_bytes(number));
        self.release.write_all(&[0]).unwrap();
    }
}

#[test]
#[ignore = "process 1 of a pid namespace, which another test runs by name"]
fn a_namespace_for_the_tests_here() {
    if std::env::var_os(NAMESPACE).is_none() {
        return;
    }
    assert_eq!(std::process::id(), 1);
    std::fs::write("/proc/sys/kernel/pid_max", "400").unwrap();
    let (mut inside, mut outside) = (Spawner::new(), Spawner::new());
    let identifiers = identifiers();
    let roots: Vec<Tree> = identifiers.iter().map(|table| tree_at(table, inside.pid)).collect();
    let mut seen = std::collections::HashSet::new();
    let mut tally = Tally::default();
    let mut ask = |number: u32, member: bool| {
        seen.insert(number);
        for (identifier, root) in identifiers.iter().zip(&roots) {
            let expected = member.then_some(root.0.process);
            for _ in 0..2 {
                let known = identifier.identify(number, root);
                let said = known.as_ref().map(|known| known.root()).map_err(|why| *why);
                tally.count(said, expected, || format!("{} says of {number}: {known:?}", identifier.table()));
            }
        }
    };
    let seed = amount("KIN_SOAK_SEED", 1);
    let mut chance = Chance::of(seed);
    for _ in 0..amount("KIN_SOAK", FORKS) / 4 {
        // In either order, so that a number is not always followed by one of the same kind.
        for member in if chance.below(2) == 0 { [true, false] } else { [false, true] } {
            let spawner = if member { &mut inside } else { &mut outside };
            spawner.with_reader(|number| ask(number, member));
        }
    }
    assert!(seen.len() < 400, "numbers were reused");
    tally.hold(seed);
}

#[test]
fn y04_ten_thousand_forks_in_four_hundred_numbers_give_no_wrong_answer() {
    let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
    let mut parts = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    if (parts.next(), parts.next()) < (Some(6), Some(14)) {
        eprintln!("not tested: before Linux 6.14 pid_max is the whole machine's");
        return;
    }
    let user: &[&str] = if nix::unistd::geteuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
    let mut namespace = Command::new("unshare")
        .args(user)
        .args(["--pid", "--fork", "--mount-proc", "--kill-child"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "process::live_tests::a_namespace_for_the_tests_here", "--ignored", "--nocapture"])
        .arg("--test-threads=1")
        .env(NAMESPACE, "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (began, seconds) = (Instant::now(), amount("KIN_SOAK_SECONDS", 180));
    while namespace.try_wait().unwrap().is_none() {
        if began.elapsed().as_secs() > seconds {
            let _ = namespace.kill();
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = namespace.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let told = |line: &&str| line.starts_with("soak: ") || line.starts_with("wrong: ");
    said.lines().filter(told).for_each(|line| eprintln!("{line}"));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}
