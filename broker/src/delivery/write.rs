//! May this process change a file, and what becomes of what it wrote? A new version in the vault, or nothing.

use std::sync::Arc;

use kin_policy::{Action, Denial, DirectoryName, Exe, FileName, Permit};

use super::judge::{Attempt, Judged};
use super::open::{Caller, Halt, Refusal, unsealing, versions, withheld};
use crate::audit::version_event;
use crate::audit::{Event, Logged, Op, ReaderFacts, VaultChange};
use crate::broker::Broker;
use crate::delivery::open_file::{Delivery, Untaken};
use crate::grants::live::LiveGrant;
use crate::process::{self, Program};
use crate::sys::clock;
use crate::sys::error::{Class, Error, Result as Outcome};
use crate::sys::memory::Plaintext;
use crate::vault::Facts;

/// Who shows files that can be written: this room knows no file systems.
pub trait ServeWritable: Send + Sync {
    /// Shows them, and returns once they can be opened.
    ///
    /// # Errors
    /// Why it cannot.
    fn put_up(&self) -> Outcome<()>;

    /// A grant that may write has ended. Takes the files away, soon, unless [`Broker::has_writers`].
    fn settle(&self);
}

/// What a file is opened to write with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// What it has.
    Content,
    /// Nothing (O_TRUNC): its value is not delivered.
    Empty,
}

/// Who closed a file, as that was proven and seen then.
pub(crate) struct Closed {
    judged: Judged,
    permit: Permit,
    caller: Caller,
    program: Program,
}

impl Broker {
    /// Lets `server` show the files that can be written; the first one stays.
    pub fn show_writable_by(&self, server: Box<dyn ServeWritable>) {
        let _ = self.writable_mount.set(server);
    }

    /// Whether a grant stands that may write.
    pub fn has_writers(&self) -> bool {
        let now = clock::now();
        self.grants.all().iter().any(|live| live.is_current(now) && live.grant.writable().next().is_some())
    }

    /// Opens a file to write: decided and recorded as an open, and what it holds is the handle's own from there on.
    ///
    /// # Errors
    /// As [`Broker::open`]; `ReadOnly`.
    pub fn open_to_write(
        &self,
        caller: Caller,
        project: &DirectoryName,
        file: &FileName,
        begin: Begin,
        exe: Option<Exe>,
    ) -> Result<Arc<Delivery>, Halt> {
        let attempt =
            Attempt { caller, project, file: Some(file), action: Action::OpenToWrite, op: Op::Write };
        let (judged, permit) = self.permitted_content(&attempt, exe)?;
        let vault = self.vault().ok_or_else(|| judged.subject.withheld())?;
        let versions = versions(&permit, &vault)?;
        let op = if begin == Begin::Empty { Op::Write } else { Op::Open };
        let logged = self.log(permit, &versions, &judged, &Attempt { op, ..attempt })?;
        let (process, exe) = (judged.process().ok_or(Refusal::Broken)?, judged.subject.exe);
        let live = judged.subject.live.ok_or(Refusal::Broken)?;
        let value = match begin {
            Begin::Content => vault.unseal(&logged).map_err(|error| unsealing(&error))?,
            Begin::Empty => Plaintext::zeroed(0),
        };
        let emptied = begin == Begin::Empty;
        let delivery = Delivery::to_write(live, file.clone(), versions, value, (process, exe, emptied));
        self.autolock.used(&delivery);
        Ok(delivery)
    }

    /// Takes bytes in, at an offset or at the end (`None`). They are the handle's alone until it is stored.
    ///
    /// # Errors
    /// The denial, which is in the record then; `TooLarge`; `Unhashed`.
    pub fn write(
        &self,
        caller: Caller,
        delivery: &Delivery,
        at: Option<u64>,
        bytes: &[u8],
        exe: Option<Exe>,
    ) -> Result<(), Halt> {
        self.permitted_write(caller, delivery, exe)?;
        if LiveGrant::is_memory_full() {
            return Err(Refusal::Full.into());
        }
        if let Some(scratch) = delivery.scratch() {
            scratch.may_hold(&delivery.live.may_be_in(&scratch.name()));
        }
        delivery.write(at, bytes).map_err(|why| untaken(why, delivery).into())
    }

