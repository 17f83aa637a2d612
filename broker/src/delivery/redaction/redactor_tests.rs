//! The redactor against a short definition: each byte of each form is masked, one mark for each span.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::collections::HashSet;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::super::forms::{Forms, How, Kind, SHORTEST, heads};
use super::*;

const NAMES: [&str; 4] = ["A", "B", "C", "D"];

fn patterns(values: &[&[u8]]) -> Arc<Patterns> {
    let values = NAMES.iter().zip(values).map(|(name, value)| (*name, *value));
    Arc::new(Patterns::new(values).0)
}

fn whole(patterns: &Arc<Patterns>, text: &[u8]) -> Vec<u8> {
    in_pieces(patterns, text, &[])
}

/// `cuts` are lengths; the rest is the last piece.
fn in_pieces(patterns: &Arc<Patterns>, text: &[u8], cuts: &[usize]) -> Vec<u8> {
    let (mut redactor, mut output, mut rest) = (Redactor::new(patterns.clone()), Vec::new(), text);
    for cut in cuts {
        let (piece, after) = rest.split_at((*cut).min(rest.len()));
        redactor.feed(piece, &mut output);
        rest = after;
    }
    redactor.feed(rest, &mut output);
    redactor.finish(&mut output);
    output
}

/// A form, and whose it is.
struct Known {
    owner: usize,
    form: Vec<u8>,
    how: How,
}

/// How far a text that begins with a form goes with it.
#[derive(Default)]
struct Reached {
    whole: bool,
    /// Bytes up to the last step, and the step.
    cut: (usize, usize),
    /// Bytes up to the last one of the form.
    matched: usize,
}

impl Known {
    fn all(values: &[&[u8]]) -> Vec<Self> {
        let of = |(owner, value): (usize, &&[u8])| {
            let all = [Forms::plain(value, false), Forms::encoded(value, false)];
            let known = |(form, how): (&[u8], How)| Self { owner, form: form.to_vec(), how };
            all.iter().flat_map(|forms| forms.iter().map(known).collect::<Vec<_>>()).collect::<Vec<_>>()
        };
        values.iter().enumerate().flat_map(of).collect()
    }

    fn group(&self) -> usize {
        match self.how.kind {
            _ if self.form.iter().any(|byte| b"\r\n\x1b".contains(byte)) => 0,
            Kind::Hexadecimal => 2,
            _ => 1,
        }
    }

    fn head(&self) -> [u8; SHORTEST] {
        *self.form.first_chunk().unwrap()
    }

    fn reaches(&self, text: &[u8]) -> Reached {
        let (mut reached, mut depth, mut between, mut escape) = (Reached::default(), 0, 0, false);
        let (first, step) = (usize::from(self.how.first), usize::from(self.how.step));
        for (at, byte) in text.iter().enumerate() {
            // What is no more than a beginning for so long is none.
            if at > UNDECIDED && reached.cut.0 == 0 {
                break;
            }
            if !escape && self.form[depth] == *byte {
                (depth, between, escape) = (depth + 1, 0, false);
                reached.matched = at + 1;
                if depth < self.form.len() && depth >= first && depth % step == 0 {
                    reached.cut = (at + 1, step);
                }
                reached.whole = depth == self.form.len();
                if reached.whole {
                    return reached;
                }
                continue;
            }
            let may = match (escape, byte) {
                _ if depth == 0 || self.group() == 0 || between == 32 => false,
                (false, b' ') => self.group() == 2 && between < 2,
                (false, byte) => b"\r\n\x1b".contains(byte),
                (true, byte) => (b' '..=b'~').contains(byte),
            };
            escape = if escape { *byte < b'@' || *byte == b'[' } else { *byte == 0x1b };
            between += 1;
            if !may {
                break;
            }
        }
        reached
    }
}

