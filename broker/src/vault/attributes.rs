//! What can a secret be found by, beside its name? Pairs that are no secret.

use std::collections::BTreeMap;

use kin_policy::unprintable;

use crate::sys::error::{Class, Error, Result};

/// Attributes of one secret, at most.
const MOST: usize = 32;
/// Bytes of a key, and of what it says, at most.
const KEY: usize = 64;
const TEXT: usize = 256;

/// Holds them to their rules.
///
/// # Errors
/// `bad_attribute` (Usage). What an attribute says is not repeated.
pub(super) fn check(attributes: &BTreeMap<String, String>) -> Result<()> {
    let bad = |why: String| {
        Err(Error::new(Class::Usage, "bad_attribute", format!("bad attribute: {why}"))
            .hint("an attribute looks like env=prod"))
    };
    if attributes.len() > MOST {
        return bad(format!("a secret has at most {MOST}"));
    }
    for (key, text) in attributes {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if key.is_empty() || key.len() > KEY || !key.bytes().all(plain) {
            return bad(format!("a key has at most {KEY} letters, digits, '.', '_' and '-'"));
        }
        if text.len() > TEXT || text.chars().any(unprintable) {
            return bad(format!("{key} says more than {TEXT} bytes, or what cannot be printed"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_short_and_printable() {
        let check = |key: &str, text: &str| check(&BTreeMap::from([(key.to_owned(), text.to_owned())]));
        for (key, text) in [("env", "prod"), ("a.b_c-1", ""), ("owner", "the ops team")] {
            assert!(check(key, text).is_ok(), "{key}={text}");
        }
        let (long, longer) = ("k".repeat(KEY + 1), "x".repeat(TEXT + 1));
        for (key, text) in
            [("", "x"), (&*long, "x"), ("a b", "x"), ("a=b", "x"), ("env", "CANARY\u{1b}"), ("env", &longer)]
        {
            let error = check(key, text).unwrap_err();
            assert_eq!((error.exit_code(), &*error.code), (2, "bad_attribute"), "{key}={text}");
            assert!(!error.message.contains("CANARY"));
        }
        let many = (0..=MOST).map(|n| (n.to_string(), String::new())).collect();
        assert!(super::check(&many).is_err());
    }
}
