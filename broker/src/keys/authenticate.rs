//! Was this JSON written by somebody who has the identity?
//!
//! The last member of the object is `"mac"`: HMAC-SHA256, base64, of every byte before its comma. It is
//! checked before anything is parsed, and it stays in this place in every later format.

use base64ct::{Base64, Encoding};
use hmac::{Hmac, Mac};
use sha2::Sha256;

const OPEN: &[u8] = br#","mac":""#;
const CLOSE: &[u8] = br#""}"#;
/// 32 bytes in base64.
const TEXT: usize = 44;

/// Adds the MAC to a JSON object that has at least one member.
///
/// # Panics
/// Where `json` does not end as an object does: that is a defect.
pub(crate) fn sign(key: &[u8; 32], mut json: Vec<u8>) -> Vec<u8> {
    assert_eq!(json.pop(), Some(b'}'), "only an object can be signed");
    let mac = Base64::encode_string(&mac(key, &json).finalize().into_bytes());
    json.extend_from_slice(OPEN);
    json.extend_from_slice(mac.as_bytes());
    json.extend_from_slice(CLOSE);
    json
}

/// Whether `json` ends with the right MAC. Takes the same time wherever it differs.
pub(crate) fn verify(key: &[u8; 32], json: &[u8]) -> bool {
    let Some((signed, tail)) =
        json.len().checked_sub(OPEN.len() + TEXT + CLOSE.len()).map(|at| json.split_at(at))
    else {
        return false;
    };
    let Some(text) = tail.strip_prefix(OPEN).and_then(|tail| tail.strip_suffix(CLOSE)) else { return false };
    let mut theirs = [0; 33];
    Base64::decode(text, &mut theirs).is_ok_and(|theirs| mac(key, signed).verify_slice(theirs).is_ok())
}

/// The same object signed with another key; `None` where it was not signed with `old`.
pub(crate) fn sign_again(old: &[u8; 32], new: &[u8; 32], json: &[u8]) -> Option<Vec<u8>> {
    let signed = json.len().checked_sub(OPEN.len() + TEXT + CLOSE.len())?;
    verify(old, json).then(|| sign(new, [&json[..signed], b"}"].concat()))
}

/// Of a signed object the bytes that its MAC covers; all, where it is none.
pub(crate) fn signed_part(json: &[u8]) -> &[u8] {
    json.len().checked_sub(OPEN.len() + TEXT + CLOSE.len()).map_or(json, |end| &json[..end])
}

fn mac(key: &[u8; 32], bytes: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(bytes);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signed_object_is_json_and_any_flipped_bit_breaks_it() {
        let key = [7; 32];
        let signed = sign(&key, br#"{"format":1}"#.to_vec());
        assert!(verify(&key, &signed));
        assert!(!verify(&[8; 32], &signed));
        let parsed: serde_json::Value = serde_json::from_slice(&signed).unwrap();
        assert_eq!(parsed["format"], 1);
        let again = sign_again(&key, &[8; 32], &signed).unwrap();
        assert!(verify(&[8; 32], &again) && !verify(&key, &again));
        assert_eq!(sign_again(&[8; 32], &key, &again).as_ref(), Some(&signed));
        assert_eq!(sign_again(&[9; 32], &key, &again), None);
        for at in 0..signed.len() {
            for bit in 0..8 {
                let mut flipped = signed.clone();
                flipped[at] ^= 1 << bit;
                assert!(!verify(&key, &flipped), "byte {at} bit {bit}");
            }
            assert!(!verify(&key, &signed[..at]));
        }
    }
}
