//! Is this the vault that was open here last, and are the user's settings no weaker than then? Who can write the
//! user's files can change both; then it is said, and recorded.
//!
//! What was in force is kept in the state directory, under a MAC of the vault's identity. Nobody else can make one,
//! so that another vault finds a memory that is not its own. An older one of the same vault can be put back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::audit::{Event, PolicyChange};
use crate::broker::Broker;
use crate::keys::KeyMethod;
use crate::keys::{Identity, authenticate};
use crate::sys::config::{Config, Sync};
use crate::sys::error::{Error, Result};
use crate::sys::files;

/// What the vault's key was derived for.
const PURPOSE: &str = "kin/settings/1";
/// Bytes of the memory, at most.
const LIMIT: u64 = 4096;

/// What the broker was started with, and what there is to say of it.
pub(crate) struct Settings {
    sync: Sync,
    notices: Mutex<Vec<String>>,
}

impl Settings {
    pub(crate) fn new(config: &Config) -> Self {
        Self { sync: config.audit.sync, notices: Mutex::default() }
    }

    /// What a person should know who opened the vault.
    pub(crate) fn notices(&self) -> Vec<String> {
        self.notices.lock().clone()
    }
}

/// What can be weakened, as it is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct InForce {
    /// `audit.sync` is `each`.
    each: bool,
    /// `vault.remember` is `kernel`.
    remembers: bool,
    /// `vault.auto_lock`, in seconds; none is never.
    auto_lock_s: Option<u64>,
    /// `vault.lock_on_suspend`.
    lock_on_suspend: bool,
    /// `vault.require_mlock`.
    require_mlock: bool,
}

impl InForce {
    /// What is weaker than before, a line each.
    fn weaker_than(&self, before: &Self) -> Vec<String> {
        let never = |seconds: Option<u64>| seconds.unwrap_or(u64::MAX);
        let time = |seconds: Option<u64>| seconds.map_or("off".into(), |seconds| format!("{seconds}s"));
        let changes = [
            (before.each && !self.each, "sync", "each".into(), "group".into()),
            (!before.remembers && self.remembers, "remember", "off".into(), "kernel".into()),
            (
                never(self.auto_lock_s) > never(before.auto_lock_s),
                "auto_lock",
                time(before.auto_lock_s),
                time(self.auto_lock_s),
            ),
            (
                before.lock_on_suspend && !self.lock_on_suspend,
                "lock_on_suspend",
                "true".into(),
                "false".into(),
            ),
            (before.require_mlock && !self.require_mlock, "require_mlock", "true".into(), "false".into()),
        ];
        let weaker = changes.into_iter().filter(|(weaker, ..)| *weaker);
        weaker
            .map(|(_, name, was, is): (_, _, String, String)| format!("{name} was {was}, is {is}"))
            .collect()
    }
}

/// What is remembered.
enum Found {
    Nothing,
    /// It was not written with this vault's identity.
    Foreign,
    This(InForce),
}

impl Broker {
    /// Notes and records what has changed since the vault was open last, before it is [`Self::remember_settings`].
    pub(crate) fn compare_settings(&self, identity: &Identity, key: &KeyMethod) -> Result<()> {
        let path = path(&self.directories.state);
        let mut notices = Vec::new();
        let before = match read(&path, identity)? {
            Found::This(before) => before,
            Found::Nothing => {
                notices.push(format!(
                    "nothing says which vault was open here last: {} is missing",
                    path.display()
                ));
                Self::defaults(key)
            }
            Found::Foreign => {
                notices.push(
                    "the vault is another one than was open here last, or what that remembered was overwritten"
                        .to_owned(),
                );
                Self::defaults(key)
            }
        };
        let unknown = notices.len();
        let changed = self.in_force(key).weaker_than(&before);
        let where_ = Config::path(&self.directories);
        notices.extend(changed.iter().map(|change| format!("{}: {change}", where_.display())));
        for (at, notice) in notices.iter().enumerate() {
            let reason = if at < unknown { "another_vault" } else { &changed[at - unknown] };
            self.record_notice(reason)?;
            // It may be that nobody is there to be told: the broker's log has it too.
            eprintln!("warning: {notice}");
        }
        *self.settings.notices.lock() = notices;
        Ok(())
    }

    fn record_notice(&self, reason: &str) -> Result<()> {
        self.record(&Event::Policy {
            change: PolicyChange::Notice,
            project: None,
            directory: &self.directories.config,
            hash: None,
            reason: Some(reason),
            asker: None,
        })
    }

    /// From now on this vault remembers what is in force. Where that cannot be written, it is said again.
    pub(crate) fn remember_settings(&self, identity: &Identity, key: &KeyMethod) {
        let (path, now) = (path(&self.directories.state), self.in_force(key));
        if !matches!(read(&path, identity), Ok(Found::This(before)) if before == now)
            && let Ok(json) = serde_json::to_vec(&now)
        {
            let _ = files::write_atomic(&path, &authenticate::sign(&identity.derive(PURPOSE), json));
        }
    }

    fn in_force(&self, key: &KeyMethod) -> InForce {
        InForce {
            each: self.settings.sync == Sync::Each,
            remembers: self.autolock.remembers(),
            auto_lock_s: self.autolock.after(key).map(|after: Duration| after.as_secs()),
            lock_on_suspend: self.autolock.locks_on_suspend(key),
            require_mlock: self.autolock.requires_locked_memory(),
        }
    }

    /// What is in force where nothing is configured.
    fn defaults(key: &KeyMethod) -> InForce {
        let default = crate::admin::autolock::Autolock::new(Config::default().vault);
        InForce {
            each: false,
            remembers: false,
            auto_lock_s: default.after(key).map(|after| after.as_secs()),
            lock_on_suspend: default.locks_on_suspend(key),
            require_mlock: false,
        }
    }
}

fn path(state: &Path) -> PathBuf {
    state.join("settings.vault")
}

fn read(path: &Path, identity: &Identity) -> Result<Found> {
    let Some(bytes) = files::read_private(path, LIMIT)? else { return Ok(Found::Nothing) };
    if !authenticate::verify(&identity.derive(PURPOSE), &bytes) {
        return Ok(Found::Foreign);
    }
    let found =
        serde_json::from_slice(&bytes).map_err(|error| Error::internal("read settings.vault", error))?;
    Ok(Found::This(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_weaker_is_said_and_nothing_else() {
        let strict = InForce {
            each: true,
            remembers: false,
            auto_lock_s: Some(60),
            lock_on_suspend: true,
            require_mlock: true,
        };
        let lax = InForce {
            each: false,
            remembers: true,
            auto_lock_s: None,
            lock_on_suspend: false,
            require_mlock: false,
        };
        assert_eq!(lax.weaker_than(&strict).len(), 5);
        assert!(strict.weaker_than(&lax).is_empty());
        assert!(strict.weaker_than(&strict.clone()).is_empty());
        let longer = InForce { auto_lock_s: Some(61), ..strict.clone() };
        assert_eq!(longer.weaker_than(&strict), ["auto_lock was 60s, is 61s"]);
        assert!(longer.weaker_than(&lax).is_empty());
    }
}
