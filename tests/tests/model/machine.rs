//! How does a step happen to real processes, and was the answer the model's?

use std::time::{Duration, Instant};

use kin_tests::{Actor, Remote, World, binary, eventually};
use nix::errno::Errno;
use serde_json::{Value, json};

use crate::reference::{Answer, FILES, Fault, Grant, Handle, Model};
use crate::steps::{How, Step};

const SECRETS: [&str; 2] = ["db/url", "api/key"];
const TTL: Duration = Duration::from_secs(2);
/// How long a withdrawal may take that nobody asked for.
const SOON: Duration = Duration::from_secs(5);
/// The most processes and grants that one sequence makes.
const MOST: usize = 10;

type Got = Result<Vec<u8>, Errno>;

/// One sequence under way.
pub(crate) struct Machine<'w> {
    world: &'w World,
    model: Model,
    /// `None` once it has died. The first is an outsider that stays.
    processes: Vec<Option<Remote>>,
    /// The ids, and the commands of those that end with theirs.
    grants: Vec<(String, Option<usize>)>,
    /// Handles, with who holds each, under which number.
    handles: Vec<(Handle, usize, u64)>,
    /// Every version's bytes.
    values: [Vec<Vec<u8>>; 2],
}

impl<'w> Machine<'w> {
    /// Runs a sequence against a model; what differed. Nothing is left of it afterwards.
    pub(crate) fn run(world: &'w World, fault: Option<Fault>, steps: &[Step]) -> Result<(), String> {
        let starter = world.outsider();
        let first = world.born_of(&starter, "fork", &[])?;
        let mut machine = Self {
            world,
            model: Model { fault, processes: vec![None], ..Model::default() },
            processes: vec![Some(first)],
            grants: Vec::new(),
            handles: Vec::new(),
            values: SECRETS.map(|name| vec![world.value(name)]),
        };
        let outcome = steps.iter().enumerate().try_for_each(|(number, step)| {
            machine.step(step).map_err(|why| format!("step {number}, {step:?}: {why}"))
        });
        machine.processes.clear();
        eventually("nothing is left of a sequence", SOON, || world.grants().is_empty());
        outcome
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match *step {
            Step::Run { by, only, how } => self.wrap(by, only, how),
            Step::Bear { by, how } => self.bear(by, how),
            Step::Cat { by, file } => self.cat(by, file),
            Step::Open { by, file } => self.open(by, file),
            Step::Read { handle } => self.read(handle),
            Step::Pass { handle, to } => self.pass(handle, to),
            Step::Exit { process } => self.exit(process),
            Step::Revoke { grant } => self.revoke(grant),
            Step::RevokeAll => self.end_all(&[&["revoke", "--all"]]),
            Step::Lock => self.end_all(&[&["lock"], &["unlock"]]),
            Step::Rotate { file } => self.rotate(file),
            Step::Expire { grant } => self.expire(grant),
        }
    }

    /// A living process by its number.
    fn alive(&self, number: usize) -> usize {
        let living: Vec<usize> =
            (0..self.processes.len()).filter(|at| self.processes[*at].is_some()).collect();
        living[number % living.len()]
    }

    fn process(&self, at: usize) -> &Remote {
        self.processes[at].as_ref().expect("it lives")
    }

    fn cat(&mut self, by: usize, file: usize) -> Result<(), String> {
        let by = self.alive(by);
        let from = Instant::now();
        let got = self.process(by).cat(&self.world.file(FILES[file]));
        self.compare(file, &got, self.model.open(by, file, from, Instant::now()))
    }

