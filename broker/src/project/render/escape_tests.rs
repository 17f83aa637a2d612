//! What is written is read back by a reader of that syntax, or is refused.

use std::process::Command;

use proptest::prelude::*;

use super::*;

/// Values that something has a meaning for.
const HOSTILE: [&str; 30] = [
    "",
    "plain",
    "p4ss word",
    " blanks around ",
    "'",
    "\"",
    "it's",
    "say \"hi\"",
    "both ' and \"",
    "back\\slash",
    "ends\\",
    "ends\\\\",
    "it's\\",
    "$HOME ${HOME} $(id) `id`",
    "it's $HOME",
    "# no comment",
    "a #b ;c",
    "a=b",
    "line\nline\n",
    "line\r\nline\r\n",
    "tab\there",
    "- : { } [ ] , & * ! | > % @ ?",
    "yes",
    "~",
    "0x1f",
    "1e3",
    "%41",
    "{{ DB }} {% raw %}",
    "ключ ✓ 😀 \u{2028}\u{feff}\u{85}\u{7f}",
    "\u{1}\u{1f}",
];

fn written(how: Escape, value: &str) -> Result<String, &'static str> {
    how.apply(value.as_bytes()).map(|written| String::from_utf8(written.bytes().to_vec()).unwrap())
}

fn by_json(value: &str) -> String {
    serde_json::from_str(&written(Escape::Json, value).unwrap()).unwrap()
}

fn by_toml(value: &str) -> String {
    let text = format!("key = {}\n", written(Escape::Toml, value).unwrap());
    let table = toml::de::DeTable::parse(&text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    table.get_ref().get("key").unwrap().get_ref().as_str().unwrap().to_owned()
}

/// The value between two others: what it leaves open would swallow the next.
fn by_dotenv(value: &str) -> String {
    let text = format!("A='1'\nKEY={}\nB='2'\n", written(Escape::Dotenv, value).unwrap());
    let read: Result<Vec<_>, _> = dotenvy::from_read_iter(text.as_bytes()).collect();
    let read = read.unwrap_or_else(|error| panic!("{text:?}: {error}"));
    let names: Vec<_> = read.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["A", "KEY", "B"], "{text:?}");
    read[1].1.clone()
}

fn by_shell(how: Escape, value: &str) -> String {
    let text = format!("KEY={}\nprintf '%s.' \"$KEY\"", written(how, value).unwrap());
    let said = Command::new("/bin/sh").arg("-c").arg(&text).output().unwrap();
    assert!(said.status.success() && said.stderr.is_empty(), "{text:?}: {said:?}");
    String::from_utf8(said.stdout).unwrap().strip_suffix('.').unwrap().to_owned()
}

/// Each value in a list, as PyYAML reads it: it follows YAML 1.1, which takes more for special than 1.2.
fn by_yaml(values: &[&str]) -> Vec<String> {
    let lines: String =
        values.iter().map(|value| format!("- {}\n", written(Escape::Yaml, value).unwrap())).collect();
    python("import sys, yaml, json; print(json.dumps(yaml.safe_load(sys.stdin.buffer.read())))", &lines)
}

fn python<T: serde::de::DeserializeOwned>(program: &str, input: &str) -> T {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("input");
    std::fs::write(&path, input).unwrap();
    let stdin = std::fs::File::open(&path).unwrap();
    let said =
        Command::new("/usr/bin/python3").args(["-c", program]).arg(&path).stdin(stdin).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    serde_json::from_slice(&said.stdout).unwrap()
}

#[test]
fn hostile_values_are_read_back_as_they_were() {
    for value in HOSTILE {
        assert_eq!(by_json(value), value);
        assert_eq!(by_toml(value), value);
        assert_eq!(by_dotenv(value), value);
        assert_eq!(by_shell(Escape::Dotenv, value), value);
        assert_eq!(by_shell(Escape::Shell, value), value);
    }
    assert_eq!(by_yaml(&HOSTILE), HOSTILE);
}

#[test]
fn a_nul_byte_is_kept_where_the_syntax_has_one_and_refused_elsewhere() {
    assert_eq!((by_json("a\0b"), by_toml("a\0b")), ("a\0b".to_owned(), "a\0b".to_owned()));
    assert_eq!(by_yaml(&["a\0b"]), ["a\0b"]);
    for how in [Escape::Dotenv, Escape::Shell, Escape::Ini, Escape::Netrc, Escape::Pgpass, Escape::Token] {
        assert!(how.apply(b"a\0b").is_err(), "{how:?}");
    }
}