/// The definition, by brute force: where forms, or what was cut off of them, stand. Of those
/// that are broken, those that were broken in their first 8 bytes as programs do.
fn by_definition(values: &[&[u8]], text: &[u8]) -> Vec<u8> {
    let mut values: Vec<(&str, &[u8])> = NAMES.into_iter().zip(values.iter().copied()).collect();
    values.sort_by_key(|(_, value)| value.len());
    let forms = Known::all(&values.iter().map(|(_, value)| *value).collect::<Vec<_>>());
    let mut starts = HashSet::new();
    for known in &forms {
        let of = (known.group(), known.head());
        heads(&known.form, known.how.kind, |head| {
            starts.insert((of.0, of.1, head));
        });
    }
    let (mut output, mut shown, mut masked) = (Vec::new(), 0, 0);
    for start in 0..text.len() {
        let rest = &text[start..];
        let Some(head) = rest.first_chunk::<SHORTEST>() else { continue };
        let begins = |known: &&Known| starts.contains(&(known.group(), known.head(), *head));
        let forms = forms.iter().filter(begins);
        let reached: Vec<_> = forms.map(|known| (known, known.reaches(rest))).collect();
        let whole = reached
            .iter()
            .filter(|(_, reached)| reached.whole)
            .max_by_key(|(known, reached)| (reached.matched, known.group(), std::cmp::Reverse(known.owner)));
        let longest = whole.map_or(0, |(_, reached)| reached.matched);
        let (cut, step) = reached.iter().map(|(_, reached)| reached.cut).max().unwrap_or_default();
        let ends =
            reached.iter().any(|(_, reached)| cut > 0 && !reached.whole && reached.matched == rest.len());
        let length = match (ends, cut > 0 && cut >= longest) {
            (true, _) => rest.len(),
            (_, true) => {
                let behind = rest[cut..].iter().take(step - 1);
                cut + behind.take_while(|byte| byte.is_ascii_graphic()).count()
            }
            _ => longest,
        };
        if length == 0 {
            continue;
        }
        if start >= masked {
            output.extend_from_slice(&text[shown.min(start)..start]);
            let name = whole.map(|(known, _)| format!("[REDACTED:{}]", values[known.owner].0));
            output.extend_from_slice(name.unwrap_or_else(|| "[REDACTED:partial]".into()).as_bytes());
        }
        masked = masked.max(start + length);
        shown = shown.max(masked);
    }
    output.extend_from_slice(&text[shown.min(text.len())..]);
    output
}

#[test]
fn r17_the_sieve_lets_through_what_was_broken_anywhere() {
    let value = b"c0rrect-horse-battery";
    let patterns = patterns(&[value]);
    for form in [&value[..], b"YzBycmVjdC1ob3JzZS1iYXR0ZXJ5", b"6330727265637420"] {
        let found = whole(&patterns, form) != form;
        for at in 1..form.len() - SHORTEST {
            for by in [&b"\n"[..], b"\r\n"] {
                let text = [&form[..at], by, &form[at..], b"\n"].concat();
                let masked = whole(&patterns, &text);
                assert_eq!(masked.starts_with(b"[REDACTED:"), found, "{} {at}", readable(&masked));
            }
        }
    }
}

#[test]
fn r17_base64_of_a_text_around_a_value_is_masked_wherever_its_lines_end() {
    let value = b"postgres://app:Tr0ub4dor-and-3@db.example.com/prod";
    let patterns = patterns(&[value]);
    for columns in [60, 64, 76] {
        for before in 0..2 * columns {
            let text = [&vec![b'x'; before][..], value, b"\nPORT=5432;"].concat();
            let digits = base64(&text);
            let text = digits.chunks(columns).collect::<Vec<_>>().join(&b'\n');
            let masked = whole(&patterns, &text);
            let left: Vec<u8> = masked.iter().copied().filter(|byte| *byte != b'\n').collect();
            let left = String::from_utf8(left).unwrap();
            let (ahead, behind) = left.split_once("[REDACTED:A]").unwrap_or_else(|| panic!("{left}"));
            let (ahead, behind) = (ahead.len(), behind.len());
            let hidden = digits.len() - ahead - behind;
            assert!(hidden >= 4 * value.len() / 3 - 2, "{columns} {before}: {hidden}");
        }
    }
}

