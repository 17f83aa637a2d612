//! How does `kin.toml` come to bind a file? What is there stays as it is, comments too.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use kin_broker::project::manifest::FILE;
use kin_broker::{Error, Result};
use kin_policy::{FileName, FilePath, ProjectName, Reference};
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, TableLike, value};

use crate::cli::bad_usage;

/// What stands beside it until it is whole.
const BESIDE: &str = ".kin.toml.kin-new";
/// The format of a file that is made of its keys.
const DOTENV: &str = "dotenv";
/// Where a project's name comes from nothing better.
const NAMELESS: &str = "project";

/// A name for the project in `directory`: that of the directory, as far as a project may have it.
pub(super) fn project_name(directory: &Path) -> ProjectName {
    let own = directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let name: String = own.chars().map(plain).take(64).collect();
    ProjectName::new(name.trim_start_matches(['.', '-']))
        .or_else(|_| ProjectName::new(NAMELESS))
        .expect("the last of them is a name")
}

/// What a manifest is to get.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addition<'a> {
    /// The file.
    pub(super) file: &'a FileName,
    /// Where it is.
    pub(super) path: &'a FilePath,
    /// What it is made of.
    pub(super) of: Source<'a>,
}

/// What a file is made of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source<'a> {
    /// One secret, which has all of it.
    Whole(&'a Reference),
    /// A binding for each key.
    Keys(&'a [(FileName, Reference)]),
}

/// The text of a manifest that also has this, or of a new one.
///
/// # Errors
/// `bound_already`, `manifest_invalid`.
pub(super) fn extended(text: Option<&str>, project: &ProjectName, addition: Addition<'_>) -> Result<String> {
    let new = || format!("schema = 1\n\n[project]\nname = \"{project}\"\n");
    let text = text.map_or_else(new, ToOwned::to_owned);
    let mut document: DocumentMut = text.parse().map_err(|_| invalid("it does not parse"))?;
    let Addition { file, path, of } = addition;
    let taken = ["bindings", "files"].into_iter().any(|table| {
        document.get(table).and_then(Item::as_table_like).is_some_and(|own| own.contains_key(file.as_str()))
    });
    if taken {
        return match has_it(&document, addition) {
            true => Ok(text),
            false => Err(bound_already(file, "give it a `path`, trust it, and `kin link --adopt`")),
        };
    }
    let bindings = table(&mut document, "bindings")?;
    match of {
        Source::Whole(reference) => {
            let mut binding = InlineTable::new();
            binding.insert("ref", reference.as_str().into());
            binding.insert("path", path.as_str().into());
            bindings.insert(file.as_str(), value(binding));
        }
        Source::Keys(keys) => {
            for (key, reference) in keys {
                match bindings.get(key.as_str()) {
                    None => drop(bindings.insert(key.as_str(), value(reference.as_str()))),
                    Some(there) if is_of(there, reference) => {}
                    Some(_) => {
                        return Err(bound_already(key, "it is another secret there: rename one of them"));
                    }
                }
            }
            let mut made = Table::new();
            made.insert("format", value(DOTENV));
            made.insert("select", value(list(keys.iter().map(|(key, _)| key.as_str()))));
            made.insert("path", value(path.as_str()));
            table(&mut document, "files")?.insert(file.as_str(), Item::Table(made));
        }
    }
    Ok(document.to_string())
}

/// Whether all of it stands there: the file was linked before, and has come back meanwhile.
fn has_it(document: &DocumentMut, addition: Addition<'_>) -> bool {
    let Addition { file, path, of } = addition;
    let entry = |table: &str, name: &str| document.get(table)?.as_table_like()?.get(name);
    let text = |item: &Item, key: &str| Some(item.as_table_like()?.get(key)?.as_str()?.to_owned());
    let is_at = |item: &Item| text(item, "path").as_deref() == Some(path.as_str());
    match of {
        Source::Whole(reference) => entry("bindings", file.as_str())
            .is_some_and(|binding| is_of(binding, reference) && is_at(binding)),
        Source::Keys(keys) => entry("files", file.as_str()).is_some_and(|made| {
            let select = made.as_table_like().and_then(|made| made.get("select")?.as_array());
            let selected = select.into_iter().flatten().filter_map(|key| key.as_str());
            text(made, "format").as_deref() == Some(DOTENV)
                && is_at(made)
                && selected.eq(keys.iter().map(|(key, _)| key.as_str()))
                && keys.iter().all(|(key, reference)| {
                    entry("bindings", key.as_str()).is_some_and(|binding| is_of(binding, reference))
                })
        }),
    }
}

fn table<'d>(document: &'d mut DocumentMut, name: &str) -> Result<&'d mut dyn TableLike> {
    let mut new = Table::new();
    // Without a line of its own where all that it has are tables.
    new.set_implicit(name == "files");
    let item = document.entry(name).or_insert(Item::Table(new));
    item.as_table_like_mut().ok_or_else(|| invalid(&format!("{name} is no table")))
}

fn is_of(binding: &Item, reference: &Reference) -> bool {
    let own = binding.as_str().or_else(|| binding.as_table_like()?.get("ref")?.as_str());
    own == Some(reference.as_str())
}

/// Each on a line of its own.
fn list<'n>(names: impl Iterator<Item = &'n str>) -> Array {
    let mut list: Array = names.collect();
    list.iter_mut().for_each(|name| name.decor_mut().set_prefix("\n    "));
    list.set_trailing_comma(true);
    list.set_trailing("\n");
    list
}

