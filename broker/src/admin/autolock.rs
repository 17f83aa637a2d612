//! When does the vault lock itself? After a time without use, and after the machine was suspended.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kin_policy::Timestamp;
use parking_lot::{Mutex, MutexGuard};

use crate::admin::unlock::Custody;
use crate::audit::VaultChange;
use crate::audit::vault_event;
use crate::broker::Broker;
use crate::delivery::open_file::Delivery;
use crate::grants::live::OpenFile;
use crate::keys::KeyMethod;
use crate::sys::clock;
use crate::sys::config::{AutoLock, Remember, VaultConfig};

/// How long a vault may go unused, where nothing is configured and its key does not lie in a file.
const DEFAULT: Duration = Duration::from_secs(8 * 60 * 60);
/// Time asleep that is taken for a suspension, and not for two clocks that were read one after the other.
const ASLEEP: Duration = Duration::from_secs(1);

/// When the vault was used, and whether it has locked itself.
pub(crate) struct Autolock {
    config: VaultConfig,
    used: AtomicU64,
    locked: AtomicBool,
    asleep: Mutex<Duration>,
}

impl Autolock {
    pub(crate) fn new(config: VaultConfig) -> Self {
        let (used, asleep) = (AtomicU64::new(clock::now().as_nanos()), Mutex::new(clock::asleep()));
        Self { config, used, locked: AtomicBool::new(false), asleep }
    }

    /// Whether a value may be nowhere where it could be swapped.
    pub(crate) fn requires_locked_memory(&self) -> bool {
        self.config.require_mlock
    }

    /// Whether it has, and nobody has unlocked it since.
    pub(crate) fn has_locked(&self) -> bool {
        self.locked.load(Ordering::Acquire)
    }

    /// The vault was used for this delivery. One that a lock could not see any more is wiped here: locking
    /// sets the flag before it collects what to wipe.
    pub(crate) fn used(&self, delivery: &Delivery) {
        self.touch();
        if self.has_locked() {
            delivery.wipe();
        }
    }

    /// The vault was used: by a reader, or by a person.
    pub(crate) fn touch(&self) {
        self.used.store(clock::now().as_nanos(), Ordering::Relaxed);
    }

    /// A person has unlocked it, or locked it for good.
    pub(crate) fn is_over(&self) {
        self.touch();
        self.locked.store(false, Ordering::Release);
    }

    /// Whether the kernel is to remember an identity that a person had to give.
    pub(crate) fn remembers(&self) -> bool {
        self.config.remember == Remember::Kernel
    }

    /// How long a vault with such a key may go unused.
    pub(crate) fn after(&self, key: &KeyMethod) -> Option<Duration> {
        let default = AutoLock((!unattended(key)).then_some(DEFAULT));
        self.config.auto_lock.unwrap_or(default).after()
    }

    /// Whether a vault with such a key locks itself when the machine was suspended.
    pub(crate) fn locks_on_suspend(&self, key: &KeyMethod) -> bool {
        self.config.lock_on_suspend.unwrap_or(!unattended(key))
    }

    /// Why a vault that is open now should not be; `asleep` is how long the machine has been suspended since
    /// it booted.
    fn due(&self, key: &KeyMethod, now: Timestamp, asleep: Duration) -> Option<&'static str> {
        let before = std::mem::replace(&mut *self.asleep.lock(), asleep);
        if self.locks_on_suspend(key) && asleep.saturating_sub(before) >= ASLEEP {
            return Some("suspend");
        }
        let after = self.after(key)?;
        let used = Timestamp::from_nanos(self.used.load(Ordering::Relaxed));
        (now.since(used) >= after).then_some("idle")
    }
}

/// A key that lies in a file, or is given by a service manager, is for machines without a person.
fn unattended(key: &KeyMethod) -> bool {
    matches!(key, KeyMethod::KeyFile { .. } | KeyMethod::Given)
}

impl Broker {
    /// Locks a vault that was not used for too long, or slept through a suspension.
    pub(crate) fn lock_if_due(&self) {
        let Some(opened) = self.custody.read().opened() else { return };
        if let Some(reason) = self.autolock.due(&opened.key, clock::now(), clock::asleep()) {
            drop(opened);
            self.lock_itself(reason);
        }
    }

    /// No key and no value stays in memory, and every grant waits: its files answer ENOKEY.
    pub(crate) fn lock_itself(&self, reason: &'static str) {
        let changing = self.changing.lock();
        if self.custody.read().opened().is_some() {
            self.close(&changing, reason);
        }
    }

    /// As [`Self::lock_itself`], for who changes the vault.
    pub(crate) fn close(&self, _changing: &MutexGuard<'_, ()>, reason: &'static str) {
        self.autolock.locked.store(true, Ordering::Release);
        self.forget_in_session();
        *self.custody.write() = Custody::Suspended;
        for live in self.grants.all() {
            live.wipe_deliveries();
        }
        self.record_or_owe(&vault_event(VaultChange::Autolock, None, Some(reason)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> KeyMethod {
        KeyMethod::KeyFile { path: "/key".into() }
    }

    fn autolock(auto_lock: Option<&str>, lock_on_suspend: Option<bool>) -> Autolock {
        let auto_lock = auto_lock.map(|text| AutoLock::try_from(text.to_owned()).unwrap());
        let autolock = Autolock::new(VaultConfig { auto_lock, lock_on_suspend, ..VaultConfig::default() });
        *autolock.asleep.lock() = Duration::ZERO;
        autolock.used.store(0, Ordering::Relaxed);
        autolock
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn d07_idle_counts_from_the_last_use() {
        let autolock = autolock(Some("15m"), None);
        for key in [file(), KeyMethod::Keyring, KeyMethod::Passphrase] {
            assert_eq!(autolock.due(&key, at(899), Duration::ZERO), None);
            assert_eq!(autolock.due(&key, at(900), Duration::ZERO), Some("idle"));
        }
        autolock.used.store(at(100).as_nanos(), Ordering::Relaxed);
        assert_eq!(autolock.due(&file(), at(999), Duration::ZERO), None);
        assert_eq!(autolock.due(&file(), at(1000), Duration::ZERO), Some("idle"));
    }

    #[test]
    fn d07_without_a_configuration_a_person_is_asked_after_eight_hours_and_a_machine_never() {
        let autolock = autolock(None, None);
        assert_eq!(autolock.due(&KeyMethod::Passphrase, at(28_799), Duration::ZERO), None);
        assert_eq!(autolock.due(&KeyMethod::Passphrase, at(28_800), Duration::ZERO), Some("idle"));
        assert_eq!(autolock.due(&file(), at(1 << 30), Duration::ZERO), None);
        let off = super::tests::autolock(Some("off"), None);
        assert_eq!(off.due(&KeyMethod::Passphrase, at(1 << 30), Duration::ZERO), None);
    }

    #[test]
    fn d07_time_asleep_is_seen_once() {
        let autolock = autolock(Some("off"), None);
        let mut now = 0;
        let mut due = |asleep: u64| {
            now += 1;
            autolock.due(&KeyMethod::Keyring, at(now), Duration::from_millis(asleep))
        };
        assert_eq!([due(0), due(999), due(1999), due(1999)], [None, None, Some("suspend"), None]);
        for (configured, key, expected) in [
            (None, file(), None),
            (Some(true), file(), Some("suspend")),
            (Some(false), KeyMethod::Keyring, None),
        ] {
            let autolock = super::tests::autolock(Some("off"), configured);
            assert_eq!(autolock.due(&key, at(1), Duration::from_secs(60)), expected, "{key:?}");
        }
    }
}