    /// Holds an answer to what was expected; where time may have run out meanwhile, to either.
    fn compare(&self, file: usize, got: &Got, expected: Option<Answer>) -> Result<(), String> {
        let right = match (got, expected) {
            (Err(Errno::EACCES), Some(Answer::Refused) | None)
            | (Err(Errno::ENOENT), Some(Answer::Absent)) => true,
            (Err(Errno::ENOENT), None) => true,
            (Ok(bytes), Some(Answer::Version(version))) => *bytes == self.values[file][version],
            (Ok(bytes), None) => self.values[file].contains(bytes),
            _ => false,
        };
        let shown = match got {
            Ok(bytes) => format!("version {:?}", self.values[file].iter().position(|value| value == bytes)),
            Err(errno) => errno.to_string(),
        };
        if right { Ok(()) } else { Err(format!("{} gave {shown}, not {expected:?}", FILES[file])) }
    }

    fn open(&mut self, by: usize, file: usize) -> Result<(), String> {
        let by = self.alive(by);
        let from = Instant::now();
        let got = self.process(by).open(&self.world.file(FILES[file]));
        let expected = self.model.open(by, file, from, Instant::now());
        if let (Ok(fd), Some(grant)) = (got, self.model.processes[by])
            && matches!(expected, Some(Answer::Version(_)) | None)
        {
            let handle = Handle { file, version: self.model.versions[file], grant };
            self.handles.push((handle, by, fd));
            return Ok(());
        }
        self.compare(file, &got.map(|_| Vec::new()), expected)
    }

    fn read(&mut self, handle: usize) -> Result<(), String> {
        let Some((handle, by, fd)) = self.held(handle) else { return Ok(()) };
        let from = Instant::now();
        let got = self.process(by).pread(fd, 1 << 16, 0);
        self.compare(handle.file, &got, self.model.read(by, handle, from, Instant::now()))
    }

    /// A handle whose holder lives.
    fn held(&self, number: usize) -> Option<(Handle, usize, u64)> {
        let held: Vec<_> = self.handles.iter().filter(|(_, by, _)| self.processes[*by].is_some()).collect();
        (!held.is_empty()).then(|| *held[number % held.len()])
    }

    fn pass(&mut self, handle: usize, to: usize) -> Result<(), String> {
        let Some((handle, by, fd)) = self.held(handle) else { return Ok(()) };
        let to = self.alive(to);
        if to == by {
            return Ok(());
        }
        let path = self.world.path("passing");
        let fault = |errno: Errno| format!("a descriptor could not be passed: {errno}");
        self.process(to).ask("listen", json!({ "path": path })).map_err(fault)?;
        self.process(by).ask("send", json!({ "fd": fd, "path": path })).map_err(fault)?;
        let fd = self.process(to).ask("receive", json!({ "path": path })).map_err(fault)?;
        let _ = std::fs::remove_file(&path);
        self.handles.push((handle, to, fd.as_u64().expect("a descriptor")));
        Ok(())
    }

    fn bear(&mut self, by: usize, how: &'static str) -> Result<(), String> {
        if self.processes.len() >= MOST {
            return Ok(());
        }
        let by = self.alive(by);
        let probe = self.world.probe_line();
        let child = self.world.born_of(self.process(by), how, &probe)?;
        self.model.descends(by, how == "orphan");
        self.processes.push(Some(child));
        if how != "program" {
            // A fork has what its parent has open.
            let inherited: Vec<_> =
                self.handles.iter().filter(|(_, holder, _)| *holder == by).copied().collect();
            let child = self.processes.len() - 1;
            self.handles.extend(inherited.into_iter().map(|(handle, _, fd)| (handle, child, fd)));
        }
        Ok(())
    }

