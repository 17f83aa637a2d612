//! Which secret of a name was it? After `kin rm` the name may be given anew, and versions count from 1 again.

use std::path::Path;

use jiff::Timestamp;
use kin_broker::Result;
use kin_broker::audit::{self, Filter, Record};
use kin_policy::Reference;

/// The secrets that had one name, one after the other, as the record shows them.
#[derive(Debug, Default)]
pub(super) struct Lives {
    /// The highest version of each; the last is the one of now.
    highest: Vec<u64>,
    /// The record, and the time, at which each but the last was removed.
    ends: Vec<(u64, Timestamp)>,
    /// When a backup took the vault's place: numbers from before it may have been given twice.
    pub(super) restored: Option<Timestamp>,
}

impl Lives {
    pub(super) fn of(dir: &Path, reference: &Reference) -> Result<Self> {
        let mut lives = Self { highest: vec![0], ..Self::default() };
        let filter = Filter { reference: Some(reference.clone()), ..Filter::default() };
        audit::query(dir, &filter, |record| lives.follow(record, reference))?;
        let restores = Filter { event: Some("vault.restore".into()), ..Filter::default() };
        audit::query(dir, &restores, |record| lives.restored = Some(record.time()))?;
        Ok(lives)
    }

    fn follow(&mut self, record: &Record<'_>, reference: &Reference) {
        if record.event() == "vault.remove" {
            self.ends.push((record.seq(), record.time()));
            self.highest.push(0);
            return;
        }
        if let Some(("vault.remove", of)) = record.failed_change()
            && self.ends.last().is_some_and(|(end, _)| *end == of)
        {
            self.ends.pop();
            self.highest.pop();
            return;
        }
        let Some(highest) = self.highest.last_mut() else { return };
        let own = record.delivered().into_iter().filter(|(name, _)| name == reference.as_str());
        let named = own.filter_map(|(_, version)| version).max();
        match (named, record.event()) {
            (Some(version), _) => *highest = version.max(*highest),
            // Older records of a write have no number.
            (None, "vault.write") => *highest += 1,
            _ => {}
        }
    }

    /// Whether the record shows that there was such a version, or cannot tell.
    pub(super) fn had(&self, version: u64) -> bool {
        (0..self.highest.len()).any(|life| self.has(life, version))
    }

    fn has(&self, life: usize, version: u64) -> bool {
        let highest = self.highest.get(life).copied().unwrap_or_default();
        version > 0 && (self.restored.is_some() || version <= highest)
    }

    /// The highest version that the record shows.
    pub(super) fn highest(&self) -> u64 {
        self.highest.iter().copied().max().unwrap_or_default()
    }

    /// Whether the secret that the name meant at this record had such a version.
    pub(super) fn had_at(&self, record: u64, version: u64) -> bool {
        self.has(self.at(record), version)
    }

    /// When the secret that the name meant at this record was removed.
    pub(super) fn removed(&self, record: u64) -> Option<Timestamp> {
        self.ends.get(self.at(record)).map(|(_, time)| *time)
    }

    fn at(&self, record: u64) -> usize {
        self.ends.partition_point(|(end, _)| *end < record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lives(events: &[(&str, &str)]) -> Lives {
        let mut lives = Lives { highest: vec![0], ..Lives::default() };
        for (at, (event, more)) in events.iter().enumerate() {
            let line = format!(
                "{{\"v\":1,\"seq\":{},\"time\":\"2026-11-23T05:46:48.00000{at}Z\",\"event\":\"{event}\"{more}}}",
                at + 1
            );
            let reference = Reference::new("db/url").unwrap();
            assert!(audit::parsed(&line, |record| lives.follow(record, &reference)), "{line}");
        }
        lives
    }

    const OWN: &str = ",\"reference\":\"db/url\"";

    #[test]
    fn a_removal_ends_a_life_and_its_numbers() {
        let second = format!("{OWN},\"version\":2");
        let lives = lives(&[
            ("vault.write", OWN),
            ("vault.write", OWN),
            ("open.allow", &second),
            ("vault.remove", OWN),
            ("vault.write", OWN),
        ]);
        assert_eq!((lives.highest(), lives.had(2), lives.had(3), lives.had(0)), (2, true, false, false));
        assert!(lives.had_at(3, 2) && !lives.had_at(5, 2) && lives.had_at(5, 1));
        assert_eq!(lives.removed(3), lives.removed(4));
        assert!(lives.removed(4).is_some() && lives.removed(5).is_none());
    }

    #[test]
    fn a_removal_that_failed_ends_nothing() {
        let failed = format!("{OWN},\"change\":\"vault.remove\",\"of\":3");
        let lives = lives(&[
            ("vault.write", OWN),
            ("vault.write", OWN),
            ("vault.remove", OWN),
            ("change.fail", &failed),
        ]);
        assert!(lives.removed(1).is_none() && lives.had_at(1, 2) && lives.highest() == 2);
    }

    #[test]
    fn every_record_that_names_a_version_shows_it() {
        for (event, more) in [
            ("vault.write", format!("{OWN},\"version\":7")),
            ("write.allow", format!("{OWN},\"version\":7")),
            ("vault.reveal", format!("{OWN},\"version\":7")),
            ("vault.reveal", format!("{OWN},\"reason\":\"version 7\"")),
            ("open.allow", ",\"references\":[\"api/key@9\",\"db/url@7\"]".to_owned()),
        ] {
            assert_eq!(lives(&[(event, &more)]).highest(), 7, "{event} {more}");
        }
        let others = ",\"references\":[\"api/key@9\"]".to_owned();
        assert_eq!(lives(&[("open.allow", &others), ("vault.reveal", OWN)]).highest(), 0);
    }

    #[test]
    fn after_a_restored_backup_no_version_is_ruled_out() {
        let mut lives = lives(&[("vault.write", OWN)]);
        assert!(!lives.had(2));
        lives.restored = Some(Timestamp::UNIX_EPOCH);
        assert!(lives.had(2) && !lives.had(0));
    }
}
