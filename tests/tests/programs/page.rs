//! Does docs/programs.md say what was seen?

use std::path::PathBuf;
use std::sync::Mutex;

use crate::languages::without_link;
use crate::{clients, keys, languages, refused, servers, tools, written};

/// The page as it is committed.
const PAGE: &str = include_str!("../../../docs/programs.md");
/// The column that is not held: a program's next release is no fault of the page's.
const VERSION: usize = 1;

static WRITING: Mutex<()> = Mutex::new(());

/// The tests of the three tables, in the order of their lines.
fn tables() -> [Vec<&'static str>; 3] {
    let reads =
        [keys::ROWS, clients::ROWS, servers::ROWS, languages::ROWS, without_link::ROWS, tools::ROWS].concat();
    [reads, written::ROWS.to_vec(), [refused::ROWS, refused::needs_root::ROWS].concat()]
}

/// The cells of a line of a table; none where it is a heading's or no line of one.
fn cells(line: &str) -> Option<Vec<&str>> {
    let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
    (cells.last()?.starts_with('`')).then_some(cells)
}

/// The test that a line names in its last cell.
fn test_of(line: &str) -> Option<&str> {
    cells(line)?.last().map(|cell| cell.trim_matches('`'))
}

/// Holds the page's line for a test to these cells, or writes it.
///
/// # Panics
/// Where the page has no such line, or another.
pub(crate) fn hold(test: &str, seen: &[&str]) {
    let test = test.rsplit("::").next().unwrap_or(test);
    let line = format!("| {} | `{test}` |", seen.join(" | "));
    if let Some(path) = std::env::var_os("KIN_PROGRAMS_PAGE").map(PathBuf::from) {
        let _alone = WRITING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let page = std::fs::read_to_string(&path).expect("the page");
        return std::fs::write(&path, with_line(&page, test, &line)).expect("the page");
    }
    let said = PAGE.lines().find(|line| test_of(line) == Some(test));
    let said = said.unwrap_or_else(|| {
        panic!("docs/programs.md has no line for this (scripts/programs writes it): {line}")
    });
    assert_eq!(held(said), held(&line), "docs/programs.md says something else than what was seen");
}

/// What of a line is held.
fn held(line: &str) -> Vec<&str> {
    let cells = cells(line).unwrap_or_default();
    cells.into_iter().enumerate().filter(|(at, _)| *at != VERSION).map(|(_, cell)| cell).collect()
}

/// The page with a line in its place, and without lines of tests that are no more.
fn with_line(page: &str, test: &str, line: &str) -> String {
    let body = |table: Vec<&str>| -> String {
        let of = |name: &&str| match *name == test {
            true => Some(line),
            false => page.lines().find(|line| test_of(line) == Some(name)),
        };
        table.iter().filter_map(of).map(|line| format!("{line}\n")).collect()
    };
    let mut bodies = tables().map(body).into_iter();
    let mut new = String::new();
    for line in page.lines().filter(|line| test_of(line).is_none()) {
        new.push_str(&format!("{line}\n"));
        if line.starts_with("|---") {
            new.push_str(&bodies.next().expect("three tables"));
        }
    }
    new
}

#[test]
fn the_page_has_a_line_for_each_row_and_no_other() {
    let lines: Vec<&str> = PAGE.lines().filter_map(test_of).collect();
    assert_eq!(lines, tables().concat());
}

#[test]
fn a_line_is_put_in_its_place_and_stale_ones_go() {
    let page =
        "# P\n\n| Program |\n|---|\n| old | 1 | `a_row_that_is_gone` |\n\ntext\n\n| Program |\n|---|\n";
    let [first, second] = [tables()[0][1], tables()[0][0]];
    let page = with_line(page, first, &format!("| p | 1 | `{first}` |"));
    let page = with_line(&page, second, &format!("| q | 2 | `{second}` |"));
    let expected =
        format!("|---|\n| q | 2 | `{second}` |\n| p | 1 | `{first}` |\n\ntext\n\n| Program |\n|---|\n");
    assert_eq!(page, format!("# P\n\n| Program |\n{expected}"));
}
