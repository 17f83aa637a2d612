//! What may a program put beside a file that it writes? A lock, or what is to take the file's name: in memory, for
//! one grant, and gone with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use kin_policy::{FileName, GrantId, Reference};
use parking_lot::{Mutex, RwLock};

use crate::sys::memory::Held;
use crate::sys::memory::Plaintext;

/// Files of one grant that have a name, at most.
const MOST: usize = 64;

/// Why a file's content may be in one beside it, and which versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    /// All of it was moved here, for certain.
    pub(crate) moved: bool,
    /// Those that were delivered; none is what the vault has when somebody opens it.
    pub(crate) versions: BTreeSet<(Reference, u64)>,
}

/// The files of the grant whose content may be in one beside them. It only grows.
pub(crate) type Origins = BTreeMap<FileName, Origin>;

/// One such file. Its handles share what it holds.
#[derive(Debug)]
pub struct Scratch {
    /// No other has it, as long as the broker lives.
    pub number: u64,
    /// The grant that it belongs to.
    pub grant: GrantId,
    pub(crate) value: Arc<RwLock<Held>>,
    name: Mutex<FileName>,
    origins: RwLock<Origins>,
    modified: Mutex<SystemTime>,
    named: AtomicBool,
    placed: AtomicBool,
}

impl Scratch {
    fn new(name: &FileName, grant: GrantId, origins: Origins, value: Plaintext) -> Arc<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self {
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            grant,
            value: Arc::new(RwLock::new(Held(Some(value)))),
            name: Mutex::new(name.clone()),
            origins: RwLock::new(origins),
            modified: Mutex::new(SystemTime::now()),
            named: AtomicBool::new(true),
            placed: AtomicBool::new(false),
        })
    }

    /// The last name that it had.
    pub(crate) fn name(&self) -> FileName {
        self.name.lock().clone()
    }

    /// Whose content may be in it, as of now.
    pub(crate) fn origins(&self) -> Origins {
        self.origins.read().clone()
    }

    /// The content of these may be in it from now on: said before a byte of it is.
    pub(crate) fn may_hold<'o>(&self, more: impl IntoIterator<Item = (&'o FileName, &'o Origin)>) {
        let mut origins = self.origins.write();
        for (file, more) in more {
            let known = origins.entry(file.clone()).or_default();
            known.moved |= more.moved;
            known.versions.extend(more.versions.iter().cloned());
        }
    }

    /// Its size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.value.read().0.as_ref().map_or(0, |value| value.len() as u64)
    }

    /// When it was changed last.
    pub(crate) fn modified(&self) -> SystemTime {
        *self.modified.lock()
    }

    /// It was changed.
    pub(crate) fn touch(&self) {
        *self.modified.lock() = SystemTime::now();
    }

    /// Whether it has a name.
    pub fn is_named(&self) -> bool {
        self.named.load(Ordering::Acquire)
    }

    /// Whether it has taken the place of a binding: it is written to no more.
    pub(crate) fn is_placed(&self) -> bool {
        self.placed.load(Ordering::Acquire)
    }

    /// Notes whether it has; a write that is under way is in it, or refused.
    pub(crate) fn place(&self, placed: bool) {
        let held = self.value.write();
        self.placed.store(placed, Ordering::Release);
        drop(held);
    }

    fn wipe(&self) {
        self.named.store(false, Ordering::Release);
        self.value.write().0 = None;
    }

    fn unnamed(&self) {
        self.named.store(false, Ordering::Release);
    }
}

/// Those of one grant that have a name.
#[derive(Debug, Default)]
pub(crate) struct Scratches(Mutex<Names>);

#[derive(Debug, Default)]
struct Names {
    all: BTreeMap<FileName, Arc<Scratch>>,
    /// Bindings whose content was renamed away: for this grant there is nothing until something takes the name again.
    vacated: BTreeSet<FileName>,
}

impl Scratches {
    pub(crate) fn get(&self, name: &FileName) -> Option<Arc<Scratch>> {
        self.0.lock().all.get(name).cloned()
    }

    pub(crate) fn names(&self) -> Vec<FileName> {
        self.0.lock().all.keys().cloned().collect()
    }

    /// A new one; `Err` has the one that bears the name, or nothing where there are too many.
    pub(crate) fn make(
        &self,
        name: &FileName,
        grant: GrantId,
        origins: Origins,
    ) -> Result<Arc<Scratch>, Option<Arc<Scratch>>> {
        let all = &mut self.0.lock().all;
        if let Some(there) = all.get(name) {
            return Err(Some(there.clone()));
        }
        if all.len() >= MOST {
            return Err(None);
        }
        let scratch = Scratch::new(name, grant, origins, Plaintext::zeroed(0));
        all.insert(name.clone(), scratch.clone());
        Ok(scratch)
    }

