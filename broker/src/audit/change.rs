//! How does a change come to stand in the record, before it is made?

use super::log::{AuditLog, NotLogged};
use super::logged::Logged;
use super::record::{Event, ReaderFacts};

/// Something that is about to change, and what the record says of it. What makes the change takes it
/// [`Logged`], by value: so nothing changes that the record does not have, and one record is good for one change.
pub trait Change {
    /// The records, first to last; at least one.
    fn events(&self) -> Vec<Event<'_>>;
}

/// The numbers of the records that tell of one change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Of the first.
    pub first: u64,
    /// Of the last.
    pub last: u64,
}

/// Why a change does not stand in the record, and which of its records do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unlogged {
    /// Why.
    pub why: NotLogged,
    /// They were written, and tell of what will not happen.
    pub written: Option<Span>,
}

impl AuditLog {
    /// Writes down what is about to change, and who asks for it.
    ///
    /// # Errors
    /// [`Unlogged`]; nothing may change then.
    ///
    /// # Panics
    /// Where a change has no record: that is a defect.
    pub fn append_change<C: Change>(
        &self,
        change: C,
        asker: Option<ReaderFacts<'_>>,
    ) -> Result<Logged<C>, Unlogged> {
        let mut written: Option<Span> = None;
        for event in change.events() {
            let seq = self.append(&event.asked_by(asker)).map_err(|why| Unlogged { why, written })?;
            written = Some(Span { first: written.map_or(seq, |span| span.first), last: seq });
        }
        let span = written.expect("a change has a record");
        Ok(Logged::of_several(change, span))
    }
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;

    use kin_policy::Reference;
    use tempfile::TempDir;

    use super::super::record::VaultChange;
    use super::*;

    struct Several(RangeInclusive<u64>);

    static NAME: std::sync::LazyLock<Reference> = std::sync::LazyLock::new(|| Reference::new("a").unwrap());

    impl Change for Several {
        fn events(&self) -> Vec<Event<'_>> {
            let event = |version| Event::Vault {
                change: VaultChange::Write,
                reference: Some(&NAME),
                version: Some(version),
                reason: None,
                asker: None,
            };
            self.0.clone().map(event).collect()
        }
    }

    #[test]
    fn a_change_is_logged_once_all_of_its_records_stand() {
        let dir = TempDir::new().unwrap();
        let log = AuditLog::open(dir.path()).unwrap();
        let logged = log.append_change(Several(1..=3), None).unwrap();
        assert_eq!((logged.span(), logged.get().0.clone()), (Span { first: 1, last: 3 }, 1..=3));
        assert_eq!(log.append_change(Several(9..=9), None).unwrap().span(), Span { first: 4, last: 4 });
        assert_eq!(log.last_seq().unwrap(), 4);
    }
}
