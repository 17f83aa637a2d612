//! What would be a good new value?

mod certificate;

use std::collections::BTreeSet;

use base64ct::{Base64, Encoding};
use chacha20poly1305::aead::OsRng;
use chacha20poly1305::aead::rand_core::RngCore;
use ssh_key::{Algorithm, LineEnding, PrivateKey};

use crate::Plaintext;
use crate::keys::Identity;
use crate::sys::error::{Class, Error, Result};

/// 64 characters, six bits each; none needs quoting in a shell, a URL or an .env file.
const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const HEX: &[u8; 16] = b"0123456789abcdef";
/// The most that can be asked for, in bytes or characters.
const MOST: usize = 4096;

/// Makes a value: `hex[:BYTES]` and `base64[:BYTES]` (32 bytes unless said), `password[:LENGTH[:ALPHABET]]`
/// (24 characters of `A-Z a-z 0-9 - _` unless said; an alphabet is `digits`, `letters`, `alnum`, `printable`, or `=` and
/// its characters), `uuid` (version 4, RFC 9562), `age` (an X25519
/// identity), `ssh-ed25519` (a private key in OpenSSH's format), `words[:COUNT]` (7 English words unless said, eleven
/// bits each), `x509:NAME[,NAME…]` (a private key and a certificate of its own, in PEM). Randomness is the
/// operating system's.
///
/// # Errors
/// `bad_generate` for anything else.
pub fn generate(spec: &str) -> Result<Plaintext> {
    if let Some(names) = spec.strip_prefix("x509:") {
        return certificate::make(names);
    }
    if let Some(rest) = spec.strip_prefix("password:") {
        let (size, alphabet) = rest.split_once(':').map_or((rest, None), |(size, of)| (size, Some(of)));
        return password(parse_size(size)?, &alphabet.map_or(Ok(ALPHABET.into()), parse_alphabet)?);
    }
    let (kind, size) = match spec.split_once(':') {
        Some((kind, size)) => (kind, Some(parse_size(size)?)),
        None => (spec, None),
    };
    match (kind, size) {
        ("hex", size) => hex(&random(size.unwrap_or(32))?),
        ("base64", size) => base64(&random(size.unwrap_or(32))?),
        ("password", None) => password(24, ALPHABET),
        ("uuid", None) => uuid(),
        ("age", None) => Ok(Plaintext::copy_of(Identity::generate().text().bytes())),
        ("ssh-ed25519", None) => ssh_ed25519(),
        ("words", count) => words(count.unwrap_or(7)),
        _ => Err(bad("no such kind of value")),
    }
}

/// Bytes from the operating system, straight into locked memory.
pub(crate) fn random(len: usize) -> Result<Plaintext> {
    let mut bytes = Plaintext::zeroed(len);
    OsRng.try_fill_bytes(bytes.bytes_mut()).map_err(|error| Error::internal("draw random bytes", error))?;
    Ok(bytes)
}

fn hex(bytes: &Plaintext) -> Result<Plaintext> {
    let mut text = Plaintext::zeroed(bytes.len() * 2);
    for (pair, byte) in text.bytes_mut().chunks_exact_mut(2).zip(bytes.bytes()) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 15)];
    }
    Ok(text)
}

fn base64(bytes: &Plaintext) -> Result<Plaintext> {
    let mut text = Plaintext::zeroed(Base64::encoded_len(bytes.bytes()));
    Base64::encode(bytes.bytes(), text.bytes_mut()).map_err(|error| Error::internal("encode", error))?;
    Ok(text)
}

/// Characters of the alphabet, each as likely as any other: bytes that would favour its first ones are drawn again.
fn password(len: usize, alphabet: &[u8]) -> Result<Plaintext> {
    let fair = 256 - 256 % alphabet.len();
    let mut text = Plaintext::zeroed(len);
    let mut filled = 0;
    while filled < len {
        let drawn = random(len)?;
        let fair = drawn.bytes().iter().map(|byte| usize::from(*byte)).filter(|byte| *byte < fair);
        for (place, byte) in text.bytes_mut()[filled..].iter_mut().zip(fair) {
            *place = alphabet[byte % alphabet.len()];
            filled += 1;
        }
    }
    Ok(text)
}

