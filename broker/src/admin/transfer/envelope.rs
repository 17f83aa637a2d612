//! Who can open an export? An age file: for recipients, or for a passphrase.

use std::io::Write;
use std::path::Path;
use std::str::FromStr;

use age::secrecy::SecretString;
use age::{DecryptError, Encryptor, scrypt, x25519};
use zeroize::Zeroizing;

use crate::Plaintext;
use crate::keys::age_file;
use crate::sys::error::{Class, Error, Result};

/// scrypt's work factor, log2 N: 64 MiB and about a fifth of a second; and what is accepted from a file.
const WORK: u8 = 16;
const MOST_WORK: u8 = 18;
/// Recipients of one export, at most: age parses a header anew for each of them.
const RECIPIENTS: usize = 32;

/// For whom.
pub(super) enum Seal {
    Recipients(Vec<(String, x25519::Recipient)>),
    Passphrase(scrypt::Recipient),
}

impl Seal {
    /// For these, or for whoever knows the passphrase.
    ///
    /// # Errors
    /// `bad_recipient`, `recipient_needed`, `empty_passphrase` (Usage).
    pub(super) fn new(recipients: &[String], passphrase: Option<&Plaintext>) -> Result<Self> {
        let usage = |code, message: String| Error::new(Class::Usage, code, message);
        if let Some(passphrase) = passphrase {
            if !recipients.is_empty() {
                return Err(usage(
                    "bad_recipient",
                    "an export has recipients or a passphrase, not both".into(),
                ));
            }
            let mut recipient = scrypt::Recipient::new(secret(passphrase)?);
            recipient.set_work_factor(WORK);
            return Ok(Self::Passphrase(recipient));
        }
        if recipients.is_empty() || recipients.len() > RECIPIENTS {
            return Err(usage("recipient_needed", format!("an export wants 1 to {RECIPIENTS} recipients")));
        }
        let parse = |text: &String| {
            let bad = |_| usage("bad_recipient", "a recipient is age1 and 58 more characters".into());
            x25519::Recipient::from_str(text).map(|recipient| (text.clone(), recipient)).map_err(bad)
        };
        Ok(Self::Recipients(recipients.iter().map(parse).collect::<Result<_>>()?))
    }

    /// For the record. A recipient is public.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Passphrase(_) => "to a passphrase".to_owned(),
            Self::Recipients(all) => {
                let names: Vec<&str> = all.iter().take(4).map(|(name, _)| name.as_str()).collect();
                format!("to {}", names.join(" "))
            }
        }
    }

    /// The file.
    ///
    /// # Errors
    /// `internal`: encrypting in memory does not fail.
    pub(super) fn close(&self, content: &[u8]) -> Result<Vec<u8>> {
        let recipients: Vec<&dyn age::Recipient> = match self {
            Self::Passphrase(recipient) => vec![recipient],
            Self::Recipients(all) => all.iter().map(|(_, one)| one as &dyn age::Recipient).collect(),
        };
        let encrypt = || -> std::result::Result<Vec<u8>, Box<dyn std::error::Error>> {
            let encryptor = Encryptor::with_recipients(recipients.into_iter())?;
            let room = Vec::with_capacity(content.len() + content.len() / 1024 + 8192);
            let mut writer = encryptor.wrap_output(room)?;
            writer.write_all(content)?;
            Ok(writer.finish()?)
        };
        encrypt().map_err(|error| Error::internal("encrypt an export", error))
    }
}

/// The content of an export for this identity.
///
/// # Errors
/// `export_locked` (Locked) where it is for others; `export_corrupt`.
pub(super) fn open_for(file: &[u8], path: &Path, identity: &x25519::Identity) -> Result<Zeroizing<Vec<u8>>> {
    age_file::decrypt(file, identity).map_err(|error| match error {
        DecryptError::NoMatchingKeys => {
            let message = format!("{} is not encrypted to this identity", path.display());
            Error::new(Class::Locked, "export_locked", message)
                .hint("say --identity FILE, or --passphrase-stdin where it has a passphrase")
        }
        _ => corrupt(path, "does not decrypt"),
    })
}

/// The content of an export for this passphrase.
///
/// # Errors
/// `wrong_passphrase` (Locked), `export_corrupt`.
pub(super) fn open_with(file: &[u8], path: &Path, passphrase: &Plaintext) -> Result<Zeroizing<Vec<u8>>> {
    let mut key = scrypt::Identity::new(secret(passphrase)?);
    key.set_max_work_factor(MOST_WORK);
    age_file::decrypt(file, &key).map_err(|error| match error {
        DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => {
            Error::new(Class::Locked, "wrong_passphrase", "the passphrase is wrong").hint("try again")
        }
        DecryptError::NoMatchingKeys => {
            let message = format!("{} has recipients and no passphrase", path.display());
            Error::new(Class::Locked, "export_locked", message).hint("say --identity FILE")
        }
        _ => corrupt(path, "does not decrypt"),
    })
}

pub(super) fn corrupt(path: &Path, why: &str) -> Error {
    Error::new(Class::Integrity, "export_corrupt", format!("{} {why}", path.display()))
        .hint("make another with `kin export`")
}

fn secret(passphrase: &Plaintext) -> Result<SecretString> {
    let bad = |code, message| Error::new(Class::Usage, code, message);
    let text = std::str::from_utf8(passphrase.bytes())
        .map_err(|_| bad("bad_passphrase", "the passphrase is not valid UTF-8"))?;
    if text.is_empty() {
        return Err(bad("empty_passphrase", "the passphrase is empty"));
    }
    Ok(SecretString::from(text))
}