fn base64(text: &[u8]) -> Vec<u8> {
    let forms = Forms::encoded(text, false);
    // The one of its forms that ends with padding, or has the length of all of it.
    let length = text.len().div_ceil(3) * 4;
    let is_all = |form: &&[u8]| form.len() == length && !form.contains(&b'%') && !form.contains(&b'\\');
    forms.iter().map(|(form, _)| form).find(is_all).unwrap().to_vec()
}

#[test]
fn r17_what_programs_print_of_a_value_is_masked() {
    let value = b"sk_l1ve_51H8xTQABCDEFGH12345678abcdefghij987";
    let patterns = patterns(&[value]);
    for text in [
        // head -c 20; echo, and printf '%.40s...'
        "sk_l1ve_51H8xTQABCDE\n",
        "sk_l1ve_51H8xTQABCDEFGH12345678abcdefghi...\n",
        // fold -w 10
        "sk_l1ve_51\nH8xTQABCDE\nFGH1234567\n8abcdefghi\nj987\n",
        // grep --color
        "sk_l1ve_51\x1b[01;31m\x1b[KH8xTQ\x1b[m\x1b[KABCDEFGH12345678abcdefghij987\n",
        "sk_\x1b[01;31m\x1b[Kl1ve_51H8\x1b[m\x1b[KxTQABCDEFGH12345678abcdefghij987\n",
    ] {
        let masked = String::from_utf8(whole(&patterns, text.as_bytes())).unwrap();
        assert!(!masked.contains("H8x") && !masked.contains("987") && !masked.contains("12345"), "{masked}");
    }
    // xxd and hexdump -C of the value alone.
    for text in [
        "00000000: 736b 5f6c 3176 655f 3531 4838 7854 5141  sk_l1ve_51H8xTQA\n\
         00000010: 4243 4445 4647 4831 3233 3435 3637 3861  BCDEFGH12345678a\n",
        "00000000  73 6b 5f 6c 31 76 65 5f  35 31 48 38 78 54 51 41  |sk_l1ve_51H8xTQA|\n\
         00000010  42 43 44 45 46 47 48 31  32 33 34 35 36 37 38 61  |BCDEFGH12345678a|\n",
    ] {
        let masked = String::from_utf8(whole(&patterns, text.as_bytes())).unwrap();
        for part in ["736b", "73 6b", "3132", "35 31", "51H8", "4243", "42 43", "5678", "38 61"] {
            assert!(!masked.contains(part), "{part}: {masked}");
        }
    }
}

const KEY: &[u8] = b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1h\nUzdW\nZ2hpamtsbW5vcHFyc3R1dnc=\n-----END PRIVATE KEY-----\n";

#[test]
fn r01_split_at_every_offset_the_result_is_the_same() {
    let values: [&[u8]; 2] = [b"correct-horse-battery", b"p@ss w\"rd/\xc3\xa9"];
    let patterns = patterns(&values);
    let text =
        [b"a correct-horse-battery, ", values[1], b" and Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5; correct-horse-batt"]
            .concat();
    let expected = b"a [REDACTED:A], [REDACTED:B] and [REDACTED:A]; [REDACTED:partial]";
    assert_eq!(String::from_utf8_lossy(&whole(&patterns, &text)), String::from_utf8_lossy(expected));
    for cut in 0..=text.len() {
        assert_eq!(in_pieces(&patterns, &text, &[cut]), expected, "{cut}");
    }
    for size in 1..40 {
        assert_eq!(in_pieces(&patterns, &text, &vec![size; text.len() / size]), expected, "{size}");
    }
    let large = [&vec![b'.'; 1 << 20][..], &text, &vec![b'.'; 1 << 20][..]].concat();
    let masked = in_pieces(&patterns, &large, &[(1 << 20) + 9]);
    // What was cut off takes up to 7 bytes behind its last step with it: here two of its own, and five more.
    let expected = b"a [REDACTED:A], [REDACTED:B] and [REDACTED:A]; [REDACTED:partial]";
    assert_eq!(masked, [&vec![b'.'; 1 << 20][..], expected, &vec![b'.'; (1 << 20) - 5][..]].concat());
}