/// Words of the list of BIP 39, which has 2^11 of them that differ in their first four letters.
fn words(count: usize) -> Result<Plaintext> {
    let drawn = random(2 * count)?;
    let list = bip39::Language::English.word_list();
    let chosen =
        || drawn.bytes().chunks_exact(2).map(|two| list[usize::from(two[0] & 7) << 8 | usize::from(two[1])]);
    let mut text = Plaintext::zeroed(chosen().map(|word| word.len() + 1).sum());
    let mut at = 0;
    for word in chosen() {
        text.bytes_mut()[at..at + word.len()].copy_from_slice(word.as_bytes());
        text.bytes_mut()[at + word.len()] = b'-';
        at += word.len() + 1;
    }
    text.truncate(at - 1);
    Ok(text)
}

/// 122 random bits, a version and a variant, in hexadecimal with four hyphens.
fn uuid() -> Result<Plaintext> {
    let mut bytes = random(16)?;
    bytes.bytes_mut()[6] = bytes.bytes()[6] & 0x0f | 0x40;
    bytes.bytes_mut()[8] = bytes.bytes()[8] & 0x3f | 0x80;
    let digits = hex(&bytes)?;
    let mut text = Plaintext::copy_of(b"xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx");
    let places = text.bytes_mut().iter_mut().filter(|byte| **byte == b'x');
    places.zip(digits.bytes()).for_each(|(place, digit)| *place = *digit);
    Ok(text)
}

fn ssh_ed25519() -> Result<Plaintext> {
    let failed = |error| Error::internal("make an ssh key", error);
    let key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).map_err(failed)?;
    let text = key.to_openssh(LineEnding::LF).map_err(failed)?;
    Ok(Plaintext::copy_of(text.as_bytes()))
}

fn parse_size(text: &str) -> Result<usize> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(size) if digits && (1..=MOST).contains(&size) => Ok(size),
        _ => Err(bad(&format!("after ':' comes a number from 1 to {MOST}"))),
    }
}

fn parse_alphabet(text: &str) -> Result<Vec<u8>> {
    let graphic = |byte: &u8| byte.is_ascii_graphic();
    let of = |wanted: fn(&u8) -> bool| Ok((0..=0x7f).filter(wanted).collect());
    match text {
        "digits" => of(u8::is_ascii_digit),
        "letters" => of(u8::is_ascii_alphabetic),
        "alnum" => of(u8::is_ascii_alphanumeric),
        "printable" => of(u8::is_ascii_graphic),
        _ => {
            let own = text.strip_prefix('=').map(str::as_bytes).unwrap_or_default();
            let each_once = own.iter().collect::<BTreeSet<_>>().len() == own.len();
            match own.len() >= 2 && each_once && own.iter().all(graphic) {
                true => Ok(own.to_vec()),
                false => Err(bad(
                    "an alphabet is digits, letters, alnum, printable, or = and its characters: at least two of \
                     ASCII, each once",
                )),
            }
        }
    }
}

