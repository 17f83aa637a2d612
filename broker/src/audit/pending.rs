//! What has happened, and the record does not say so yet? A withdrawal waits for no disk; its record comes with the
//! first one that succeeds, and says when it happened.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::audit::behalf::with_asker;
use crate::audit::{AuditLog, Event, Late};

/// Records that are kept until they can be written, beside the ends of grants: of these there are no more than
/// grants, as none is made without a record.
const MOST: usize = 1024;

/// What is still to be recorded, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Owed(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    late: VecDeque<Late>,
    /// Those among them that are bounded.
    bounded: usize,
    /// Records for which there was no room.
    lost: u64,
}

impl Queue {
    fn push(&mut self, event: &Event<'_>) {
        let late = Late::of(event);
        if late.is_bounded() && self.bounded >= MOST {
            self.lost += 1;
            return;
        }
        self.bounded += usize::from(late.is_bounded());
        self.late.push_back(late);
    }
}

impl Owed {
    /// Keeps what could not be recorded.
    pub(crate) fn keep(&self, event: &Event<'_>) {
        with_asker(|asker| self.0.lock().push(&event.asked_by(asker)));
    }

    /// Records what is owed, as far as the log takes it.
    pub(crate) fn settle(&self, audit: &AuditLog) {
        let mut owed = std::mem::take(&mut *self.0.lock());
        while owed.late.front().is_some_and(|late| audit.append_late(late).is_ok()) {
            owed.late.pop_front();
        }
        let all = owed.late.is_empty();
        if all && owed.lost > 0 && audit.append(&Event::AuditLost { count: owed.lost }).is_ok() {
            owed.lost = 0;
        }
        let mut since = self.0.lock();
        let mut since_then = std::mem::take(&mut *since);
        owed.late.append(&mut since_then.late);
        owed.bounded = owed.late.iter().filter(|late| late.is_bounded()).count();
        owed.lost += since_then.lost;
        *since = owed;
    }
}

#[cfg(test)]
mod tests {
    use kin_policy::{DirectoryName, Ending, GrantId};

    use super::*;

    #[test]
    fn ends_of_grants_are_all_kept_and_of_the_rest_as_many_as_there_is_room_for() {
        let (project, grant) = (DirectoryName::new("api").unwrap(), GrantId::from_bytes([1; 16]));
        let mut queue = Queue::default();
        for _ in 0..3 * MOST {
            queue.push(&Event::MountLost);
            queue.push(&Event::GrantEnd { grant, project: &project, ending: Ending::Locked, asker: None });
        }
        assert_eq!((queue.late.len(), queue.bounded, queue.lost), (4 * MOST, MOST, 2 * MOST as u64));
        assert_eq!(queue.late.iter().filter(|late| late.is_bounded()).count(), MOST);
    }
}
