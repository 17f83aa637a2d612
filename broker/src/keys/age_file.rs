//! Is this an age file that one key opens, whole?

use std::io::{Read, Write};
use std::iter::once;

use age::{DecryptError, Decryptor, EncryptError, Encryptor};
use zeroize::Zeroizing;

/// Bytes of header that are looked at. Ours have about 200; age parses a header anew for each of its lines.
const HEADER: usize = 8 << 10;

/// Encrypts to one recipient, or with one passphrase.
///
/// # Errors
/// Those of age, which for one recipient and memory are none.
pub(crate) fn encrypt(bytes: &[u8], recipient: &dyn age::Recipient) -> Result<Vec<u8>, EncryptError> {
    let encryptor = Encryptor::with_recipients(once(recipient))?;
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
}
