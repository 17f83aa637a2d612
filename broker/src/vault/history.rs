//! When was a version made, and how long does the value of an old one stay?

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::container::{Record, Version};
use crate::vault::info::DUE_SOON;
use crate::vault::info::{DueInfo, SecretInfo, VersionInfo};

/// Seconds that the value of a version can still be read after another has replaced it: whoever holds the
/// old one has to be found first.
const GRACE: i64 = 30 * 24 * 60 * 60;
/// Old values of one secret, at most.
const VALUES: usize = 16;
/// Versions of one secret that are remembered, with or without their values.
const VERSIONS: usize = 100;
/// Versions of one secret that are made in one second, at most: a modification time has milliseconds.
const IN_A_SECOND: u64 = 1000;

/// When the version after `current` is made, where the clock says `now`, both in seconds of Unix time: never
/// before it, and in another second where [`modified`] begins anew.
pub(super) fn after(current: &Version, now: i64) -> i64 {
    let anew = (current.version + 1).is_multiple_of(IN_A_SECOND);
    now.max(current.created.saturating_add(anew.into()))
}

/// What stat says of a file of these versions, so that no two others have the same: the second in which the last
/// of them was made, and the sum of their numbers in place of the milliseconds. It grows with the versions.
pub(crate) fn modified<'v>(versions: impl IntoIterator<Item = &'v SecretInfo>) -> SystemTime {
    let (mut second, mut number) = (0, 0_u64);
    for SecretInfo { created, version, .. } in versions {
        second = second.max((*created).try_into().unwrap_or(0));
        number = number.wrapping_add(*version);
    }
    UNIX_EPOCH + Duration::from_secs(second) + Duration::from_millis(number % IN_A_SECOND)
}

/// Those that should be replaced by now or soon, the most urgent first; `now` is in seconds of Unix time.
pub(crate) fn due(secrets: &[SecretInfo], now: i64) -> Vec<DueInfo> {
    let of = |secret: &SecretInfo| {
        let due = secret.due.filter(|due| *due <= now.saturating_add(DUE_SOON))?;
        Some(DueInfo { reference: secret.reference.clone(), due, overdue: due <= now })
    };
    let mut all: Vec<_> = secrets.iter().filter_map(of).collect();
    all.sort_by_key(|secret| secret.due);
    all
}

/// Destroys the values whose time is over, and forgets the oldest versions; `now` is in seconds of Unix time.
pub(super) fn forget(record: &mut Record, now: i64) {
    let many = record.versions.len().saturating_sub(VERSIONS);
    record.versions.drain(..many);
    for at in 0..record.versions.len() {
        if !is_readable(&record.versions, at, now) {
            record.versions[at].sealed = None;
        }
    }
}

/// What may be known of them, oldest first.
pub(super) fn describe(versions: &[Version], now: i64) -> Vec<VersionInfo> {
    let describe = |(at, version): (usize, &Version)| VersionInfo {
        version: version.version,
        size: version.size,
        created: version.created,
        note: version.note.clone(),
        due: version.due,
        grant: version.grant,
        replaced: versions.get(at + 1).map(|next| next.created),
        readable: is_readable(versions, at, now),
    };
    versions.iter().enumerate().map(describe).collect()
}

/// The current one always; an old one for a while, where it is not one of too many.
fn is_readable(versions: &[Version], at: usize, now: i64) -> bool {
    let Some(next) = versions.get(at + 1) else { return true };
    versions[at].sealed.is_some()
        && now.saturating_sub(next.created) < GRACE
        && versions.len() - at <= VALUES + 1
}
