//! `kin import`: many secrets at once, from the files that they are in today.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use kin_broker::admin::batches::{ExportKey, ImportInfo, ImportReason, StageExport};
use kin_broker::control::Client;
use kin_broker::control::protocol::Question;
use kin_broker::sys::paths::Directories;
use kin_broker::{Plaintext, Result};
use kin_policy::Reference;

use super::backup::absolute;
use super::terminal::Terminal;
use super::{Format, bad_usage, connect, output, reference, unlock, value};
use staging::{Entry, Incoming};

pub(super) mod dotenv;
mod json;
mod linked;
mod manifest;
mod names;
mod pass;
pub(super) mod staging;

/// Store many secrets at once, from a file that has them
///
/// Reads .env files, JSON, stores of pass, and what `kin export` wrote. What would change is shown first, without
/// values; then all of it is stored in one write, or nothing. Secrets that are there with another value stay,
/// unless --overwrite is said.
///
/// A key becomes a name as it is; in JSON the keys on the way are joined by '/'. What a name cannot have becomes
/// '_', and two keys that become one name are an error. Of an entry of pass the first line is the secret, and
/// the lines after it are a second one, NAME.rest. Nothing in a .env file is expanded: $X stays $X.
///
/// With --link the file itself becomes a secret, kin.toml gets a binding for it and is trusted as it is then, and a
/// link to the mount takes the file's place; `kin unlink --restore` brings it back. With --by-key each key of a .env
/// file becomes a secret and a binding as well, and the file that the mount shows is made of them: a key can be
/// rotated, limited and looked for alone. Comments are left out; what is restored is the file as it was. Inside a
/// grant's tree all of it is denied.
#[derive(Args)]
#[command(after_help = "Examples:
  kin import .env --prefix api --dry-run
  kin import .env --link                    values, kin.toml and the link, in one step
  kin import .env --link --by-key           the same, with a secret for each key
  kin import ~/.password-store --prefix pass
  kin import vault.json --overwrite --yes
  kin import secrets.age --passphrase-stdin < passphrase")]
pub(super) struct Arguments {
    /// The file, or the directory of a store of pass
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What the file is, where its name and beginning do not say it
    #[arg(long = "format", value_name = "KIND")]
    kind: Option<Kind>,
    /// Put all names below this one
    #[arg(long, value_name = "P")]
    prefix: Option<OsString>,
    /// Give secrets that are there with another value a new version
    #[arg(long)]
    overwrite: bool,
    /// Only show what would change
    #[arg(long, visible_alias = "preview")]
    dry_run: bool,
    /// Agree here instead of on a terminal
    #[arg(long)]
    yes: bool,
    /// Put a link to the mount in the file's place
    #[arg(long, conflicts_with_all = ["dry_run", "passphrase_stdin", "identity"])]
    link: bool,
    /// With --link, make a secret and a binding of each key of a .env file, and the file of them
    #[arg(long, requires = "link")]
    by_key: bool,
    /// Read the passphrase of an export from the first line of standard input
    #[arg(long)]
    passphrase_stdin: bool,
    /// Open an export with the age identity in this file
    #[arg(long, value_name = "F", conflicts_with = "passphrase_stdin")]
    identity: Option<PathBuf>,
    #[command(flatten)]
    pub(super) format: Format,
}

