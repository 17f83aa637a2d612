//! Of what was a person warned already? Once for a project and the variables that get values there, on this
//! machine: a file in the state directory says so. It holds digests, and nothing depends on it but a warning.

use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::sys::files;

/// Its name.
const FILE: &str = "warned";
/// Bytes of it, at most: from then on every run is warned of.
const LIMIT: u64 = 1 << 20;

/// Whether nobody was warned yet of these variables in the project in `directory`; from now on somebody was.
/// Where that cannot be told or noted, it is the first time.
pub(crate) fn is_first<'n>(state: &Path, directory: &Path, names: impl Iterator<Item = &'n str>) -> bool {
    let mut digest = Sha256::new().chain_update(directory.as_os_str().as_bytes());
    for name in names {
        digest.update([0]);
        digest.update(name);
    }
    let line = format!("{:x}\n", digest.finalize());
    let path = state.join(FILE);
    let Ok(noted) = files::read_private(&path, LIMIT) else { return true };
    let noted = noted.unwrap_or_default();
    if noted.split_inclusive(|byte| *byte == b'\n').any(|other| other == line.as_bytes()) {
        return false;
    }
    let mut open = File::options();
    open.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let _ = open.open(&path).and_then(|mut file| file.write_all(line.as_bytes()));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_warned_of_its_variables_once() {
        let state = tempfile::tempdir().unwrap();
        let first = |directory: &str, names: &[&str]| {
            is_first(state.path(), Path::new(directory), names.iter().copied())
        };
        assert!(first("/api", &["A", "B"]));
        assert!(!first("/api", &["A", "B"]), "once");
        assert!(first("/api", &["A", "C"]), "another variable");
        assert!(first("/web", &["A", "B"]), "another project");
        assert!(!first("/api", &["A", "C"]) && !first("/web", &["A", "B"]));
    }
}
