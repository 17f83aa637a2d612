//! What does this project's `kin.toml` ask for? Reading one gives it no effect: that is what trust is for.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kin_policy::{BadName, Binding, Descend, FileName, FilePath, Limits, ProjectName, Reference};
use sha2::{Digest, Sha256};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{Class, Error, Result, describe};
use crate::{files, limits};

mod pins;

/// Its name.
pub const FILE: &str = "kin.toml";
/// Bytes of a manifest, at most.
const LIMIT: u64 = 1 << 20;
/// Bindings of a manifest, at most.
const MOST_BINDINGS: usize = 4096;

/// A manifest as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What the project calls itself.
    pub project: ProjectName,
    /// What it asks for.
    pub bindings: BTreeMap<FileName, Binding>,
    /// Its text.
    pub text: String,
    /// SHA-256 of its bytes, hexadecimal.
    pub hash: String,
    /// Its canonical directory: the project's identity.
    pub directory: PathBuf,
}

/// The canonical path of the nearest directory with a `kin.toml`, from `start` upwards.
pub fn find_upwards(start: &Path) -> Option<PathBuf> {
    let start = std::fs::canonicalize(start).ok()?;
    start.ancestors().find(|directory| files::exists(&directory.join(FILE))).map(Path::to_owned)
}

impl Manifest {
    /// The file itself, for people.
    pub fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// Reads the manifest in `directory`.
    ///
    /// # Errors
    /// All of class Unsafe: `manifest_missing`, `manifest_unreadable`, `manifest_invalid`, `unknown_key`,
    /// `bad_name`, `bad_pin`, `unsafe_file`, `unsafe_owner`.
    pub fn read(directory: &Path) -> Result<Self> {
        let missing = || {
            let message = format!("there is no {FILE} in {}", directory.display());
            Error::new(Class::Unsafe, "manifest_missing", message)
                .hint("go to the project's directory, or write a kin.toml there")
        };
        let directory = std::fs::canonicalize(directory).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => missing(),
            _ => unreadable(format!("{} cannot be read: {}", directory.display(), describe(&error))),
        })?;
        let bytes = files::read_shared(&directory.join(FILE), LIMIT)
            .map_err(|error| if error.class == Class::Storage { unreadable(error.message) } else { error })?
            .ok_or_else(missing)?;
        let hash = format!("{:x}", Sha256::digest(&bytes));
        let text = String::from_utf8(bytes).map_err(|_| unreadable(format!("{FILE} is not UTF-8")))?;
        let (project, bindings) = Reader { text: &text }.read()?;
        Ok(Self { project, bindings, text, hash, directory })
    }
}

/// Text that no terminal acts upon: what is not printable becomes an escape, lines and tabs stay.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' | '"' | '\'' | '\\' => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// At most 40 characters of it, on one line.
fn excerpt(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

fn unreadable(message: String) -> Error {
    Error::new(Class::Unsafe, "manifest_unreadable", message)
}

/// The text of a decimal whole number.
fn decimal<'t>(value: &'t Value<'_>) -> Option<&'t str> {
    value.get_ref().as_integer().filter(|number| number.radix() == 10).map(|number| number.as_str())
}

type Table<'a> = DeTable<'a>;
type Value<'a> = Spanned<DeValue<'a>>;

struct Reader<'a> {
    text: &'a str,
}

