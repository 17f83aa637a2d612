//! Which identity is in this key file?

use std::path::Path;

use zeroize::Zeroizing;

use super::Identity;
use crate::sys::error::{Class, Error, Result};
use crate::sys::files;

/// Bytes of a key file: one line and comments.
const LIMIT: u64 = 64 << 10;

/// The identity in `path`, which is made where there is none.
pub(super) fn create(path: &Path) -> Result<Identity> {
    if !path.is_absolute() {
        let message = format!("the key file {} is not an absolute path", path.display());
        return Err(Error::new(Class::Usage, "bad_key_file", message));
    }
    if let Some(bytes) = files::read_private(path, LIMIT)? {
        return parse(path, &bytes);
    }
    let identity = Identity::generate();
    files::write_atomic(path, &render(&identity))?;
    Ok(identity)
}

/// The identity in `path`.
pub(super) fn load(path: &Path) -> Result<Identity> {
    match files::read_private(path, LIMIT)? {
        Some(bytes) => parse(path, &bytes),
        None => {
            let message = format!("the key file {} is missing", path.display());
            Err(Error::new(Class::Locked, "key_file_missing", message).hint("mount or restore it"))
        }
    }
}

/// As age-keygen writes it.
fn render(identity: &Identity) -> Zeroizing<Vec<u8>> {
    let comment = format!("# kin identity\n# public key: {}\n", identity.recipient());
    let mut file = Zeroizing::new(Vec::with_capacity(comment.len() + identity.text().len() + 1));
    file.extend_from_slice(comment.as_bytes());
    file.extend_from_slice(identity.text().bytes());
    file.push(b'\n');
    file
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Identity> {
    only_identity(bytes).ok_or_else(|| {
        let message = format!("the key file {} does not hold one X25519 age identity", path.display());
        Error::new(Class::Integrity, "key_corrupt", message).hint("age-keygen -o makes such a file")
    })
}

/// The one identity in a text as age-keygen writes it: comments begin with '#'.
pub(super) fn only_identity(bytes: &[u8]) -> Option<Identity> {
    let mut lines = bytes
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"));
    lines.next().and_then(Identity::parse).filter(|_| lines.next().is_none())
}
