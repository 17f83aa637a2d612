//! `kin audit`: who touched what, who has seen a value, and whether the record is whole.

mod export;
mod exposed;
mod html;
mod journal;
mod lives;
mod table;
mod tree;
mod verify;

use std::collections::VecDeque;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::tz::TimeZone;
use kin_broker::Result;
use kin_broker::audit::{self, Filter, Queried};
use kin_broker::control::protocol::{Question, Remembered};
use kin_broker::sys::paths::Directories;
use kin_policy::{DirectoryName, Reference};

use super::{Format, bad_usage, connect, output};

/// Show who touched what, or verify the record
///
/// Each grant, open, denial and withdrawal is a record, written before a value leaves and chained to the one
/// before. No broker is needed to read them.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
#[command(after_help = "Examples:
  kin audit --since 1h --denied
  kin audit --ref stripe/test_key --since \"yesterday 2pm\" --json
  kin audit --consumer python3 --project api --html timeline.html
  kin audit --tree 3f9c
  kin audit --exposed stripe/test_key@2
  kin audit verify")]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    filter: Filters,
    /// Show who in the tree of this grant opened what: its id, or a beginning of it
    #[arg(long, value_name = "GRANT", conflicts_with_all = ["exposed", "html", "grant", "limit"])]
    tree: Option<String>,
    /// Show who was delivered this secret, or this version of it
    ///
    /// After `kin rm` versions count from 1 again: who was delivered the secret that had the name before is
    /// marked. A reveal or an export without a number on the record counts for every version. Who opened a backup
    /// or an export, with a recovery key too, and whom a reader passed the value on to, is on no record.
    #[arg(long, value_name = "REF[@VERSION]")]
    #[arg(conflicts_with_all = ["html", "denied", "reference", "limit"])]
    exposed: Option<String>,
    /// Write a timeline that stands for itself to this file, which is not there yet
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    html: Option<PathBuf>,
    /// Show at most this many of the newest records; 0 is all
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    format: Format,
}

#[derive(Args)]
struct Filters {
    /// Only records of this secret, or deliveries of this version of it
    #[arg(long = "ref", value_name = "REF[@VERSION]")]
    reference: Option<String>,
    /// Only records of this project, by its directory in the mount
    #[arg(long, value_name = "P")]
    project: Option<String>,
    /// Only records of this grant: its id, or a beginning of it
    #[arg(long, value_name = "ID")]
    grant: Option<String>,
    /// Only records of this reader's name or program, or of a grant for this command
    #[arg(long, visible_alias = "program", value_name = "NAME")]
    consumer: Option<String>,
    /// Only records from this time on: 2pm, yesterday, 10m ago, 2026-11-23T05:00
    #[arg(long, value_name = "T")]
    since: Option<String>,
    /// Only records up to this time, or to the end of this day
    ///
    /// A time of day is its last occurrence; but --until is the first one after --since, and where that would be
    /// tomorrow, a --since that is a time of day as well is that of the day before.
    #[arg(long, value_name = "T")]
    until: Option<String>,
    /// Only denials
    #[arg(long)]
    denied: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// Check the whole chain: exit code 7, and the first bad record, where it was changed or cut
    Verify(verify::Arguments),
    /// Print records for a collector of logs
    Export(export::Arguments),
}

impl Arguments {
    pub(super) fn json(&self) -> bool {
        match &self.verb {
            Some(Verb::Verify(arguments)) => arguments.format.json,
            Some(Verb::Export(_)) => false,
            None => self.format.json,
        }
    }
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let directories = Directories::from_environment()?;
    let known = flushed(&directories);
    match &arguments.verb {
        Some(Verb::Verify(arguments)) => verify::answer(&directories, arguments, known?),
        Some(Verb::Export(arguments)) => export::answer(&directories, arguments),
        None => shown(&directories, arguments),
    }
}

/// A broker that runs may still be counting repeated denials, and is ahead of its anchor. The record can be
/// read without it.
fn flushed(directories: &Directories) -> Result<Option<Remembered>> {
    match connect::to_running(directories) {
        Ok(mut client) => match client.ask(Question::FlushAudit) {
            Err(error) if error.class != kin_broker::Class::Integrity => Ok(None),
            answer => answer,
        },
        Err(_) => Ok(None),
    }
}