#[test]
fn r02_every_form_is_masked() {
    let value = b"p&ss'w\"rd/+<x> \\1\xc3\xa9!";
    let patterns = patterns(&[value]);
    for (form, _) in Forms::plain(value, false).iter().chain(Forms::encoded(value, false).iter()) {
        let text = [b"<", form, b">"].concat();
        let masked = whole(&patterns, &text);
        assert_eq!(
            masked,
            b"<[REDACTED:A]>",
            "{} {}",
            String::from_utf8_lossy(form),
            String::from_utf8_lossy(&masked)
        );
    }
}

#[test]
fn r03_each_line_of_a_key_is_masked() {
    let patterns = patterns(&[KEY]);
    let key = String::from_utf8_lossy(KEY);
    for text in [
        key.to_string(),
        key.replace('\n', "\r\n"),
        key.replace('\n', "\n    "),
        key.replace('\n', " "),
        key.replace('\n', "\\n"),
        key.lines().map(|line| format!("+ {line} |\n")).collect(),
    ] {
        let masked = String::from_utf8(whole(&patterns, text.as_bytes())).unwrap();
        for line in key.lines().filter(|line| line.len() >= SHORTEST) {
            assert!(!masked.contains(line), "{masked}");
        }
    }
}

#[test]
fn r04_what_is_short_is_left_alone() {
    let patterns = patterns(&[b"", b"{", b"true", b"1234567"]);
    let text = b"{ \"a\": true, \"b\": 1234567 } MTIzNDU2Nw==";
    assert_eq!(whole(&patterns, text), text);
}

#[test]
fn r08_only_what_is_masked_changes_of_a_binary_stream() {
    let value = b"\x00\xff\x01binary\n\x80key\x00";
    let patterns = patterns(&[value]);
    let noise: Vec<u8> = (0..=255).cycle().take(5000).collect();
    let text = [&noise[..], value, &noise].concat();
    assert_eq!(whole(&patterns, &text), [&noise[..], b"[REDACTED:A]", &noise].concat());
}

#[test]
fn r09_of_forms_that_overlap_nothing_stays() {
    let a = b"hunter2hunter2";
    let b = b"hunter2hunter2-and-more";
    let base64 = b"aHVudGVyMmh1bnRlcjI=";
    let overlapping = b"ter2-tail-of-it";
    let patterns = patterns(&[a, b, base64, overlapping]);
    for (text, expected) in [
        (&b"x hunter2hunter2-and-more y"[..], "x [REDACTED:B] y"),
        (b"x hunter2hunter2-and-mor y", "x [REDACTED:A] y"),
        (b"x aHVudGVyMmh1bnRlcjI= y", "x [REDACTED:A] y"),
        (b"x hunter2hunter2-tail-of-it y", "x [REDACTED:A] y"),
        (b"hunter2hunter2hunter2hunter2", "[REDACTED:A]"),
        (b"hunter2hunter2.hunter2hunter2", "[REDACTED:A].[REDACTED:A]"),
    ] {
        assert_eq!(String::from_utf8_lossy(&whole(&patterns, text)), expected);
    }
}

