//! `kin audit`: a line for each record.

use std::borrow::Cow;

use kin_broker::Result;
use kin_broker::audit::{self, Filter, Record};
use kin_broker::paths::Directories;

use super::{Newest, between, shown_time};
use crate::cli::output;

pub(super) fn answer(directories: &Directories, filter: &Filter, limit: usize) -> Result<()> {
    let newest = Newest::of(directories, filter, limit)?;
    let mut rows = Vec::with_capacity(newest.lines.len());
    let bad =
        newest.lines.iter().filter(|line| !audit::parsed(line, |record| rows.push(row(record)))).count();
    newest.note();
    if bad > 0 {
        output::note(&format!("kin: {bad} lines are no records: see `kin audit verify`"));
    }
    if rows.is_empty() {
        output::note(&format!("no such records{}", between(filter)));
        return Ok(());
    }
    output::print(&output::table(&["TIME", "EVENT", "WHAT", "GRANT", "WHO", "WHY"], rows))
}

/// One record as a person wants to read it; `--json` has all of it.
fn row(record: &Record<'_>) -> Vec<String> {
    let grant = record.grant().map_or_else(String::new, |grant| grant.chars().take(8).collect());
    vec![shown_time(record.time()), record.event().to_owned(), what(record), grant, who(record), why(record)]
}

/// What it is about: `api/DATABASE_URL (db/url)`.
pub(super) fn what(record: &Record<'_>) -> String {
    let what = match (record.project(), record.file()) {
        (Some(project), Some(file)) => format!("{project}/{file}"),
        (project, _) => text(project.or_else(|| record.reference())),
    };
    let named: Vec<_> = record
        .delivered()
        .into_iter()
        .map(|(name, version)| match version {
            Some(version) => format!("{name}@{version}"),
            None => name.into_owned(),
        })
        .collect();
    match named.join(", ") {
        named if named.is_empty() || what.is_empty() || what == named => what,
        named => format!("{what} ({named})"),
    }
}

/// Who it was: `python3 [4711]`.
pub(super) fn who(record: &Record<'_>) -> String {
    match (record.comm().or_else(|| record.program()), record.pid()) {
        (Some(comm), Some(pid)) => format!("{comm} [{pid}]"),
        (comm, _) => text(comm),
    }
}

/// Why: `no_grant × 12`.
pub(super) fn why(record: &Record<'_>) -> String {
    match (text(record.reason()), record.count()) {
        (reason, 0 | 1) => reason,
        (reason, count) => format!("{reason} × {count}"),
    }
}

fn text(part: Option<Cow<'_, str>>) -> String {
    part.map_or_else(String::new, Cow::into_owned)
}