fn bad(why: &str) -> Error {
    Error::new(Class::Usage, "bad_generate", format!("cannot generate that: {why}")).hint(
        "hex[:BYTES], base64[:BYTES], password[:LENGTH[:ALPHABET]], uuid, age, ssh-ed25519, words[:COUNT] or \
         x509:NAME",
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn text(spec: &str) -> String {
        String::from_utf8(generate(spec).unwrap().bytes().to_vec()).unwrap()
    }

    #[test]
    fn sizes_are_what_was_asked_for() {
        for (spec, len) in [("hex", 64), ("hex:1", 2), ("base64", 44), ("base64:3", 4), ("password", 24)] {
            assert_eq!(text(spec).len(), len, "{spec}");
        }
        assert_eq!(text("password:4096").len(), 4096);
        assert_eq!(Base64::decode_vec(&text("base64:1000")).unwrap().len(), 1000);
        assert!(text("hex:500").bytes().all(|byte| HEX.contains(&byte)));
    }

    #[test]
    fn a_password_uses_its_whole_alphabet_evenly() {
        for (spec, size) in [
            ("password:4096", 64),
            ("password:4096:digits", 10),
            ("password:4096:letters", 52),
            ("password:4096:alnum", 62),
            ("password:4096:printable", 94),
            ("password:4096:=ab:", 3),
        ] {
            let mut counts = std::collections::BTreeMap::new();
            for byte in (0..16).flat_map(|_| text(spec).into_bytes()) {
                *counts.entry(byte).or_insert(0_u32) += 1;
            }
            // 65,536 characters: so many each, with a standard deviation of less than the root; ten of those are
            // never seen.
            let each = 65_536.0 / f64::from(size);
            assert_eq!(counts.len(), size as usize, "{spec}");
            let even = |count: &u32| (f64::from(*count) - each).abs() < 10.0 * each.sqrt();
            assert!(counts.values().all(even), "{spec}: {counts:?}");
        }
        assert!(text("password:200:=<>").bytes().all(|byte| b"<>".contains(&byte)));
    }

    #[test]
    fn no_two_values_are_alike() {
        for spec in ["hex", "base64", "password", "uuid", "age", "ssh-ed25519", "words", "x509:localhost"] {
            assert_ne!(text(spec), text(spec));
        }
    }

    #[test]
    fn a_uuid_is_of_version_4_and_an_age_identity_reads_back() {
        for _ in 0..100 {
            let uuid = text("uuid");
            let parts: Vec<usize> = uuid.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12], "{uuid}");
            assert!(uuid.bytes().all(|byte| byte == b'-' || HEX.contains(&byte)), "{uuid}");
            assert!(uuid.as_bytes()[14] == b'4' && b"89ab".contains(&uuid.as_bytes()[19]), "{uuid}");
        }
        assert!(Identity::parse(text("age").as_bytes()).is_some());
    }

    #[test]
    fn ssh_keygen_reads_a_generated_key() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("id_ed25519");
        crate::sys::files::write_atomic(&path, generate("ssh-ed25519").unwrap().bytes()).unwrap();
        let output = Command::new("ssh-keygen").arg("-y").arg("-f").arg(&path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.starts_with(b"ssh-ed25519 AAAA"));
        assert!(text("ssh-ed25519").ends_with("-----END OPENSSH PRIVATE KEY-----\n"));
    }

    #[test]
    fn words_come_from_the_whole_list_evenly() {
        assert_eq!(text("words").split('-').count(), 7);
        assert_eq!(text("words:1").split('-').count(), 1);
        let mut counts = std::collections::BTreeMap::new();
        for word in (0..16).flat_map(|_| text("words:4096").split('-').map(str::to_owned).collect::<Vec<_>>())
        {
            *counts.entry(word).or_insert(0_u32) += 1;
        }
        // 65,536 words: 32 each, with a standard deviation of 5.7; seven of them are never seen.
        assert_eq!(counts.len(), 2048);
        assert!(counts.values().all(|count| count.abs_diff(32) < 41), "{counts:?}");
    }

    #[test]
    fn openssl_reads_a_generated_key_and_its_certificate() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("both.pem");
        crate::sys::files::write_atomic(&path, generate("x509:localhost,127.0.0.1").unwrap().bytes())
            .unwrap();
        let openssl = |arguments: &[&str]| {
            let output = Command::new("openssl").args(arguments).arg("-in").arg(&path).output().unwrap();
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(openssl(&["pkey", "-pubout"]), openssl(&["x509", "-noout", "-pubkey"]));
        let shown = openssl(&["x509", "-noout", "-text"]);
        for part in ["CN = localhost", "DNS:localhost, IP Address:127.0.0.1", "prime256v1"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let verify = ["verify", "-CAfile", path.to_str().unwrap(), path.to_str().unwrap()];
        let output = Command::new("openssl").args(verify).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn bad_specifications_are_refused() {
        let specs = [
            "",
            "hex:",
            "hex:0",
            "hex:-1",
            "hex:+1",
            "hex: 1",
            "hex:1:2",
            "hex:4097",
            "hex:18446744073709551616",
            "HEX",
            "base64:x",
            "password:0",
            "password:",
            "password::digits",
            "password:8:",
            "password:8:vowels",
            "password:8:=",
            "password:8:=a",
            "password:8:=aa",
            "password:8:=a b",
            "password:8:=äö",
            "ssh-ed25519:1",
            "ssh-rsa",
            "uuid:4",
            "words:0",
            "words:x",
            "x509",
            "x509:",
            "x509:a,,b",
            "x509:a b",
            "x509:\n",
            "x509:ä.example",
            "age:1",
            "\u{1b}[31m",
            "hex:１",
        ];
        for spec in specs {
            let error = generate(spec).err().unwrap_or_else(|| panic!("{spec:?} was accepted"));
            assert_eq!((error.class, &*error.code), (Class::Usage, "bad_generate"));
            assert!(!error.message.contains('\u{1b}'));
        }
    }
}
