//! Proof that something stands in the record.

/// A `T` that the audit log has: only the log can make one, after the append succeeded.
///
/// A permit alone does not unseal a value; it has to be logged first, and there is no way around:
///
/// ```compile_fail
/// fn unseal(vault: &kin_broker::vault::Vault, permit: kin_policy::Permit) {
///     let _ = vault.unseal(&permit);
/// }
/// ```
///
/// ```compile_fail
/// fn forge(permit: kin_policy::Permit) -> kin_broker::audit::Logged<kin_policy::Permit> {
///     kin_broker::audit::Logged { of: permit, seq: 1 }
/// }
/// ```
#[derive(Debug)]
pub struct Logged<T> {
    of: T,
    seq: u64,
}

impl<T> Logged<T> {
    /// For the log alone, once the record is written.
    pub(in crate::audit) fn new(of: T, seq: u64) -> Self {
        Self { of, seq }
    }

    /// For the tests of what takes a logged permit.
    #[cfg(test)]
    pub(crate) fn for_test(of: T) -> Self {
        Self { of, seq: 0 }
    }

    /// What was logged.
    pub fn get(&self) -> &T {
        &self.of
    }

    /// Its sequence number in the record.
    pub fn seq(&self) -> u64 {
        self.seq
    }
}