#[test]
fn r11_what_was_cut_off_is_masked_and_a_prompt_is_shown() {
    let patterns = patterns(&[b"passw0rd-of-mine"]);
    let (mut redactor, mut output) = (Redactor::new(patterns.clone()), Vec::new());
    let mut said = |piece: &[u8]| {
        redactor.feed(piece, &mut output);
        assert_eq!((output.len(), redactor.patience()), (0, Some(UNNOTICED)));
        redactor.show(&mut output);
        (String::from_utf8(std::mem::take(&mut output)).unwrap(), redactor.patience())
    };
    assert_eq!(said(b"45% "), ("45% ".into(), None));
    assert_eq!(said(b"> passw0r"), ("> passw0r".into(), None));
    assert_eq!(said(b"\nName: passw0rd-"), ("\nName: ".into(), None));
    assert_eq!(said(b"o"), (String::new(), None));
    assert_eq!(said(b"!\n"), (String::new(), Some(NOTICED)));
    redactor.show(&mut output);
    assert_eq!(String::from_utf8_lossy(&output), "[REDACTED:partial]\n");
    assert_eq!(whole(&patterns, b"x passw0rd-"), b"x [REDACTED:partial]");
    assert_eq!(whole(&patterns, b"x passw0rd-o!\ny"), b"x [REDACTED:partial]\ny");
    assert_eq!(whole(&patterns, b"x passw0r"), b"x passw0r");
}

#[test]
fn r11_what_was_shown_for_want_of_more_is_masked_from_there_on() {
    let patterns = patterns(&[b"passw0rd-of-mine"]);
    let (mut redactor, mut output) = (Redactor::new(patterns), Vec::new());
    redactor.feed(b"> pass", &mut output);
    redactor.show(&mut output);
    assert_eq!((output.as_slice(), redactor.patience()), (&b"> pass"[..], None));
    redactor.feed(b"w0rd-of-mine!", &mut output);
    redactor.show(&mut output);
    assert_eq!(output, b"> pass[REDACTED:A]!");
    redactor.feed(b"pa", &mut output);
    redactor.show(&mut output);
    redactor.feed(b"nic", &mut output);
    redactor.finish(&mut output);
    assert_eq!(output, b"> pass[REDACTED:A]!panic");
}

/// All that somebody sees who writes `guess` and then waits: what is shown, and after how long, up to the end.
fn seen(patterns: &Arc<Patterns>, guess: &[u8], behind: &[u8]) -> Vec<(Option<Duration>, Vec<u8>)> {
    let (mut redactor, mut all) = (Redactor::new(patterns.clone()), Vec::new());
    for piece in [guess, behind] {
        let mut output = Vec::new();
        redactor.feed(piece, &mut output);
        all.push((None, std::mem::take(&mut output)));
        for _ in 0..2 {
            let Some(patience) = redactor.patience() else { break };
            redactor.show(&mut output);
            all.push((Some(patience), std::mem::take(&mut output)));
        }
    }
    all
}

#[test]
fn r17_no_delay_and_no_mark_tells_a_byte_of_a_value() {
    let value = b"sk_l1ve_51H8xTQABCDEFGH12345678abcdefghij987";
    let patterns = patterns(&[value]);
    // What is to be seen of a guess: when, how much, and of that which marks. Its last byte is no news.
    let shape = |guess: &[u8], behind: &[u8]| -> Vec<_> {
        let marks = |output: &[u8]| output.iter().filter(|byte| **byte == b'[').count();
        let all = seen(&patterns, guess, behind);
        all.into_iter().map(|(when, output)| (when, output.len(), marks(&output))).collect()
    };
    let tells = |at: usize, behind: &[u8]| {
        shape(&value[..=at], behind) != shape(&[&value[..at], b"#"].concat(), behind)
    };
    for behind in
        [&b"\n"[..], b" x", b"!", b"", b"................................................................\n"]
    {
        let told: Vec<usize> =
            (0..value.len() - 1).filter(|at| tells(*at, behind)).map(|at| at + 1).collect();
        assert!(!told.is_empty());
        assert!(told.iter().all(|length| length % 8 == 0), "{told:?} with {behind:?}");
    }
}

