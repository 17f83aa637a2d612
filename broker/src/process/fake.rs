//! A process table for tests, in which anything can happen between two questions.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use kin_policy::{Pid, Process, Tid};
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;

use super::Roots;
use super::table::{Absent, Held, Identity, ProcessTable};

/// A question, before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Open(u32),
    LeaderOf(u32),
    Parent(u32),
    HasThread(u32, u32),
}

struct FakeProcess {
    start: u64,
    parent: u32,
    threads: BTreeSet<u32>,
    subreaper: bool,
    hidden: bool,
    /// In pid namespaces below the broker's, outermost first.
    numbers_below: Vec<u32>,
    /// Turns readable at death, as a pidfd does.
    death: OwnedFd,
}

/// Who lives, and whose child it is.
#[derive(Default)]
pub(super) struct World {
    living: BTreeMap<u32, FakeProcess>,
    clock: u64,
    /// Children whose parent is being reaped when it is asked for next.
    unnumbered: BTreeSet<u32>,
    pub(super) calls: Vec<Call>,
}

type Hook = Box<dyn FnMut(&mut World, Call) + Send>;

/// Shares its world with the test that holds a clone.
#[derive(Clone)]
pub(super) struct Fake {
    world: Arc<Mutex<World>>,
    hook: Arc<Mutex<Option<Hook>>>,
    inodes: bool,
}

impl World {
    /// A new process; its start time is unique.
    pub(super) fn spawn(&mut self, pid: u32, parent: u32) -> Process {
        assert!(!self.living.contains_key(&pid), "{pid} is taken");
        self.clock += 1;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let death = OwnedFd::from(EventFd::from_flags(flags).unwrap());
        let threads = BTreeSet::from([pid]);
        let process = FakeProcess {
            start: self.clock,
            parent,
            threads,
            subreaper: false,
            hidden: false,
            numbers_below: Vec::new(),
            death,
        };
        self.living.insert(pid, process);
        self.process(pid)
    }

    pub(super) fn process(&self, pid: u32) -> Process {
        Process { pid: Pid::new(pid).unwrap(), start: self.living[&pid].start }
    }

    pub(super) fn lives(&self, pid: u32) -> bool {
        self.living.contains_key(&pid)
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        self.living.keys().copied().collect()
    }

    pub(super) fn make_subreaper(&mut self, pid: u32) {
        self.living.get_mut(&pid).unwrap().subreaper = true;
    }

    pub(super) fn add_thread(&mut self, pid: u32, tid: u32) {
        self.living.get_mut(&pid).unwrap().threads.insert(tid);
    }

    pub(super) fn end_thread(&mut self, pid: u32, tid: u32) {
        self.living.get_mut(&pid).unwrap().threads.remove(&tid);
    }

    /// Puts it into pid namespaces below the broker's, with these numbers there.
    pub(super) fn number_below(&mut self, pid: u32, numbers: &[u32]) {
        self.living.get_mut(&pid).unwrap().numbers_below = numbers.to_vec();
    }

    pub(super) fn hide(&mut self, pid: u32) {
        self.living.get_mut(&pid).unwrap().hidden = true;
    }

    /// Ends and reaps it; its children go to the nearest ancestor that is a subreaper, else to 1.
    pub(super) fn kill(&mut self, pid: u32) {
        let dead = self.living.remove(&pid).unwrap();
        nix::unistd::write(&dead.death, &1u64.to_ne_bytes()).unwrap();
        let mut heir = dead.parent;
        while heir > 1 && !self.living[&heir].subreaper {
            heir = self.living[&heir].parent;
        }
        for child in self.living.values_mut().filter(|child| child.parent == pid) {
            child.parent = heir;
        }
    }

    /// Ends and reaps it while its child's parent is being read: that reading finds no number.
    pub(super) fn reap_under(&mut self, pid: u32, child: u32) {
        self.unnumbered.insert(child);
        self.kill(pid);
    }

    /// Whether `pid` descends from `root`, by the world's own knowledge.
    pub(super) fn descends(&self, pid: u32, root: Process) -> bool {
        let mut above = self.living[&pid].parent;
        while above != 0 {
            if self.process(above) == root {
                return true;
            }
            above = self.living[&above].parent;
        }
        false
    }

