//! How does `kin.toml` come to bind a file? What is there stays as it is, comments too.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use kin_broker::manifest::FILE;
use kin_broker::{Error, Result};
use kin_policy::{FileName, FilePath, ProjectName, Reference};
use toml_edit::{DocumentMut, InlineTable, Item, Table, value};

use crate::cli::bad_usage;

/// What stands beside it until it is whole.
const BESIDE: &str = ".kin.toml.kin-new";
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

/// The text of a manifest that also binds `file`, or of a new one.
///
/// # Errors
/// `bound_already`, `manifest_invalid`.
pub(super) fn with_binding(
    text: Option<&str>,
    project: &ProjectName,
    file: &FileName,
    reference: &Reference,
    path: &FilePath,
) -> Result<String> {
    let new = || format!("schema = 1\n\n[project]\nname = \"{project}\"\n");
    let text = text.map_or_else(new, ToOwned::to_owned);
    let mut document: DocumentMut = text.parse().map_err(|_| invalid("it does not parse"))?;
    let bindings = document.entry("bindings").or_insert(Item::Table(Table::new()));
    let bindings = bindings.as_table_like_mut().ok_or_else(|| invalid("bindings is no table"))?;
    if bindings.contains_key(file.as_str()) {
        let message = format!("{FILE} binds {file} already");
        return Err(bad_usage(
            "bound_already",
            message,
            "give it a `path`, trust it, and `kin link --adopt`",
        ));
    }
    let mut binding = InlineTable::new();
    binding.insert("ref", reference.as_str().into());
    binding.insert("path", path.as_str().into());
    bindings.insert(file.as_str(), value(binding));
    Ok(document.to_string())
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

    fn extended(text: Option<&str>) -> Result<String> {
        let project = ProjectName::new("api").unwrap();
        let (file, path) = (FileName::new(".env").unwrap(), FilePath::new(".env").unwrap());
        with_binding(text, &project, &file, &Reference::new("api/.env").unwrap(), &path)
    }

    #[test]
    fn a_new_manifest_is_one_that_kin_reads() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &extended(None).unwrap()).unwrap();
        let manifest = kin_broker::manifest::Manifest::read(dir.path()).unwrap();
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
        let twice = extended(Some(&new)).unwrap_err();
        assert_eq!(&*twice.code, "bound_already");
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
