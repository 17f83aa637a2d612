//! What is taken already? Names, variables and places are there once, in all tables of a manifest together.

use std::collections::BTreeSet;
use std::ops::Range;

use kin_policy::{FileName, FilePath};

use super::{Reader, Value, excerpt};
use crate::sys::error::Result;

/// What may be there only once, in all tables together.
#[derive(Default)]
pub(super) struct Taken {
    /// File names, in lower case.
    pub(super) names: BTreeSet<String>,
    pub(super) variables: BTreeSet<String>,
    pub(super) paths: Vec<FilePath>,
    /// Variables that are kept from the command.
    pub(super) scrub: BTreeSet<String>,
}

impl Reader<'_> {
    /// One name is one file, also where a file system knows no case.
    pub(super) fn take_name(&self, file: &FileName, at: Range<usize>, taken: &mut Taken) -> Result<()> {
        if taken.names.insert(file.as_str().to_lowercase()) {
            return Ok(());
        }
        let why = format!("another file is named \"{}\", or differs in case alone", excerpt(file.as_str()));
        Err(self.at("bad_name", Some(at), &why))
    }

    pub(super) fn take_variable(
        &self,
        name: Option<&str>,
        value: &Value<'_>,
        taken: &mut Taken,
    ) -> Result<()> {
        match name {
            Some(name) if !taken.variables.insert(name.to_owned()) => {
                Err(self.invalid(Some(value.span()), &format!("{name} is used twice")))
            }
            _ => Ok(()),
        }
    }

    /// One file has one place, and no file is in another.
    pub(super) fn take_place(
        &self,
        path: Option<&FilePath>,
        value: &Value<'_>,
        taken: &mut Taken,
    ) -> Result<()> {
        let Some(path) = path else { return Ok(()) };
        let clash = |other: &&FilePath| *other == path || other.is_above(path) || path.is_above(other);
        match taken.paths.iter().find(clash) {
            None => {
                taken.paths.push(path.clone());
                Ok(())
            }
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
}
