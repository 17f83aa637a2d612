//! `kin export`: secrets for another machine, encrypted; or in the clear, for who asks for just that.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use kin_broker::admin::batches::{ExportMade, ExportRequest};
use kin_broker::control::Client;
use kin_broker::control::protocol::{Question, SecretInfo};
use kin_broker::sys::paths::Directories;
use kin_broker::{Class, Error, Plaintext, Result, describe};
use kin_policy::Reference;

use super::backup::absolute;
use super::select::{Facts, Selection};
use super::terminal::{Terminal, confirmation_needed};
use super::{Format, bad_usage, connect, key, list, output, project, trust, unlock, value};

/// Write secrets to a file, encrypted
///
/// To age recipients, or with a passphrase, which is asked for where nothing is said: an age file, around JSON
/// that docs/export-format.md describes. `kin import` reads it back. Each secret that leaves is recorded. With
/// --reveal they are printed in the clear instead, as JSON: a person has to agree, on a terminal or by --yes.
/// Old versions stay. Inside a grant's tree all of it is denied.
#[derive(Args)]
#[command(after_help = "Examples:
  kin export --to age1... api.age --project
  kin export --only 'db/*' --passphrase-stdin db.age < passphrase
  kin export --only stripe --reveal         in the clear, on standard output")]
pub(super) struct Arguments {
    /// A file that is not there yet
    #[arg(value_name = "FILE", required_unless_present = "reveal")]
    file: Option<PathBuf>,
    /// Encrypt to this age recipient; may be given more than once
    #[arg(long, value_name = "RECIPIENT", group = "key")]
    to: Vec<String>,
    /// Encrypt with the passphrase on the first line of standard input
    #[arg(long, group = "key")]
    passphrase_stdin: bool,
    /// Write the values in the clear
    #[arg(long, group = "key")]
    reveal: bool,
    /// Only these, as `kin list` takes them; may be given more than once
    #[arg(long, value_name = "PATTERN")]
    only: Vec<OsString>,
    /// Only what this project's kin.toml binds
    #[arg(long)]
    project: bool,
    #[command(flatten)]
    facts: Facts,
    /// With --reveal, agree here instead of on a terminal
    #[arg(long, requires = "reveal")]
    yes: bool,
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(arguments: Arguments) -> Result<()> {
    let Arguments { file, to, passphrase_stdin, reveal, only, project, facts, yes, format } = arguments;
    let directories = Directories::from_environment()?;
    let selection = Selection { patterns: only, facts };
    selection.of(Vec::new())?;
    if reveal {
        let terminal = (!yes).then(|| Terminal::open().ok_or_else(needs_a_person)).transpose()?;
        let mut client = connect::to_broker(&directories)?;
        let secrets = chosen(&mut client, &selection, project)?;
        return in_the_clear(&mut client, &secrets, file.as_deref(), terminal, format);
    }
    let path = absolute(&file.unwrap_or_default())?;
    let passphrase = match (to.is_empty(), passphrase_stdin) {
        (false, _) => None,
        (_, true) => Some(value::passphrase_from_stdin()?),
        _ => Some(key::typed_twice("the export", "choose one of --to RECIPIENT and --passphrase-stdin")?),
    };
    let mut client = connect::to_broker(&directories)?;
    let secrets = chosen(&mut client, &selection, project)?;
    let names: Vec<Reference> = secrets.into_iter().map(|secret| secret.reference).collect();
    let references = selected(&mut client, names)?;
    let question = Question::Export(ExportRequest { path, references, recipients: to });
    let made: ExportMade =
        unlock::asking(&mut client, |client| client.ask_with(question.clone(), passphrase.as_ref()))?;
    match format.json {
        true => output::json(&made),
        false => output::line(&format!(
            "exported {} secrets, encrypted, to {}",
            made.secrets,
            output::printable_path(&made.path)
        )),
    }
}

/// Names in one request, at most: it has room for as many of the longest.
const NAMES: usize = 200;

/// Hands over the names that the request for the export has no room for; the others.
fn selected(client: &mut Client, mut names: Vec<Reference>) -> Result<Vec<Reference>> {
    while names.len() > NAMES {
        let last = names.split_off(NAMES);
        let question = Question::Select { references: std::mem::replace(&mut names, last) };
        unlock::asking(client, |client| client.ask::<()>(question.clone()))?;
    }
    Ok(names)
}

fn needs_a_person() -> Error {
    confirmation_needed("revealing values").hint("a script that means it says --yes")
}

fn chosen(client: &mut Client, selection: &Selection, of_project: bool) -> Result<Vec<SecretInfo>> {
    let mut secrets = selection.of(list::all(client)?)?;
    if of_project {
        let manifest = trust::inspect(client, &project::directory()?)?;
        let bound: Vec<Reference> = manifest.bindings.into_iter().map(|binding| binding.reference).collect();
        secrets.retain(|secret| bound.contains(&secret.reference));
    }
    match secrets.is_empty() {
        false => Ok(secrets),
        true => {
            Err(bad_usage("nothing_to_export", "no secret is like that", "`kin list` shows what there is"))
        }
    }
}

/// One reveal for each, all of them before the first byte is written.
fn in_the_clear(
    client: &mut Client,
    secrets: &[SecretInfo],
    file: Option<&Path>,
    terminal: Option<Terminal>,
    format: Format,
) -> Result<()> {
    if let Some(mut terminal) = terminal {
        terminal.say(&list::table(secrets))?;
        terminal.confirm("Write their values in the clear?")?;
    }
    let mut values = BTreeMap::new();
    for secret in secrets {
        let reference = secret.reference.clone();
        let question = Question::Reveal { reference, version: None, confirmed: true };
        let (_, value) =
            unlock::asking(client, |client| client.ask_for_value::<SecretInfo>(question.clone()))?;
        values.insert(secret.reference.as_str(), value);
    }
    let text = document(&values)?;
    let Some(path) = file else { return output::write(text.bytes()) };
    write_new(path, text.bytes())?;
    let path = absolute(path)?;
    match format.json {
        true => output::json(&ExportMade { path, secrets: secrets.len() }),
        false => {
            output::note("the file holds the values in the clear: remove it once it was read");
            let path = output::printable_path(&path);
            output::line(&format!("wrote {} secrets, in the clear, to {path}", secrets.len()))
        }
    }
}

/// A flat object: names, and values that are text.
fn document(values: &BTreeMap<&str, Plaintext>) -> Result<Plaintext> {
    let mut texts = BTreeMap::new();
    for (name, value) in values {
        let text = std::str::from_utf8(value.bytes()).map_err(|_| {
            let message = format!("the value of {name} is not text, which JSON needs");
            bad_usage("not_text", message, "`kin reveal` prints it, and an encrypted export has it")
        })?;
        texts.insert(name, text);
    }
    let mut json = serde_json::to_vec_pretty(&texts).map_err(|error| Error::internal("write JSON", error))?;
    json.push(b'\n');
    Ok(Plaintext::take(json))
}

/// Writes a file that is not there yet, for its owner alone.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let shown = output::printable_path(path);
    let mut new = File::options();
    let mut file =
        new.write(true).create_new(true).mode(0o600).open(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Error::new(Class::Denied, "file_exists", format!("{shown} is there already"))
                    .hint("name a file that is not there")
            }
            _ => bad_usage(
                "file_unwritable",
                format!("could not make {shown}: {}", describe(&error)),
                "name a file in a directory of your own",
            ),
        })?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(|error| Error::storage(&format!("write {shown}"), &error))
}
