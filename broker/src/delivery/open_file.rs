//! What does an open handle hold? One version of one value, until it is closed or withdrawn; where it was opened to
//! write, what becomes the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kin_policy::{Exe, FileName, Process, Reference};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use crate::delivery::write::Closed;
use crate::grants::live::{LiveGrant, OpenFile};
use crate::grants::temp_file::{Origins, Scratch};
use crate::sys::memory::{Held, Plaintext};
use crate::vault::MAX_VALUE;

/// One open file. It is wiped when its grant is withdrawn, whoever holds a descriptor of it.
#[derive(Debug)]
pub struct Delivery {
    /// The grant that it was opened under.
    pub live: Arc<LiveGrant>,
    /// The file.
    pub file: FileName,
    /// The secrets that it is of, and their versions.
    pub versions: Vec<(Reference, u64)>,
    number: AtomicU64,
    value: Arc<RwLock<Held>>,
    draft: Option<Mutex<Draft>>,
    scratch: Option<Beside>,
}

/// What a handle of a file beside others is of.
#[derive(Debug)]
struct Beside {
    scratch: Arc<Scratch>,
    /// Whose content it may have delivered, as the record says.
    recorded: Mutex<Origins>,
}

/// What was written to a handle.
struct Draft {
    /// Who opened it, and what that ran, where it was asked.
    opener: Process,
    exe: Option<Exe>,
    /// Grows with each change.
    changes: u64,
    /// As many of them the vault has.
    stored: u64,
    /// Who closed a descriptor of it last, while others were open still.
    closed: Option<Closed>,
}

impl std::fmt::Debug for Draft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Draft").field("changes", &self.changes).field("stored", &self.stored).finish()
    }
}

/// What a handle had at one moment, and which of its changes that has.
pub(crate) struct Drafted {
    pub(crate) value: Plaintext,
    changes: u64,
}

/// Why bytes were not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Untaken {
    /// There would be more than a value may have.
    TooLarge,
    /// The handle was withdrawn, or was opened to read.
    Wiped,
    /// It is a file that took another's place.
    Placed,
}

/// A value while it is being read; withdrawal waits for it.
pub struct Reading<'d>(RwLockReadGuard<'d, Held>);

impl Reading<'_> {
    /// All of it.
    pub(crate) fn whole(&self) -> &[u8] {
        self.0.0.as_ref().map_or(&[][..], Plaintext::bytes)
    }

    /// Up to `size` bytes from `offset`; none beyond the end.
    pub fn range(&self, offset: u64, size: u32) -> &[u8] {
        let bytes = self.whole();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let end = start.saturating_add(size as usize).min(bytes.len());
        &bytes[start..end]
    }
}

impl Delivery {
    /// A value of these versions, delivered under `live`.
    pub fn new(
        live: Arc<LiveGrant>,
        file: FileName,
        versions: Vec<(Reference, u64)>,
        value: Plaintext,
    ) -> Arc<Self> {
        Self::holding(live, file, versions, Held(Some(value)), None)
    }

    /// As [`Self::new`], to be written to; `emptied` says that it was not before.
    pub(crate) fn to_write(
        live: Arc<LiveGrant>,
        file: FileName,
        versions: Vec<(Reference, u64)>,
        value: Plaintext,
        (opener, exe, emptied): (Process, Option<Exe>, bool),
    ) -> Arc<Self> {
        let draft = Draft { opener, exe, changes: emptied.into(), stored: 0, closed: None };
        Self::holding(live, file, versions, Held(Some(value)), Some(draft))
    }

    /// A handle of a file that is beside what the grant may write.
    pub(crate) fn of_scratch(live: Arc<LiveGrant>, file: FileName, scratch: Arc<Scratch>) -> Arc<Self> {
        let (number, value) = (AtomicU64::new(0), scratch.value.clone());
        let scratch = Some(Beside { scratch, recorded: Mutex::default() });
        Self { live, file, versions: Vec::new(), number, value, draft: None, scratch }.known()
    }

    fn holding(
        live: Arc<LiveGrant>,
        file: FileName,
        versions: Vec<(Reference, u64)>,
        value: Held,
        draft: Option<Draft>,
    ) -> Arc<Self> {
        let (number, value) = (AtomicU64::new(0), Arc::new(RwLock::new(value)));
        let draft = draft.map(Mutex::new);
        Self { live, file, versions, number, value, draft, scratch: None }.known()
    }

    /// Known to its grant from now on.
    fn known(self) -> Arc<Self> {
        let delivery = Arc::new(self);
        let open: Arc<dyn OpenFile> = delivery.clone();
        delivery.live.delivered(&open);
        delivery
    }

    /// The file beside others that it is a handle of.
    pub(crate) fn scratch(&self) -> Option<&Arc<Scratch>> {
        self.scratch.as_ref().map(|beside| &beside.scratch)
    }

    /// Whether the record has this handle as an open of all these.
    pub(crate) fn is_recorded_of(&self, origins: &Origins) -> bool {
        self.scratch.as_ref().is_none_or(|beside| *beside.recorded.lock() == *origins)
    }

