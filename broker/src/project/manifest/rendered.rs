//! Which files are made of several bindings, and how? The tables below `[files]`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kin_policy::{FileName, FilePath};

use super::{Bindings, FILE, Reader, Table, Taken, Value, printable};
use crate::project::render::{self, Piece, Recipe};
use crate::sys::error::{Class, Error, Result};

/// Files of a manifest, and templates and fields of all of them, at most.
const MOST: usize = 256;
const MOST_TEMPLATES: usize = 4096;
/// What one record can name: bytes of references, with so many beside each for its version.
const RECORD: usize = 3072;
const BESIDE: usize = 14;

/// A file that a manifest makes of several bindings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRecipe {
    /// What it is made of.
    pub recipe: Recipe,
    /// Its format, or `template`.
    pub format: String,
    /// The environment variable that gets the file's path.
    pub env_path: Option<String>,
    /// Where a private mount lays the file.
    pub path: Option<FilePath>,
}

impl Reader<'_> {
    pub(super) fn files(
        &self,
        table: &Table<'_>,
        bindings: &Bindings,
        taken: &mut Taken,
    ) -> Result<BTreeMap<FileName, FileRecipe>> {
        if table.len() > MOST {
            return Err(self.invalid(None, &format!("it has more than {MOST} files")));
        }
        let known = Arc::new(bindings.keys().cloned().collect::<BTreeSet<FileName>>());
        let mut files = BTreeMap::new();
        for (key, value) in table.iter() {
            let file =
                FileName::new(key.get_ref().as_ref()).map_err(|bad| self.bad_name(key.span(), &bad))?;
            self.take_name(&file, key.span(), taken)?;
            let made = self.file(value, &known)?;
            self.take_variable(made.env_path.as_deref(), value, taken)?;
            self.take_place(made.path.as_ref(), value, taken)?;
            self.check_uses(&made.recipe, bindings, value)?;
            files.insert(file, made);
        }
        Ok(files)
    }

    fn file(&self, value: &Value<'_>, known: &Arc<BTreeSet<FileName>>) -> Result<FileRecipe> {
        let table = self.table(value, "a file")?;
        if table.contains_key("writable") {
            let why = "a file that is made of bindings cannot be written: writable is for a binding alone";
            return Err(self.invalid(Some(value.span()), why));
        }
        self.closed(table, &["template", "format", "select", "path", "env_path"])?;
        let (format, pieces) = match (table.get("template"), table.get("format"), table.get("select")) {
            (Some(template), None, None) => ("template", self.template(template, known)?),
            (None, Some(format), Some(select)) => {
                let format = self.format(format)?;
                (format.name(), self.formatted(format, select, known)?)
            }
            _ => {
                let why = "a file needs `template = \"…\"`, or `format = \"…\"` and `select`";
                return Err(self.invalid(Some(value.span()), why));
            }
        };
        let env_path = table.get("env_path").map(|value| self.variable(value, "env_path")).transpose()?;
        let path = table.get("path").map(|value| self.place(value)).transpose()?;
        Ok(FileRecipe { recipe: Recipe::of(pieces), format: format.to_owned(), env_path, path })
    }

    /// What a template says; its problems are told with their line in `kin.toml`.
    pub(super) fn template(&self, value: &Value<'_>, known: &Arc<BTreeSet<FileName>>) -> Result<Vec<Piece>> {
        let text = self.string(value, "a template")?;
        self.templates.set(self.templates.get() + 1);
        if self.templates.get() > MOST_TEMPLATES {
            let why = format!("it has more than {MOST_TEMPLATES} templates and fields");
            return Err(self.invalid(Some(value.span()), &why));
        }
        render::pieces(text, known).map_err(|problem| {
            let line = self.line_in(value, problem.line.unwrap_or(1));
            let why = printable(&problem.why).replace(['\n', '\t'], " ");
            Error::new(Class::Unsafe, "bad_template", format!("{FILE} line {line}: {why}"))
                .hint(format!("names are those of [bindings], filters are {}", render::filters()))
        })
    }

    /// The line of `kin.toml` that is line `line` of a string: where that begins on the next line after its
    /// quotes, that newline is not the string's (TOML 1.0, multi-line strings).
    fn line_in(&self, value: &Value<'_>, line: usize) -> usize {
        let raw = self.text.get(value.span()).unwrap_or_default();
        let begins = self.line(value.span().start);
        match raw.strip_prefix("\"\"\"").or_else(|| raw.strip_prefix("'''")) {
            Some(lines) => begins + usize::from(lines.starts_with('\n')) + line - 1,
            None => begins,
        }
    }

    /// A file has to have something secret, and no more than one record can name: each open names all of it.
    fn check_uses(&self, recipe: &Recipe, bindings: &Bindings, value: &Value<'_>) -> Result<()> {
        let uses = recipe.uses();
        if uses.is_empty() {
            return Err(self.invalid(Some(value.span()), "the file has no value of any binding in it"));
        }
        let bound = uses.iter().filter_map(|file| bindings.get(file));
        let references: BTreeSet<_> = bound.map(|binding| binding.reference.as_str()).collect();
        let named: usize = references.iter().map(|reference| reference.len() + BESIDE).sum();
        if named > RECORD {
            return Err(self
                .invalid(Some(value.span()), "the file has more secrets than one record can name")
                .hint("make two files of it"));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "rendered_tests.rs"]
mod tests;
