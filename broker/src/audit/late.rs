//! What has happened, and is written down later? A withdrawal waits for no disk: its record says when it was.

use std::time::SystemTime;

use super::json::Members;
use super::log::{AuditLog, NotLogged};
use super::record::Event;

/// A record that could not be written when what it tells of happened.
#[derive(Debug)]
pub(crate) struct Late {
    name: &'static str,
    fields: Box<[u8]>,
    happened: SystemTime,
    bounded: bool,
}

impl Late {
    /// Of what happens now.
    pub(crate) fn of(event: &Event<'_>) -> Self {
        let mut fields = Vec::new();
        event.write(&mut Members(&mut fields));
        let (happened, bounded) = (SystemTime::now(), !matches!(event, Event::GrantEnd { .. }));
        Self { name: event.name(), fields: fields.into(), happened, bounded }
    }

    /// Whether there may be more of its kind than can be kept: of the ends of grants there are as many as grants.
    pub(crate) fn is_bounded(&self) -> bool {
        self.bounded
    }
}

impl AuditLog {
    /// Writes it, with the time at which it happened. A failure refuses nothing more.
    ///
    /// # Errors
    /// [`NotLogged`].
    pub(crate) fn append_late(&self, late: &Late) -> Result<u64, NotLogged> {
        self.append_again(late.name, &mut |_, _, out| {
            out.extend_from_slice(&late.fields);
            Members(out).time("happened", late.happened);
        })
    }
}
