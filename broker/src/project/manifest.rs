//! What does this project's `kin.toml` ask for? Reading one gives it no effect: that is what trust is for.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kin_policy::{BadName, Binding, Descend, FileName, FilePath, Limits, ProjectName, Reference};
use sha2::{Digest, Sha256};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::sys::error::{Class, Error, Result, describe};
use crate::sys::files;
use crate::sys::limits;

mod clients;
mod formats;
mod pins;
mod rendered;
mod taken;

pub use rendered::FileRecipe;
use taken::Taken;

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
    /// The files that it makes of several bindings.
    pub files: BTreeMap<FileName, FileRecipe>,
    /// Variables that a command does not inherit.
    pub scrub: BTreeSet<String>,
    /// Values are masked in what a command writes, unless who starts it says otherwise.
    pub redact: bool,
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
        let Said { project, bindings, files, scrub, redact } = Reader::of(&text).read()?;
        Ok(Self { project, bindings, files, scrub, redact, text, hash, directory })
    }
}

/// What a binding's table may have.
const BINDING_KEYS: [&str; 13] = [
    "ref",
    "env_path",
    "env_value",
    "max_opens",
    "for_first",
    "descend",
    "namespaces",
    "exe",
    "path",
    "scrub",
    "mmap",
    "writable",
    "plain",
];

/// Whether a shell can name a variable so.
pub fn is_variable(name: &str) -> bool {
    let mut characters = name.chars();
    let first = characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    first && characters.all(|c| c.is_ascii_alphanumeric() || c == '_') && name.len() <= 255
}

/// Whether kin itself, the loader or a search for programs uses the variable.
fn is_reserved(name: &str) -> bool {
    name == "PATH" || name.starts_with("LD_") || name.starts_with("KIN_")
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

type Bindings = BTreeMap<FileName, Binding>;
type Table<'a> = DeTable<'a>;
type Value<'a> = Spanned<DeValue<'a>>;

struct Reader<'a> {
    text: &'a str,
    /// How many templates were read.
    templates: Cell<usize>,
}

impl<'a> Reader<'a> {
    fn of(text: &'a str) -> Self {
        Self { text, templates: Cell::new(0) }
    }
}

/// What a manifest says.
struct Said {
    project: ProjectName,
    bindings: Bindings,
    files: BTreeMap<FileName, FileRecipe>,
    scrub: BTreeSet<String>,
    redact: bool,
}

/// What it says of the project as a whole.
struct Whole {
    name: ProjectName,
    /// All variables of its names are kept from a command.
    scrub: bool,
    redact: bool,
}

