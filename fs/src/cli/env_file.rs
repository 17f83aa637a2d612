//! `kin run --env-file`: variables for the command alone, from a file. A value `kin://REF` is a secret that the
//! project binds; it is not read here.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use kin_broker::{Class, Error, Result, describe};
use kin_policy::Reference;

use super::import::dotenv;
use super::output;

/// Bytes of a file, at most.
const LIMIT: u64 = 1 << 20;
/// What a reference begins with.
const SCHEME: &str = "kin://";

/// What the files say, the last one first where they disagree.
#[derive(Default)]
pub(super) struct Variables {
    /// Values as they stand there.
    pub(super) plain: Vec<(OsString, OsString)>,
    /// Values that the broker has.
    pub(super) references: Vec<(String, Reference)>,
}

/// Reads all of them.
///
/// # Errors
/// `bad_env_file` (Unsafe).
pub(super) fn read(files: &[PathBuf]) -> Result<Variables> {
    let mut variables = Variables::default();
    for path in files {
        let entries = dotenv::pairs(&content(path)?).map_err(|error| bad(path, &error.message))?;
        for (name, value) in entries {
            variables.take(path, name, OsStr::from_bytes(value.bytes()))?;
        }
    }
    Ok(variables)
}

impl Variables {
    fn take(&mut self, path: &Path, name: String, value: &OsStr) -> Result<()> {
        let shown = output::printable(&name).into_owned();
        if name.starts_with("KIN_") || value.as_bytes().contains(&0) {
            return Err(bad(path, &format!("{shown} cannot be set by it")));
        }
        self.plain.retain(|(other, _)| *other != *name);
        self.references.retain(|(other, _)| *other != name);
        match value.to_str().and_then(|text| text.strip_prefix(SCHEME)) {
            None => self.plain.push((name.into(), value.into())),
            Some(reference) if reference.contains('@') => {
                let hint = "write kin://REF: a grant is delivered the current version";
                return Err(bad(path, &format!("{shown} names a version")).hint(hint));
            }
            Some(reference) => {
                let reference = Reference::new(reference).map_err(|_| {
                    bad(path, &format!("{shown} is no reference"))
                        .hint("write it as in kin://stripe/test_key")
                })?;
                self.references.push((name, reference));
            }
        }
        Ok(())
    }
}

fn content(path: &Path) -> Result<Vec<u8>> {
    let failed = |error: std::io::Error| bad(path, &format!("it cannot be read: {}", describe(&error)));
    let mut text = Vec::new();
    File::open(path).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut text)).map_err(failed)?;
    if text.len() as u64 > LIMIT {
        return Err(bad(path, "it is larger than 1 MiB"));
    }
    Ok(text)
}

fn bad(path: &Path, why: &str) -> Error {
    let message = format!("{} is no file of variables: {why}", output::printable_path(path));
    Error::new(Class::Unsafe, "bad_env_file", message)
        .hint("its lines are NAME=value, NAME='value' or NAME=kin://REF")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(texts: &[&str]) -> Result<Variables> {
        let directory = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..texts.len()).map(|n| directory.path().join(format!("{n}.env"))).collect();
        for (path, text) in paths.iter().zip(texts) {
            std::fs::write(path, text).unwrap();
        }
        read(&paths)
    }

    #[test]
    fn references_and_plain_values_are_told_apart() {
        let variables =
            said(&["# a comment\nexport A='x y'\nB=kin://db/url\nC=kin\n", "C=\"kin://api/key\"\nD=\n"])
                .unwrap();
        let plain: Vec<_> = variables.plain.iter().map(|(n, v)| (n.to_str(), v.to_str())).collect();
        assert_eq!(plain, [(Some("A"), Some("x y")), (Some("D"), Some(""))]);
        let references: Vec<_> = variables.references.iter().map(|(n, r)| (n.as_str(), r.as_str())).collect();
        assert_eq!(references, [("B", "db/url"), ("C", "api/key")], "the last file has the last word");
    }

    #[test]
    fn nothing_is_expanded_as_nothing_is_by_an_import() {
        let variables = said(&["A=pa$$word\nB=$A ${HOME}\nC=a b\nD=\"$HOME\"\nE-F=x\n"]).unwrap();
        let plain: Vec<_> = variables.plain.iter().filter_map(|(n, v)| n.to_str().zip(v.to_str())).collect();
        assert_eq!(
            plain,
            [("A", "pa$$word"), ("B", "$A ${HOME}"), ("C", "a b"), ("D", "$HOME"), ("E-F", "x")]
        );
    }

    #[test]
    fn a_file_of_variables_that_is_none_is_refused_and_never_repeated() {
        for bad in
            ["CANARY", "A='CANARY", "A=kin://db/url@2", "A=kin://CANARY//", "KIN_HOME=CANARY", "A=kin://"]
        {
            let error = said(&[bad]).err().unwrap();
            assert_eq!((error.exit_code(), error.code.as_ref()), (3, "bad_env_file"), "{bad}");
            assert!(!format!("{error:?}").contains("CANARY"), "{error:?}");
        }
        assert_eq!(read(&["/nonexistent".into()]).err().unwrap().code, "bad_env_file");
    }
}
