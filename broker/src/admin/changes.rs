//! May this be changed? Once the record says that it is; and where it was not changed after all, the record says
//! that too.

use std::path::PathBuf;

use kin_policy::Reference;

use crate::audit::behalf::with_asker;
use crate::audit::{Change, Event, Logged, Span, Unlogged};
use crate::broker::Broker;
use crate::sys::error::{Error, Result};

/// What the record will say of a change that was not made.
struct Failing {
    event: &'static str,
    secret: Option<(Reference, Option<u64>)>,
    directory: Option<PathBuf>,
}

impl Failing {
    /// A change of several secrets is told by the numbers of its records.
    fn of(change: &impl Change) -> Self {
        let events = change.events();
        let event = events.first().map_or("", Event::name);
        let (secret, directory) = match events[..] {
            [Event::Vault { reference, version, .. }] => (reference.map(|of| (of.clone(), version)), None),
            [Event::Policy { directory, .. }] => (None, Some(directory.to_owned())),
            _ => (None, None),
        };
        Self { event, secret, directory }
    }
}

impl Broker {
    /// Records a change, with who asked for it, and then makes it. `effect` gets what was logged, and nothing
    /// but that makes the change. Where it fails, a second record says so.
    ///
    /// # Errors
    /// Those of the record: nothing has changed then. Those of `effect`.
    pub(crate) fn perform<C: Change, T>(
        &self,
        change: C,
        effect: impl FnOnce(Logged<C>) -> Result<T>,
    ) -> Result<T> {
        let failing = Failing::of(&change);
        match with_asker(|asker| self.audit.append_change(change, asker)) {
            Ok(logged) => {
                let span = logged.span();
                effect(logged).inspect_err(|error| self.record_failure(&failing, span, error))
            }
            Err(Unlogged { why, written }) => {
                let error = Error::from(why);
                written.into_iter().for_each(|span| self.record_failure(&failing, span, &error));
                Err(error)
            }
        }
    }

    fn record_failure(&self, failing: &Failing, span: Span, error: &Error) {
        self.record_or_owe(&Event::ChangeFail {
            change: failing.event,
            span,
            reference: failing.secret.as_ref().map(|(reference, _)| reference),
            version: failing.secret.as_ref().and_then(|(_, version)| *version),
            directory: failing.directory.as_deref(),
            reason: &error.code,
            asker: None,
        });
    }

    /// Records that what has records of its own, as a person's reading of values has, came to nothing.
    pub(crate) fn record_failed(&self, event: &'static str, span: Span, error: &Error) {
        self.record_failure(&Failing { event, secret: None, directory: None }, span, error);
    }
}
