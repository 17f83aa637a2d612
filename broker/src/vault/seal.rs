//! How is one value sealed, so that it opens in its own place only?

use chacha20poly1305::aead::rand_core::RngCore;
use chacha20poly1305::aead::{AeadInPlace, KeyInit, OsRng};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};

use crate::Plaintext;
use crate::sys::error::{Error, Result};

/// XChaCha20-Poly1305: nonces this long can be drawn at random.
const NONCE: usize = 24;
const TAG: usize = 16;
/// Bytes that sealing adds.
pub(super) const OVERHEAD: usize = NONCE + TAG;

/// Seals `value` for one place: nonce, ciphertext, tag.
pub(super) fn seal(key: &Plaintext, place: &[u8], value: &[u8]) -> Result<Vec<u8>> {
    let mut sealed = Vec::with_capacity(value.len() + OVERHEAD);
    sealed.resize(NONCE, 0);
    OsRng.try_fill_bytes(&mut sealed).map_err(|error| Error::internal("draw a nonce", error))?;
    sealed.extend_from_slice(value);
    let (nonce, content) = sealed.split_at_mut(NONCE);
    let tag = cipher(key)
        .encrypt_in_place_detached(XNonce::from_slice(nonce), place, content)
        .map_err(|error| Error::internal("seal a value", error))?;
    sealed.extend_from_slice(&tag);
    Ok(sealed)
}

/// Opens what was sealed for this place, in locked memory; `None` where it does not authenticate.
pub(super) fn open(key: &Plaintext, place: &[u8], sealed: &[u8]) -> Option<Plaintext> {
    let (nonce, rest) = sealed.split_at_checked(NONCE)?;
    let (content, tag) = rest.split_at_checked(rest.len().checked_sub(TAG)?)?;
    let mut value = Plaintext::copy_of(content);
    cipher(key)
        .decrypt_in_place_detached(XNonce::from_slice(nonce), place, value.bytes_mut(), Tag::from_slice(tag))
        .ok()?;
    Some(value)
}

/// The key stays in locked memory; setting the cipher up is a copy of 32 bytes, wiped when it is dropped.
fn cipher(key: &Plaintext) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new_from_slice(key.bytes()).expect("a key has 32 bytes")
}
