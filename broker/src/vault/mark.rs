//! Which trust store is the newest? The vault says so, and the vault's own age is guarded by its anchor.

use serde::{Deserialize, Serialize};

use super::{Vault, anchor};
use crate::keys::authenticate;

/// Says that there is no store.
const NOTHING: &str = "none";

/// What tells the trust store that was written last from any other: SHA-256 of what is signed in it, hexadecimal.
/// The signature is not part of it, so another identity's is no other store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct StoreMark(String);

impl StoreMark {
    /// Of a vault for which nothing was trusted yet.
    pub(crate) fn nothing() -> Self {
        Self(NOTHING.to_owned())
    }

    /// Of a store's bytes, signature and all.
    pub(crate) fn of(signed: &[u8]) -> Self {
        Self(anchor::digest(authenticate::signed_part(signed)))
    }

    /// Whether it says that there is no store.
    pub(crate) fn is_nothing(&self) -> bool {
        self.0 == NOTHING
    }
}

impl Vault {
    /// The mark of the trust store that this vault acknowledged last; `None` where it was written by a kin that
    /// remembered none.
    pub(crate) fn store_mark(&self) -> Option<&StoreMark> {
        self.content.trust.as_ref()
    }

    /// As [`Self::store_mark`], of the newest vault, also where this is an old one: the anchor repeats it.
    pub(super) fn newest_mark(&self) -> Option<StoreMark> {
        let anchored = anchor::store_mark(&self.place.anchor, self.keys.anchor());
        anchored.or_else(|| self.content.trust.clone())
    }
}
