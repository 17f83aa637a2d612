//! `kin audit`: who touched what, and whether the record is whole.

use std::borrow::Cow;

use clap::{Args, Subcommand};
use jiff::tz::TimeZone;
use kin_broker::Result;
use kin_broker::audit::{self, Filter, Record};
use kin_broker::control::protocol::Question;
use kin_broker::paths::Directories;
use kin_policy::{DirectoryName, Reference};

use super::{Format, connect, output};

/// Show who touched what, or verify the record
///
/// Each grant, open, denial and withdrawal is a record, written before a value leaves and chained to the one
/// before. No broker is needed to read them.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
#[command(after_help = "Examples:
  kin audit --since 1h --denied
  kin audit --ref stripe/test_key --json
  kin audit --since 2026-11-01 --until 2026-12-01 --project api
  kin audit verify")]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    filter: Filters,
    #[command(flatten)]
    format: Format,
}

#[derive(Args)]
struct Filters {
    /// Only records of this secret
    #[arg(long = "ref", value_name = "R")]
    reference: Option<String>,
    /// Only records of this project, by its directory in the mount
    #[arg(long, value_name = "P")]
    project: Option<String>,
    /// Only records of this grant: its id, or a beginning of it
    #[arg(long, value_name = "ID")]
    grant: Option<String>,
    /// Only records from this time on: 2026-11-23, 2026-11-23T05:00, or 90s, 10m, 2d ago
    #[arg(long, value_name = "T")]
    since: Option<String>,
    /// Only records before this time
    #[arg(long, value_name = "T")]
    until: Option<String>,
    /// Only denials
    #[arg(long)]
    denied: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// Check the whole chain: exit code 7, and the first bad record, where it was changed or cut
    Verify(Verify),
}

#[derive(Args)]
#[command(after_help = "Example:
  kin audit verify")]
struct Verify {
    #[command(flatten)]
    format: Format,
}

impl Arguments {
    pub(super) fn json(&self) -> bool {
        match &self.verb {
            Some(Verb::Verify(arguments)) => arguments.format.json,
            None => self.format.json,
        }
    }
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let directories = Directories::from_environment()?;
    // A broker that runs may still be counting repeated denials. The record can be read without it.
    if let Ok(mut client) = connect::to_running(&directories) {
        let _ = client.ask::<()>(Question::FlushAudit);
    }
    match arguments.verb {
        Some(Verb::Verify(_)) => verify(&directories, arguments.json()),
        None => query(&directories, &arguments.filter, arguments.json()),
    }
}

fn verify(directories: &Directories, json: bool) -> Result<()> {
    let verified = audit::verify(&directories.state)?;
    if json {
        return output::json(&serde_json::json!({
            "records": verified.records,
            "first_seq": verified.first_seq,
            "last_seq": verified.last_seq,
            "last_time": verified.last_time.map(|time| time.to_string()),
        }));
    }
    let last =
        verified.last_time.map_or_else(String::new, |time| format!(", the last of {}", shown_time(time)));
    output::line(&format!("{} records, the chain is whole{last}", verified.records))
}

fn query(directories: &Directories, filters: &Filters, json: bool) -> Result<()> {
    let filter = filters.parse()?;
    let mut rows = Vec::new();
    let mut printed = Ok(());
    let queried = audit::query(&directories.state, &filter, |record| match json {
        true if printed.is_ok() => printed = output::line(record.json()),
        true => {}
        false => rows.push(row(record)),
    })?;
    printed?;
    if queried.skipped > 0 {
        let skipped = queried.skipped;
        output::note(&format!(
            "kin: passed over {skipped} lines that are no records: see `kin audit verify`"
        ));
    }
    match json {
        true => Ok(()),
        false if rows.is_empty() => {
            output::note("no such records");
            Ok(())
        }
        false => output::print(&output::table(&["TIME", "EVENT", "WHAT", "GRANT", "WHO", "WHY"], rows)),
    }
}

impl Filters {
    fn parse(&self) -> Result<Filter> {
        let now = jiff::Zoned::now();
        let time =
            |text: &Option<String>| text.as_deref().map(|text| audit::parse_time(text, &now)).transpose();
        Ok(Filter {
            reference: self.reference.as_deref().map(Reference::new).transpose()?,
            project: self.project.as_deref().map(DirectoryName::new).transpose()?,
            grant: self.grant.clone(),
            since: time(&self.since)?,
            until: time(&self.until)?,
            denied: self.denied,
        })
    }
}

/// One record as a person wants to read it; `--json` has all of it.
fn row(record: &Record<'_>) -> Vec<String> {
    let text = |part: Option<Cow<'_, str>>| part.map_or_else(String::new, Cow::into_owned);
    let what = match (record.project(), record.file()) {
        (Some(project), Some(file)) => format!("{project}/{file}"),
        (project, _) => text(project.or_else(|| record.reference())),
    };
    let what = match record.reference() {
        Some(reference) if !what.is_empty() && what != reference => format!("{what} ({reference})"),
        _ => what,
    };
    let who = match (record.comm().or_else(|| record.program()), record.pid()) {
        (Some(comm), Some(pid)) => format!("{comm} [{pid}]"),
        (comm, _) => text(comm),
    };
    let why = match (text(record.reason()), record.count()) {
        (reason, 0 | 1) => reason,
        (reason, count) => format!("{reason} × {count}"),
    };
    let grant = text(record.grant()).chars().take(8).collect();
    vec![shown_time(record.time()), record.event().to_owned(), what, grant, who, why]
}

/// Local time, `2026-11-23 05:41:58`.
fn shown_time(time: jiff::Timestamp) -> String {
    time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}
