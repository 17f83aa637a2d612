//! Which program asks? Its content says so, never a path.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

/// SHA-256 of an executable file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExeDigest([u8; 32]);

impl ExeDigest {
    /// From the bytes of the hash.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for ExeDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ExeDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<ExeDigest> for String {
    fn from(digest: ExeDigest) -> Self {
        digest.to_string()
    }
}

impl FromStr for ExeDigest {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "sha256 is 64 hexadecimal digits";
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(RULE);
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).map_err(|_| RULE)?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for ExeDigest {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// A program that a binding is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExePin {
    /// Where it was when it was pinned, for people: it decides nothing.
    pub path: String,
    /// Its content.
    pub sha256: ExeDigest,
}

/// What a reader runs, as far as that could be found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exe {
    /// A file with this content.
    File(ExeDigest),
    /// The kernel would not show it (a reader that is not dumpable, a program without read permission).
    Unreadable,
    /// Nothing that a digest holds for: a file that was deleted or never had a name, one whose file system
    /// another program answers for, one that could not be hashed in time.
    Unpinnable,
    /// What the reader says of itself: nothing keeps its tree from naming another file than the one it runs.
    Unproven,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_reads_back() {
        let digest = ExeDigest::from_bytes([0xa7; 32]);
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(digest.to_string().to_uppercase().parse(), Ok(digest));
        for bad in ["", "a7", &"g".repeat(64), &"é".repeat(32), &"a".repeat(65), &"+1".repeat(32)] {
            assert!(bad.parse::<ExeDigest>().is_err(), "{bad}");
        }
    }
}
