//! Where is an identity kept?

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::sys::path_bytes;

/// Where a vault's identity is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum KeyMethod {
    /// In the Secret Service of the session.
    Keyring,
    /// In a file, encrypted with a passphrase.
    Passphrase,
    /// In a file, as it is.
    KeyFile {
        /// The file.
        #[serde(with = "path_bytes")]
        path: PathBuf,
    },
    /// Nowhere of kin's: it is given at each unlock, by a descriptor or as a credential.
    Given,
}
