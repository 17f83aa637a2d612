//! Is this an age file that one key opens, whole?

use std::io::{Read, Write};
use std::iter::once;

use age::{DecryptError, Decryptor, EncryptError, Encryptor};
use zeroize::Zeroizing;

/// Bytes of header that are looked at. Ours have about 200, and 100 for each further recipient; age parses a header anew for each of its lines.
const HEADER: usize = 8 << 10;

/// Encrypts to one recipient, or with one passphrase.
///
/// # Errors
/// Those of age, which for one recipient and memory are none.
pub(crate) fn encrypt(bytes: &[u8], recipient: &dyn age::Recipient) -> Result<Vec<u8>, EncryptError> {
    encrypt_to(bytes, once(recipient))
}

/// As [`encrypt`], for several.
///
/// # Errors
/// As there.
pub(crate) fn encrypt_to<'r>(
    bytes: &[u8],
    recipients: impl Iterator<Item = &'r dyn age::Recipient>,
) -> Result<Vec<u8>, EncryptError> {
    let encryptor = Encryptor::with_recipients(recipients)?;
    let mut writer = encryptor.wrap_output(Vec::with_capacity(bytes.len() + bytes.len() / 1024 + 1024))?;
    writer.write_all(bytes)?;
    Ok(writer.finish()?)
}

/// Decrypts all of it before anything is handed out: a stream that is cut gives nothing.
///
/// # Errors
/// Those of age; a header that is too long is an invalid one.
pub(crate) fn decrypt(
    bytes: &[u8],
    identity: &dyn age::Identity,
) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
    if !bytes[..bytes.len().min(HEADER)].windows(4).any(|window| window == b"\n---") {
        return Err(DecryptError::InvalidHeader);
    }
    let mut reader = Decryptor::new_buffered(bytes)?.decrypt(once(identity))?;
    // The content is shorter than the file, so the buffer never grows and leaves no copy behind.
    let mut content = Zeroizing::new(Vec::with_capacity(bytes.len()));
    reader.read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Identity;

    #[test]
    fn what_was_encrypted_reads_back_at_every_size_around_a_chunk() {
        let identity = Identity::generate().age();
        for size in [0, 1, 65535, 65536, 65537, 200_000] {
            let bytes = vec![7; size];
            let file = encrypt(&bytes, &identity.to_public()).unwrap();
            assert_eq!(*decrypt(&file, &identity).unwrap(), bytes);
        }
    }

    #[test]
    fn f02_a_stream_cut_at_a_chunk_gives_nothing() {
        let identity = Identity::generate().age();
        let file = encrypt(&vec![7; 200_000], &identity.to_public()).unwrap();
        let header = file.len() - 200_000 - 4 * 16;
        for chunks in 0..=3 {
            assert!(decrypt(&file[..header + chunks * (65536 + 16)], &identity).is_err(), "{chunks} chunks");
        }
    }

    #[test]
    fn f09_a_monstrous_header_is_refused_at_once() {
        let identity = Identity::generate().age();
        let stanzas = "-> X25519 x\nAAAA\n".repeat(10_000);
        for header in [stanzas, "x".repeat(10 << 20), "-> ../../bin/sh x\nAAAA\n".repeat(9)] {
            let file = format!("age-encryption.org/v1\n{header}--- AAAA\n");
            let started = std::time::Instant::now();
            assert!(decrypt(file.as_bytes(), &identity).is_err());
            assert!(started.elapsed() < std::time::Duration::from_secs(1));
        }
    }

    /// The C2SP age testkit, as the age crate carries it: where cargo put that crate's source.
    fn testkit() -> Vec<std::path::PathBuf> {
        let output = std::process::Command::new(env!("CARGO"))
            .args(["metadata", "--offline", "--format-version=1", "--filter-platform"])
            .arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH))
            .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let age = metadata["packages"].as_array().unwrap().iter().find(|package| package["name"] == "age");
        let manifest = std::path::Path::new(age.unwrap()["manifest_path"].as_str().unwrap());
        let directory = manifest.with_file_name("tests/testdata/testkit");
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    /// What a vector says of itself, and its file.
    fn vector(bytes: &[u8]) -> (Vec<(&str, &str)>, Vec<u8>) {
        let end = bytes.windows(2).position(|window| window == b"\n\n").unwrap();
        let lines = std::str::from_utf8(&bytes[..end]).unwrap().lines();
        let says: Vec<_> = lines.filter_map(|line| line.split_once(": ")).collect();
        let file = &bytes[end + 2..];
        let compressed = says.iter().any(|(name, _)| *name == "compressed");
        (says, if compressed { inflated(file) } else { file.to_vec() })
    }

    /// Some vectors are compressed with zlib, which is Python's to undo.
    fn inflated(bytes: &[u8]) -> Vec<u8> {
        let mut from = tempfile::NamedTempFile::new().unwrap();
        from.write_all(bytes).unwrap();
        let program =
            "import sys, zlib; sys.stdout.buffer.write(zlib.decompress(open(sys.argv[1], 'rb').read()))";
        let output =
            std::process::Command::new("/usr/bin/python3").args(["-c", program]).arg(from.path()).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// The keys that a vector brings; one that opens nothing where it brings none.
    fn keys_of(says: &[(&str, &str)]) -> Vec<Box<dyn age::Identity>> {
        let key = |(name, text): &(&str, &str)| -> Option<Box<dyn age::Identity>> {
            match *name {
                "identity" => Some(Box::new(text.parse::<age::x25519::Identity>().ok()?)),
                "passphrase" => {
                    let mut key = age::scrypt::Identity::new((*text).to_owned().into());
                    key.set_max_work_factor(18);
                    Some(Box::new(key))
                }
                _ => None,
            }
        };
        let mut keys: Vec<_> = says.iter().filter_map(key).collect();
        keys.push(Box::new(Identity::generate().age()));
        keys
    }

    #[test]
    fn f11_every_expectation_of_the_age_testkit_is_met() {
        use sha2::Digest;
        let vectors = testkit();
        assert!(vectors.len() > 100, "{} vectors", vectors.len());
        for path in vectors {
            let bytes = std::fs::read(&path).unwrap();
            let (says, file) = vector(&bytes);
            let said = |name: &str| says.iter().find(|(of, _)| *of == name).map(|(_, text)| *text);
            let opened = keys_of(&says).iter().find_map(|key| decrypt(&file, &**key).ok());
            // kin's files are binary: an armored one is refused, whatever is in it.
            let expected = said("expect") == Some("success") && said("armored").is_none();
            // The age crate reads the empty last line of a stanza as optional, as its own suite says: neither key
            // nor content can be had by it that the file does not hold.
            let lenient = ["stanza_missing_body", "stanza_missing_final_line"];
            if path.file_name().is_some_and(|name| lenient.iter().any(|lenient| name == *lenient)) {
                assert!(opened.is_none_or(|content| content.as_slice() == b"age"), "{}", path.display());
                continue;
            }
            assert_eq!(opened.is_some(), expected, "{}", path.display());
            let digest = opened.map(|content| format!("{:x}", sha2::Sha256::digest(&*content)));
            assert_eq!(digest.as_deref(), said("payload").filter(|_| expected), "{}", path.display());
        }
    }
}
