//! Ending grants.

use kin_policy::{Ending, GrantId};

use crate::broker::Broker;
use crate::sys::error::{Class, Error, Result};

impl Broker {
    /// Ends the grant whose id begins so, or all: their ids.
    ///
    /// # Errors
    /// `unknown_grant`, `ambiguous_grant`.
    pub(crate) fn revoke(&self, which: Option<&str>) -> Result<Vec<GrantId>> {
        let Some(prefix) = which else { return Ok(self.withdraw_all(Ending::Revoked)) };
        let live: Vec<_> = self.grants.all().into_iter().filter(|live| live.ended().is_none()).collect();
        let mut matching = live.iter().filter(|live| live.grant.id.to_string().starts_with(prefix));
        match (matching.next(), matching.next()) {
            (Some(live), None) => {
                self.withdraw(live, Ending::Revoked);
                Ok(vec![live.grant.id])
            }
            (Some(_), Some(_)) => Err(Error::new(
                Class::Usage,
                "ambiguous_grant",
                format!("more than one grant begins with {prefix}"),
            )),
            (None, _) => {
                Err(Error::new(Class::Usage, "unknown_grant", format!("no live grant begins with {prefix}"))
                    .hint("`kin status` lists them"))
            }
        }
    }
}
