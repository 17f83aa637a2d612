//! For which programs, and from which namespaces, is a binding? What `kin.toml` says of that.

use std::ops::Range;
use std::path::Path;

use kin_policy::{ExeDigest, ExePin, Reach, unprintable};
use toml::de::DeValue;

use super::{Reader, Table, Value, excerpt};
use crate::process::executables;
use crate::sys::error::{Error, Result};

/// Programs of one binding, at most.
const MOST: usize = 16;

impl Reader<'_> {
    /// `namespaces` and `exe` of a binding's table. A reader in namespaces of its own can mount over any
    /// library that a pinned program loads, so the two do not go together.
    pub(super) fn restrictions(&self, table: &Table<'_>) -> Result<(Reach, Vec<ExePin>)> {
        let reach = table.get("namespaces").map_or(Ok(Reach::Same), |value| self.reach(value))?;
        let Some(value) = table.get("exe") else { return Ok((reach, Vec::new())) };
        let pins = match value.get_ref() {
            DeValue::Array(list) => list.iter().map(|pin| self.pin(pin)).collect::<Result<Vec<_>>>()?,
            _ => vec![self.pin(value)?],
        };
        if pins.is_empty() || pins.len() > MOST {
            return Err(self
                .bad_pin(value.span(), &format!("exe names from 1 to {MOST} programs"))
                .hint("leave it out, and every member may read the file"));
        }
        if reach == Reach::Any {
            let why = "namespaces = \"any\" and exe do not go together";
            return Err(self
                .bad_pin(value.span(), why)
                .hint("a reader in namespaces of its own chooses the libraries of any program"));
        }
        Ok((reach, pins))
    }

    fn reach(&self, value: &Value<'_>) -> Result<Reach> {
        match self.string(value, "namespaces")? {
            "same" => Ok(Reach::Same),
            "any" => Ok(Reach::Any),
            _ => Err(self.invalid(Some(value.span()), "namespaces is \"same\" or \"any\"")),
        }
    }

    /// A program: its path and its digest. Without a digest it is refused, and the error says which to write.
    fn pin(&self, value: &Value<'_>) -> Result<ExePin> {
        let (path, digest) = match value.get_ref() {
            DeValue::Table(table) => {
                self.closed(table, &["path", "sha256"])?;
                let path = table.get("path").ok_or_else(|| {
                    self.bad_pin(value.span(), "exe needs `path = \"…\"`").hint("an absolute path")
                })?;
                (path, table.get("sha256"))
            }
            _ => (value, None),
        };
        let at = path.span();
        let path = self.string(path, "exe")?;
        if !path.starts_with('/') || path.len() > 4095 || path.chars().any(unprintable) {
            let why = format!("exe \"{}\" is no absolute path", excerpt(path));
            return Err(self.bad_pin(at, &why).hint("write the one that `command -v` prints"));
        }
        let Some(digest) = digest else { return Err(self.without_digest(at, path)) };
        let sha256 = self
            .string(digest, "sha256")?
            .parse::<ExeDigest>()
            .map_err(|rule| self.bad_pin(digest.span(), rule).hint(how_to_find(path)))?;
        Ok(ExePin { path: path.to_owned(), sha256 })
    }

    fn without_digest(&self, at: Range<usize>, path: &str) -> Error {
        let why = format!("exe \"{}\" without sha256 pins nothing: anybody can be at a path", excerpt(path));
        let hint = match executables::at(Path::new(path)) {
            Some((_, digest)) => {
                format!("write exe = {{ path = \"{}\", sha256 = \"{digest}\" }}", excerpt(path))
            }
            None => how_to_find(path),
        };
        self.bad_pin(at, &why).hint(hint)
    }

    fn bad_pin(&self, at: Range<usize>, why: &str) -> Error {
        self.at("bad_pin", Some(at), why)
    }
}

fn how_to_find(path: &str) -> String {
    format!("`sha256sum {}` prints it", excerpt(path))
}
