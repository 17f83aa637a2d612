//! Changes as if they were on the record: for the tests of what a vault is, which have no log.

use super::*;
use crate::vault::info::RecipientInfo;

impl Vault {
    pub(crate) fn made(place: &Place, identity: &Identity) -> Result<Self> {
        Self::create(Logged::for_test(Making::at(place)), identity)
    }

    pub(crate) fn set(
        &mut self,
        reference: &Reference,
        value: &Plaintext,
        facts: Facts,
        created: i64,
    ) -> Result<SecretInfo> {
        let planned = self.plan_set(reference, value, facts, created)?;
        self.commit(Logged::for_test(planned))?;
        self.info(reference).ok_or_else(|| missing(reference))
    }

    pub(crate) fn set_all<'v>(
        &mut self,
        new: impl IntoIterator<Item = (Reference, &'v Plaintext, Facts)>,
        created: i64,
    ) -> Result<()> {
        let planned = self.plan_set_all(new, created, None)?;
        self.commit(Logged::for_test(planned))
    }

    pub(crate) fn bring_back(
        &mut self,
        reference: &Reference,
        version: u64,
        facts: Facts,
        created: i64,
    ) -> Result<SecretInfo> {
        let planned = self.plan_bring_back(reference, version, facts, created)?;
        self.commit(Logged::for_test(planned))?;
        self.info(reference).ok_or_else(|| missing(reference))
    }

    pub(crate) fn remove(&mut self, reference: &Reference) -> Result<SecretInfo> {
        let (planned, info) = self.plan_remove(reference)?;
        self.commit(Logged::for_test(planned)).map(|()| info)
    }

    pub(crate) fn restore(&mut self) -> Result<()> {
        self.commit(Logged::for_test(self.plan_restore(Path::new("/backup"))))
    }

    pub(crate) fn accept_old(place: &Place, identity: &Identity) -> Result<Self> {
        let mut vault = Self::open_old(place, identity)?;
        vault.commit(Logged::for_test(vault.plan_accept("old")))?;
        Ok(vault)
    }

    pub(crate) fn add_recipient(
        &mut self,
        owner: &Identity,
        recipient: &str,
        now: i64,
        paper: bool,
    ) -> Result<RecipientInfo> {
        let (planned, info) = self.plan_add_recipient(owner, recipient, now, paper)?;
        self.commit(Logged::for_test(planned)).map(|()| info)
    }

    pub(crate) fn remove_recipient(&mut self, beginning: &str) -> Result<RecipientInfo> {
        let (planned, info) = self.plan_remove_recipient(beginning)?;
        self.commit(Logged::for_test(planned)).map(|()| info)
    }

    /// As a kin wrote it that remembered no trust store.
    #[cfg(test)]
    pub(crate) fn forget_store_mark(&mut self) {
        let mut next = Content::clone(&self.content);
        next.trust = None;
        self.write_next(next).unwrap();
    }
}
