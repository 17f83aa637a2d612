//! Which values are in a JSON file? Texts and numbers, at the ends of objects and arrays.

use std::fmt;

use kin_broker::{Error, Plaintext, Result};
use kin_policy::Reference;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::names;
use super::staging::Entry;
use crate::cli::bad_usage;

/// Objects and arrays in each other, at most.
const DEPTH: usize = 64;

/// The values of a file: the names are the keys on the way, or the numbers in an array. A text is itself; a number,
/// `true` and `false` are what stands in the file.
///
/// # Errors
/// `bad_json`, never with what stands there; `bad_name`, `name_collision`.
pub(super) fn read(file: &Plaintext, prefix: Option<&Reference>) -> Result<Vec<Entry>> {
    let text = std::str::from_utf8(file.bytes()).map_err(|_| bad("it is not UTF-8"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let whole: &RawValue = serde_json::from_str(text)
        .map_err(|error| bad(&format!("line {}, column {}", error.line(), error.column())))?;
    if !whole.get().starts_with('{') {
        return Err(bad("it is no object"));
    }
    let mut entries = Vec::new();
    walk(whole, &mut Vec::new(), prefix, &mut entries)?;
    Ok(entries)
}

fn walk(
    value: &RawValue,
    keys: &mut Vec<String>,
    prefix: Option<&Reference>,
    entries: &mut Vec<Entry>,
) -> Result<()> {
    let text = value.get();
    let nested = || bad("a part of it is no JSON");
    let inner: Vec<(String, &RawValue)> = match text.as_bytes().first() {
        Some(b'{') => serde_json::from_str::<Members<'_>>(text).map_err(|_| nested())?.0,
        Some(b'[') => {
            let all: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| nested())?;
            all.into_iter().enumerate().map(|(number, value)| (number.to_string(), value)).collect()
        }
        _ => {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let reference = names::reference(prefix, &keys)?;
            entries.push(Entry { value: scalar(text, &reference)?, reference });
            return Ok(());
        }
    };
    if keys.len() >= DEPTH {
        return Err(bad("its objects are too deep in each other"));
    }
    for (key, value) in inner {
        keys.push(key);
        walk(value, keys, prefix, entries)?;
        keys.pop();
    }
    Ok(())
}

fn scalar(text: &str, reference: &Reference) -> Result<Plaintext> {
    if text == "null" {
        return Err(bad(&format!("{reference} has no value: null")));
    }
    if !text.starts_with('"') {
        return Ok(Plaintext::copy_of(text.as_bytes()));
    }
    let text: String = serde_json::from_str(text).map_err(|_| bad("a text in it is none"))?;
    Ok(Plaintext::take(text.into_bytes()))
}

/// The members of an object, also those that bear the same name: two are an error, and not the last one.
struct Members<'f>(Vec<(String, &'f RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;

        impl<'de> Visitor<'de> for All {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(All)
    }
}

fn bad(why: &str) -> Error {
    bad_usage("bad_json", format!("the file cannot be read as JSON: {why}"), "nothing was imported")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(String, String)> {
        let entries = read(&Plaintext::copy_of(text.as_bytes()), None).unwrap();
        let text = |entry: &Entry| String::from_utf8(entry.value.bytes().to_vec()).unwrap();
        entries.iter().map(|entry| (entry.reference.to_string(), text(entry))).collect()
    }

    #[test]
    fn values_are_named_by_the_way_to_them() {
        let text = r#"{"A":"x\n\u0041","db":{"url":"u","ports":[5432, 1.10]},"on":true,"big":12345678901234567890123}"#;
        let expected = [
            ("A", "x\nA"),
            ("db/url", "u"),
            ("db/ports/0", "5432"),
            ("db/ports/1", "1.10"),
            ("on", "true"),
            ("big", "12345678901234567890123"),
        ];
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        assert_eq!(parsed(text), expected.map(own));
        assert!(parsed("{}").is_empty());
    }

    #[test]
    fn two_members_of_one_name_are_both_seen() {
        let entries = parsed(r#"{"A":"1","A":"2","a b":"3"}"#);
        assert_eq!(entries.len(), 3);
    }

    #[test]
    fn bad_json_is_refused_and_not_repeated() {
        let deep = format!("{}1{}", r#"{"CANARY":"#.repeat(70), "}".repeat(70));
        for text in ["", "[]", "\"CANARY\"", "{\"a\": CANARY}", "{\"a\": null}", "{\"CANARY\"", &deep] {
            let error = read(&Plaintext::copy_of(text.as_bytes()), None).err().expect(text);
            assert_eq!((error.exit_code(), &*error.code), (2, "bad_json"), "{text:?}");
            assert!(!format!("{error:?}").contains("CANARY"), "{error:?}");
        }
    }
}
