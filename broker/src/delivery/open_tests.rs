//! The way of one open, with real processes and a real vault, without a mount.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use kin_policy::{Ending, Limits, Pid, Reference, Unidentified};
use tempfile::TempDir;

use super::*;
use crate::admin::unlock::Asker;
use crate::grants::live::OPEN_FILES;
use crate::grants::messages::GrantRequest;
use crate::keys::KeyMethod;
use crate::process::Choice;
use crate::process::peer::Peer;
use crate::project::manifest::Manifest;
use crate::sys::paths::Directories;
use crate::vault::Facts;
use crate::{Plaintext, audit};

#[path = "../control/dispatch_tests.rs"]
mod answer;
#[path = "environment_tests.rs"]
mod environment;
#[path = "rendered_tests.rs"]
mod rendered;

const VALUE: &[u8] = b"postgres://app:hunter2@db/app";

const MANIFEST: &str =
    "schema = 1\n[project]\nname = \"api\"\n[bindings]\nDB = \"db/url\"\nOTHER = \"db/other\"\n";

/// A broker with one secret, one trusted project, and no mount.
struct House {
    broker: Arc<Broker>,
    _home: TempDir,
    project: std::path::PathBuf,
}

impl House {
    fn new(choice: Choice) -> Self {
        let home = tempfile::tempdir().unwrap();
        let at = home.path().to_owned();
        let get = |name: &str| (name == "KIN_HOME").then(|| at.join("kin").into_os_string());
        let directories = Directories::from_variables(&get).unwrap();
        directories.create().unwrap();
        let broker = Broker::new(directories, choice).unwrap();
        let key = KeyMethod::KeyFile { path: at.join("key") };
        broker.init(&key, None, None).unwrap();
        for reference in ["db/url", "db/other"] {
            let reference = Reference::new(reference).unwrap();
            broker.set_secret(&reference, &Plaintext::copy_of(VALUE), Facts::default(), None).unwrap();
        }
        let project = at.join("api");
        std::fs::create_dir(&project).unwrap();
        let house = Self { broker, _home: home, project };
        house.trust(MANIFEST);
        house
    }

    fn trust(&self, manifest: &str) {
        std::fs::write(self.project.join("kin.toml"), manifest).unwrap();
        self.broker.unlock(Asker::Person, None, None).unwrap();
        let manifest = Manifest::read(&self.project).unwrap();
        self.broker.change_trust(|store| store.plan_trust(&manifest, 0).map(Some)).unwrap();
    }

    fn grant(&self, keeper: &Tree, only: Option<&[&str]>) -> crate::Result<Arc<LiveGrant>> {
        self.grant_within(keeper, only, Limits::default())
    }

    fn grant_within(
        &self,
        keeper: &Tree,
        only: Option<&[&str]>,
        limits: Limits,
    ) -> crate::Result<Arc<LiveGrant>> {
        let held = self.broker.identifier.hold(Pid::new(keeper.root).unwrap(), None).unwrap();
        let request = GrantRequest {
            directory: self.project.clone(),
            only: only.map(|only| only.iter().map(|file| FileName::new(*file).unwrap()).collect()),
            ttl_ms: None,
            limits,
            max_opens_of: Vec::new(),
            values: Vec::new(),
            front: keeper.front,
            command: vec!["sh".into()],
            end_with_child: false,
            private: None,
            redact: None,
        };
        self.broker.grant(Peer { held }, &request, None).map(|(_, live)| live)
    }

    fn open(&self, pid: u32, file: &str) -> Result<Vec<u8>, Refusal> {
        self.open_as(pid, file, None).map_err(refusal)
    }

    fn open_as(&self, pid: u32, file: &str, exe: Option<Exe>) -> Result<Vec<u8>, Halt> {
        let caller = Caller { tid: pid, uid: 0, mount: None };
        let delivery = self.broker.open(
            caller,
            &DirectoryName::new("api").unwrap(),
            &FileName::new(file).unwrap(),
            exe,
        )?;
        let reading = self.broker.read(caller, &delivery, PageCache::Unused, exe)?;
        Ok(reading.whole().to_vec())
    }

    fn events(&self, wanted: &str) -> usize {
        self.broker.audit.flush(true);
        let mut count = 0;
        audit::query(&self.broker.directories.state, &audit::Filter::default(), |record| {
            count += usize::from(record.event() == wanted);
        })
        .unwrap();
        audit::verify(&self.broker.directories.state).unwrap();
        count
    }
}