/// What is imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// KEY=value lines
    Dotenv,
    /// Objects, flat or in each other
    Json,
    /// A directory of .gpg files, opened by your gpg
    Pass,
    /// What `kin export` wrote
    Export,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let prefix = arguments.prefix.as_deref().map(reference).transpose()?;
    let directories = Directories::from_environment()?;
    if arguments.link {
        return linked::answer(arguments, prefix, &directories);
    }
    let kind = match arguments.kind {
        Some(kind) => kind,
        None => guess(&arguments.file)?,
    };
    let entries = match kind {
        Kind::Export => Vec::new(),
        kind => read(kind, &arguments.file, prefix.as_ref())?,
    };
    let mut client = connect::to_broker(&directories)?;
    match kind {
        Kind::Export => stage_export(&mut client, arguments, prefix)?,
        _ => staging::stage(&mut client, &entries)?,
    }
    let mut incoming = Incoming { overwrite: arguments.overwrite, reason: ImportReason::Import };
    let seen = incoming.look(&mut client)?;
    if arguments.dry_run {
        return say(arguments, &seen, false);
    }
    let terminal = if arguments.yes { None } else { Terminal::open() };
    if let Some(mut terminal) = terminal {
        terminal.say(&staging::table(&seen))?;
        incoming.agree(&mut terminal, &seen, "Import them?")?;
    }
    let done = incoming.commit(&mut client)?;
    say(arguments, &done, true)?;
    if matches!(kind, Kind::Dotenv | Kind::Json) && !arguments.format.json {
        let file = output::printable_path(&arguments.file);
        output::note(&format!("{file} still holds the values in the clear: remove it once nothing reads it"));
    }
    Ok(())
}

/// What a file is, by its name and its beginning.
fn guess(file: &Path) -> Result<Kind> {
    if file.is_dir() {
        return Ok(Kind::Pass);
    }
    // What comes out of a pipe can be read once.
    if !file.is_file() {
        return Ok(Kind::Dotenv);
    }
    let mut beginning = Vec::new();
    let read = std::fs::File::open(file)
        .and_then(|file| std::io::Read::read_to_end(&mut std::io::Read::take(file, 22), &mut beginning));
    if read.is_ok() && beginning.starts_with(b"age-encryption.org/v1") {
        return Ok(Kind::Export);
    }
    let json = file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    Ok(if json { Kind::Json } else { Kind::Dotenv })
}

fn read(kind: Kind, file: &Path, prefix: Option<&Reference>) -> Result<Vec<Entry>> {
    let entries = match kind {
        Kind::Pass => pass::read(file, prefix)?,
        Kind::Json => json::read(&value::from_file(file)?, prefix)?,
        _ => dotenv::read(&value::from_file(file)?, prefix)?,
    };
    names::check_collisions(&entries)?;
    match entries.is_empty() {
        false => Ok(entries),
        true => {
            let message = format!("there is nothing to import in {}", output::printable_path(file));
            Err(bad_usage("nothing_to_import", message, "say what the file is with --format"))
        }
    }
}

/// The broker decrypts it: no value comes here.
fn stage_export(client: &mut Client, arguments: &Arguments, prefix: Option<Reference>) -> Result<()> {
    let path = absolute(&arguments.file)?;
    let (key, secret) = export_key(arguments)?;
    let question = Question::StageExport(StageExport { path, key, prefix });
    unlock::asking(client, |client| client.ask_with(question.clone(), secret.as_ref()))
}

fn export_key(arguments: &Arguments) -> Result<(ExportKey, Option<Plaintext>)> {
    if arguments.passphrase_stdin {
        return Ok((ExportKey::Passphrase, Some(value::passphrase_from_stdin()?)));
    }
    match &arguments.identity {
        Some(file) => Ok((ExportKey::Identity, Some(identity(&value::from_file(file)?)))),
        None => Ok((ExportKey::Vault, None)),
    }
}

/// The line of an identity, as age-keygen writes it among comments.
fn identity(file: &Plaintext) -> Plaintext {
    let mut lines = file.bytes().split(|byte| *byte == b'\n');
    let line = lines.find(|line| line.starts_with(b"AGE-SECRET-KEY-")).unwrap_or_default();
    Plaintext::copy_of(line.trim_ascii())
}

fn say(arguments: &Arguments, secrets: &[ImportInfo], done: bool) -> Result<()> {
    if arguments.format.json {
        return output::json(&secrets);
    }
    output::print(&staging::table(secrets))?;
    let written = secrets.iter().filter(|secret| staging::is_written(secret)).count();
    output::line(&match done {
        true => format!("imported {written} of {} secrets", secrets.len()),
        false => format!("{written} of {} secrets would be imported", secrets.len()),
    })
}
