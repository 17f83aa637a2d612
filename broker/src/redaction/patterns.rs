//! Where does a form of a value begin, and how far does it go? A sieve over windows of four bytes passes almost
//! all of a text by; an automaton looks at the rest.

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::{Anchored, MatchKind};

use super::forms::{Forms, SHORTEST};

/// Bytes of a value that is masked, at most.
pub const LONGEST: usize = 64 << 10;
/// Bytes of all forms together, at most: the automaton takes some thirty times that while it is made.
const MOST: usize = 640 << 10;
/// Bytes of a window, and how far apart two of them are looked at: any 8 bytes contain a whole one of them.
const WINDOW: usize = 4;
const STRIDE: usize = SHORTEST - WINDOW + 1;
/// Bits of a hash, and so of a sieve: 32 KiB, which stay in the cache.
const BITS: u32 = 18;

/// Why a value is not masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unmasked {
    /// It has less than 8 bytes, and so has each of its lines.
    Short,
    /// It has more than 64 KiB, or all values together have too much.
    Long,
    /// As it is it is masked, but in no other form: all values together have too much.
    Encoded,
}

/// All forms of some values.
pub struct Patterns {
    automaton: NFA,
    /// Whose form each pattern is: an index into `names`.
    owners: Vec<u32>,
    names: Vec<Box<[u8]>>,
    windows: Sieve,
    heads: Sieve,
}

impl Patterns {
    /// Of the values, each with the name that stands in its place; also which are masked in part or not at all.
    ///
    /// # Errors
    /// What the automaton has no room for: never within [`LONGEST`].
    pub fn new<'v>(
        values: impl IntoIterator<Item = (&'v str, &'v [u8])>,
    ) -> Result<(Self, Vec<(String, Unmasked)>), aho_corasick::BuildError> {
        let (mut names, mut chosen, mut unmasked) = (Vec::new(), Vec::new(), Vec::new());
        let mut values: Vec<_> = values.into_iter().collect();
        // The short ones first: where there is not room for all, the most of them has it.
        values.sort_by_key(|(_, value)| value.len());
        let mut left = MOST;
        for (name, value) in values {
            let owner = u32::try_from(names.len()).unwrap_or(u32::MAX);
            names.push(format!("[REDACTED:{name}]").into_bytes().into_boxed_slice());
            let (taken, why) = choose(value, &mut left);
            chosen.extend(taken.into_iter().map(|forms| (owner, forms)));
            unmasked.extend(why.map(|why| (name.to_owned(), why)));
        }
        Ok((Self::of(&chosen, names)?, unmasked))
    }

    fn of(chosen: &[(u32, Forms)], names: Vec<Box<[u8]>>) -> Result<Self, aho_corasick::BuildError> {
        let all = || chosen.iter().flat_map(|(owner, forms)| forms.iter().map(|form| (*owner, form)));
        let (mut windows, mut heads) = (Sieve::default(), Sieve::default());
        for (_, form) in all() {
            (0..STRIDE).for_each(|at| windows.add(window(form, at)));
            heads.add(head(form, 0));
        }
        let owners = all().map(|(owner, _)| owner).collect();
        let mut builder = NFA::builder();
        let builder = builder.match_kind(MatchKind::LeftmostLongest).prefilter(false);
        let automaton = builder.build(all().map(|(_, form)| form))?;
        Ok(Self { automaton, owners, names, windows, heads })
    }

    /// What stands in the place of a form.
    pub(super) fn name(&self, pattern: usize) -> &[u8] {
        self.owners.get(pattern).and_then(|owner| self.names.get(*owner as usize)).map_or(b"", |name| name)
    }

    /// The first place from `from` on where a form may begin. Of the last 7 bytes that is each.
    pub(super) fn next_start(&self, text: &[u8], from: usize) -> Option<usize> {
        let mut at = from + STRIDE - 1;
        loop {
            at = self.windows.pass_by(text, at);
            if at + WINDOW > text.len() {
                break;
            }
            let starts = at + 1 - STRIDE..=at;
            if let Some(start) = starts
                .into_iter()
                .find(|start| *start + SHORTEST <= text.len() && self.heads.has(head(text, *start)))
            {
                return Some(start);
            }
            at += STRIDE;
        }
        let last = from.max(text.len().saturating_sub(SHORTEST - 1));
        (last < text.len()).then_some(last)
    }

    /// Begins to look for the forms that begin in one place.
    pub(super) fn begin(&self) -> Walk {
        // Both anchored and unanchored searches are always there in an NFA of this crate.
        let state = self.automaton.start_state(Anchored::Yes).unwrap_or_default();
        Walk { state, length: 0, longest: None }
    }

    /// Takes in more of the text: whether a longer form may follow still.
    pub(super) fn advance(&self, walk: &mut Walk, more: &[u8]) -> bool {
        for byte in more {
            walk.state = self.automaton.next_state(Anchored::Yes, walk.state, *byte);
            if self.automaton.is_dead(walk.state) {
                return false;
            }
            walk.length += 1;
            if self.automaton.is_special(walk.state) && self.automaton.is_match(walk.state) {
                let pattern = self.automaton.match_pattern(walk.state, 0);
                // A state has the matches of its suffixes too, behind its own.
                if self.automaton.pattern_len(pattern) == walk.length {
                    walk.longest = Some((walk.length, pattern.as_usize()));
                }
            }
        }
        true
    }
}