impl Reader<'_> {
    fn read(&self) -> Result<Said> {
        self.check_characters()?;
        let root = Table::parse(self.text).map_err(|error| {
            let why =
                error.message().lines().next().unwrap_or_default().chars().take(120).collect::<String>();
            self.invalid(error.span(), &printable(&why.to_lowercase()))
        })?;
        let root = root.get_ref();
        self.check_schema(root)?;
        self.closed(root, &["schema", "project", "bindings", "files"])?;
        let Whole { name: project, scrub: scrub_all, redact } = self.project(root)?;
        let mut taken = Taken::default();
        let bindings = match root.get("bindings") {
            Some(value) => self.bindings(self.table(value, "bindings")?, scrub_all, &mut taken)?,
            None => BTreeMap::new(),
        };
        let files = match root.get("files") {
            Some(value) => self.files(self.table(value, "files")?, &bindings, &mut taken)?,
            None => BTreeMap::new(),
        };
        if scrub_all {
            taken.scrub.extend(files.values().filter_map(|file| file.env_path.clone()));
        }
        Ok(Said { project, bindings, files, scrub: taken.scrub, redact })
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

    fn project(&self, root: &Table<'_>) -> Result<Whole> {
        let (name, scrub, redact) = match root.get("project") {
            Some(value) => {
                let table = self.table(value, "project")?;
                self.closed(table, &["name", "scrub", "redact"])?;
                (table.get("name"), self.switch(table, "scrub")?, self.switch(table, "redact")?)
            }
            None => (None, false, false),
        };
        let name = name.ok_or_else(|| {
            Error::new(Class::Unsafe, "manifest_invalid", format!("{FILE} does not name its project"))
                .hint("add `[project]` with `name = \"…\"`")
        })?;
        let name =
            ProjectName::new(self.string(name, "name")?).map_err(|bad| self.bad_name(name.span(), &bad))?;
        Ok(Whole { name, scrub, redact })
    }

    fn switch(&self, table: &Table<'_>, key: &str) -> Result<bool> {
        let Some(value) = table.get(key) else { return Ok(false) };
        value.get_ref().as_bool().ok_or_else(|| self.wrong_type(value, key, "true or false"))
    }

    fn bindings(&self, table: &Table<'_>, scrub_all: bool, taken: &mut Taken) -> Result<Bindings> {
        if table.len() > MOST_BINDINGS {
            return Err(self.invalid(None, &format!("it has more than {MOST_BINDINGS} bindings")));
        }
        let mut bindings = BTreeMap::new();
        for (key, value) in table.iter() {
            let file =
                FileName::new(key.get_ref().as_ref()).map_err(|bad| self.bad_name(key.span(), &bad))?;
            self.take_name(&file, key.span(), taken)?;
            let (binding, scrub) = self.binding(value)?;
            self.take_variable(binding.env_path.as_deref(), value, taken)?;
            self.take_variable(binding.env_value.as_deref(), value, taken)?;
            self.take_place(binding.path.as_ref(), value, taken)?;
            if scrub || scrub_all {
                let own = Some(file.as_str()).filter(|name| is_variable(name) && !is_reserved(name));
                taken.scrub.extend(own.map(str::to_owned));
                taken.scrub.extend(binding.env_path.iter().chain(&binding.env_value).cloned());
            }
            bindings.insert(file, binding);
        }
        Ok(bindings)
    }

    /// A binding, and whether the variables of its names are kept from a command.
    fn binding(&self, value: &Value<'_>) -> Result<(Binding, bool)> {
        let DeValue::Table(table) = value.get_ref() else {
            return Ok((Binding::plain(self.reference(value)?), false));
        };
        self.closed(table, &BINDING_KEYS)?;
        let reference = table
            .get("ref")
            .ok_or_else(|| self.invalid(Some(value.span()), "a binding needs `ref = \"…\"`"))?;
        let max_opens = table.get("max_opens").map(|value| self.max_opens(value)).transpose()?;
        let for_first = table.get("for_first").map(|value| self.for_first(value)).transpose()?;
        let descend = table.get("descend").map(|value| self.descend(value)).transpose()?;
        let (namespaces, exe) = self.restrictions(table)?;
        let variable = |key| table.get(key).map(|value| self.variable(value, key)).transpose();
        let binding = Binding {
            reference: self.reference(reference)?,
            env_path: variable("env_path")?,
            env_value: variable("env_value")?,
            limits: Limits { max_opens, for_first },
            descend: descend.unwrap_or_default(),
            namespaces,
            exe,
            path: table.get("path").map(|value| self.place(value)).transpose()?,
            mmap: self.switch(table, "mmap")?,
            writable: self.switch(table, "writable")?,
            plain: self.switch(table, "plain")?,
        };
        if binding.mmap && binding.writable {
            let why = "mmap does not go with writable: a mapping would show what was there before";
            return Err(self.invalid(Some(value.span()), why));
        }
        if binding.mmap && !(binding.may_be_inherited() && binding.limits == Limits::default()) {
            let why = "mmap does not go with exe, descend, max_opens or for_first: the kernel answers whoever \
                       has a mapped file open";
            return Err(self.invalid(Some(value.span()), why));
        }
        if binding.env_value.is_some() && !binding.may_be_inherited() {
            let why = "env_value does not go with exe or descend: all that a command starts inherits it";
            return Err(self.invalid(Some(value.span()), why));
        }
        Ok((binding, self.switch(table, "scrub")?))
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

    /// A variable that a shell can name, and that neither kin nor the loader nor a search for programs uses.
    fn variable(&self, value: &Value<'_>, key: &str) -> Result<String> {
        let name = self.string(value, key)?;
        let why = if !is_variable(name) {
            "a variable has letters, digits and '_', and begins with no digit"
        } else if is_reserved(name) {
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
