//! Paths are bytes on Linux. UTF-8 ones travel as text, others as a list of bytes.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Raw {
    Text(String),
    Bytes(Vec<u8>),
}

/// Writes a path.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    match path.to_str() {
        Some(text) => Raw::Text(text.to_owned()),
        None => Raw::Bytes(path.as_os_str().as_bytes().to_vec()),
    }
    .serialize(serializer)
}

/// Reads a path.
///
/// # Errors
/// Those of the deserializer.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    Ok(match Raw::deserialize(deserializer)? {
        Raw::Text(text) => PathBuf::from(text),
        Raw::Bytes(bytes) => PathBuf::from(OsString::from_vec(bytes)),
    })
}