impl Reader<'_> {
    fn read(&self) -> Result<(ProjectName, BTreeMap<FileName, Binding>)> {
        self.check_characters()?;
        let root = Table::parse(self.text).map_err(|error| {
            let why =
                error.message().lines().next().unwrap_or_default().chars().take(120).collect::<String>();
            self.invalid(error.span(), &printable(&why.to_lowercase()))
        })?;
        let root = root.get_ref();
        self.check_schema(root)?;
        self.closed(root, &["schema", "project", "bindings"])?;
        let project = self.project(root)?;
        let bindings = match root.get("bindings") {
            Some(value) => self.bindings(self.table(value, "bindings")?)?,
            None => BTreeMap::new(),
        };
        Ok((project, bindings))
    }

    /// TOML allows a byte order mark and CRLF; here both are the mark of a file that some tool rewrote.
    fn check_characters(&self) -> Result<()> {
        let bad = |c: char| c == '\u{feff}' || (c.is_control() && c != '\n' && c != '\t');
        let Some((at, c)) = self.text.char_indices().find(|(_, c)| bad(*c)) else { return Ok(()) };
        let why = match c {
            '\u{feff}' => "a byte order mark is not allowed".to_owned(),
            '\r' => "a carriage return is not allowed".to_owned(),
            _ => format!("the control character {} is not allowed", c.escape_debug()),
        };
        Err(self.invalid(Some(at..at), &why).hint("save it as plain UTF-8 with Unix line ends"))
    }

    fn check_schema(&self, root: &Table<'_>) -> Result<()> {
        let Some(value) = root.get("schema") else {
            let message = format!("{FILE} does not say its schema");
            return Err(
                Error::new(Class::Unsafe, "manifest_invalid", message).hint("begin it with `schema = 1`")
            );
        };
        match decimal(value) {
            Some("1") => Ok(()),
            _ => Err(self
                .invalid(Some(value.span()), "this kin reads schema 1 only")
                .hint("write `schema = 1`, or use a newer kin")),
        }
    }

    fn project(&self, root: &Table<'_>) -> Result<ProjectName> {
        let name = match root.get("project") {
            Some(value) => {
                let table = self.table(value, "project")?;
                self.closed(table, &["name"])?;
                table.get("name")
            }
            None => None,
        };
        let name = name.ok_or_else(|| {
            Error::new(Class::Unsafe, "manifest_invalid", format!("{FILE} does not name its project"))
                .hint("add `[project]` with `name = \"…\"`")
        })?;
        ProjectName::new(self.string(name, "name")?).map_err(|bad| self.bad_name(name.span(), &bad))
    }

    fn bindings(&self, table: &Table<'_>) -> Result<BTreeMap<FileName, Binding>> {
        if table.len() > MOST_BINDINGS {
            return Err(self.invalid(None, &format!("it has more than {MOST_BINDINGS} bindings")));
        }
        let (mut bindings, mut folded, mut variables) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        let mut paths = Vec::new();
        for (key, value) in table.iter() {
            let file =
                FileName::new(key.get_ref().as_ref()).map_err(|bad| self.bad_name(key.span(), &bad))?;
            if !folded.insert(file.as_str().to_lowercase()) {
                let why = format!("another file name differs from \"{file}\" only in case");
                return Err(self.at("bad_name", Some(key.span()), &why));
            }
            let binding = self.binding(value)?;
            if let Some(variable) = &binding.env_path
                && !variables.insert(variable.clone())
            {
                return Err(self.invalid(Some(value.span()), &format!("{variable} is used twice")));
            }
            if let Some(path) = &binding.path {
                self.check_place(path, &paths, value)?;
                paths.push(path.clone());
            }
            bindings.insert(file, binding);
        }
        Ok(bindings)
    }

    fn binding(&self, value: &Value<'_>) -> Result<Binding> {
        let DeValue::Table(table) = value.get_ref() else {
            return Ok(Binding::plain(self.reference(value)?));
        };
        self.closed(
            table,
            &["ref", "env_path", "max_opens", "for_first", "descend", "namespaces", "exe", "path"],
        )?;
        let reference = table
            .get("ref")
            .ok_or_else(|| self.invalid(Some(value.span()), "a binding needs `ref = \"…\"`"))?;
        let max_opens = table.get("max_opens").map(|value| self.max_opens(value)).transpose()?;
        let for_first = table.get("for_first").map(|value| self.for_first(value)).transpose()?;
        let descend = table.get("descend").map(|value| self.descend(value)).transpose()?;
        let (namespaces, exe) = self.restrictions(table)?;
        Ok(Binding {
            reference: self.reference(reference)?,
            env_path: table.get("env_path").map(|value| self.variable(value)).transpose()?,
            limits: Limits { max_opens, for_first },
            descend: descend.unwrap_or_default(),
            namespaces,
            exe,
            path: table.get("path").map(|value| self.place(value)).transpose()?,
        })
    }

    fn reference(&self, value: &Value<'_>) -> Result<Reference> {
        Reference::new(self.string(value, "a binding")?).map_err(|bad| self.bad_name(value.span(), &bad))
    }

    fn max_opens(&self, value: &Value<'_>) -> Result<u64> {
        let why = format!("max_opens must be {}", limits::OPENS);
        decimal(value).and_then(limits::opens).ok_or_else(|| self.invalid(Some(value.span()), &why))
    }

    fn for_first(&self, value: &Value<'_>) -> Result<Duration> {
        let why = format!("for_first must be {}", limits::A_DURATION);
        limits::duration(self.string(value, "for_first")?)
            .ok_or_else(|| self.invalid(Some(value.span()), &why).hint(limits::WRITE_A_DURATION))
    }

    fn descend(&self, value: &Value<'_>) -> Result<Descend> {
        match (value.get_ref().as_str(), decimal(value).and_then(|levels| levels.parse().ok())) {
            (Some("all"), _) => Ok(Descend::All),
            (Some("child"), _) => Ok(Descend::CHILD),
            (_, Some(levels)) => Ok(Descend::Levels(levels)),
            _ => {
                let why = "descend must be \"all\", \"child\" or a number of levels from 1";
                Err(self.invalid(Some(value.span()), why))
            }
        }
    }

    /// Where a private mount lays a file: nowhere that kin itself reads.
    fn place(&self, value: &Value<'_>) -> Result<FilePath> {
        let path =
            FilePath::new(self.string(value, "path")?).map_err(|bad| self.bad_name(value.span(), &bad))?;
        match path.as_str() {
            FILE => {
                Err(self.at("bad_name", Some(value.span()), &format!("{FILE} itself is no place for a file")))
            }
            _ => Ok(path),
        }
    }

    /// One file has one place, and no file is in another.
    fn check_place(&self, path: &FilePath, others: &[FilePath], value: &Value<'_>) -> Result<()> {
        let clash = |other: &&FilePath| *other == path || other.is_above(path) || path.is_above(other);
        match others.iter().find(clash) {
            None => Ok(()),
            Some(other) => {
                let why = format!(
                    "path \"{}\" is in the way of \"{}\"",
                    excerpt(other.as_str()),
                    excerpt(path.as_str())
                );
                Err(self.invalid(Some(value.span()), &why))
            }
        }
    }

    /// A variable that a shell can name, and that neither kin nor the loader nor a search for programs uses.
    fn variable(&self, value: &Value<'_>) -> Result<String> {
        let name = self.string(value, "env_path")?;
        let mut characters = name.chars();
        let first = characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        let plain = first && characters.all(|c| c.is_ascii_alphanumeric() || c == '_') && name.len() <= 255;
        let why = if !plain {
            "a variable has letters, digits and '_', and begins with no digit"
        } else if name == "PATH" || name.starts_with("LD_") || name.starts_with("KIN_") {
            "PATH, LD_… and KIN_… are not for manifests"
        } else {
            return Ok(name.to_owned());
        };
        let why = format!("bad variable \"{}\": {why}", excerpt(name));
        Err(self.at("bad_name", Some(value.span()), &why))
    }

    /// Refuses what is not known: a misspelt key must not be ignored.
    fn closed(&self, table: &Table<'_>, known: &[&str]) -> Result<()> {
        let unknown = table.keys().filter(|key| !known.contains(&key.get_ref().as_ref()));
        match unknown.min_by_key(|key| key.span().start) {
            None => Ok(()),
            Some(key) => {
                let why = format!("unknown key \"{}\"", excerpt(key.get_ref()));
                Err(self
                    .at("unknown_key", Some(key.span()), &why)
                    .hint(format!("known here: {}", known.join(", "))))
            }
        }
    }

    fn table<'t, 'v>(&self, value: &'t Value<'v>, what: &str) -> Result<&'t Table<'v>> {
        value.get_ref().as_table().ok_or_else(|| self.wrong_type(value, what, "a table"))
    }

    fn string<'t>(&self, value: &'t Value<'_>, what: &str) -> Result<&'t str> {
        value.get_ref().as_str().ok_or_else(|| self.wrong_type(value, what, "a string"))
    }

    fn wrong_type(&self, value: &Value<'_>, what: &str, wanted: &str) -> Error {
        self.invalid(Some(value.span()), &format!("{what} must be {wanted}"))
    }

    fn bad_name(&self, span: Range<usize>, bad: &BadName) -> Error {
        self.at("bad_name", Some(span), &bad.to_string())
    }

    fn invalid(&self, span: Option<Range<usize>>, why: &str) -> Error {
        self.at("manifest_invalid", span, why)
    }

    fn at(&self, code: &'static str, span: Option<Range<usize>>, why: &str) -> Error {
        let message = match span {
            Some(span) => format!("{FILE} line {}: {why}", self.line(span.start)),
            None => format!("{FILE}: {why}"),
        };
        Error::new(Class::Unsafe, code, message)
    }

    fn line(&self, at: usize) -> usize {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