fn refusal(halt: Halt) -> Refusal {
    match halt {
        Halt::Refused(refusal) => refusal,
        Halt::Unhashed(_) => panic!("nothing is pinned"),
    }
}

/// Three processes, each the parent of the next: one to be the keeper, one below it, one at the leaf.
/// They end when the first one's input does.
struct Tree {
    child: Child,
    front: u32,
    root: u32,
    inner: u32,
    leaf: u32,
}

const PLAY: &str = "
import os, sys
near, far = os.pipe()
inner = os.fork()
if inner == 0:
    leaf = os.fork()
    if leaf == 0:
        os.read(0, 1)
        os._exit(0)
    os.write(far, b'%d %d\\n' % (os.getpid(), leaf))
    os.waitpid(leaf, 0)
    os._exit(0)
os.write(1, os.read(near, 64))
os.waitpid(inner, 0)
";

impl Tree {
    fn new() -> Self {
        let mut play = Command::new("python3");
        let mut child = play.args(["-c", PLAY]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pids: Vec<u32> = line.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
        Self { front: std::process::id(), root: child.id(), inner: pids[0], leaf: pids[1], child }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn both() -> [House; 2] {
    [House::new(Choice::Auto), House::new(Choice::Procfs)]
}

#[test]
fn a_grant_has_so_many_files_open_and_no_more() {
    let house = House::new(Choice::Auto);
    let (hoarder, other) = (Tree::new(), Tree::new());
    let grants = [&hoarder, &other].map(|tree| house.grant(tree, None).unwrap());
    let caller = Caller { tid: hoarder.leaf, uid: 0, mount: None };
    let (project, file) = (DirectoryName::new("api").unwrap(), FileName::new("DB").unwrap());
    let open = || house.broker.open(caller, &project, &file, None);
    let mut held: Vec<_> = (0..OPEN_FILES).map(|_| open().unwrap()).collect();
    assert_eq!(open().map(drop).map_err(refusal), Err(Refusal::Denied(Denial::TooManyOpen)));
    // It is nobody else's loss, what is open can be read, and what is closed makes room.
    assert_eq!(house.open(other.leaf, "DB"), Ok(VALUE.to_vec()));
    let first = house.broker.read(caller, &held[0], PageCache::Unused, None).unwrap();
    assert_eq!(first.whole(), VALUE);
    drop(first);
    held.pop();
    assert_eq!(house.open(hoarder.leaf, "DB"), Ok(VALUE.to_vec()));
    assert_eq!((house.events("open.deny"), grants[0].open_deliveries()), (1, OPEN_FILES - 1));
}

#[test]
fn a_member_is_delivered_and_an_outsider_is_not() {
    for house in both() {
        let tree = Tree::new();
        let before = house.open(tree.leaf, "DB");
        assert_eq!(before, Err(Refusal::Denied(Denial::OutsideTree)), "nothing is granted yet");
        let _live = house.grant(&tree, None).unwrap();
        assert_eq!(house.open(tree.leaf, "DB").as_deref(), Ok(VALUE));
        assert_eq!(house.open(tree.inner, "DB").as_deref(), Ok(VALUE));
        for outsider in [std::process::id(), tree.root] {
            assert_eq!(house.open(outsider, "DB"), Err(Refusal::Denied(Denial::OutsideTree)));
        }
        assert_eq!(house.open(0, "DB"), Err(Refusal::Denied(Denial::Unidentified(Unidentified::Invisible))));
        assert_eq!(house.open(tree.leaf, "NONE"), Err(Refusal::Denied(Denial::NoBinding)));
        assert_eq!((house.events("open.allow"), house.events("grant.create")), (2, 1));
    }
}

#[test]
fn an_open_handle_stops_reading_when_its_grant_ends() {
    for house in both() {
        let tree = Tree::new();
        let live = house.grant(&tree, None).unwrap();
        let caller = Caller { tid: tree.leaf, uid: 0, mount: None };
        let (project, file) = (DirectoryName::new("api").unwrap(), FileName::new("DB").unwrap());
        let delivery = house.broker.open(caller, &project, &file, None).unwrap();
        assert!(house.broker.read(caller, &delivery, PageCache::Unused, None).is_ok());
        assert!(house.broker.withdraw(&live, Ending::Revoked));
        assert!(!house.broker.withdraw(&live, Ending::TtlExpired), "a grant ends once");
        let revoked = Refusal::Denied(Denial::Ended(Ending::Revoked));
        assert_eq!(
            house.broker.read(caller, &delivery, PageCache::Unused, None).err().map(refusal),
            Some(revoked)
        );
        assert!(delivery.reading().is_none(), "the value is wiped");
        assert_eq!(house.open(tree.leaf, "DB"), Err(revoked));
        assert_eq!((house.events("grant.revoke"), house.events("read.deny")), (1, 1));
        let (id, mut named) = (live.grant.id.to_string(), 0);
        audit::query(
            &house.broker.directories.state,
            &audit::Filter { denied: true, ..Default::default() },
            |record| {
                named += usize::from(record.grant().as_deref() == Some(&id));
            },
        )
        .unwrap();
        assert_eq!(named, 2, "the denials name the grant that decided")
    }
}

#[test]
fn a_delivery_that_comes_after_the_withdrawal_is_wiped_at_once() {
    let house = House::new(Choice::Auto);
    let tree = Tree::new();
    let live = house.grant(&tree, None).unwrap();
    house.broker.withdraw(&live, Ending::Revoked);
    let late = Delivery::new(live, FileName::new("DB").unwrap(), Vec::new(), Plaintext::copy_of(VALUE));
    assert!(late.reading().is_none());
}

#[test]
fn b01_a_descriptor_that_was_passed_on_reads_nothing() {
    for house in both() {
        let (tree, other) = (Tree::new(), Tree::new());
        let _live = house.grant(&tree, None).unwrap();
        let _other = house.grant(&other, None).unwrap();
        let caller = Caller { tid: tree.leaf, uid: 0, mount: None };
        let delivery = house
            .broker
            .open(caller, &DirectoryName::new("api").unwrap(), &FileName::new("DB").unwrap(), None)
            .unwrap();
        let foreign = Caller { tid: other.leaf, uid: 0, mount: None };
        let denied = |denial| Some(Refusal::Denied(denial));
        assert_eq!(
            house.broker.read(foreign, &delivery, PageCache::Unused, None).err().map(refusal),
            denied(Denial::ForeignReader)
        );
        let outsider = Caller { tid: std::process::id(), uid: 0, mount: None };
        assert_eq!(
            house.broker.read(outsider, &delivery, PageCache::Unused, None).err().map(refusal),
            denied(Denial::ForeignReader)
        );
        assert_eq!(
            house.broker.read(caller, &delivery, PageCache::Shared, None).err().map(refusal),
            denied(Denial::PageCacheFill)
        );
        assert!(house.broker.read(caller, &delivery, PageCache::Unused, None).is_ok());
    }
}

/// The inner process of the tree becomes the root of a nested grant.
fn nested(house: &House, tree: &Tree, only: Option<&[&str]>) -> crate::Result<Arc<LiveGrant>> {
    nested_within(house, tree, only, Limits::default())
}

fn nested_within(
    house: &House,
    tree: &Tree,
    only: Option<&[&str]>,
    limits: Limits,
) -> crate::Result<Arc<LiveGrant>> {
    let inner =
        Tree { child: Command::new("true").spawn().unwrap(), front: tree.root, root: tree.inner, ..*tree };
    house.grant_within(&inner, only, limits)
}

fn at_most(opens: u64) -> Limits {
    Limits { max_opens: Some(opens), for_first: None }
}

#[test]
fn eight_threads_flat_out_get_exactly_as_many_opens_as_there_are() {
    const MOST: usize = 100;
    for house in both() {
        let tree = Tree::new();
        let live = house.grant_within(&tree, None, at_most(MOST as u64)).unwrap();
        let opener = || {
            let mut delivered = 0;
            loop {
                match house.open(tree.leaf, "DB") {
                    Ok(value) => delivered += usize::from(value == VALUE),
                    Err(Refusal::Denied(Denial::MaxOpens)) => return delivered,
                    Err(other) => panic!("{other:?}"),
                }
            }
        };
        let delivered: usize = std::thread::scope(|scope| {
            let openers: Vec<_> = (0..8).map(|_| scope.spawn(opener)).collect();
            openers.into_iter().map(|opener| opener.join().unwrap()).sum()
        });
        assert_eq!((delivered, live.opens(), house.events("open.allow")), (MOST, MOST as u64, MOST));
        assert!(house.events("open.deny") > 0, "the refusals are in the record");
    }
}

#[test]
fn d03_of_a_thousand_revocations_under_full_load_none_lets_an_open_follow() {
    let house = House::new(Choice::Auto);
    let tree = Tree::new();
    let mut allowed = 0;
    for round in 0..1000 {
        let live = house.grant(&tree, None).unwrap();
        let opener = || {
            while house.open(tree.leaf, "DB").is_ok() {}
        };
        let at_the_answer = std::thread::scope(|scope| {
            (0..8).for_each(|_| drop(scope.spawn(opener)));
            while live.opens() < 3 {
                std::thread::yield_now();
            }
            assert!(house.broker.withdraw(&live, Ending::Revoked));
            live.opens()
        });
        assert_eq!(live.opens(), at_the_answer, "round {round}");
        house.broker.grants.strike(live.grant.root);
        allowed += at_the_answer;
    }
    assert_eq!(house.events("open.allow") as u64, allowed);
}

#[test]
fn what_is_opened_inside_is_counted_outside_too() {
    let house = House::new(Choice::Auto);
    let tree = Tree::new();
    let outer = house.grant_within(&tree, None, at_most(3)).unwrap();
    assert!(house.open(tree.leaf, "DB").is_ok());
    let inner = nested_within(&house, &tree, None, at_most(1000)).unwrap();
    assert!(house.open(tree.leaf, "DB").is_ok() && house.open(tree.leaf, "OTHER").is_ok());
    for reader in [tree.leaf, tree.inner] {
        assert_eq!(house.open(reader, "DB"), Err(Refusal::Denied(Denial::MaxOpens)));
    }
    assert_eq!((inner.opens(), outer.opens()), (2, 3));
    let left = inner.left(clock::now());
    assert_eq!(left.opens_left, Some(0), "what is shown is what is left of all of them");
}

#[test]
fn nothing_inside_an_outer_grant_that_ended_is_alive() {
    let house = House::new(Choice::Auto);
    let tree = Tree::new();
    let outer = house.grant(&tree, None).unwrap();
    let inner = nested(&house, &tree, None).unwrap();
    // As in the midst of a withdrawal: the outer one has ended, the inner one has not been reached.
    assert!(outer.end(Ending::Revoked));
    assert_eq!(house.open(tree.leaf, "DB"), Err(Refusal::Denied(Denial::Ended(Ending::Revoked))));
    assert!(!inner.is_live(clock::now()) && inner.ended().is_none());
}

#[test]
fn e08_nesting_narrows_and_never_falls_through() {
    for house in both() {
        let tree = Tree::new();
        let outer = house.grant(&tree, Some(&["DB"])).unwrap();
        assert_eq!(house.open(tree.leaf, "DB").as_deref(), Ok(VALUE));
        let wider = nested(&house, &tree, Some(&["OTHER"])).unwrap_err();
        assert_eq!((wider.class, &*wider.code), (crate::Class::Denied, "wider_grant"));
        let inner = nested(&house, &tree, None).unwrap();
        assert_eq!(inner.grant.bindings.len(), 1, "what the outer grant has, not what the manifest says");
        assert_eq!(house.open(tree.leaf, "DB").as_deref(), Ok(VALUE));
        assert_eq!((inner.opens(), outer.opens()), (1, 2), "the innermost decides, cached or not");
        house.broker.withdraw(&inner, Ending::Revoked);
        assert_eq!(house.open(tree.leaf, "DB"), Err(Refusal::Denied(Denial::Ended(Ending::Revoked))));
        assert_eq!(
            house.open(tree.inner, "DB").as_deref(),
            Ok(VALUE),
            "the inner root is the outer's member"
        );
    }
}

#[test]
fn an_outer_grant_takes_its_inner_ones_along() {
    let house = House::new(Choice::Auto);
    let tree = Tree::new();
    let outer = house.grant(&tree, None).unwrap();
    let inner = nested(&house, &tree, None).unwrap();
    house.broker.withdraw(&outer, Ending::Revoked);
    assert_eq!(inner.ended(), Some(Ending::Revoked));
    assert_eq!(house.events("grant.revoke"), 2);
}

#[test]
fn a_removed_secret_is_not_there_and_a_new_version_is() {
    let house = House::new(Choice::Auto);
    let tree = Tree::new();
    let _live = house.grant(&tree, None).unwrap();
    let reference = Reference::new("db/url").unwrap();
    house.broker.set_secret(&reference, &Plaintext::copy_of(b"new"), Facts::default(), None).unwrap();
    assert_eq!(house.open(tree.leaf, "DB").as_deref(), Ok(&b"new"[..]));
    house.broker.remove_secret(&reference, None).unwrap();
    assert_eq!(house.open(tree.leaf, "DB"), Err(Refusal::Missing));
}

#[test]
fn d07_locking_ends_every_grant_and_only_a_person_unlocks() {
    let house = House::new(Choice::Auto);
    let tree = Tree::new();
    let live = house.grant(&tree, None).unwrap();
    assert_eq!(house.broker.lock(), [live.grant.id]);
    assert_eq!(house.open(tree.leaf, "DB"), Err(Refusal::Denied(Denial::Ended(Ending::Locked))));
    assert_eq!(house.broker.unlock(Asker::Person, None, None).err().unwrap().code, "vault_locked");
    assert!(house.broker.unlock(Asker::Unlock, None, None).is_ok());
}

#[test]
fn d07_a_vault_that_locked_itself_suspends_its_grants_until_a_person_unlocks() {
    let house = House::new(Choice::Auto);
    let tree = Tree::new();
    let live = house.grant(&tree, None).unwrap();
    let caller = Caller { tid: tree.leaf, uid: 0, mount: None };
    let (project, file) = (DirectoryName::new("api").unwrap(), FileName::new("DB").unwrap());
    let delivery = house.broker.open(caller, &project, &file, None).unwrap();
    house.broker.lock_itself("idle");

    let waits = Refusal::Denied(Denial::Suspended);
    assert_eq!(house.open(tree.leaf, "DB"), Err(waits));
    assert_eq!(house.broker.read(caller, &delivery, PageCache::Unused, None).err().map(refusal), Some(waits));
    assert_eq!(house.broker.look_at_file(caller, &project, &file, Op::Getattr), Err(waits));
    assert_eq!(house.open(tree.leaf, "NONE"), Err(Refusal::Denied(Denial::NoBinding)));
    assert_eq!(house.broker.names(caller, &project).unwrap().len(), 2);
    assert_eq!(house.open(std::process::id(), "DB"), Err(Refusal::Denied(Denial::OutsideTree)));
    assert!(delivery.reading().is_none(), "what was delivered is wiped");
    assert!(live.is_live(clock::now()));

    // Neither an open nor whoever may only look opens it again.
    assert_eq!(house.broker.unlock(Asker::Anybody, None, None).err().unwrap().code, "vault_locked");
    assert_eq!(house.open(tree.leaf, "DB"), Err(waits));
    house.broker.unlock(Asker::Person, None, None).unwrap();
    assert_eq!(house.open(tree.leaf, "DB").unwrap(), VALUE);
    assert_eq!(
        house.broker.read(caller, &delivery, PageCache::Unused, None).err().map(refusal),
        Some(waits),
        "its value is gone"
    );
    assert_eq!((house.events("vault.autolock"), house.events("grant.revoke")), (1, 0));
}

#[test]
fn d07_a_person_locks_what_has_locked_itself_and_grants_end() {
    let house = House::new(Choice::Auto);
    let tree = Tree::new();
    let live = house.grant(&tree, None).unwrap();
    house.broker.lock_itself("suspend");
    house.broker.lock_itself("suspend");
    assert_eq!(house.broker.lock(), [live.grant.id]);
    assert_eq!(house.open(tree.leaf, "DB"), Err(Refusal::Denied(Denial::Ended(Ending::Locked))));
    assert_eq!(house.broker.unlock(Asker::Person, None, None).err().unwrap().code, "vault_locked");
    assert_eq!(house.events("vault.autolock"), 1);
}

#[test]
fn a_keeper_names_its_own_parent_as_its_front() {
    let house = House::new(Choice::Auto);
    let mut tree = Tree::new();
    tree.front = 1;
    assert_eq!(house.grant(&tree, None).unwrap_err().code, "peer_gone");
    tree.front = std::process::id();
    assert!(house.grant(&tree, None).is_ok());
    assert_eq!(house.grant(&tree, None).unwrap_err().code, "already_granted");
}