    /// Moves what a binding has away to another name, in the place of what bears that; `false` where there are too many.
    pub(crate) fn vacate(
        &self,
        binding: &FileName,
        name: &FileName,
        (grant, versions): (GrantId, &[(Reference, u64)]),
        value: Plaintext,
    ) -> bool {
        let mut names = self.0.lock();
        if names.all.len() >= MOST && !names.all.contains_key(name) {
            return false;
        }
        names.vacated.insert(binding.clone());
        let origin = Origin { moved: true, versions: versions.iter().cloned().collect() };
        let scratch = Scratch::new(name, grant, Origins::from([(binding.clone(), origin)]), value);
        if let Some(replaced) = names.all.insert(name.clone(), scratch) {
            replaced.unnamed();
        }
        true
    }

    /// Whether what the binding had was moved away.
    pub(crate) fn is_vacated(&self, binding: &FileName) -> bool {
        self.0.lock().vacated.contains(binding)
    }

    /// Something has taken the binding's name again.
    pub(crate) fn taken(&self, binding: &FileName) {
        self.0.lock().vacated.remove(binding);
    }

    /// Takes a name away; `false` where nothing bears it.
    pub(crate) fn remove(&self, name: &FileName) -> bool {
        let gone = self.0.lock().all.remove(name);
        gone.iter().for_each(|scratch| scratch.unnamed());
        gone.is_some()
    }

    /// Gives it another name, in the place of what bears that; `false` where nothing bears the old one.
    pub(crate) fn rename(&self, old: &FileName, new: &FileName) -> bool {
        let all = &mut self.0.lock().all;
        let Some(scratch) = all.remove(old) else { return false };
        new.clone_into(&mut scratch.name.lock());
        if let Some(replaced) = all.insert(new.clone(), scratch) {
            replaced.unnamed();
        }
        true
    }

    /// Wipes all of them; bindings have their names again.
    pub(crate) fn wipe(&self) {
        let names = std::mem::take(&mut *self.0.lock());
        names.all.values().for_each(|scratch| scratch.wipe());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> FileName {
        FileName::new(name).unwrap()
    }

    #[test]
    fn names_come_go_and_are_bounded() {
        let (all, grant) = (Scratches::default(), GrantId::from_bytes([1; 16]));
        let versions = [(Reference::new("db/url").unwrap(), 3)];
        let one = all.make(&name("one"), grant, Origins::new()).unwrap();
        assert_eq!(
            all.make(&name("one"), grant, Origins::new()).unwrap_err().map(|there| there.number),
            Some(one.number)
        );
        for number in 1..MOST {
            all.make(&name(&number.to_string()), grant, Origins::new()).unwrap();
        }
        assert!(all.make(&name("more"), grant, Origins::new()).unwrap_err().is_none());
        assert!(all.rename(&name("one"), &name("1")) && !all.rename(&name("one"), &name("2")));
        assert_eq!(
            (all.get(&name("1")).map(|found| found.number), all.names().len()),
            (Some(one.number), MOST - 1)
        );
        assert!(all.remove(&name("1")) && !all.remove(&name("1")) && !one.is_named());
        let two = all.get(&name("2")).unwrap();
        let moved = || Plaintext::copy_of(b"moved");
        assert!(
            all.vacate(&name("file"), &name("file~"), (grant, &versions), moved())
                && all.is_vacated(&name("file"))
        );
        all.make(&name("more"), grant, Origins::new()).unwrap();
        assert!(
            !all.vacate(&name("other"), &name("other~"), (grant, &versions), moved())
                && !all.is_vacated(&name("other"))
        );
        assert!(all.vacate(&name("other"), &name("2"), (grant, &versions), moved()) && !two.is_named());
        assert_eq!(all.get(&name("2")).map(|found| found.size()), Some(5));
        let moved = all.get(&name("file~")).unwrap();
        let origin = Origin { moved: true, versions: versions.iter().cloned().collect() };
        assert_eq!(moved.origins(), Origins::from([(name("file"), origin)]));
        moved.may_hold(&Origins::from([(name("file"), Origin::default()), (name("b"), Origin::default())]));
        assert!(moved.origins()[&name("file")].moved && moved.origins().len() == 2);
        assert!(all.rename(&name("file~"), &name("old")) && moved.name() == name("old"));
        all.taken(&name("other"));
        assert!(!all.is_vacated(&name("other")) && all.is_vacated(&name("file")));
        let two = all.get(&name("2")).unwrap();
        all.wipe();
        assert!(!all.is_vacated(&name("file")));
        assert!(all.names().is_empty() && !two.is_named() && two.value.read().0.is_none());
    }
}
