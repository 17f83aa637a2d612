//! How much is asked of a test that could go on for ever, and how many of its answers were wrong?
//!
//! `scripts/soak` says how much, by the environment, and reads the lines that [`Tally::hold`] prints.
#![allow(clippy::unwrap_used)]

use kin_policy::{Process, Unidentified};

/// What `name` says in the environment.
pub(super) fn amount(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// A small generator (xorshift), so that a failing seed can be run again.
pub(super) struct Chance(pub(super) u64);

impl Chance {
    pub(super) fn of(seed: u64) -> Self {
        Self(seed << 32 | 0x9E37_79B9)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }

    pub(super) fn pick(&mut self, of: &[u32]) -> Option<u32> {
        (!of.is_empty()).then(|| of[self.below(of.len())])
    }
}

/// The answers of one test.
#[derive(Default)]
pub(super) struct Tally {
    asked: u64,
    wrong_allows: u64,
    wrong_denies: u64,
    crossed: u64,
    first: Option<String>,
}

impl Tally {
    /// Counts one answer: below which root the reader is said to be, and below which it is. One that is not
    /// identified is denied, whoever it is.
    pub(super) fn count(
        &mut self,
        said: Result<Option<Process>, Unidentified>,
        expected: Option<Process>,
        about: impl FnOnce() -> String,
    ) {
        self.asked += 1;
        match said {
            Ok(root) if root == expected => return,
            Ok(Some(_)) if expected.is_some() => self.crossed += 1,
            Ok(Some(_)) => self.wrong_allows += 1,
            Ok(None) | Err(_) => self.wrong_denies += 1,
        }
        self.first.get_or_insert_with(|| format!("{}: {said:?}, and it is {expected:?}", about()));
    }

    /// Prints the counts and the first wrong answer, and panics with it.
    pub(super) fn hold(&self, seed: u64) {
        let Self { asked, wrong_allows, wrong_denies, crossed, first } = self;
        eprintln!(
            "soak: seed={seed} asked={asked} wrong_allows={wrong_allows} wrong_denies={wrong_denies} \
             crossed={crossed}"
        );
        first.iter().for_each(|first| eprintln!("wrong: {first}"));
        assert_eq!(*first, None);
    }
}