fn shown(directories: &Directories, arguments: &Arguments) -> Result<()> {
    let filter = arguments.filter.parse()?;
    let json = arguments.format.json;
    if let Some(grant) = &arguments.tree {
        return tree::answer(directories, Filter { grant: Some(grant.clone()), ..filter }, json);
    }
    if let Some(text) = &arguments.exposed {
        let (reference, version) = reference(text)?;
        return exposed::answer(directories, filter, &reference, version, json);
    }
    match &arguments.html {
        Some(path) => html::answer(directories, &filter, path, arguments.limit.unwrap_or(10_000)),
        None if json => as_json(directories, &filter, arguments.limit.unwrap_or(0)),
        None => table::answer(directories, &filter, arguments.limit.unwrap_or(1000)),
    }
}

fn as_json(directories: &Directories, filter: &Filter, limit: usize) -> Result<()> {
    if limit > 0 {
        let newest = Newest::of(directories, filter, limit)?;
        newest.note();
        return newest.lines.iter().try_for_each(|line| output::line(line));
    }
    let mut printed = Ok(());
    let queried = audit::query(&directories.state, filter, |record| {
        if printed.is_ok() {
            printed = output::line(record.json());
        }
    })?;
    printed?;
    note_skipped(queried);
    Ok(())
}

/// The newest lines that pass a filter.
struct Newest {
    lines: VecDeque<String>,
    queried: Queried,
}

impl Newest {
    /// At most `limit` of them; 0 is all.
    fn of(directories: &Directories, filter: &Filter, limit: usize) -> Result<Self> {
        let mut lines = VecDeque::new();
        let queried = audit::query_lines(&directories.state, filter, |line| {
            // A line that has to go leaves its room to the one that comes.
            let full = limit > 0 && lines.len() == limit;
            let mut room: String = if full { lines.pop_front().unwrap_or_default() } else { String::new() };
            room.clear();
            room.push_str(line);
            lines.push_back(room);
        })?;
        Ok(Self { lines, queried })
    }

    /// Says what is not shown.
    fn note(&self) {
        let earlier = self.queried.matched - self.lines.len() as u64;
        if earlier > 0 {
            output::note(&format!("kin: {earlier} earlier records are not shown: --limit 0 shows all"));
        }
        note_skipped(self.queried);
    }
}

fn note_skipped(queried: Queried) {
    if queried.skipped > 0 {
        let skipped = queried.skipped;
        output::note(&format!(
            "kin: passed over {skipped} lines that are no records: see `kin audit verify`"
        ));
    }
}

impl Filters {
    fn parse(&self) -> Result<Filter> {
        let window = audit::parse_window(self.since.as_deref(), self.until.as_deref(), &jiff::Zoned::now())?;
        let (reference, version) = self.reference.as_deref().map(reference).transpose()?.unzip();
        Ok(Filter {
            reference,
            version: version.flatten(),
            project: self.project.as_deref().map(DirectoryName::new).transpose()?,
            grant: self.grant.clone(),
            consumer: self.consumer.clone(),
            event: None,
            after: None,
            since: window.since,
            until: window.until,
            denied: self.denied,
        })
    }
}

/// `stripe/test_key` or `stripe/test_key@2`.
fn reference(text: &str) -> Result<(Reference, Option<u64>)> {
    let Some((name, version)) = text.rsplit_once('@') else { return Ok((Reference::new(text)?, None)) };
    let version = version
        .parse()
        .map_err(|_| bad_usage("bad_version", "a version is a number", "write it as in stripe/test_key@2"))?;
    Ok((Reference::new(name)?, Some(version)))
}

/// The window that was asked for, as it was understood: ` from 2026-11-23 12:00:00 to 2026-11-23 16:00:00`.
fn between(filter: &Filter) -> String {
    let bound = |word, time: Option<jiff::Timestamp>| {
        time.map_or_else(String::new, |time| format!(" {word} {}", shown_time(time)))
    };
    bound("from", filter.since) + &bound("to", filter.until)
}

/// Local time, `2026-11-23 05:41:58`.
/// A program as people are shown it, with a mark where nothing but the process says that it ran that.
fn marked(program: &str, proven: bool) -> String {
    if proven { program.to_owned() } else { format!("{program} ?") }
}

fn shown_time(time: jiff::Timestamp) -> String {
    time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}
