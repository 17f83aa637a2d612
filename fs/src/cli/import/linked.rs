//! `kin import FILE --link`: a file becomes a secret, a binding and a link, in this order, and can go back; with
//! `--by-key` each of its keys is a secret and a binding too, and the file is made of them.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kin_broker::admin::batches::{ImportInfo, ImportReason, LinkState};
use kin_broker::control::Client;
use kin_broker::control::protocol::{ManifestInfo, Question, TrustState};
use kin_broker::project::manifest::{self as manifests, FILE};
use kin_broker::sys::paths::Directories;
use kin_broker::{Class, Error, Plaintext, Result, describe};
use kin_policy::{FileName, FilePath, ProjectName, Reference};
use sha2::{Digest, Sha256};

use super::manifest::{Addition, Source};
use super::staging::{self, Entry, Incoming};
use super::{Arguments, dotenv, manifest, names};
use crate::cli::link::{self, Links};
use crate::cli::terminal::{Terminal, confirmation_needed};
use crate::cli::{bad_usage, connect, output, trust, unlock, value};

pub(super) fn answer(
    arguments: &Arguments,
    prefix: Option<Reference>,
    directories: &Directories,
) -> Result<()> {
    let terminal = match arguments.yes {
        true => None,
        false => Some(Terminal::open().ok_or_else(|| {
            confirmation_needed("trusting a manifest").hint("a script that means it says --yes")
        })?),
    };
    let place = Place::of(&arguments.file)?;
    let value = value::from_file(&place.whole())?;
    let mut client = connect::to_broker(directories)?;
    let (plan, entries) = Plan::make(&mut client, place, prefix, value, arguments.by_key)?;
    staging::stage(&mut client, &entries)?;
    let mut incoming = Incoming { overwrite: arguments.overwrite, reason: ImportReason::Adopt };
    let seen = incoming.look(&mut client)?;
    if let Some(mut terminal) = terminal {
        terminal.say(&plan.description(&seen))?;
        incoming.agree(&mut terminal, &seen, "Do all of it, and trust kin.toml as it is then?")?;
    }
    let imported = incoming.commit(&mut client)?;
    plan.bind(&mut client)?;
    plan.link(&mut client, arguments, &imported)
}

/// Where the file is, and which project it belongs to.
struct Place {
    directory: PathBuf,
    path: FilePath,
    file: FileName,
}

impl Place {
    fn of(file: &Path) -> Result<Self> {
        let bad = |why: String| {
            let message = format!("{} cannot be linked: {why}", output::printable_path(file));
            bad_usage("bad_path", message, "name a file of a project")
        };
        let meta = std::fs::symlink_metadata(file).map_err(|error| bad(describe(&error)))?;
        if !meta.is_file() || meta.nlink() != 1 {
            return Err(bad("it is a link, has other names, or is no file".into()));
        }
        let name = file.file_name().ok_or_else(|| bad("it has no name".into()))?;
        let above = file.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let above = std::fs::canonicalize(above).map_err(|error| bad(describe(&error)))?;
        let directory = manifests::find_upwards(&above).unwrap_or_else(|| above.clone());
        let below = above.strip_prefix(&directory).map_err(|error| bad(error.to_string()))?.join(name);
        let below = below.to_str().ok_or_else(|| bad("its path is not UTF-8".into()))?;
        let file = below.rsplit('/').next().unwrap_or_default();
        Ok(Self { path: FilePath::new(below)?, file: FileName::new(file)?, directory })
    }

    fn whole(&self) -> PathBuf {
        self.directory.join(self.path.below())
    }
}

/// What is to be done.
struct Plan {
    place: Place,
    /// The secret that has the file as it is.
    reference: Reference,
    /// The manifest as it is, where there is one, and as it will be.
    old: Option<String>,
    new: String,
}

impl Plan {
    /// A manifest that is there has to be trusted as it is: nothing of somebody else's is trusted along.
    fn make(
        client: &mut Client,
        place: Place,
        prefix: Option<Reference>,
        value: Plaintext,
        by_key: bool,
    ) -> Result<(Self, Vec<Entry>)> {
        let path = place.directory.join(FILE);
        let old = match std::fs::symlink_metadata(&path) {
            Err(_) => None,
            Ok(_) => Some(trust::inspect(client, &place.directory)?),
        };
        let (project, old): (ProjectName, _) = match old {
            None => (manifest::project_name(&place.directory), None),
            Some(seen) => {
                let text = std::fs::read_to_string(&path)
                    .map_err(|error| Error::storage(&format!("read {FILE}"), &error))?;
                check_trusted(&seen, &text)?;
                (seen.project, Some(text))
            }
        };
        let below = match prefix {
            Some(prefix) => prefix,
            None => names::reference(None, &[project.as_str()])?,
        };
        let reference = names::reference(Some(&below), &[place.path.below()])?;
        let mut entries = if by_key { keys(&value, &below)? } else { Vec::new() };
        let bound: Vec<_> = entries.iter().map(bound).collect::<Result<_>>()?;
        let of = if by_key { Source::Keys(&bound) } else { Source::Whole(&reference) };
        let addition = Addition { file: &place.file, path: &place.path, of };
        let new = manifest::extended(old.as_deref(), &project, addition)?;
        entries.push(Entry { reference: reference.clone(), value });
        names::check_collisions(&entries)?;
        Ok((Self { place, reference, old, new }, entries))
    }

