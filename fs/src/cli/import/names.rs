//! Which name does a key get in the vault?

use std::collections::BTreeSet;

use kin_broker::{Error, Result};
use kin_policy::Reference;

use super::staging::Entry;
use crate::cli::bad_usage;

/// The name for the keys on the way to a value, below `prefix`. Each '/' in them stands between parts; every
/// other character that no name has becomes '_', and so does a '-' that a part begins with.
///
/// # Errors
/// `bad_name` where a part is empty, or all of it is too long. The key is not repeated: it may be a value.
pub(super) fn reference(prefix: Option<&Reference>, keys: &[&str]) -> Result<Reference> {
    let parts = keys.iter().flat_map(|key| key.split('/')).map(part);
    let parts: Vec<String> = prefix.map(ToString::to_string).into_iter().chain(parts).collect();
    Reference::new(parts.join("/")).map_err(|bad| {
        let message = bad.to_string();
        let rule = message.rsplit_once("\": ").map_or("it is no name", |(_, rule)| rule).to_owned();
        bad_usage("bad_name", format!("a key gives no name: {rule}"), "give it another key in the file")
    })
}

fn part(key: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
    let text: String = key.chars().map(|c| if allowed(c) { c } else { '_' }).collect();
    match text.strip_prefix('-') {
        Some(rest) => format!("_{rest}"),
        None => text,
    }
}

/// Two keys that give one name would lose one of the values.
///
/// # Errors
/// `name_collision`.
pub(super) fn check_collisions(entries: &[Entry]) -> Result<()> {
    let mut seen = BTreeSet::new();
    match entries.iter().find(|entry| !seen.insert(&entry.reference)) {
        None => Ok(()),
        Some(entry) => Err(collision(&entry.reference)),
    }
}

fn collision(reference: &Reference) -> Error {
    let message = format!("more than one key of the file gives the name {reference}");
    bad_usage("name_collision", message, "give them different keys in the file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_names_by_one_rule() {
        let prefix = Reference::new("api").unwrap();
        for (keys, name) in [
            (&["DATABASE_URL"][..], "api/DATABASE_URL"),
            (&["db", "url"], "api/db/url"),
            (&["db/url"], "api/db/url"),
            (&["a b", "ключ", "x@1"], "api/a_b/____/x_1"),
            (&["-x"], "api/_x"),
        ] {
            assert_eq!(reference(Some(&prefix), keys).unwrap().as_str(), name);
        }
        assert_eq!(reference(None, &["A"]).unwrap().as_str(), "A");
    }

    #[test]
    fn what_gives_no_name_is_refused_and_not_repeated() {
        let long = "CANARY".repeat(50);
        for keys in [&[""][..], &["CANARY", ""], &["CANARY//x"], &["..", "CANARY"], &[&long]] {
            let error = reference(None, keys).unwrap_err();
            assert_eq!((error.exit_code(), &*error.code), (2, "bad_name"), "{keys:?}");
            assert!(!format!("{error:?}").contains("CANARY"));
        }
    }
}