    /// The record has it.
    pub(crate) fn recorded_of(&self, origins: Origins) {
        if let Some(beside) = &self.scratch {
            *beside.recorded.lock() = origins;
        }
    }

    /// The file that has to be permitted to write; what is beside files is the directory's.
    pub(crate) fn decided_as(&self) -> Option<&FileName> {
        self.scratch.is_none().then_some(&self.file)
    }

    /// Whether it was opened to write.
    pub fn is_to_write(&self) -> bool {
        self.draft.is_some()
    }

    /// Takes bytes in, at an offset or at the end; what lies between is zero.
    pub(crate) fn write(&self, at: Option<u64>, bytes: &[u8]) -> Result<(), Untaken> {
        self.change(|value| {
            let start = at.map_or(Some(value.len()), |at| usize::try_from(at).ok());
            let end = start.and_then(|start| start.checked_add(bytes.len())).filter(|end| *end <= MAX_VALUE);
            let (Some(start), Some(end)) = (start, end) else { return Err(Untaken::TooLarge) };
            value.extend(end);
            value.bytes_mut()[start..end].copy_from_slice(bytes);
            Ok(!bytes.is_empty())
        })
    }

    /// Cuts it off, or makes it longer by zeroes.
    pub(crate) fn resize(&self, size: u64) -> Result<(), Untaken> {
        self.change(|value| {
            let size =
                usize::try_from(size).ok().filter(|size| *size <= MAX_VALUE).ok_or(Untaken::TooLarge)?;
            let changes = size != value.len();
            value.truncate(size);
            value.extend(size);
            Ok(changes)
        })
    }

    fn change(&self, change: impl FnOnce(&mut Plaintext) -> Result<bool, Untaken>) -> Result<(), Untaken> {
        let mut guard = self.value.write();
        if self.scratch().is_some_and(|scratch| scratch.is_placed()) {
            return Err(Untaken::Placed);
        }
        if self.draft.is_none() && self.scratch.is_none() {
            return Err(Untaken::Wiped);
        }
        let changed = change(guard.0.as_mut().ok_or(Untaken::Wiped)?)?;
        if changed {
            self.draft.iter().for_each(|draft| draft.lock().changes += 1);
            self.scratch().iter().for_each(|scratch| scratch.touch());
        }
        Ok(())
    }

    /// Whether it has changes that the vault has not, also where they were wiped meanwhile.
    pub fn is_unstored(&self) -> bool {
        self.draft.as_ref().is_some_and(|draft| {
            let draft = draft.lock();
            draft.changes != draft.stored
        })
    }

    /// Its size, where it has changes that the vault has not.
    pub(crate) fn unstored(&self) -> Option<u64> {
        let guard = self.value.read();
        let value = guard.0.as_ref()?;
        let draft = self.draft.as_ref()?.lock();
        (draft.changes != draft.stored).then_some(value.len() as u64)
    }

    /// What the process that opened it to write ran then, where it was asked.
    pub(crate) fn opened_running(&self) -> Option<Exe> {
        self.draft.as_ref()?.lock().exe
    }

    /// Whether this process opened it to write.
    pub(crate) fn is_opened_by(&self, process: Process) -> bool {
        self.draft.as_ref().is_some_and(|draft| draft.lock().opener == process)
    }

    /// Remembers who closed a descriptor of it, for when the last one is closed; `None` forgets it.
    pub(crate) fn closed_by(&self, closed: Option<Closed>) {
        if let Some(draft) = &self.draft {
            draft.lock().closed = closed;
        }
    }

    /// Who closed a descriptor of it last, where that did not store what it has.
    pub(crate) fn take_closed(&self) -> Option<Closed> {
        self.draft.as_ref()?.lock().closed.take()
    }

    /// A copy of what it has, where that has to be stored.
    pub(crate) fn drafted(&self) -> Result<Option<Drafted>, Untaken> {
        let Some(draft) = &self.draft else { return Ok(None) };
        let guard = self.value.read();
        let (changes, stored) = {
            let draft = draft.lock();
            (draft.changes, draft.stored)
        };
        match &guard.0 {
            _ if changes == stored => Ok(None),
            Some(value) => Ok(Some(Drafted { value: Plaintext::copy_of(value.bytes()), changes })),
            None => Err(Untaken::Wiped),
        }
    }

    /// The vault has this.
    pub(crate) fn is_stored(&self, drafted: &Drafted) {
        if let Some(draft) = &self.draft {
            let mut draft = draft.lock();
            draft.stored = draft.stored.max(drafted.changes);
            draft.closed = None;
        }
    }

    /// The value, where it was not withdrawn.
    pub(crate) fn reading(&self) -> Option<Reading<'_>> {
        let guard = self.value.read();
        guard.0.is_some().then_some(Reading(guard))
    }
}

impl OpenFile for Delivery {
    fn numbered(&self, number: u64) {
        self.number.store(number, Ordering::Relaxed);
    }

    fn wipe(&self) {
        self.value.write().0 = None;
    }

    fn draft_of(&self, file: &FileName, process: Process) -> Option<u64> {
        if self.file == *file && self.is_opened_by(process) { self.unstored() } else { None }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.live.closed(self.number.load(Ordering::Relaxed));
    }
}
