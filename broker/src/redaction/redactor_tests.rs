//! The redactor against a short definition: each byte of each form is masked, one mark for each span.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::super::forms::Forms;
use super::*;

const NAMES: [&str; 4] = ["A", "B", "C", "D"];

fn patterns(values: &[&[u8]]) -> Arc<Patterns> {
    let values = NAMES.iter().zip(values).map(|(name, value)| (*name, *value));
    Arc::new(Patterns::new(values).unwrap().0)
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

/// The definition, by brute force: where forms (and, at the end, beginnings of 8 bytes of one) stand.
fn by_definition(values: &[&[u8]], text: &[u8]) -> Vec<u8> {
    let forms: Vec<(usize, Vec<u8>)> = values
        .iter()
        .enumerate()
        .flat_map(|(owner, value)| {
            let all = [Forms::plain(value), Forms::encoded(value)];
            all.iter()
                .flat_map(|forms| forms.iter().map(|form| (owner, form.to_vec())).collect::<Vec<_>>())
                .collect::<Vec<_>>()
        })
        .collect();
    let (mut output, mut shown, mut masked) = (Vec::new(), 0, 0);
    for start in 0..text.len() {
        let rest = &text[start..];
        let longest =
            forms.iter().filter(|(_, form)| rest.starts_with(form)).max_by_key(|(_, form)| form.len());
        let cut = rest.len() >= SHORTEST
            && forms.iter().any(|(_, form)| form.len() > rest.len() && form.starts_with(rest));
        let name = longest.map(|(owner, _)| format!("[REDACTED:{}]", NAMES[*owner]));
        let length = if cut { rest.len() } else { longest.map_or(0, |(_, form)| form.len()) };
        if length == 0 {
            continue;
        }
        if start >= masked {
            output.extend_from_slice(&text[shown.min(start)..start]);
            output.extend_from_slice(name.unwrap_or_else(|| "[REDACTED:partial]".into()).as_bytes());
        }
        masked = masked.max(start + length);
        shown = shown.max(masked);
    }
    output.extend_from_slice(&text[shown.min(text.len())..]);
    output
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
    let expected = b"a [REDACTED:A], [REDACTED:B] and [REDACTED:A]; correct-horse-batt";
    assert_eq!(masked, [&vec![b'.'; 1 << 20][..], expected, &vec![b'.'; 1 << 20][..]].concat());
}

#[test]
fn r02_every_form_is_masked() {
    let value = b"p&ss'w\"rd/+<x> \\1\xc3\xa9!";
    let patterns = patterns(&[value]);
    for form in Forms::plain(value).iter().chain(Forms::encoded(value).iter()) {
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
        (b"x hunter2hunter2-and-mor y", "x [REDACTED:A]-and-mor y"),
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
    let patterns = patterns(&[b"password-of-mine"]);
    let (mut redactor, mut output) = (Redactor::new(patterns.clone()), Vec::new());
    let mut said = |piece: &[u8]| {
        redactor.feed(piece, &mut output);
        let patience = redactor.patience();
        (String::from_utf8(std::mem::take(&mut output)).unwrap(), patience)
    };
    assert_eq!(said(b"45% pas"), ("45% ".into(), Some(UNNOTICED)));
    assert_eq!(said(b"swor"), (String::new(), Some(NOTICED)));
    assert_eq!(said(b"d-"), (String::new(), None));
    assert_eq!(said(b"!"), ("password-!".into(), None));
    assert_eq!(whole(&patterns, b"x password"), b"x [REDACTED:partial]");
    assert_eq!(whole(&patterns, b"x passwor"), b"x passwor");
}

#[test]
fn r11_what_was_shown_for_want_of_more_is_masked_from_there_on() {
    let patterns = patterns(&[b"password-of-mine"]);
    let (mut redactor, mut output) = (Redactor::new(patterns), Vec::new());
    redactor.feed(b"> pass", &mut output);
    redactor.show(&mut output);
    assert_eq!((output.as_slice(), redactor.patience()), (&b"> pass"[..], None));
    redactor.feed(b"word-of-mine!", &mut output);
    assert_eq!(output, b"> pass[REDACTED:A]!");
    redactor.feed(b"pa", &mut output);
    redactor.show(&mut output);
    redactor.feed(b"nic", &mut output);
    redactor.finish(&mut output);
    assert_eq!(output, b"> pass[REDACTED:A]!panic");
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

fn piece(values: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let forms: Vec<Vec<u8>> = values
        .iter()
        .flat_map(|value| [Forms::plain(value), Forms::encoded(value)])
        .flat_map(|forms| forms.iter().map(<[u8]>::to_vec).collect::<Vec<_>>())
        .chain([b"x".to_vec()])
        .collect();
    prop_oneof![
        prop::collection::vec(prop::sample::select(&b"ab\n%"[..]), 0..6),
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
