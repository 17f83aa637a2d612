//! Does anything that others wrote reach a terminal raw?

use kin_broker::Class;

use super::*;

#[test]
fn l11_text_of_others_never_reaches_a_terminal_raw() {
    for bad in ["a\u{1b}[31m", "a\nb", "a\u{9b}1m", "a\u{202e}b", "a\u{200b}b", "a\u{7f}", "\u{e0041}"] {
        assert!(!printable(bad).chars().any(unprintable), "{bad:?}");
        assert!(!printable_bytes(bad.as_bytes()).chars().any(unprintable), "{bad:?}");
        let json = json_text(&bad).unwrap();
        assert!(!json.chars().any(unprintable), "{json:?}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), bad);
    }
    assert_eq!(printable("a\u{1b}b"), "a\\u{1b}b");
}

#[test]
fn ordinary_text_stays_as_it_is() {
    for good in ["npm test", "ключ", "a\\b", "naïve — 日本"] {
        assert_eq!(printable(good), good);
    }
    assert_eq!(printable(&printable("x\u{1b}")), printable("x\u{1b}"));
}

#[test]
fn z04_bytes_that_are_not_text_are_escaped() {
    assert_eq!(printable_bytes(b"caf\xe9/\xff\x1b"), "caf\\xe9/\\xff\\u{1b}");
}

#[test]
fn an_error_is_a_line_a_hint_and_its_detail() {
    let error = Error::new(Class::Unsafe, "manifest_changed", "kin.toml was\u{1b} changed")
        .hint("`kin trust` shows it")
        .detail("-\told\n+new\u{1b}[0m\n");
    assert_eq!(
        error_text(&error, false),
        "error: kin.toml was\\u{1b} changed\nhint: `kin trust` shows it\n-\told\n+new\\u{1b}[0m"
    );
    assert_eq!(
        json_text(&error).unwrap(),
        r#"{"class":"unsafe","code":"manifest_changed","message":"kin.toml was\u001b changed","hint":"`kin trust` shows it","detail":"-\told\n+new\u001b[0m\n"}"#
    );
}

#[test]
fn a_table_has_no_raw_cells_and_no_trailing_spaces() {
    let rows =
        vec![vec!["a".to_owned(), "\u{1b}[2J".to_owned()], vec!["long name".to_owned(), "x".to_owned()]];
    assert_eq!(table(&["NAME", "NOTE"], rows), "NAME       NOTE\na          \\u{1b}[2J\nlong name  x\n");
}

#[test]
fn a_width_that_no_terminal_has_does_not_break_a_table() {
    let of_width = |width: u16| {
        let mut table = Table::new();
        table.set_width(width);
        laid_out(table, &["NAME", "NOTE"], [vec!["stripe/test_key".to_owned(), "a note".to_owned()]])
    };
    for unknown in [0, 1, 19] {
        assert_eq!(of_width(unknown), "NAME             NOTE\nstripe/test_key  a note\n", "{unknown}");
    }
    assert_eq!(of_width(20).lines().count(), 3, "{}", of_width(20));
}

#[test]
fn colours_are_only_where_they_are_wanted() {
    assert_eq!(paint(false, Tone::Bad, "x"), "x");
    assert_eq!(paint(true, Tone::Bad, "x"), "\u{1b}[1;31mx\u{1b}[0m");
}
