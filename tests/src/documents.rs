//! Do the documents name tests that exist, and is no promise without one?

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

mod codes;
mod figures;
mod links;
mod rooms;

const CLAIMS: &str = "docs/security-claims.md";
/// Claims of that page, and the tests that they name. Exact: one that is lost is missed here.
const COUNTS: (usize, usize) = (202, 500);
/// Promises of `fs/SEMANTICS.md`.
const PROMISES: usize = 90;
const ROOMS: [&str; 4] = ["policy", "broker", "fs", "tests"];

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_owned()
}

fn document(name: &str) -> String {
    std::fs::read_to_string(checkout().join(name)).expect(name)
}

/// The paths of all documents, from the checkout.
fn documents() -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["", "docs/", "fs/"] {
        for entry in std::fs::read_dir(checkout().join(folder)).expect("a directory").flatten() {
            let name = entry.file_name().into_string().expect("a name in UTF-8");
            if name.ends_with(".md") {
                found.push(format!("{folder}{name}"));
            }
        }
    }
    found.sort();
    found
}

/// The rows of a table with this heading, wherever it stands.
fn rows<'a>(text: &'a str, heading: &str) -> Vec<&'a str> {
    let (mut rows, mut inside) = (Vec::new(), false);
    for line in text.lines() {
        inside = line == heading || (inside && line.starts_with('|'));
        if inside && line != heading && !line.starts_with("|---") {
            rows.push(line);
        }
    }
    rows
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Tests are named by sentences: at least four words.
fn is_test_name(text: &str) -> bool {
    text.split('_').count() >= 4
        && text.split('_').all(|word| {
            !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        })
}

fn tests_named_in(text: &str) -> Vec<&str> {
    quoted(text).filter(|name| is_test_name(name)).collect()
}

/// `deny!(name: …)` makes a test of that name.
fn rows_of_decisions(source: &str) -> Vec<String> {
    let rows =
        source.lines().filter_map(|line| line.strip_prefix("deny")?.split_once("!(")?.1.split_once(':'));
    rows.map(|(name, _)| name.to_owned()).collect()
}

/// Modules that have one test for each way to identify.
fn modules(source: &str) -> Vec<String> {
    let modules =
        source.lines().filter_map(|line| line.trim_start().strip_prefix("mod ")?.strip_suffix(" {"));
    modules.map(str::to_owned).collect()
}

/// The names of all functions, and of what stands for tests, in the sources of the rooms.
fn functions() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut directories: Vec<PathBuf> = ROOMS.iter().map(|room| checkout().join(room)).collect();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory").flatten() {
            let path = entry.path();
            if entry.file_type().expect("a type").is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = std::fs::read_to_string(&path).expect("a source");
                let lines = source.lines().filter_map(|line| line.trim_start().strip_prefix("fn "));
                found.extend(lines.filter_map(|line| line.split_once('(')).map(|(name, _)| name.to_owned()));
                found.extend(rows_of_decisions(&source));
                found.extend(modules(&source));
            }
        }
    }
    found
}

/// The rows of attacks and faults that have to have a test which bears their number: `a01_…`.
const ROWS: &str = "
    a01 a02 a03 a05 a07 a09 a10 a11 a12 a13 a17 a18 a20
    b01 b02 b03 b04 b05 b08 b09 b10 b12 b13 b14 b15
    c01 c02 c04 c05 c06 c07 c10
    d01 d02 d03 d04 d05 d07 d09
    e01 e02 e04 e05 e06 e08 e10 e12
    f01 f02 f03 f04 f06 f08 f09 f10 f11 f12 f15
    g01 g02 g03 g04 g06 g08 g09 g10 g13 g14 g16
    j01 j03 j04 j05 j06 j09 j10 j12 j13
    k00 k01 k02 k04 k05 k07 k08 k09 k11 k12 k14
    l00 l01 l02 l05 l06 l07 l11 l12 l13 l14 l16 l18
    r01 r02 r03 r04 r08 r09 r11 r14 r15 r16
    x01 x02 x03 x04 x07 x08 x10 x11 x13 x15 x18
    y01 y02 y03 y04 y07
    z01 z02 z03 z04 z05 z06 z09
";

#[test]
fn every_row_of_the_attacks_has_a_test_that_bears_its_number() {
    let tests = functions();
    let is_borne = |row: &&str| tests.iter().any(|test| test.starts_with(&format!("{row}_")));
    let missing: Vec<&str> = ROWS.split_whitespace().filter(|row| !is_borne(row)).collect();
    assert!(missing.is_empty(), "no test bears the number of: {missing:?}");
}

/// What a pin does not stop is said where people look for it.
#[test]
fn a13_what_a_pin_does_not_stop_is_documented() {
    let text = document("docs/threat-model.md");
    let (_, open) = text.split_once("## What is not defended").expect("the chapter");
    assert!(open.contains("LD_PRELOAD") && open.contains("`exe`"), "{open}");
}

#[test]
fn every_test_that_the_documents_name_exists() {
    // Codes of errors and figures of the bench are sentences of words as well.
    let mut functions = functions();
    functions.extend(codes::documented().into_values().flatten());
    functions.extend(figures::figures());
    for name in documents() {
        let text = document(&name);
        let absent: Vec<&str> =
            tests_named_in(&text).into_iter().filter(|test| !functions.contains(*test)).collect();
        assert!(absent.is_empty(), "{name} names tests that are not there: {absent:#?}");
    }
}

#[test]
fn every_claim_of_security_names_a_test() {
    let text = document(CLAIMS);
    let claims = rows(&text, "| Claim | Tests |");
    for line in &claims {
        let tests = line.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        assert!(!tests_named_in(tests).is_empty(), "no test shows: {line}");
    }
    assert_eq!((claims.len(), tests_named_in(&text).len()), COUNTS, "claims and the tests that they name");
    // A table that an empty line breaks would hide the rows behind it.
    let others = text.lines().filter(|line| line.starts_with("| ") && *line != "| Claim | Tests |").count();
    assert_eq!(claims.len(), others, "rows outside of the tables");
}

#[test]
fn every_promise_of_the_mount_names_a_test() {
    let text = document("fs/SEMANTICS.md");
    let promises: Vec<&str> = text.split("\n- ").skip(1).collect();
    assert_eq!(promises.len(), PROMISES);
    for promise in promises {
        let promise = promise.split("\n\n").next().unwrap_or_default();
        assert!(!tests_named_in(promise).is_empty(), "no test shows: {promise}");
    }
}

#[test]
fn the_readme_is_read_in_a_minute_and_begins_with_what_to_do() {
    let text = document("README.md");
    let words = text.split_whitespace().count();
    assert!(words <= 1_100, "README.md has {words} words: facts belong into docs/");
    let first: Vec<&str> = text.lines().take(20).collect();
    for command in ["$ ./scripts/try ", "$ ./scripts/test "] {
        assert!(first.iter().any(|line| line.starts_with(command)), "{command} is not near the top");
    }
    assert_eq!(rows(&text, "| Who | Default | Still possible |").len(), 5, "what it stops, in five rows");
}
