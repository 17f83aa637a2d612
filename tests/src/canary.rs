//! What does a secret look like where it must not be found?

use std::io::Read;

/// 32 random bytes as base64url without padding: 43 characters that stand nowhere by chance.
///
/// # Panics
/// Where the kernel gives no random bytes.
pub fn canary() -> String {
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .expect("/dev/urandom");
    let text = encode(&bytes, URL);
    text.trim_end_matches('=').to_owned()
}

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn encode(bytes: &[u8], alphabet: &[u8; 64]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let word = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let digit = word >> (18 - 6 * place) & 63;
            text.push(if place <= chunk.len() { char::from(alphabet[digit as usize]) } else { '=' });
        }
    }
    text
}

/// Base64 as the probe writes it (RFC 4648, padded).
///
/// # Panics
/// Where it is not that.
pub fn decode(text: &str) -> Vec<u8> {
    let digit = |c: u8| STANDARD.iter().position(|d| *d == c).expect("a base64 digit") as u32;
    let mut bytes = Vec::new();
    for chunk in text.trim_end_matches('=').as_bytes().chunks(4) {
        let word = chunk.iter().fold(0, |word, c| word << 6 | digit(*c)) << (6 * (4 - chunk.len()));
        bytes.extend_from_slice(&word.to_be_bytes()[1..chunk.len()]);
    }
    bytes
}

/// As the probe reads it.
pub fn encode_standard(bytes: &[u8]) -> String {
    encode(bytes, STANDARD)
}

/// The ways in which `secret` may stand in other bytes: raw, base64 and base64url at three alignments,
/// hexadecimal, UTF-16.
fn disguises(secret: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let hex = |upper: bool| {
        let digit = |byte: &u8| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") };
        secret.iter().map(digit).collect::<String>().into_bytes()
    };
    let mut all = vec![
        ("raw", secret.to_vec()),
        ("hexadecimal", hex(false)),
        ("upper-case hexadecimal", hex(true)),
        ("UTF-16", secret.iter().flat_map(|byte| [*byte, 0]).collect()),
    ];
    for shift in 0..3 {
        let padded = [&[0; 2][..shift.min(2)], secret].concat();
        let digits = (8 * shift).div_ceil(6)..8 * padded.len() / 6;
        for (name, alphabet) in [("base64", STANDARD), ("base64url", URL)] {
            all.push((name, encode(&padded, alphabet).as_bytes()[digits.clone()].to_vec()));
        }
    }
    all
}

/// How `secret` stands in `bytes`, where it does.
pub fn found_in(bytes: &[u8], secret: &str) -> Option<&'static str> {
    disguises(secret.as_bytes()).into_iter().find(|(_, shape)| contains(bytes, shape)).map(|(name, _)| name)
}

fn contains(bytes: &[u8], shape: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == shape[0]) {
        if rest[at..].starts_with(shape) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_reads_back() {
        for bytes in [&b""[..], b"a", b"ab", b"abc", &[0xff; 7]] {
            assert_eq!(decode(&encode_standard(bytes)), bytes);
        }
    }

    #[test]
    fn a_canary_is_found_in_every_disguise() {
        let secret = canary();
        assert_eq!(secret.len(), 43);
        for before in ["", "x", "xy", "xyz"] {
            let around = format!("{before}{secret}tail");
            for shape in [around.clone(), encode_standard(around.as_bytes()), encode(around.as_bytes(), URL)]
            {
                assert!(found_in(shape.as_bytes(), &secret).is_some(), "{shape}");
            }
        }
        let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found_in(hex.as_bytes(), &secret), Some("hexadecimal"));
        assert_eq!(found_in(canary().as_bytes(), &secret), None);
    }
}