fn bound_already(file: &FileName, hint: &str) -> Error {
    bad_usage("bound_already", format!("{FILE} has {file} already"), hint)
}

fn invalid(why: &str) -> Error {
    bad_usage("manifest_invalid", format!("{FILE} cannot be extended: {why}"), "see `kin check`")
}

/// The lines that the new text has beside the old ones.
pub(super) fn added(old: Option<&str>, new: &str) -> String {
    let known: Vec<&str> = old.unwrap_or_default().lines().collect();
    new.lines().filter(|line| !known.contains(line)).map(|line| format!("+ {line}\n")).collect()
}

/// Puts the text in the manifest's place, whole.
///
/// # Errors
/// A storage error.
pub(super) fn write(directory: &Path, text: &str) -> Result<()> {
    let (path, beside) = (directory.join(FILE), directory.join(BESIDE));
    let mode = std::fs::symlink_metadata(&path).map_or(0o644, |meta| meta.mode() & 0o755);
    let put = || {
        let _ = std::fs::remove_file(&beside);
        let mut file = File::options().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, &path)?;
        File::open(directory)?.sync_all()
    };
    put()
        .inspect_err(|_| {
            let _ = std::fs::remove_file(&beside);
        })
        .map_err(|error| Error::storage(&format!("write {FILE}"), &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: Option<&str>, of: Source<'_>) -> Result<String> {
        let project = ProjectName::new("api").unwrap();
        let (file, path) = (FileName::new(".env").unwrap(), FilePath::new(".env").unwrap());
        super::extended(text, &project, Addition { file: &file, path: &path, of })
    }

    fn extended(text: Option<&str>) -> Result<String> {
        with(text, Source::Whole(&Reference::new("api/.env").unwrap()))
    }

    fn by_key(text: Option<&str>) -> Result<String> {
        let keys = ["A", "B"]
            .map(|key| (FileName::new(key).unwrap(), Reference::new(format!("api/{key}")).unwrap()));
        with(text, Source::Keys(&keys))
    }

    #[test]
    fn a_file_of_keys_is_one_that_kin_reads() {
        let dir = tempfile::tempdir().unwrap();
        let text = by_key(None).unwrap();
        write(dir.path(), &text).unwrap();
        let manifest = kin_broker::project::manifest::Manifest::read(dir.path()).unwrap();
        assert_eq!(manifest.bindings["A"].reference.as_str(), "api/A");
        let file = &manifest.files[".env"];
        assert_eq!((file.format.as_str(), file.recipe.uses().len()), ("dotenv", 2));
        assert_eq!(file.path.as_ref().unwrap().as_str(), ".env");
        assert!(!text.contains("[files]"), "{text}");
    }

    #[test]
    fn keys_that_are_bound_stay_as_they_are_and_other_secrets_are_refused() {
        let old = "schema = 1\n[project]\nname = \"api\"\n[bindings]\nA = { ref = \"api/A\", max_opens = 3 } # mine\n";
        let new = by_key(Some(old)).unwrap();
        assert!(new.starts_with(&format!("{old}B = \"api/B\"\n")), "{new}");
        assert_eq!(by_key(Some(&new)).unwrap(), new, "it has all of it");
        for (there, other) in [
            ("\"dotenv\"", "\"json\""),
            ("path = \"", "path = \"x"),
            ("    \"B\",\n", ""),
            ("\"api/B\"", "\"b\""),
        ] {
            assert_ne!(new, new.replace(there, other));
            assert_eq!(
                &*by_key(Some(&new.replace(there, other))).unwrap_err().code,
                "bound_already",
                "{there}"
            );
        }
        let other = old.replace("api/A", "other/A");
        assert_eq!(&*by_key(Some(&other)).unwrap_err().code, "bound_already");
    }

    #[test]
    fn a_new_manifest_is_one_that_kin_reads() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &extended(None).unwrap()).unwrap();
        let manifest = kin_broker::project::manifest::Manifest::read(dir.path()).unwrap();
        let binding = &manifest.bindings[".env"];
        assert_eq!((binding.reference.as_str(), manifest.project.as_str()), ("api/.env", "api"));
        assert_eq!(binding.path.as_ref().unwrap().as_str(), ".env");
    }

    #[test]
    fn what_was_there_stays_with_its_comments() {
        let old = "# mine\nschema = 1\n[project]\nname = \"api\" # here\n\n[bindings] # two\nA = \"a/b\"\n";
        let new = extended(Some(old)).unwrap();
        assert_eq!(new, format!("{old}\".env\" = {{ ref = \"api/.env\", path = \".env\" }}\n"));
        assert_eq!(added(Some(old), &new), "+ \".env\" = { ref = \"api/.env\", path = \".env\" }\n");
        assert_eq!(extended(Some(&new)).unwrap(), new, "it has it already");
        let elsewhere = new.replace("path = \".env\"", "path = \"app/.env\"");
        assert_eq!(&*extended(Some(&elsewhere)).unwrap_err().code, "bound_already");
    }

    #[test]
    fn a_project_is_named_after_its_directory() {
        for (directory, name) in
            [("/w/api", "api"), ("/w/.dot files", "dot_files"), ("/", NAMELESS), ("/w/…", "_")]
        {
            assert_eq!(project_name(Path::new(directory)).as_str(), name);
        }
    }
}