/// The forms of a value that there is room for.
fn choose(value: &[u8], left: &mut usize) -> (Vec<Forms>, Option<Unmasked>) {
    let plain = Forms::plain(value);
    match plain.size() {
        0 => return (Vec::new(), Some(Unmasked::Short)),
        size if value.len() > LONGEST || size > *left => return (Vec::new(), Some(Unmasked::Long)),
        size => *left -= size,
    }
    let encoded = Forms::encoded(value);
    match encoded.size() {
        size if size > *left => (vec![plain], Some(Unmasked::Encoded)),
        size => {
            *left -= size;
            (vec![plain, encoded], None)
        }
    }
}

/// How far the text fits to forms that begin in one place.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    state: StateID,
    /// Bytes that were taken in and fit.
    pub(super) length: usize,
    /// The longest form so far: its length, and which.
    pub(super) longest: Option<(usize, usize)>,
}

fn window(text: &[u8], at: usize) -> u64 {
    text.get(at..at + WINDOW).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes).into()
}

fn head(text: &[u8], at: usize) -> u64 {
    text.get(at..at + SHORTEST).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Whether something was added that is as this, or, seldom, has the same hash.
struct Sieve(Box<[u64]>);

impl Default for Sieve {
    fn default() -> Self {
        Self(vec![0; 1 << (BITS - 6)].into())
    }
}

impl Sieve {
    /// Fibonacci hashing (Knuth, volume 3, 6.4): word and bit.
    fn place(of: u64) -> (usize, u32) {
        let hash = of.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - BITS);
        ((hash >> 6) as usize, (hash & 63) as u32)
    }

    fn add(&mut self, what: u64) {
        let (word, bit) = Self::place(what);
        self.0[word] |= 1 << bit;
    }

    fn bit(&self, what: u64) -> u64 {
        let (word, bit) = Self::place(what);
        self.0[word] >> bit & 1
    }

    fn has(&self, what: u64) -> bool {
        self.bit(what) != 0
    }

    /// The first window at `at`, or a multiple of the stride later, that may be one of a form; else a place that
    /// no whole window is at.
    fn pass_by(&self, text: &[u8], mut at: usize) -> usize {
        const TOGETHER: usize = 4;
        // Four at a time: the loads do not wait for one another.
        while let Some(part) = text.get(at..at + STRIDE * TOGETHER) {
            let any = (0..TOGETHER).fold(0, |any, n| any | self.bit(window(part, n * STRIDE)));
            if any != 0 {
                break;
            }
            at += STRIDE * TOGETHER;
        }
        while at + WINDOW <= text.len() && !self.has(window(text, at)) {
            at += STRIDE;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[(&str, &[u8])]) -> (Patterns, Vec<(String, Unmasked)>) {
        Patterns::new(values.iter().copied()).unwrap()
    }

    #[test]
    fn a_start_is_found_wherever_it_is() {
        let (patterns, _) = of(&[("A", b"0123456789abcdef")]);
        for before in 0..64 {
            let text = [&vec![b'.'; before][..], b"0123456789abcdef", &[b'.'; 30]].concat();
            assert_eq!(patterns.next_start(&text, 0), Some(before));
            assert_eq!(patterns.next_start(&text, before), Some(before));
            assert!(patterns.next_start(&text, before + 1) > Some(before));
        }
    }

    #[test]
    fn the_longest_form_is_its_own() {
        let (patterns, _) =
            of(&[("short", b"bcdefghi"), ("long", b"abcdefghij"), ("longer", b"abcdefghijklmnop")]);
        let longest = |text: &[u8]| {
            let mut walk = patterns.begin();
            let alive = patterns.advance(&mut walk, text);
            (alive, walk.longest.map(|(length, which)| (length, patterns.name(which).to_vec())))
        };
        assert_eq!(longest(b"abcdefghi"), (true, None));
        assert_eq!(longest(b"abcdefghijkl"), (true, Some((10, b"[REDACTED:long]".to_vec()))));
        assert_eq!(longest(b"abcdefghijklmnop!"), (false, Some((16, b"[REDACTED:longer]".to_vec()))));
        assert_eq!(longest(b"bcdefghi"), (true, Some((8, b"[REDACTED:short]".to_vec()))));
        assert_eq!(longest(b"xbcdefghi"), (false, None));
    }

    #[test]
    fn r04_what_is_not_masked_is_told() {
        let large = vec![b'x'; LONGEST + 1];
        let values: [(&str, &[u8]); 6] =
            [("A", b""), ("B", b"{"), ("C", b"true"), ("D", b"1234567\n"), ("E", &large), ("F", b"12345678")];
        let (patterns, unmasked) = of(&values);
        let short = ["A", "B", "C", "D"].map(|name| (name.to_owned(), Unmasked::Short));
        assert_eq!(unmasked[..4], short);
        assert_eq!(unmasked[4..], [("E".to_owned(), Unmasked::Long)]);
        assert!(patterns.advance(&mut patterns.begin(), b"12345678"));
    }

    #[test]
    fn where_there_is_too_much_the_long_ones_give_way() {
        let values: Vec<(String, Vec<u8>)> = (0..12_u32)
            .map(|n| {
                (
                    format!("N{n:02}"),
                    (0..20_000_u32 * (n / 6 * 2 + 1)).flat_map(|at| [(at % 251) as u8 ^ n as u8]).collect(),
                )
            })
            .collect();
        let (_, unmasked) =
            Patterns::new(values.iter().map(|(name, value)| (&name[..], &value[..]))).unwrap();
        assert!(unmasked.iter().any(|(_, why)| *why == Unmasked::Encoded), "{unmasked:?}");
        assert!(
            unmasked
                .iter()
                .filter(|(_, why)| *why == Unmasked::Long)
                .all(|(name, _)| name > &"N05".to_owned())
        );
    }
}