    /// Cuts what the handle has off, or makes it longer by zeroes.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn resize(
        &self,
        caller: Caller,
        delivery: &Delivery,
        size: u64,
        exe: Option<Exe>,
    ) -> Result<(), Halt> {
        self.permitted_write(caller, delivery, exe)?;
        delivery.resize(size).map_err(|why| untaken(why, delivery).into())
    }

    /// Stores what was written to the handle, where the vault does not have it already. Waits for the vault, so it is
    /// for no thread that others wait for.
    ///
    /// # Errors
    /// The denial, which is in the record then; `NotRecorded` where the record failed: then nothing was stored;
    /// `Full`, `Broken`; `Unhashed`.
    pub fn store(&self, caller: Caller, delivery: &Delivery, exe: Option<Exe>) -> Result<(), Halt> {
        let (judged, permit) = self.permitted_write(caller, delivery, exe)?;
        Ok(self.store_draft(&Closed::now(judged, permit, caller), delivery)?)
    }

    /// As [`Self::store`], for the close of one descriptor of the file that is this `inode` in its mount. It stores
    /// once the process that opened the file has no other descriptor to write it by. What others close (a child that
    /// inherited it) is stored when the last of them is closed: [`Self::store_at_release`]. What a process had half
    /// written when a signal ended it is not stored: the kernel closes its files, but nobody wrote them to the end.
    ///
    /// # Errors
    /// As there.
    pub fn store_at_close(
        &self,
        caller: Caller,
        delivery: &Delivery,
        inode: u64,
        exe: Option<Exe>,
    ) -> Result<(), Halt> {
        // A process that ends has no executable any more. What it wrote, it wrote running one that was asked for.
        let exe = exe.or_else(|| delivery.opened_running().filter(|_| process::is_ending(caller.tid)));
        let (judged, permit) = self.permitted_write(caller, delivery, exe)?;
        let opener = judged.process().filter(|process| delivery.is_opened_by(*process));
        match opener {
            Some(_) if process::is_being_killed(caller.tid) => {
                delivery.closed_by(None);
                let attempt =
                    Attempt::look(caller, &delivery.live.grant.project, Op::Write).of(&delivery.file);
                self.record_refusal(&judged, "writer_killed", &attempt);
                Err(Refusal::Broken.into())
            }
            Some(process) if !process::has_open_to_write(process.pid, inode) => {
                // Whoever closed one before, this is the answer that counts.
                delivery.closed_by(None);
                self.store_draft(&Closed::now(judged, permit, caller), delivery).map_err(Halt::from)
            }
            _ => {
                delivery.closed_by(Some(Closed::now(judged, permit, caller)));
                Ok(())
            }
        }
    }

    /// The last descriptor was closed: stores what no close has stored, for whoever closed one last. Nobody waits for
    /// it; what stands in its way is in the record.
    pub fn store_at_release(&self, delivery: &Delivery) {
        if let Some(closed) = delivery.take_closed() {
            let _ = self.store_draft(&closed, delivery);
        }
    }

    fn store_draft(&self, by: &Closed, delivery: &Delivery) -> Result<(), Refusal> {
        let Some(drafted) = delivery.drafted().map_err(|why| untaken(why, delivery))? else { return Ok(()) };
        let action = Action::Write { opened_under: delivery.live.grant.id };
        self.store_version(by, &delivery.file, &drafted.value, (action, Op::Write))?;
        delivery.is_stored(&drafted);
        Ok(())
    }

    fn permitted_write(
        &self,
        caller: Caller,
        delivery: &Delivery,
        exe: Option<Exe>,
    ) -> Result<(Judged, Permit), Halt> {
        let (project, file) = (&delivery.live.grant.project, delivery.decided_as());
        let action = Action::Write { opened_under: delivery.live.grant.id };
        self.permitted_content(&Attempt { caller, project, file, action, op: Op::Write }, exe)
    }

    /// Stores a value as the next version: recorded first, under the lock of all changes, so that the number in the
    /// record is the version's.
    pub(super) fn store_version(
        &self,
        by: &Closed,
        file: &FileName,
        value: &Plaintext,
        (action, op): (Action, Op),
    ) -> Result<(), Refusal> {
        let Closed { judged, permit, .. } = by;
        let (Some(reference), Some(live)) = (permit.reference(), &judged.subject.live) else {
            return Err(Refusal::Broken);
        };
        let (grant, project) = (live.grant.id, &live.grant.project);
        let mut refused = None;
        let changing = self.change().map_err(|error| unstored(&error, live))?;
        let stored = self.replace_vault(&changing, |vault| {
            if vault.has(permit, value)? {
                // It could have been a guess.
                let current = (reference, vault.version(reference).unwrap_or(0));
                let compared = version_event(VaultChange::Compare, current, Some("write"));
                return self.record(&compared).inspect_err(|_| refused = Some(Refusal::NotRecorded));
            }
            let now = clock::unix_seconds();
            let kept = vault.info(reference).map_or_else(Facts::default, |old| Facts::kept(old, now));
            let facts = Facts { grant: Some(grant), ..kept };
            let version = vault.version(reference).unwrap_or(0) + 1;
            let planned = vault.plan_set(reference, value, facts, now)?;
            let logged = self.log_write(by, (file, version), (action, op)).map_err(|refusal| {
                refused = Some(refusal);
                Error::internal("record a write", "it is refused")
            })?;
            vault.commit_written(planned, &logged).inspect_err(|error| {
                let reason = &*error.code;
                self.record_or_owe(&Event::WriteFail { grant, project, file, reference, version, reason });
            })
        });
        drop(changing);
        self.autolock.touch();
        stored.map(drop).map_err(|error| refused.unwrap_or_else(|| unstored(&error, live)))
    }

    /// Decided once more under the log's own lock, as every delivery is.
    fn log_write(
        &self,
        by: &Closed,
        (file, version): (&FileName, u64),
        (action, op): (Action, Op),
    ) -> Result<Logged<Permit>, Refusal> {
        let Closed { judged, permit, caller, program } = by;
        let (Ok(known), Some(live), Some(reference)) =
            (&judged.subject.known, &judged.subject.live, permit.reference())
        else {
            return Err(Refusal::Broken);
        };
        let project = &live.grant.project;
        let reader = ReaderFacts::of(known, program, caller.uid);
        let (grant, elsewhere) = (live.grant.id, judged.subject.elsewhere());
        let event = Event::Write { op, grant, project, file, reference, version, elsewhere, reader };
        let attempt = Attempt { caller: *caller, project, file: Some(file), action, op };
        self.append(permit.clone(), &event, judged, &attempt, || ())
    }
}

impl Closed {
    pub(super) fn now(judged: Judged, permit: Permit, caller: Caller) -> Self {
        let program = judged.subject.known.as_ref().map(|known| known.program()).unwrap_or_default();
        Self { judged, permit, caller, program }
    }
}

fn untaken(why: Untaken, delivery: &Delivery) -> Refusal {
    match why {
        Untaken::TooLarge => Refusal::TooLarge,
        Untaken::Wiped => withheld(&delivery.live),
        Untaken::Placed => Refusal::Denied(Denial::ReadOnly),
    }
}

fn unstored(error: &Error, live: &LiveGrant) -> Refusal {
    match (error.class, &*error.code) {
        (Class::Locked, _) => withheld(live),
        (_, "vault_full" | "disk_full") => Refusal::Full,
        (_, "secret_missing") => Refusal::Missing,
        (_, "value_too_large") => Refusal::TooLarge,
        _ => Refusal::Broken,
    }
}