    fn description(&self, seen: &[ImportInfo]) -> String {
        let path = output::printable_path(&self.place.whole());
        let added = manifest::added(self.old.as_deref(), &self.new);
        let what = if self.old.is_some() { "gets" } else { "is new" };
        let manifest = match self.old.as_ref() == Some(&self.new) {
            true => format!("{FILE} has it already\n"),
            false => format!("{FILE} {what}:\n{added}"),
        };
        format!("{}\n{manifest}\n{path} becomes a link into the mount\n", staging::table(seen))
    }

    /// Writes the manifest, and trusts exactly what was written. What cannot be trusted goes again.
    fn bind(&self, client: &mut Client) -> Result<()> {
        let directory = &self.place.directory;
        let now = std::fs::read_to_string(directory.join(FILE)).ok();
        if now != self.old {
            let message = format!("{FILE} has changed meanwhile");
            return Err(Error::new(Class::Unsafe, "manifest_changed", message)
                .hint("the values are in the vault; look at it, and try again"));
        }
        manifest::write(directory, &self.new)?;
        let hash = hash(&self.new);
        let question = Question::Trust { directory: directory.clone(), hash, confirmed: true };
        let trusted: Result<ManifestInfo> = unlock::asking(client, |client| client.ask(question.clone()));
        trusted.map(drop).inspect_err(|_| {
            let _ = match &self.old {
                Some(old) => manifest::write(directory, old),
                None => std::fs::remove_file(directory.join(FILE))
                    .map_err(|error| Error::storage("remove it", &error)),
            };
        })
    }

    fn link(&self, client: &mut Client, arguments: &Arguments, imported: &[ImportInfo]) -> Result<()> {
        let links =
            Links { directory: self.place.directory.clone(), files: Some(vec![self.place.file.clone()]) };
        let seen = links.look(client)?;
        let made = links.put(client, &seen, &[(self.place.file.clone(), self.reference.clone())])?;
        if arguments.format.json {
            let trusted = self.place.directory.join(FILE);
            output::json(&serde_json::json!({ "secrets": imported, "links": made, "manifest": trusted }))?;
        } else {
            let others = match imported.len() - 1 {
                0 => String::new(),
                1 => " and its one key".into(),
                count => format!(" and its {count} keys"),
            };
            if self.old.as_ref() == Some(&self.new) {
                output::line(&format!("stored {}{others}, as {FILE} has it", self.reference))?;
            } else {
                output::line(&format!("stored {}{others}, and trusted {FILE} with", self.reference))?;
                output::print(&manifest::added(self.old.as_deref(), &self.new))?;
            }
            link::say(&made)?;
        }
        let adopted = made.iter().filter(|link| link.state == LinkState::Replaced);
        link::warn_of_what_is_left(
            &self.place.directory,
            &adopted.map(|link| link.path.clone()).collect::<Vec<_>>(),
        );
        Ok(())
    }
}

/// The keys of a .env file that the format `dotenv` can be made of again.
///
/// # Errors
/// `bad_dotenv`, `bad_name`, `nothing_to_import`; `not_by_key`. No key is repeated: it may be a value.
fn keys(file: &Plaintext, below: &Reference) -> Result<Vec<Entry>> {
    let entries = dotenv::read(file, Some(below))?;
    let refuse = |why: &str| {
        let hint = "leave --by-key out: then the whole file is one secret";
        Err(bad_usage("not_by_key", format!("the file cannot be made of its keys again: {why}"), hint))
    };
    if entries.is_empty() {
        return refuse("it has none");
    }
    if !entries.iter().all(|entry| manifests::is_variable(key_of(entry))) {
        return refuse("one of them is no variable's name");
    }
    match entries.iter().find(|entry| !dotenv::reads_back(&entry.value)) {
        None => Ok(entries),
        Some(entry) => refuse(&format!("the value of {} needs quotes of several kinds", key_of(entry))),
    }
}

fn key_of(entry: &Entry) -> &str {
    entry.reference.as_str().rsplit('/').next().unwrap_or_default()
}

fn bound(entry: &Entry) -> Result<(FileName, Reference)> {
    Ok((FileName::new(key_of(entry))?, entry.reference.clone()))
}

/// That this text, and no other, is what is trusted.
fn check_trusted(seen: &ManifestInfo, text: &str) -> Result<()> {
    let refuse = |code, what: &str| {
        let message = format!("{} {what}", seen.directory.join(FILE).display());
        Err(Error::new(Class::Unsafe, code, message).hint("read it, then `kin trust`"))
    };
    match seen.trust {
        TrustState::Trusted if hash(text) == seen.hash => Ok(()),
        TrustState::Trusted | TrustState::Changed { .. } => {
            refuse("manifest_changed", "has changed since it was trusted")
        }
        _ => refuse("manifest_untrusted", "is not trusted"),
    }
}

/// SHA-256, as the broker has it of a manifest.
fn hash(text: &str) -> String {
    format!("{:x}", Sha256::digest(text.as_bytes()))
}
