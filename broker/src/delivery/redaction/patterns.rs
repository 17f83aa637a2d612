//! Where does a form of a value begin, and how far does it go? A sieve over windows of four bytes passes almost
//! all of a text by; the rest is compared with the forms, in their order.

use super::forms::{Forms, How, Kind, SHORTEST, heads};
use super::parts::parts;
use crate::grants::messages::Unmasked;

/// Bytes of a value that is masked, at most.
pub const LONGEST: usize = 64 << 10;
/// Bytes of all forms together, at most.
const MOST: usize = 4 << 20;
/// Bytes of a window, and how far apart two of them are looked at: any 8 bytes contain a whole one of them.
const WINDOW: usize = 4;
const STRIDE: usize = SHORTEST - WINDOW + 1;
/// Bits of a hash, and so of a sieve, at least and at most: 32 KiB to 1 MiB. One in 16 is set, if that can be.
const BITS: (u32, u32) = (18, 23);
const SPARSE: usize = 16;
/// Bytes that may stand between two bytes of a form.
const BETWEEN: u8 = 32;
/// Bytes with which a step ends in any case: more than those of the widest, with all that may stand between them.
const BESIDE: usize = 2048;
/// Bytes of a beginning that is none of a secret yet, at most. They are held back for a time that no value changes.
pub(super) const UNDECIDED: usize = 128;

/// All forms of some values.
pub struct Patterns {
    /// The bytes of all forms, and the forms in the order of their groups and their bytes.
    bytes: Vec<u8>,
    forms: Vec<Form>,
    /// Where each group begins and ends.
    groups: [(u32, u32); GROUPS],
    names: Vec<Box<[u8]>>,
    windows: Sieve,
    heads: Sieve,
}

/// A form is matched with what may stand between its bytes: nothing where it has line feeds or escapes of its own; the
/// ends of lines and colours; and blanks too.
const GROUPS: usize = 3;

struct Form {
    at: u32,
    length: u32,
    /// Whose it is: an index into `names`.
    owner: u32,
    how: How,
}

fn group(form: &[u8], how: How) -> usize {
    match how.kind {
        _ if form.iter().any(|byte| b"\r\n\x1b".contains(byte)) => 0,
        Kind::Hexadecimal => 2,
        Kind::Broken | Kind::Written => 1,
    }
}

