//! Where does a secret stand that should not? The files of KIN_HOME, what was said, and every process's
//! arguments and environment.

use std::path::{Path, PathBuf};

use crate::canary::found_in;

/// Every place in which one of `secrets` stands. `skip` is not entered: the mount itself.
pub(crate) fn of_files(root: &Path, skip: &Path, secrets: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(place) = left.pop() {
        if place == skip {
            continue;
        }
        let Ok(meta) = std::fs::symlink_metadata(&place) else { continue };
        if meta.is_dir() {
            left.extend(entries(&place));
        } else if meta.is_file()
            && let Ok(bytes) = std::fs::read(&place)
        {
            found.extend(of_bytes(&place.display().to_string(), &bytes, secrets));
        }
    }
    found
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// As [`of_files`], in bytes that are called `name`.
pub(crate) fn of_bytes(name: &str, bytes: &[u8], secrets: &[String]) -> Vec<String> {
    let shapes = secrets.iter().filter_map(|secret| found_in(bytes, secret));
    shapes.map(|shape| format!("a secret stands in {name} ({shape})")).collect()
}

/// As [`of_files`], in the arguments and environments that this process may read.
pub(crate) fn of_processes(secrets: &[String]) -> Vec<String> {
    let processes = crate::process::all().into_iter().filter(|process| process.pid != std::process::id());
    let places = processes.flat_map(|process| {
        ["cmdline", "environ"].map(|file| PathBuf::from(format!("/proc/{}/{file}", process.pid)))
    });
    let readable = places.filter_map(|place| Some((place.display().to_string(), std::fs::read(place).ok()?)));
    readable.flat_map(|(name, bytes)| of_bytes(&name, &bytes, secrets)).collect()
}