#[test]
fn what_is_not_utf8_is_refused_where_the_syntax_is_text() {
    use Escape::*;
    for how in [Dotenv, Json, Yaml, Toml, Ini, Netrc] {
        assert_eq!(how.apply(b"a\xff").err(), Some("it is not UTF-8"), "{how:?}");
    }
    for (how, expected) in [(Url, &b"a%FF"[..]), (Base64, b"Yf8="), (Shell, b"'a\xff'"), (Pgpass, b"a\xff")] {
        assert_eq!(how.apply(b"a\xff").ok().unwrap().bytes(), expected, "{how:?}");
    }
}

#[test]
fn ini_values_are_read_back_and_what_is_a_comment_or_a_line_is_refused() {
    let good = ["plain", "a b", "a=b:c", "100%", "a#b", "ключ", "wJalr/XUtn+FEMI=", ""];
    let lines: String = good
        .iter()
        .enumerate()
        .map(|(n, value)| format!("k{n} = {}\n", written(Escape::Ini, value).unwrap()))
        .collect();
    let program = "import sys, json, configparser as c; p = c.RawConfigParser(); p.read(sys.argv[1]); \
        print(json.dumps([v for _, v in p.items('default')]))";
    let read: Vec<String> = python(program, &format!("[default]\n{lines}"));
    assert_eq!(read, good);
    for bad in ["a\nb", "a\r", " a", "a ", "a #b", "a ;b", "#a", "\"a\"", "\t"] {
        assert!(written(Escape::Ini, bad).is_err(), "{bad:?}");
    }
}

#[test]
fn netrc_words_are_read_back_and_lines_are_refused() {
    let good = ["plain", "a b", "say \"hi\"", "back\\slash", "#hash", "it's", "a#b", "ключ"];
    let lines: String = good
        .iter()
        .enumerate()
        .map(|(n, value)| {
            format!("machine m{n}\n  login me\n  password {}\n", written(Escape::Netrc, value).unwrap())
        })
        .collect();
    let program = "import sys, json, netrc; n = netrc.netrc(sys.argv[1]); \
        print(json.dumps([n.authenticators('m%d' % i)[2] for i in range(len(n.hosts))]))";
    let read: Vec<String> = python(program, &lines);
    assert_eq!(read, good);
    for bad in ["", "a\nb", "a\r", "\t"] {
        assert!(written(Escape::Netrc, bad).is_err(), "{bad:?}");
    }
}

#[test]
fn other_words_are_exact_or_refused() {
    assert_eq!(written(Escape::Url, "a b/ü?").unwrap(), "a%20b%2F%C3%BC%3F");
    assert_eq!(written(Escape::Pgpass, "a:b\\c").unwrap(), "a\\:b\\\\c");
    assert_eq!(written(Escape::Trim, " \n key\r\n").unwrap(), "key");
    assert_eq!(written(Escape::Token, "npm_a-B.1~+/=").unwrap(), "npm_a-B.1~+/=");
    for bad in ["", "a b", "a;b", "${A}", "\"a\"", "a\n"] {
        assert!(written(Escape::Token, bad).is_err(), "{bad:?}");
    }
    assert!(written(Escape::Pgpass, "a\nb").is_err() && written(Escape::User, "a:b").is_err());
    let long = "0123456789abcdef".repeat(100);
    let digits = Escape::Base64.apply(long.as_bytes()).ok().unwrap();
    assert_eq!(Base64::decode_vec(std::str::from_utf8(digits.bytes()).unwrap()).unwrap(), long.as_bytes());
}

proptest! {
    #[test]
    fn any_text_is_read_back_as_it_was(value in any::<String>()) {
        prop_assert_eq!(by_json(&value), value.clone());
        prop_assert_eq!(by_toml(&value), value.clone());
        if !value.contains('\0') {
            prop_assert_eq!(by_dotenv(&value), value);
        }
    }

    #[test]
    fn quotes_and_backslashes_in_any_order_are_read_back(value in "[a'\"\\\\$`#\\n ]{0,12}") {
        prop_assert_eq!(by_dotenv(&value), value.clone());
        prop_assert_eq!(by_toml(&value), value);
    }
}