impl Patterns {
    /// Of the values, each with the name that stands in its place; also which are masked in part or not at all.
    pub fn new<'v>(values: impl IntoIterator<Item = (&'v str, &'v [u8])>) -> (Self, Vec<(String, Unmasked)>) {
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
        (Self::of(&chosen, names), unmasked)
    }

    fn of(chosen: &[(u32, Forms)], names: Vec<Box<[u8]>>) -> Self {
        let all =
            chosen.iter().flat_map(|(owner, forms)| forms.iter().map(|(form, how)| (*owner, form, how)));
        let mut all: Vec<_> = all.map(|(owner, form, how)| (group(form, how), form, owner, how)).collect();
        all.sort_by_key(|(group, form, owner, _)| (*group, *form, *owner));
        let mut starts: Vec<[u8; SHORTEST]> = Vec::new();
        let mut before = None;
        for (group, form, _, how) in &all {
            // Forms that begin alike stand together.
            let of = (*group, form.first_chunk::<SHORTEST>(), how.kind);
            if before.replace(of) != Some(of) {
                heads(form, how.kind, |head| starts.push(head));
            }
        }
        let (mut windows, mut heads) = (Sieve::of(starts.len() * STRIDE), Sieve::of(starts.len()));
        for start in &starts {
            (0..STRIDE).for_each(|at| windows.add(window(start, at)));
            heads.add(head(start, 0));
        }
        let (mut bytes, mut forms, mut groups) =
            (Vec::new(), Vec::with_capacity(all.len()), [(0, 0); GROUPS]);
        let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        for (group, place) in groups.iter_mut().enumerate() {
            let [from, to] = [group, group + 1].map(|end| all.partition_point(|(of, ..)| *of < end));
            *place = (narrow(from), narrow(to));
        }
        for (_, form, owner, how) in all {
            forms.push(Form { at: narrow(bytes.len()), length: narrow(form.len()), owner, how });
            bytes.extend_from_slice(form);
        }
        Self { bytes, forms, groups, names, windows, heads }
    }

    /// What stands in the place of a form.
    pub(super) fn name(&self, form: usize) -> &[u8] {
        self.forms.get(form).and_then(|form| self.names.get(form.owner as usize)).map_or(b"", |name| name)
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
        let parts = self.groups.map(|(low, high)| Part { low, high, ..Part::default() });
        Walk { parts, ..Walk::default() }
    }

    /// Takes in more of the text: whether a longer form may follow still.
    pub(super) fn advance(&self, walk: &mut Walk, more: &[u8]) -> bool {
        for byte in more {
            if !walk.is_alive() {
                break;
            }
            if let Some(place) = walk.head.get_mut(walk.length) {
                *place = *byte;
            }
            walk.length += 1;
            for group in 0..GROUPS {
                if walk.parts[group].low < walk.parts[group].high {
                    self.step(walk, group, *byte);
                }
            }
            if walk.length > UNDECIDED && walk.cut == 0 && walk.longest.is_none() {
                walk.parts = Default::default();
            }
        }
        walk.is_alive()
    }

    /// One byte more, for the forms of one group.
    fn step(&self, walk: &mut Walk, group: usize, byte: u8) {
        let part = &mut walk.parts[group];
        let (low, high) = (part.low as usize, part.high as usize);
        // Within an escape sequence nothing is of a form.
        let (from, to) = match part.escape {
            true => (low, low),
            false => self.narrow((low, high), part.depth, byte),
        };
        if from == to {
            if !part.skip(byte, group) {
                *part = Part::default();
            }
            return;
        }
        (part.low, part.high) = (from as u32, to as u32);
        (part.depth, part.between, part.escape) = (part.depth + 1, 0, false);
        part.fits = walk.length;
        let depth = part.depth as usize;
        if depth == SHORTEST && walk.length > depth && !self.is_broken_as_known((from, to), walk.head) {
            *part = Part::default();
            return;
        }
        if self.forms[from].length == part.depth {
            walk.longest = Some((walk.length, from));
            // What only went so far goes on no more.
            let ended = |form: &Form| form.length <= part.depth;
            part.low += self.forms[from..to].partition_point(ended) as u32;
        }
        if depth.is_multiple_of(SHORTEST) {
            let is_reached = |form: &&Form| {
                let (first, step) = (usize::from(form.how.first), usize::from(form.how.step));
                part.depth < form.length && depth >= first && depth.is_multiple_of(step)
            };
            let reached = self.forms[from..to].iter().filter(is_reached).map(|form| form.how);
            if let Some(step) = reached.map(|how| how.step).max() {
                let other = if walk.cut == walk.length { walk.cut_step } else { 0 };
                (walk.cut, walk.cut_step) = (walk.length, usize::from(step).max(other));
            }
        }
    }

    /// Whether one of these forms, which was broken within its first 8 bytes, was broken as the sieve knows it.
    fn is_broken_as_known(&self, (low, high): (usize, usize), text: [u8; SHORTEST]) -> bool {
        let mut known = false;
        for kind in [Kind::Broken, Kind::Hexadecimal] {
            if let Some(form) = self.forms[low..high].iter().find(|form| form.how.kind == kind) {
                let head = &self.bytes[form.at as usize..form.at as usize + SHORTEST];
                heads(head, kind, |head| known |= head == text);
            }
        }
        known
    }

    /// The forms of a range, all of which begin with the same `depth` bytes, that go on with this one.
    fn narrow(&self, (low, high): (usize, usize), depth: u32, byte: u8) -> (usize, usize) {
        let next = |form: &Form| (depth < form.length).then(|| self.bytes[form.at as usize + depth as usize]);
        let range = &self.forms[low..high];
        let from = low + range.partition_point(|form| next(form) < Some(byte));
        let to = low + range.partition_point(|form| next(form) <= Some(byte));
        (from, to)
    }
}

/// The forms of a value that there is room for, and those of its parts.
fn choose(value: &[u8], left: &mut usize) -> (Vec<Forms>, Option<Unmasked>) {
    let parts = if value.len() > LONGEST { Vec::new() } else { parts(value) };
    let document = !parts.is_empty();
    let plain = Forms::plain(value, document);
    match plain.size() {
        0 => return (Vec::new(), Some(Unmasked::Short)),
        size if value.len() > LONGEST || size > *left => return (Vec::new(), Some(Unmasked::Long)),
        size => *left -= size,
    }
    let mut taken = vec![plain];
    let encoded = parts.iter().flat_map(|part| [Forms::plain(part, false), Forms::encoded(part, false)]);
    for forms in encoded.chain([Forms::encoded(value, document)]) {
        match forms.size() {
            size if size > *left => return (taken, Some(Unmasked::Encoded)),
            size => *left -= size,
        }
        taken.push(forms);
    }
    (taken, None)
}

/// How far the text fits to forms that begin in one place.
#[derive(Clone, Debug, Default)]
pub(super) struct Walk {
    parts: [Part; GROUPS],
    /// The first of them.
    head: [u8; SHORTEST],
    /// Bytes that were taken in.
    pub(super) length: usize,
    /// The longest form so far: its length, and which.
    pub(super) longest: Option<(usize, usize)>,
    /// Bytes up to where the beginning of a form is masked alone; and how many more decide whether that goes on.
    pub(super) cut: usize,
    pub(super) cut_step: usize,
}