    fn wrap(&mut self, by: usize, only: Option<[bool; 2]>, how: How) -> Result<(), String> {
        let by = self.alive(by);
        let outer = self.model.processes[by];
        // Survivors of an inner command would hang on the outer keeper: see the suite, grants.rs.
        let how = if outer.is_some() { How::Tree } else { how };
        let now = Instant::now();
        let lives = outer.map_or(Some(true), |outer| self.model.lives(outer, now, now + SOON));
        if self.processes.len() >= MOST || lives.is_none() {
            return Ok(());
        }
        let options = options(only, how);
        let files = self.model.narrowed(outer, only).filter(|_| lives == Some(true));
        let Some(files) = files else { return self.refused(by, &options) };
        // Others may end meanwhile, so they are no matter of how many.
        let (before, others) = (Instant::now(), self.ids());
        let argv = self.world.run_line(&options.iter().map(String::as_str).collect::<Vec<_>>());
        let command = self.world.born_of(self.process(by), "program", &argv)?;
        let expires = (how == How::Ttl).then(|| (before + TTL, Instant::now() + TTL));
        let made = self.ids().into_iter().find(|id| !others.contains(id));
        if how != How::Ttl && made.is_none() {
            return Err("no grant was made".into());
        }
        let id = made.unwrap_or_default();
        self.model.grants.push(Grant { outer, files, ended: false, expires });
        self.model.processes.push(Some(self.model.grants.len() - 1));
        self.processes.push(Some(command));
        let command = (how == How::EndWithChild).then_some(self.processes.len() - 1);
        self.grants.push((id, command));
        Ok(())
    }

    /// The grants that there are now.
    fn ids(&self) -> Vec<String> {
        let id = |grant: &Value| grant["id"].as_str().expect("an id").to_owned();
        self.world.grants().iter().map(id).collect()
    }

    fn refused(&self, by: usize, options: &[String]) -> Result<(), String> {
        let kin = binary();
        let mut argv = vec![kin.to_str().expect("a path in UTF-8"), "run"];
        argv.extend(options.iter().map(String::as_str));
        argv.extend(["--", "true"]);
        match self.process(by).run(&argv).0 {
            5 => Ok(()),
            code => Err(format!("a wider run ended with {code}, not 5")),
        }
    }

    fn exit(&mut self, process: usize) -> Result<(), String> {
        let process = self.alive(process);
        if process == 0 {
            return Ok(());
        }
        self.processes[process] = None;
        let ends = self.grants.iter().position(|(_, command)| *command == Some(process));
        if let Some(grant) = ends {
            self.model.grants[grant].ended = true;
            let id = self.grants[grant].0.clone();
            let stands = || self.world.grants().iter().any(|live| live["id"] == *id);
            eventually("a grant ends with its command", SOON, || !stands());
        }
        Ok(())
    }

    fn revoke(&mut self, grant: usize) -> Result<(), String> {
        if self.grants.is_empty() {
            return Ok(());
        }
        let grant = grant % self.grants.len();
        // It may have ended before: then there is nothing to revoke.
        let code = self.world.kin(["revoke", &self.grants[grant].0]).run().code();
        self.model.revoke(grant);
        if [0, 2].contains(&code) { Ok(()) } else { Err(format!("kin revoke ended with {code}")) }
    }

    fn end_all(&mut self, commands: &[&[&str]]) -> Result<(), String> {
        for command in commands {
            self.world.kin(*command).run().exits(0);
        }
        (0..self.grants.len()).for_each(|grant| self.model.revoke(grant));
        Ok(())
    }

    fn rotate(&mut self, file: usize) -> Result<(), String> {
        self.values[file].push(self.world.secret(SECRETS[file]).into_bytes());
        self.model.versions[file] += 1;
        Ok(())
    }

    fn expire(&mut self, grant: usize) -> Result<(), String> {
        let timed: Vec<Instant> =
            self.model.grants.iter().filter_map(|grant| Some(grant.expires?.1)).collect();
        if !timed.is_empty() {
            let over = timed[grant % timed.len()] + Duration::from_millis(20);
            std::thread::sleep(over.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }
}

fn options(only: Option<[bool; 2]>, how: How) -> Vec<String> {
    let mut options = Vec::new();
    if let Some(only) = only {
        let names: Vec<&str> = (0..2).filter(|file| only[*file]).map(|file| FILES[file]).collect();
        options.extend(["--only".to_owned(), names.join(",")]);
    }
    match how {
        How::Tree => {}
        How::Ttl => options.extend(["--ttl".to_owned(), format!("{}s", TTL.as_secs())]),
        How::EndWithChild => options.push("--end-with-child".to_owned()),
    }
    options
}
