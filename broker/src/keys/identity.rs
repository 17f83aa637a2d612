//! Which key opens this vault, and which keys hang off it?

use std::str::FromStr;

use age::secrecy::ExposeSecret;
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::Plaintext;

/// An age X25519 identity, kept as its text in locked memory. Not `Debug`, `Clone` or `Serialize`.
pub struct Identity {
    text: Plaintext,
    recipient: String,
}

impl Identity {
    /// A new one, from the operating system's randomness.
    pub fn generate() -> Self {
        Self::from_age(&age::x25519::Identity::generate())
    }

    /// Reads `AGE-SECRET-KEY-1…`, white space around it allowed.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?.trim();
        age::x25519::Identity::from_str(text).ok().map(|identity| Self::from_age(&identity))
    }

    /// The age recipient: `age1…`. It is public.
    pub fn recipient(&self) -> &str {
        &self.recipient
    }

    /// A key for one purpose: HKDF-SHA256 (RFC 5869) of the identity's text, without salt, the purpose as
    /// info. Nobody who knows only the recipient can have it.
    ///
    /// # Panics
    /// Never: 32 bytes are within what HKDF-SHA256 can give.
    pub fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(None, self.text.bytes())
            .expand(purpose.as_bytes(), key.as_mut())
            .expect("32 bytes are within HKDF's reach");
        key
    }

    /// Its text, to keep it somewhere.
    pub(crate) fn text(&self) -> &Plaintext {
        &self.text
    }

    /// For age itself; wiped when it is dropped.
    pub(crate) fn age(&self) -> age::x25519::Identity {
        std::str::from_utf8(self.text.bytes())
            .ok()
            .and_then(|text| age::x25519::Identity::from_str(text).ok())
            .expect("the text was made from an identity")
    }

    fn from_age(identity: &age::x25519::Identity) -> Self {
        let text = identity.to_string();
        Self {
            text: Plaintext::copy_of(text.expose_secret().as_bytes()),
            recipient: identity.to_public().to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_back_and_derives_the_same_keys() {
        let identity = Identity::generate();
        let again = Identity::parse(identity.text().bytes()).unwrap();
        assert_eq!(identity.recipient(), again.recipient());
        assert_eq!(identity.derive("kin/test/1"), again.derive("kin/test/1"));
        assert_ne!(identity.derive("kin/test/1"), identity.derive("kin/test/2"));
        assert_ne!(identity.derive("kin/test/1"), Identity::generate().derive("kin/test/1"));
    }

    #[test]
    fn what_is_no_identity_is_refused() {
        for bad in [&b""[..], b"AGE-SECRET-KEY-1", b"age1", b"\xff\xfe", &[b'A'; 4096]] {
            assert!(Identity::parse(bad).is_none());
        }
    }
}