#[test]
fn r15_values_old_and_new_are_masked_also_in_what_is_held() {
    let (old, both) = (patterns(&[b"the-old-value"]), patterns(&[b"the-old-value", b"the-new-value"]));
    let (mut redactor, mut output) = (Redactor::new(old), Vec::new());
    redactor.feed(b"the-old-value the-", &mut output);
    redactor.adopt(&both);
    redactor.feed(b"new-value the-old-value", &mut output);
    redactor.finish(&mut output);
    assert_eq!(String::from_utf8_lossy(&output), "[REDACTED:A] [REDACTED:B] [REDACTED:A]");
}

/// Words over few letters meet forms often.
fn word() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(&b"ab\n%"[..]), 8..14)
}

/// What programs put between two parts of a form.
const BETWEEN: [&[u8]; 5] = [b"\n", b"\r\n", b"\x1b[01;31m\x1b[K", b"\x1b[m\x1b[K", b" "];

fn piece(values: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let forms: Vec<Vec<u8>> = values
        .iter()
        .flat_map(|value| [Forms::plain(value, false), Forms::encoded(value, false)])
        .flat_map(|forms| forms.iter().map(|(form, _)| form.to_vec()).collect::<Vec<_>>())
        .chain([b"x".to_vec()])
        .collect();

    let broken =
        (prop::sample::select(forms.clone()), prop::sample::select(&BETWEEN[..]), 1_usize..24, 6_usize..24);
    prop_oneof![
        prop::collection::vec(prop::sample::select(&b"ab\n%"[..]), 0..6),
        broken.prop_map(|(form, between, first, width)| {
            let (head, rest) = form.split_at(first.min(form.len()));
            [head].into_iter().chain(rest.chunks(width)).collect::<Vec<_>>().join(between)
        }),
        (prop::sample::select(forms), 0_usize..40, 0_usize..40).prop_map(|(form, from, to)| {
            let (from, to) =
                (from.saturating_sub(25).min(form.len()), form.len() - to.saturating_sub(25).min(form.len()));
            form.get(from..to).unwrap_or_default().to_vec()
        }),
        prop::collection::vec(any::<u8>(), 0..20),
    ]
}

/// Ways that one output is split.
const SPLITS: usize = 10;

fn case() -> impl Strategy<Value = (Vec<Vec<u8>>, Vec<u8>, Vec<Vec<usize>>)> {
    prop::collection::vec(word(), 1..4).prop_flat_map(|values| {
        let text = prop::collection::vec(piece(values.clone()), 0..8).prop_map(|pieces| pieces.concat());
        let split = prop::collection::vec(0_usize..30, 0..20);
        (Just(values), text, prop::collection::vec(split, SPLITS))
    })
}

#[test]
fn r01_however_it_is_split_the_result_is_that_of_the_whole_and_of_the_definition() {
    let (splits, cuts, masked) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let count = |counter: &Cell<usize>, more| counter.set(counter.get() + more);
    let config = ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&case(), |(values, text, ways)| {
        let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        let patterns = patterns(&values);
        let expected = whole(&patterns, &text);
        for way in &ways {
            prop_assert_eq!(readable(&in_pieces(&patterns, &text, way)), readable(&expected));
            count(&splits, 1);
            count(&cuts, way.len());
        }
        count(&masked, usize::from(expected != text));
        prop_assert_eq!(readable(&by_definition(&values, &text)), readable(&expected));
        Ok(())
    });
    outcome.unwrap_or_else(|why| panic!("{why}"));
    let (outputs, masked) = (splits.get() / SPLITS, masked.get());
    assert!(masked * 4 > outputs, "too few have values: {masked} of {outputs}");
    eprintln!(
        "r01: splits={} cuts={} outputs={outputs} masked={masked} differing=0",
        splits.get(),
        cuts.get()
    );
}

fn readable(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// `scripts/soak redaction` says how many splits it wants.
fn cases() -> u32 {
    let wanted = std::env::var("KIN_SOAK").ok().and_then(|text| text.parse::<u32>().ok());
    wanted.map_or(256, |splits| splits.div_ceil(SPLITS as u32))
}
