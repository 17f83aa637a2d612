//! How does a vault of ten thousand secrets unlock, beside the derivation of its key, and how long is one change?

use std::time::Instant;

use kin_broker::audit::{AuditLog, Change, Logged};
use kin_broker::control::protocol::KeyMethod;
use kin_broker::vault::{Facts, Making, Place, Vault};
use kin_broker::{Error, Plaintext, keys};
use kin_policy::Reference;

use crate::Result;
use crate::floor::SIZE;
use crate::statistics::nanoseconds;
use crate::world::{directories, temporary};

/// Secrets in it.
const SECRETS: u32 = 10_000;
/// Times that each is done: the best is taken, as what else the machine does only adds.
const ROUNDS: i64 = 9;

/// What was measured, in nanoseconds.
#[derive(Default)]
pub(crate) struct Scale {
    /// From a passphrase to its identity.
    pub(crate) derive_ns: u64,
    /// From there to an unlocked vault.
    pub(crate) open_ns: u64,
    /// One new version of one secret, on the disk.
    pub(crate) set_ns: u64,
    /// Bytes of the vault's file.
    pub(crate) bytes: u64,
}

impl Scale {
    /// Unlocking may take so much longer than the derivation.
    pub(crate) const UNLOCK_LIMIT_MS: f64 = 100.0;
    /// A change may take so long.
    pub(crate) const SET_LIMIT_MS: f64 = 20.0;
}

fn logged<C: Change>(log: &AuditLog, change: C) -> Result<Logged<C>> {
    log.append_change(change, None).map_err(|unlogged| unlogged.why.to_string())
}

/// Makes a vault, and unlocks and changes it.
pub(crate) fn measure() -> Result<Scale> {
    let fault = |error: Error| error.to_string();
    let home = temporary("kv")?;
    let directories = directories(home.path())?;
    let passphrase = Plaintext::copy_of(b"correct horse battery staple");
    let identity =
        keys::create(&directories, &KeyMethod::Passphrase, Some(&passphrase), None).map_err(fault)?;
    let (place, value) = (Place::of(&directories), Plaintext::copy_of(&[b'x'; SIZE]));
    let names = (0..SECRETS).map(|n| Reference::new(format!("project/secret_{n}")));
    let names: Vec<_> = names.map(|name| name.map_err(|error| error.to_string())).collect::<Result<_>>()?;
    let all = names.iter().map(|name| (name.clone(), &value, Facts::default()));
    let log = AuditLog::open(&directories.state).map_err(fault)?;
    let mut vault = Vault::create(logged(&log, Making::at(&place))?, &identity).map_err(fault)?;
    let planned = vault.plan_set_all(all, 1, None).map_err(fault)?;
    vault.commit(logged(&log, planned)?).map_err(fault)?;
    let bytes =
        std::fs::metadata(directories.vault_file()).map_err(|error| format!("the vault: {error}"))?.len();
    let mut scale = Scale { derive_ns: u64::MAX, open_ns: u64::MAX, set_ns: u64::MAX, bytes };
    for round in 0..ROUNDS {
        let started = Instant::now();
        let identity = keys::load(&directories, Some(&passphrase), None).map_err(fault)?;
        let derived = nanoseconds(started.elapsed());
        drop(Vault::open(&place, &identity).map_err(fault)?);
        let unlocked = nanoseconds(started.elapsed());
        let started = Instant::now();
        let planned = vault.plan_set(&names[7], &value, Facts::default(), 2 + round).map_err(fault)?;
        vault.commit(logged(&log, planned)?).map_err(fault)?;
        scale.set_ns = scale.set_ns.min(nanoseconds(started.elapsed()));
        scale.derive_ns = scale.derive_ns.min(derived);
        scale.open_ns = scale.open_ns.min(unlocked - derived);
    }
    Ok(scale)
}