impl Walk {
    pub(super) fn is_alive(&self) -> bool {
        self.parts.iter().any(|part| part.low < part.high)
    }

    /// Whether all of the text is the beginning of a form, and enough of it.
    pub(super) fn fits(&self) -> bool {
        self.cut > 0 && self.parts.iter().any(|part| part.low < part.high && part.fits == self.length)
    }

    /// Bytes up to where the beginning of a form is masked alone; none where more of it is masked as a whole.
    pub(super) fn cut(&self) -> Option<usize> {
        let whole = self.longest.map_or(0, |(length, _)| length);
        (self.cut > 0 && self.cut >= whole).then_some(self.cut)
    }

    /// Nothing of it is left to chance: it is masked, or will be.
    pub(super) fn is_taken(&self) -> bool {
        self.cut > 0 || self.longest.is_some()
    }
}

/// The same for the forms of one group: which they are, and how many bytes of them were there.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    low: u32,
    high: u32,
    depth: u32,
    /// Bytes of the text up to the last one that was of a form.
    fits: usize,
    /// Bytes since then.
    between: u8,
    /// In an escape sequence of a terminal.
    escape: bool,
}

impl Part {
    /// Whether the byte may stand between two bytes of a form: of the end of a line, of a colour (CSI: ECMA-48,
    /// 5.4), and up to two blanks between hexadecimal digits.
    fn skip(&mut self, byte: u8, group: usize) -> bool {
        if group == 0 || self.depth == 0 || self.between >= BETWEEN {
            return false;
        }
        let allowed = match (self.escape, byte) {
            (true, b'[' | b' '..=b'?') => true,
            (true, b'@'..=b'~') => {
                self.escape = false;
                true
            }
            (true, _) => false,
            (false, 0x1b) => {
                self.escape = true;
                true
            }
            (false, b'\r' | b'\n') => true,
            (false, b' ') => group == 2 && self.between < 2,
            _ => false,
        };
        self.between += 1;
        allowed
    }
}

/// Whether so many bytes stand there, beside those that may stand between two bytes of a form.
pub(super) fn has_beside(text: &[u8], many: usize) -> bool {
    let (mut found, mut escape, mut blank) = (0, false, false);
    for byte in text.iter().take(BESIDE) {
        match (escape, byte) {
            (true, _) => escape = (b' '..=b'?').contains(byte) || *byte == b'[',
            (false, 0x1b) => escape = true,
            (false, b'\r' | b'\n') => {}
            (false, b' ') if !blank => {}
            _ => found += 1,
        }
        blank = *byte == b' ';
    }
    found >= many || text.len() >= BESIDE
}

fn window(text: &[u8], at: usize) -> u64 {
    text.get(at..at + WINDOW).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes).into()
}

fn head(text: &[u8], at: usize) -> u64 {
    text.get(at..at + SHORTEST).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Whether something was added that is as this, or, seldom, has the same hash.
struct Sieve {
    words: Box<[u64]>,
    /// Bits of a hash that are of no use.
    unused: u32,
}

impl Sieve {
    /// For so many.
    fn of(many: usize) -> Self {
        let bits = (many * SPARSE).next_power_of_two().trailing_zeros().clamp(BITS.0, BITS.1);
        Self { words: vec![0; 1 << (bits - 6)].into(), unused: u64::BITS - bits }
    }

    /// Fibonacci hashing (Knuth, volume 3, 6.4): word and bit.
    fn place(&self, of: u64) -> (usize, u32) {
        let hash = of.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.unused;
        ((hash >> 6) as usize, (hash & 63) as u32)
    }

    fn add(&mut self, what: u64) {
        let (word, bit) = self.place(what);
        self.words[word] |= 1 << bit;
    }

    fn bit(&self, what: u64) -> u64 {
        let (word, bit) = self.place(what);
        self.words[word] >> bit & 1
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
        Patterns::new(values.iter().copied())
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
        assert_eq!(longest(b"bcdefghi"), (false, Some((8, b"[REDACTED:short]".to_vec()))));
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
        let mut walk = patterns.begin();
        patterns.advance(&mut walk, b"12345678");
        assert_eq!(walk.longest.map(|(length, _)| length), Some(8));
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
        let (_, unmasked) = Patterns::new(values.iter().map(|(name, value)| (&name[..], &value[..])));
        assert!(unmasked.iter().any(|(_, why)| *why == Unmasked::Encoded), "{unmasked:?}");
        assert!(
            unmasked
                .iter()
                .filter(|(_, why)| *why == Unmasked::Long)
                .all(|(name, _)| name > &"N05".to_owned())
        );
    }
}
