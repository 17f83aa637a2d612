//! Does docs/performance.md say what the bench measures?

use super::{document, quoted, rows};

/// The names of figures that `scripts/bench --json` always has.
pub(super) fn figures() -> Vec<String> {
    let source = document("tests/src/bin/kin-bench/report.rs");
    let names = source.split("put(\"").skip(1).filter_map(|rest| rest.split_once('"'));
    names.map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn every_figure_of_the_bench_has_a_row_and_no_other() {
    let page = document("docs/performance.md");
    let rows = rows(&page, "| Measured | | In the JSON |");
    let cell = |row: &&str| row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default().to_owned();
    let cells: Vec<String> = rows.iter().map(cell).collect();
    let named: Vec<&str> = cells.iter().flat_map(|cell| quoted(cell)).collect();
    let figures = figures();
    assert_eq!(figures.len(), FIGURES, "{figures:?}");
    for figure in &figures {
        assert!(named.contains(&figure.as_str()), "docs/performance.md has no row for {figure}");
    }
    // The others are made of depths and clients.
    let made = |name: &str| ["open_d", "check_d", "fresh_d", "_"].iter().any(|start| name.starts_with(start));
    let stale: Vec<&&str> =
        named.iter().filter(|name| !made(name) && !figures.iter().any(|figure| figure == **name)).collect();
    assert!(stale.is_empty(), "the bench has no figure named {stale:?}");
}

/// Those that have a name of their own.
const FIGURES: usize = 19;
