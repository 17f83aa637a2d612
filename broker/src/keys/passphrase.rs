//! Does this passphrase open the identity?

use age::secrecy::SecretString;
use age::{DecryptError, scrypt};
use zeroize::Zeroizing;

use super::{Identity, age_file};
use crate::Plaintext;
use crate::sys::error::{Class, Error, Result};
use crate::sys::process::with_large_pages;

/// scrypt's work factor, log2 N: 64 MiB and about a fifth of a second.
const WORK: u8 = 16;
/// What is accepted from a file (age's own default is 18): 256 MiB, about a second.
const MOST_WORK: u8 = 18;

/// The identity as an age file that the passphrase opens: `age -d identity.age` prints it.
pub(super) fn seal(identity: &Identity, passphrase: &Plaintext) -> Result<Vec<u8>> {
    if passphrase.is_empty() {
        return Err(Error::new(Class::Usage, "empty_passphrase", "the passphrase is empty"));
    }
    let mut recipient = scrypt::Recipient::new(secret(passphrase)?);
    recipient.set_work_factor(WORK);
    let mut line = Zeroizing::new(Vec::with_capacity(identity.text().len() + 1));
    line.extend_from_slice(identity.text().bytes());
    line.push(b'\n');
    with_large_pages(|| age_file::encrypt(&line, &recipient))
        .map_err(|error| Error::internal("encrypt the identity", error))
}

/// The identity out of such a file.
pub(super) fn open(file: &[u8], passphrase: &Plaintext) -> Result<Identity> {
    let mut key = scrypt::Identity::new(secret(passphrase)?);
    key.set_max_work_factor(MOST_WORK);
    let line = with_large_pages(|| age_file::decrypt(file, &key)).map_err(|error| match error {
        DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => {
            Error::new(Class::Locked, "wrong_passphrase", "the passphrase is wrong").hint("try again")
        }
        DecryptError::ExcessiveWork { .. } => {
            corrupt("the identity's file asks for more scrypt work than 2^18 rounds")
        }
        _ => corrupt("the identity's file is damaged"),
    })?;
    Identity::parse(&line).ok_or_else(|| corrupt("the identity's file holds no age identity"))
}

fn corrupt(message: &str) -> Error {
    Error::new(Class::Integrity, "key_corrupt", message).hint("put a copy of identity.age back")
}

fn secret(passphrase: &Plaintext) -> Result<SecretString> {
    let text = std::str::from_utf8(passphrase.bytes())
        .map_err(|_| Error::new(Class::Usage, "bad_passphrase", "the passphrase is not valid UTF-8"))?;
    Ok(SecretString::from(text))
}
