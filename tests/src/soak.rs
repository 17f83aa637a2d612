//! How much is asked of a test that could go on for ever? Its own number, or what `scripts/soak` says by the
//! environment; the script reads the line that [`hold`] prints.

use std::time::Duration;

/// What `name` says in the environment.
///
/// # Panics
/// Where that is no number.
pub fn amount(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// A deadline of the suite; a soak has one of its own, in seconds.
pub(crate) fn deadline(usual: Duration) -> Duration {
    Duration::from_secs(amount("KIN_SOAK_SECONDS", usual.as_secs()))
}

/// Prints the counts of one test.
///
/// # Panics
/// Where one of the wrong is not 0.
pub fn hold(asked: u64, wrong_allows: u64, wrong_denies: u64, crossed: u64) {
    eprintln!(
        "soak: asked={asked} wrong_allows={wrong_allows} wrong_denies={wrong_denies} crossed={crossed}"
    );
    assert_eq!((wrong_allows, wrong_denies, crossed), (0, 0, 0));
}
