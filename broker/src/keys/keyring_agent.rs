//! What does the Secret Service say? The short-lived child that asks it, so that a service that hangs, and
//! D-Bus with all its buffers, stay out of the broker.

use std::io::{Read, Write};

use keyring::{Entry, Error};
use zeroize::Zeroizing;

/// The hidden verb of the binary: `VERB get|put|probe RECIPIENT`.
pub const VERB: &str = "keyring-agent";
/// Items are named so: this, and the recipient as the user, so that two vaults never share one.
const SERVICE: &str = "kin";
/// Bytes of an identity, at most.
pub(super) const LIMIT: usize = 4096;
/// Seconds after which the kernel ends the child, should its parent be gone.
const LAST_RESORT: u32 = 10;

/// Serves one `action` in a process of its own; returns its exit status. What was fetched goes to `output`;
/// with a status other than 0 that is a word and a reason instead: `locked: …`.
pub fn serve(action: &str, recipient: &str, input: impl Read, mut output: impl Write) -> u8 {
    nix::unistd::alarm::set(LAST_RESORT);
    let answer = match crate::sys::process::harden() {
        Ok(()) => ask(action, recipient, input),
        Err(errno) => Err(format!("unavailable: {}", errno.desc())),
    };
    let (status, bytes) = match answer {
        Ok(secret) => (0, secret),
        Err(reason) => (1, Zeroizing::new(reason.into_bytes())),
    };
    match output.write_all(&bytes).and_then(|()| output.flush()) {
        Ok(()) => status,
        Err(_) => 1,
    }
}

fn ask(action: &str, recipient: &str, input: impl Read) -> Result<Zeroizing<Vec<u8>>, String> {
    if let Err(error) = Entry::store_status() {
        return Err(explain(error));
    }
    let entry = Entry::new(SERVICE, recipient).map_err(|error| explain(&error))?;
    match action {
        "get" => entry.get_secret().map(Zeroizing::new).map_err(|error| explain(&error)),
        "put" => {
            let mut secret = Zeroizing::new(Vec::with_capacity(LIMIT + 1));
            let read = input.take(LIMIT as u64).read_to_end(&mut secret);
            read.map_err(|error| format!("unavailable: {error}"))?;
            entry.set_secret(&secret).map(|()| Zeroizing::default()).map_err(|error| explain(&error))
        }
        "probe" => match entry.get_secret().map(Zeroizing::new) {
            Ok(_) | Err(Error::NoEntry) => Ok(Zeroizing::default()),
            Err(error) => Err(explain(&error)),
        },
        _ => Err("unavailable: no such action".to_owned()),
    }
}

/// Only errors whose text cannot carry what was fetched are put into words.
fn explain(error: &Error) -> String {
    match error {
        Error::NoEntry => "missing".to_owned(),
        Error::Ambiguous(_) => "ambiguous".to_owned(),
        Error::NoStorageAccess(cause) => format!("locked: {cause}"),
        // org.freedesktop.Secret.Error.IsLocked, of the Secret Service specification.
        Error::PlatformFailure(cause) if cause.to_string().contains("IsLocked") => format!("locked: {cause}"),
        Error::PlatformFailure(cause) => format!("unavailable: {cause}"),
        _ => "unavailable: the service gave no usable answer".to_owned(),
    }
}
