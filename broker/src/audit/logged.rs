//! Proof that something stands in the record.

use super::change::Span;

/// A `T` that the audit log has: only the log can make one, after the append succeeded.
///
/// A permit alone does not unseal a value; it has to be logged first, and there is no way around:
///
/// ```compile_fail,E0308
/// fn unseal(vault: &kin_broker::vault::Vault, permit: kin_policy::Permit) {
///     let _ = vault.unseal(&permit);
/// }
/// ```
///
/// ```compile_fail,E0451
/// fn forge(permit: kin_policy::Permit, span: kin_broker::audit::Span) -> kin_broker::audit::Logged<kin_policy::Permit> {
///     kin_broker::audit::Logged { of: permit, span }
/// }
/// ```
///
/// Nor is a plan a change: the vault takes it once it is logged, and takes it once.
///
/// ```compile_fail,E0308
/// fn change(vault: &mut kin_broker::vault::Vault, planned: kin_broker::vault::Planned) {
///     let _ = vault.commit(planned);
/// }
/// ```
///
/// ```compile_fail,E0382
/// use kin_broker::{audit::Logged, vault::{Planned, Vault}};
/// fn change(vault: &mut Vault, planned: Logged<Planned>) {
///     let _ = vault.commit(planned);
///     let _ = vault.commit(planned);
/// }
/// ```
#[derive(Debug)]
pub struct Logged<T> {
    of: T,
    span: Span,
}

/// Proof that a change stands in the record, for what goes on after it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receipt(());

impl<T> Logged<T> {
    /// For the log alone, once the record is written.
    pub(in crate::audit) fn new(of: T, seq: u64) -> Self {
        Self::of_several(of, Span { first: seq, last: seq })
    }

    /// As [`Self::new`], of what has several records.
    pub(in crate::audit) fn of_several(of: T, span: Span) -> Self {
        Self { of, span }
    }

    /// For the tests of what takes something logged.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn for_test(of: T) -> Self {
        Self { of, span: Span { first: 0, last: 0 } }
    }

    /// What was logged.
    pub fn get(&self) -> &T {
        &self.of
    }

    /// For who makes the change: it cannot be made again.
    pub(crate) fn into_inner(self) -> T {
        self.of
    }

    /// Its sequence number in the record; the last, where it has several.
    pub fn seq(&self) -> u64 {
        self.span.last
    }

    /// The numbers of its records.
    pub fn span(&self) -> Span {
        self.span
    }

    /// Proof of this record, without what was logged.
    pub(crate) fn receipt(&self) -> Receipt {
        Receipt(())
    }
}
