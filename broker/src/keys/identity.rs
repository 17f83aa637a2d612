//! Which key opens this vault, and which keys hang off it?

use std::str::FromStr;

use age::secrecy::ExposeSecret;
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::Plaintext;

/// The root of every key of one vault: what HKDF-SHA256 (RFC 5869) extracts from the text of its identity. The
/// identity cannot be had from it.
pub(crate) struct Root(Plaintext);

impl Root {
    /// The root in these bytes, which were sealed somewhere; `None` where they are none.
    pub(crate) fn of(bytes: Plaintext) -> Option<Self> {
        (bytes.len() == 32).then_some(Self(bytes))
    }

    /// Its bytes, to seal them.
    pub(crate) fn bytes(&self) -> &Plaintext {
        &self.0
    }

    /// A key for one purpose, which is the info of HKDF's second step.
    pub(crate) fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        let hkdf = Hkdf::<Sha256>::from_prk(self.0.bytes()).expect("a root has 32 bytes");
        let mut key = Zeroizing::new([0; 32]);
        hkdf.expand(purpose.as_bytes(), key.as_mut()).expect("32 bytes are within HKDF's reach");
        key
    }
}

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
        self.root().derive(purpose)
    }

    /// What all of those keys hang off.
    pub(crate) fn root(&self) -> Root {
        let (mut root, _) = Hkdf::<Sha256>::extract(None, self.text.bytes());
        let kept = Plaintext::copy_of(&root);
        root.as_mut_slice().zeroize();
        Root(kept)
    }

    /// The key that this identity and that of `recipient` have in common, and nobody else: X25519 (RFC 7748),
    /// through HKDF-SHA256. `None` where `recipient` is none, or one that has a key in common with everybody.
    pub(crate) fn agree(&self, recipient: &str) -> Option<Plaintext> {
        let text = std::str::from_utf8(self.text.bytes()).ok()?;
        let (ours, theirs) = (Zeroizing::new(decode(text)?), decode(recipient)?);
        let shared = Zeroizing::new(x25519_dalek::x25519(*ours, theirs));
        if *shared == [0; 32] {
            return None;
        }
        let mut key = Plaintext::zeroed(32);
        let hkdf = Hkdf::<Sha256>::new(None, &*shared);
        hkdf.expand(b"kin/recipient/1", key.bytes_mut()).ok()?;
        Some(key)
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

/// The 32 bytes of an age key, `age1…` or `AGE-SECRET-KEY-1…`: Bech32 (BIP 173).
fn decode(text: &str) -> Option<[u8; 32]> {
    let (_, bytes) = bech32::decode(text).ok()?;
    Zeroizing::new(bytes).as_slice().try_into().ok()
}

/// Whether this is an X25519 recipient of age, `age1…`.
pub fn is_recipient(text: &str) -> bool {
    age::x25519::Recipient::from_str(text).is_ok()
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
    fn two_identities_agree_on_a_key_that_no_third_one_has() {
        let (one, other, third) = (Identity::generate(), Identity::generate(), Identity::generate());
        let key = |of: &Identity, with: &Identity| of.agree(with.recipient()).unwrap().bytes().to_vec();
        assert_eq!(key(&one, &other), key(&other, &one));
        assert_ne!(key(&one, &other), key(&one, &third));
        assert_ne!(key(&one, &other), key(&third, &other));
        // The point of order 1, with which every identity has zeroes in common.
        let nobody = bech32::encode::<bech32::Bech32>(bech32::Hrp::parse("age").unwrap(), &[0; 32]).unwrap();
        for bad in [nobody.as_str(), "age1", "", "AGE-SECRET-KEY-1"] {
            assert!(one.agree(bad).is_none());
        }
    }

    #[test]
    fn what_is_no_identity_is_refused() {
        for bad in [&b""[..], b"AGE-SECRET-KEY-1", b"age1", b"\xff\xfe", &[b'A'; 4096]] {
            assert!(Identity::parse(bad).is_none());
        }
    }
}
