//! What is a private key with a certificate that vouches for itself?

use chacha20poly1305::aead::OsRng;
use jiff::civil::Date;
use p256::ecdsa::{DerSignature, SigningKey, signature::Signer};
use p256::pkcs8::der::pem;
use p256::pkcs8::{EncodePrivateKey, LineEnding};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyIdMethod, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SerialNumber, SignatureAlgorithm,
};
use sha2::{Digest, Sha256};

use super::{bad, random};
use crate::Plaintext;
use crate::sys::error::{Error, Result};

/// Days that a certificate is good for.
const DAYS: i64 = 365;
/// Names in a certificate, at most.
const MOST_NAMES: usize = 64;

/// What rcgen asks of a key.
struct Key {
    secret: SigningKey,
    public: Vec<u8>,
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature: DerSignature = self.secret.sign(message);
        Ok(signature.as_bytes().to_vec())
    }
}

/// A P-256 key (PKCS#8) and a certificate for these names, which it has signed itself, both in PEM: servers and
/// clients alike read the two from one file. The certificate is good for a year.
///
/// # Errors
/// `bad_generate` for a name that is neither one of DNS nor an address.
pub(super) fn make(names: &str) -> Result<Plaintext> {
    let names: Vec<String> = names.split(',').map(str::to_owned).collect();
    let plain = |name: &String| !name.is_empty() && name.len() <= 253 && name.bytes().all(is_of_a_name);
    if names.len() > MOST_NAMES || !names.iter().all(plain) {
        return Err(bad("after 'x509:' come names of hosts or addresses, with commas between"));
    }
    let secret = SigningKey::random(&mut OsRng);
    let public = secret.verifying_key().to_encoded_point(false).as_bytes().to_vec();
    let params = params(&names, &public)?;
    let failed = |error: &dyn std::fmt::Display| Error::internal("make a certificate", error);
    let key = Key { secret, public };
    let certificate = params.self_signed(&key).map_err(|error| failed(&error))?;
    let text = key.secret.to_pkcs8_pem(LineEnding::LF).map_err(|error| failed(&error))?;
    let certificate = pem::encode_string("CERTIFICATE", LineEnding::LF, certificate.der());
    let certificate = certificate.map_err(|error| failed(&error))?;
    let mut both = Plaintext::zeroed(text.len() + certificate.len());
    let (first, second) = both.bytes_mut().split_at_mut(text.len());
    first.copy_from_slice(text.as_bytes());
    second.copy_from_slice(certificate.as_bytes());
    Ok(both)
}

fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-_*:".contains(&byte)
}

fn params(names: &[String], public: &[u8]) -> Result<CertificateParams> {
    let failed = |error| Error::internal("make a certificate", error);
    let mut params = CertificateParams::new(names).map_err(|_| bad("that is no name of a host"))?;
    let today = jiff::Zoned::now().date();
    let day = |days: i64| jiff::Span::new().try_days(days).and_then(|span| today.checked_add(span));
    // A clock that is a little behind accepts it too.
    let (from, until) = (day(-1).map_err(failed)?, day(DAYS).map_err(failed)?);
    let time = |date: Date| {
        rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    (params.not_before, params.not_after) = (time(from), time(until));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, names[0].as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.key_identifier_method = KeyIdMethod::PreSpecified(Sha256::digest(public)[..20].to_vec());
    let mut serial = random(16)?;
    // Positive, as RFC 5280 wants it (section 4.1.2.2).
    serial.bytes_mut()[0] = serial.bytes()[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(serial.bytes()));
    Ok(params)
}