    fn of(&self, held: &Held) -> Result<&FakeProcess, Absent> {
        let process = held.process();
        let found = self.living.get(&process.pid.get()).filter(|found| found.start == process.start);
        found.ok_or(Absent::Missing)
    }
}

impl Fake {
    /// With pidfs inodes or without; process 1 lives.
    pub(super) fn new(inodes: bool) -> Self {
        let mut world = World::default();
        world.spawn(1, 0);
        Self { world: Arc::new(Mutex::new(world)), hook: Arc::default(), inodes }
    }

    /// A chain of processes, each the parent of the next, below 1.
    pub(super) fn chain(&self, pids: &[u32]) -> Vec<Process> {
        let mut parent = 1;
        let mut spawn = |pid| {
            let process = self.world.lock().spawn(pid, parent);
            parent = pid;
            process
        };
        pids.iter().map(|pid| spawn(*pid)).collect()
    }

    pub(super) fn with<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        change(&mut self.world.lock())
    }

    /// Lets `hook` change the world before every answer.
    pub(super) fn before_each(&self, hook: impl FnMut(&mut World, Call) + Send + 'static) {
        *self.hook.lock() = Some(Box::new(hook));
    }

    /// Lets `change` happen once, before the `nth` (from 1) asking of `call`.
    pub(super) fn before(&self, call: Call, nth: usize, change: impl FnOnce(&mut World) + Send + 'static) {
        let (mut seen, mut change) = (0, Some(change));
        self.before_each(move |world, asked| {
            seen += usize::from(asked == call);
            if seen == nth
                && let Some(change) = change.take()
            {
                change(world);
            }
        });
    }

    fn ask<T>(&self, call: Call, answer: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.world.lock();
        if let Some(hook) = self.hook.lock().as_mut() {
            hook(&mut world, call);
        }
        world.calls.push(call);
        answer(&mut world)
    }
}

impl ProcessTable for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn open(&self, pid: Pid) -> Result<Held, Absent> {
        self.ask(Call::Open(pid.get()), |world| {
            let found = world.living.get(&pid.get()).ok_or(Absent::Missing)?;
            if found.hidden {
                return Err(Absent::Hidden);
            }
            let inode = self.inodes.then_some(found.start);
            let identity = Identity { process: world.process(pid.get()), inode };
            Ok(Held::new(identity, found.death.try_clone().unwrap()))
        })
    }

    fn adopt(&self, pid: Pid, _: OwnedFd) -> Result<Held, Absent> {
        self.open(pid)
    }

    fn leader_of(&self, tid: Tid) -> Result<Pid, Absent> {
        self.ask(Call::LeaderOf(tid.get()), |world| {
            let group = world.living.iter().find(|(_, process)| process.threads.contains(&tid.get()));
            group.and_then(|(pid, _)| Pid::new(*pid)).ok_or(Absent::Missing)
        })
    }

    fn parent(&self, child: &Held) -> Result<Option<Pid>, Absent> {
        let call = Call::Parent(child.process().pid.get());
        self.ask(call, |world| {
            let parent = world.of(child)?.parent;
            Ok(Pid::new(parent).filter(|_| !world.unnumbered.remove(&child.process().pid.get())))
        })
    }

    fn numbers(&self, held: &Held) -> Result<Vec<u32>, Absent> {
        self.with(|world| {
            let below = world.of(held)?.numbers_below.iter();
            Ok([held.process().pid.get()].iter().chain(below).copied().collect())
        })
    }

    fn has_thread(&self, pid: Pid, tid: Tid) -> bool {
        self.ask(Call::HasThread(pid.get(), tid.get()), |world| {
            world.living.get(&pid.get()).is_some_and(|process| process.threads.contains(&tid.get()))
        })
    }
}

/// Roots that a test adds and takes away.
#[derive(Default)]
pub(super) struct Grants(pub(super) Mutex<Vec<Process>>);

impl Grants {
    pub(super) fn at(root: Process) -> Self {
        Self(Mutex::new(vec![root]))
    }
}

impl Roots for Grants {
    fn is_root(&self, candidate: &Identity) -> bool {
        self.0.lock().contains(&candidate.process)
    }
}
