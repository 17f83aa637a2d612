//! Where does a secret stand that should not? The files of KIN_HOME, what was said, and every process's
//! arguments and environment.

use std::path::{Path, PathBuf};

use crate::canary::found_in;

/// Every place in which one of `secrets` stands. `skip` is not entered: the mount itself.
pub fn of_files(root: &Path, skip: &Path, secrets: &[String]) -> Vec<String> {
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

/// As [`of_files`], in all that a process may write to in its memory; for root alone.
///
/// # Panics
/// Where it cannot be read.
pub fn of_memory(pid: u32, secrets: &[String]) -> Vec<String> {
    use std::os::unix::fs::FileExt;
    let read = std::fs::read_to_string(format!("/proc/{pid}/maps"));
    // One that has ended since it was listed has no memory (ESRCH, or no directory any more).
    if !std::path::Path::new(&format!("/proc/{pid}")).exists() {
        return Vec::new();
    }
    let maps = read.expect("its maps");
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).expect("its memory");
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let mut found = Vec::new();
    for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|mode| mode.starts_with("rw")))
    {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let Some((start, end)) = range.and_then(|(start, end)| Some((number(start)?, number(end)?))) else {
            continue;
        };
        let mut bytes = vec![0; usize::try_from(end - start).expect("a mapping")];
        if memory.read_exact_at(&mut bytes, start).is_ok() {
            found.extend(of_bytes(line, &bytes, secrets));
        }
    }
    found
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
