//! `kin status`: what is going on.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use jiff::tz::TimeZone;
use kin_broker::control::protocol::{
    AuditStatus, DueInfo, FileEdges, GrantStatus, KeyMethod, Left, Question, Status,
};
use kin_broker::sys::paths::Directories;
use kin_broker::{Error, Result};

use super::output::{self, Tone};
use super::{Format, connect, duration, list, restrictions};

/// How long it may take to answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// Show the broker, the vault and the live grants
///
/// The broker, the vault with the rotations that are overdue or due within two weeks, the mount, and each live grant with its process tree, its opens and the time that
/// it has left. No broker is started for it: exit code 6 where none runs.
#[derive(Args)]
#[command(after_help = "Examples:
  kin status
  kin status --watch
  kin status --json | jq -r '.grants[].id'")]
pub(super) struct Arguments {
    /// Show it anew each second, until ^C
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let mut client = connect::to_running(&Directories::from_environment()?)?;
    // Who asks wants to know whether it answers at all.
    let limit = |error| Error::internal("set a deadline", error);
    client.stream().set_read_timeout(Some(ANSWER_DEADLINE)).map_err(limit)?;
    let stdout = std::io::stdout();
    let colours = output::colours(&stdout);
    let redraw = arguments.watch && stdout.is_terminal();
    loop {
        let status: Status = client.ask(Question::Status)?;
        match arguments.format.json {
            true => output::json(&status)?,
            false if redraw => output::print(&redrawn(&description(&status, colours)))?,
            false => output::print(&description(&status, colours))?,
        }
        if !arguments.watch {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Over what was there, without a blank screen in between: home, each line cleared to its end, then the rest
/// of the screen (ECMA-48: CUP, EL, ED).
fn redrawn(text: &str) -> String {
    format!("\u{1b}[H{}\u{1b}[J", text.replace('\n', "\u{1b}[K\n"))
}

fn description(status: &Status, colours: bool) -> String {
    let (broker, vault, mount) = (&status.broker, &status.vault, &status.mount);
    let memory = if broker.memory_locked { "memory locked" } else { "memory not locked" };
    let mut text = format!(
        "broker  pid {}, version {}, up {}, identity by {}, {memory}\n",
        broker.pid,
        output::printable(&broker.version),
        duration::brief(broker.uptime_s),
        output::printable(&broker.identity),
    );
    text += &format!("vault   {}", output::printable(&vault.state));
    if vault.state == "suspended" {
        text += ": it locked itself, and grants wait for `kin unlock`";
    }
    if let Some(secrets) = vault.secrets {
        text += &format!(", {}", counted(secrets as u64, "secret"));
    }
    if vault.overdue > 0 {
        text += &format!(", {} overdue for rotation", vault.overdue);
    }
    match &vault.key {
        Some(KeyMethod::Keyring) => text += ", identity in the keyring",
        Some(KeyMethod::Passphrase) => text += ", identity behind a passphrase",
        Some(KeyMethod::KeyFile { path }) => {
            text += &format!(", identity in {}", output::printable_path(path));
        }
        Some(KeyMethod::Given) => text += ", identity given at each unlock",
        None => {}
    }
    text += &rotations(&vault.due);
    for notice in &vault.notices {
        text += &format!("\nnotice  {}", output::printable(notice));
    }
    let answers = if mount.mounted { "mounted" } else { "not mounted" };
    text += &format!("\nmount   {}, {answers}\n", output::printable_path(&mount.path));
    if mount.writable {
        text += &format!("writes  {}, mounted\n", output::printable_path(&mount.writable_path));
    }
    text += &format!("record  {}\n", record_description(&status.audit, colours));
    text += &format!("grants  {}\n", status.grants.len());
    for grant in &status.grants {
        text += &grant_description(grant, colours);
    }
    text
}

/// One secret a line, the most urgent first.
fn rotations(due: &[DueInfo]) -> String {
    const SHOWN: usize = 10;
    let mut text = String::new();
    for (at, secret) in due.iter().take(SHOWN).enumerate() {
        let label = if at == 0 { "due" } else { "" };
        let what = list::rotation(secret.due).unwrap_or_default();
        text += &format!("\n{label:8}{}, {what}", secret.reference);
    }
    if due.len() > SHOWN {
        text += &format!("\n        and {} more: `kin list --expiring 14d`", due.len() - SHOWN);
    }
    text
}

fn record_description(audit: &AuditStatus, colours: bool) -> String {
    let reason = audit.reason.as_deref().map(output::printable);
    if audit.refused == 0 {
        let doubt = reason
            .map_or_else(String::new, |reason| format!(", though the last write of it failed: {reason}"));
        return format!("{}{doubt}", output::printable(&audit.state));
    }
    let since = audit.since.and_then(|since| jiff::Timestamp::from_second(since).ok());
    let since = since.map_or_else(String::new, |since| {
        format!(" since {}", since.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S"))
    });
    let state = output::paint(colours, Tone::Bad, &audit.state).into_owned();
    let why = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    format!("{state}: {} refused{since}{why}", audit.refused)
}

fn grant_description(grant: &GrantStatus, colours: bool) -> String {
    let id = grant.id.to_string();
    let files: Vec<_> = grant.bindings.iter().map(|file| file.to_string()).collect();
    let left = match grant.ttl_left_ms {
        Some(left) => format!("{} left", duration::brief(left.div_ceil(1000))),
        None => "until its tree ends".into(),
    };
    let mut text = format!(
        "\n{}  {}  {}\n  files  {}\n  opens  {}, age {}, {left}\n",
        output::paint(colours, Tone::Strong, &id[..8]),
        grant.project,
        output::printable(&grant.command.join(" ")),
        if files.is_empty() { "none".into() } else { files.join(", ") },
        counted_down(grant.opens, grant.left.opens_left),
        duration::brief(grant.age_s),
    );
    if !grant.writable.is_empty() {
        let files: Vec<_> = grant.writable.iter().map(ToString::to_string).collect();
        text += &format!("  writes {}\n", files.join(", "));
    }
    if let Some(window) = window(grant.left) {
        text += &format!("  window {window}\n");
    }
    for edges in &grant.edges {
        text += &format!("  edges  {}: {}\n", edges.file, edges_description(edges));
    }
    for process in &grant.tree {
        let indent = 2 * (process.depth.min(20) as usize + 1);
        text += &format!("{:indent$}{} {}\n", "", process.pid, output::printable(&process.comm));
    }
    text
}

/// `2`, or `2 and 3 left`.
fn counted_down(opens: u64, left: Option<u64>) -> String {
    left.map_or_else(|| opens.to_string(), |left| format!("{opens} and {left} left"))
}

/// `opens for 12s more`, where that ends.
fn window(left: Left) -> Option<String> {
    left.window_left_ms.map(|left| match left {
        0 => "opens no more".to_owned(),
        left => format!("opens for {} more", duration::brief(left.div_ceil(1000))),
    })
}

/// `2 opens left, opens for 12s more, for the command alone`.
fn edges_description(edges: &FileEdges) -> String {
    let opens = edges.left.opens_left.map(|left| format!("{} left", counted(left, "open")));
    let levels = edges.levels.map(restrictions::levels);
    opens.into_iter().chain(window(edges.left)).chain(levels).collect::<Vec<_>>().join(", ")
}

/// `1 secret`, `2 secrets`.
fn counted(number: u64, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}
