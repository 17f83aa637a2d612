//! Which JSON is inside an encrypted export? docs/export-format.md has it for readers without kin.

use std::collections::BTreeMap;
use std::path::Path;

use base64ct::{Base64, Encoding};
use kin_policy::Reference;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::Incoming;
use crate::sys::error::{Class, Error, Result};
use crate::sys::memory::Plaintext;
use crate::vault::Facts;
use crate::vault::info::SecretInfo;

/// The first and only format so far.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "kin-export")]
    format: u32,
    /// Seconds of Unix time.
    exported: i64,
    secrets: Vec<Exported>,
}

/// One secret. Its text, or bytes that are none, is wiped when it is dropped.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exported {
    reference: Reference,
    version: u64,
    created: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    generated: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<String, String>,
    /// The value, where it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// The value in base64, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

impl Drop for Exported {
    fn drop(&mut self) {
        self.value.zeroize();
        self.base64.zeroize();
    }
}

/// The document of these secrets; `open` gives the value of each.
pub(super) fn write(
    secrets: &[SecretInfo],
    now: i64,
    open: impl Fn(&SecretInfo) -> Result<Plaintext>,
) -> Result<Zeroizing<Vec<u8>>> {
    let exported = |info: &SecretInfo| {
        let value = open(info)?;
        let text = std::str::from_utf8(value.bytes()).ok();
        Ok(Exported {
            reference: info.reference.clone(),
            version: info.version,
            created: info.created,
            note: info.note.clone(),
            due: info.due,
            generated: info.generated.clone(),
            attributes: info.attributes.clone(),
            value: text.map(ToOwned::to_owned),
            base64: text.is_none().then(|| Base64::encode_string(value.bytes())),
        })
    };
    let secrets = secrets.iter().map(exported).collect::<Result<Vec<_>>>()?;
    let document = Document { format: FORMAT, exported: now, secrets };
    let json = serde_json::to_vec(&document).map_err(|error| Error::internal("write an export", error))?;
    Ok(Zeroizing::new(json))
}

/// The secrets of a document. What is wrong with it is not repeated: it could be a value.
pub(super) fn read(bytes: &[u8], path: &Path) -> Result<Vec<Incoming>> {
    let corrupt = || super::envelope::corrupt(path, "is no export of kin's inside");
    let document: Document = serde_json::from_slice(bytes).map_err(|_| corrupt())?;
    if document.format != FORMAT {
        let message = format!("{} has format {}", path.display(), document.format);
        return Err(Error::new(Class::Integrity, "export_format", message).hint("use the kin that wrote it"));
    }
    let incoming = |mut secret: Exported| {
        let value = match (secret.value.take(), secret.base64.take()) {
            (Some(text), None) => Plaintext::take(text.into_bytes()),
            (None, Some(text)) => {
                Plaintext::take(Base64::decode_vec(&Zeroizing::new(text)).map_err(|_| corrupt())?)
            }
            _ => return Err(corrupt()),
        };
        let facts = Facts {
            note: secret.note.take(),
            due: secret.due,
            generated: secret.generated.take(),
            grant: None,
            attributes: std::mem::take(&mut secret.attributes),
        };
        Ok(Incoming { reference: secret.reference.clone(), value, facts })
    };
    document.secrets.into_iter().map(incoming).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(name: &str) -> SecretInfo {
        SecretInfo {
            reference: name.parse().unwrap(),
            version: 3,
            size: 1,
            created: 1,
            note: Some("a note".into()),
            due: Some(7),
            generated: None,
            attributes: [("env".to_owned(), "prod".to_owned())].into(),
        }
    }

    #[test]
    fn what_was_written_reads_back_text_and_bytes() {
        let values: [&[u8]; 4] = [b"text \"\n", b"", b"\xff\x00\xfe", "\u{202e}ключ".as_bytes()];
        let secrets: Vec<_> = (0..4).map(|n| info(&format!("a/{n}"))).collect();
        let at = |info: &SecretInfo| secrets.iter().position(|one| one == info).unwrap();
        let bytes = write(&secrets, 9, |info| Ok(Plaintext::copy_of(values[at(info)]))).unwrap();
        let read = read(&bytes, Path::new("x")).unwrap();
        assert_eq!(read.len(), 4);
        for (incoming, value) in read.iter().zip(values) {
            assert!(incoming.value.bytes() == value);
            assert_eq!((incoming.facts.note.as_deref(), incoming.facts.due), (Some("a note"), Some(7)));
            assert_eq!(incoming.facts.attributes["env"], "prod");
        }
    }

    #[test]
    fn what_is_no_export_is_refused_and_not_repeated() {
        for bad in [
            "",
            "{}",
            "CANARY",
            r#"{"kin-export":1,"exported":0,"secrets":[{"reference":"a","version":1,"created":0}]}"#,
            r#"{"kin-export":1,"exported":0,"secrets":[{"reference":"../a","version":1,"created":0,"value":"CANARY"}]}"#,
            r#"{"kin-export":1,"exported":0,"secrets":[{"reference":"a","version":1,"created":0,"base64":"CANARY!"}]}"#,
            r#"{"kin-export":2,"exported":0,"secrets":[]}"#,
        ] {
            let error = read(bad.as_bytes(), Path::new("x")).err().expect(bad);
            assert_eq!(error.class, Class::Integrity, "{bad}");
            assert!(!format!("{error:?}").contains("CANARY"), "{error:?}");
        }
    }
}
