//! What has happened, and the record does not say so yet? A withdrawal waits for no disk; its record comes with the
//! first one that succeeds.

use kin_policy::{DirectoryName, Ending, GrantId};
use parking_lot::Mutex;

use crate::audit::{Event, VaultChange};
use crate::broker::Broker;
use crate::custody::vault_event;

/// Ends that are still to be recorded, oldest first: at most one for each grant, and one for each lock.
#[derive(Debug, Default)]
pub(crate) struct Owed(Mutex<Vec<End>>);

/// What ended.
#[derive(Debug)]
pub(crate) enum End {
    /// A grant.
    Grant {
        /// Its id.
        grant: GrantId,
        /// The project's directory in the mount.
        project: DirectoryName,
        /// How.
        ending: Ending,
    },
    /// The time in which the vault was open.
    Unlocked,
}

impl End {
    fn event(&self) -> Event<'_> {
        match self {
            Self::Grant { grant, project, ending } => {
                Event::GrantEnd { grant: *grant, project, ending: *ending, asker: None }
            }
            Self::Unlocked => vault_event(VaultChange::Lock, None, None),
        }
    }
}

impl Broker {
    /// Records an end, now or as soon as that is possible.
    pub(crate) fn record_end(&self, end: End) {
        if self.record(&end.event()).is_err() {
            self.owed.0.lock().push(end);
        }
    }

    /// Records what is owed, as far as the log takes it.
    pub(crate) fn record_what_is_owed(&self) {
        let owed = std::mem::take(&mut *self.owed.0.lock());
        let recorded = owed.iter().take_while(|end| self.audit.append_owed(&end.event()).is_ok()).count();
        let mut left: Vec<End> = owed.into_iter().skip(recorded).collect();
        let mut since = self.owed.0.lock();
        left.append(&mut since);
        *since = left;
    }
}
