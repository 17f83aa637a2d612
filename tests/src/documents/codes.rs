//! Does docs/compatibility.md have every code of an error, below its class?

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::{checkout, document, quoted, rows};

/// What the page says: codes by the word of their class.
pub(super) fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let page = document("docs/compatibility.md");
    let mut classes = BTreeMap::new();
    for row in rows(&page, "| Class | Codes |") {
        let mut words = quoted(row).map(str::to_owned);
        let class = words.next().expect("a class");
        classes.insert(class, words.collect());
    }
    classes
}

/// The sources of what is installed, each without white space and without its tests.
fn sources() -> Vec<String> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["policy/src", "broker/src", "fs/src"].map(|folder| checkout().join(folder)).into();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a directory").flatten() {
            let path = entry.path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".rs") && !name.ends_with("_tests.rs") {
                let text = std::fs::read_to_string(&path).expect("a source");
                let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
                found.push(text.split_whitespace().collect());
            }
        }
    }
    found
}

/// `Class::Name,"code"` in a source.
fn said(source: &str) -> Vec<(String, String)> {
    let after = source.split("Class::").skip(1);
    after
        .filter_map(|rest| {
            let (class, rest) = rest.split_once(",\"")?;
            let (code, _) = rest.split_once('"')?;
            let is_word = |word: &str| word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            (is_word(class) && is_word(code)).then(|| (class.to_lowercase(), code.to_owned()))
        })
        .collect()
}

#[test]
fn every_code_of_an_error_is_documented_below_its_class() {
    let documented = documented();
    let missing: BTreeSet<(String, String)> = sources()
        .iter()
        .flat_map(|source| said(source))
        .filter(|(class, code)| !documented.get(class).is_some_and(|codes| codes.contains(code)))
        .collect();
    assert!(missing.is_empty(), "docs/compatibility.md lacks: {missing:#?}");
}

#[test]
fn no_code_is_documented_that_nothing_answers() {
    let sources = sources().concat();
    let stale: Vec<String> = documented()
        .into_values()
        .flatten()
        .filter(|code| !sources.contains(&format!("\"{code}\"")))
        .collect();
    assert!(stale.is_empty(), "docs/compatibility.md has codes that are nowhere: {stale:?}");
}
