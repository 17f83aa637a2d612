//! Does the kernel still know the identity that this login session was unlocked with? keyrings(7).
//!
//! The key lies in the session keyring: it is in no file, it ends with the session, after its time, and with every
//! lock. Any program of the session can ask for it, as it can ask the Secret Service.

use std::time::Duration;

use linux_keyutils::{Key, KeyError, KeyPermissionsBuilder, KeyRing, KeyRingIdentifier, Permission};

use super::Identity;
use crate::Plaintext;
use crate::sys::error::{Class, Error, Result};

/// Bytes of an identity's text, at most.
const LIMIT: usize = 256;

/// What the key of a vault is called.
fn description(recipient: &str) -> String {
    format!("kin:{recipient}")
}

/// The keyring of this process's session; where nothing began one (pam_keyinit(8)), that of its user. To ask for one
/// to be made would make one of this process's own (keyctl_get_keyring_ID(3)).
fn session() -> Result<KeyRing, KeyError> {
    KeyRing::from_special_id(KeyRingIdentifier::Session, false)
}

fn find(recipient: &str) -> Result<Key, KeyError> {
    session()?.search(&description(recipient))
}

/// Remembers the identity, for as long as the session and at most so long.
///
/// # Errors
/// `kernel_keyring_unavailable` (Locked).
pub fn remember(identity: &Identity, at_most: Option<Duration>) -> Result<()> {
    let refused = |error: KeyError| {
        let message = format!("the kernel's session keyring does not take the identity: {error}");
        Error::new(Class::Locked, "kernel_keyring_unavailable", message)
            .hint("unlock without --session-keyring, and without `remember` in config.toml")
    };
    let ring = session().map_err(refused)?;
    let key = ring.add_key(&description(identity.recipient()), identity.text().bytes()).map_err(refused)?;
    let limit = || {
        // Who has the keyring has the key, and nobody else, whatever its uid.
        key.set_perms(KeyPermissionsBuilder::builder().posessor(Permission::ALL).build())?;
        let seconds = at_most.map(|time| usize::try_from(time.as_secs().max(1)).unwrap_or(usize::MAX));
        seconds.map_or(Ok(()), |seconds| key.set_timeout(seconds))
    };
    limit().map_err(|error| {
        let _ = key.invalidate();
        refused(error)
    })
}

/// The identity of `recipient`, where the session has it.
pub fn recall(recipient: &str) -> Option<Identity> {
    let key = find(recipient).ok()?;
    let mut text = Plaintext::zeroed(LIMIT);
    let length = key.read(&mut text.bytes_mut()).ok().filter(|length| *length <= LIMIT)?;
    text.truncate(length);
    Identity::parse(text.bytes()).filter(|identity| identity.recipient() == recipient)
}

/// The session forgets it, at once (keyctl_invalidate(3)).
pub fn forget(recipient: &str) {
    if let Ok(key) = find(recipient) {
        let _ = key.invalidate();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_remembers_until_it_is_told_to_forget_or_the_time_is_over() {
        let identity = Identity::generate();
        let recipient = identity.recipient();
        assert!(recall(recipient).is_none());
        remember(&identity, None).unwrap();
        assert_eq!(recall(recipient).unwrap().text().bytes(), identity.text().bytes());
        assert!(recall(Identity::generate().recipient()).is_none());
        forget(recipient);
        assert!(recall(recipient).is_none());
        remember(&identity, Some(Duration::from_secs(1))).unwrap();
        assert!(recall(recipient).is_some());
        std::thread::sleep(Duration::from_millis(1100));
        assert!(recall(recipient).is_none());
    }

    #[test]
    fn g09_a_planted_key_of_the_session_is_not_taken() {
        let (ours, other) = (Identity::generate(), Identity::generate());
        let ring = session().unwrap();
        for planted in [other.text().bytes(), b"garbage", &[b'x'; 4096]] {
            ring.add_key(&description(ours.recipient()), planted).unwrap();
            assert!(recall(ours.recipient()).is_none());
        }
        forget(ours.recipient());
    }
}
