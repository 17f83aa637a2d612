//! When is a redactor handed a value? When its grant is made, and again before a new version can be read: decided,
//! recorded, unsealed, in this order.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use kin_policy::{Binding, Decision, Ending, FileName, decide_redaction};
use nix::sys::stat::{SFlag, fstat};

use crate::audit::Event;
use crate::broker::Broker;
use crate::children::zygote::Task;
use crate::grants::live::LiveGrant;
use crate::grants::messages::NotMasked;
use crate::grants::redactor::Channel;
use crate::sys::clock;
use crate::sys::error::{Class, Error, Result};
use crate::vault::Vault;

/// How long a redactor may take: to make what it looks for of all values, and to take in a new one.
const START: Duration = Duration::from_secs(10);
const CHANGE: Duration = Duration::from_secs(2);

impl Broker {
    /// Gives the grant a redactor that has its values; tells which of them it does not mask.
    ///
    /// # Errors
    /// Those of the record and the vault; `memory_not_locked` where it must be; `timeout`.
    pub(crate) fn prepare_redaction(&self, live: &Arc<LiveGrant>, vault: &Vault) -> Result<Vec<NotMasked>> {
        let channel = Channel::new(self.zygote()?.fork(Task::Redact)?);
        for (file, binding) in live.grant.every_binding() {
            self.hand(live, &channel, vault, (file, binding), START)?;
        }
        let armed = channel.arm(START)?;
        if self.autolock.requires_locked_memory() && !armed.locked {
            let message = "the memory of a redactor cannot be locked, and `require_mlock` is set";
            return Err(Error::new(Class::Unsafe, "memory_not_locked", message)
                .hint("run without --redact, or with RLIMIT_MEMLOCK unlimited"));
        }
        live.redact_by(channel);
        Ok(armed.unmasked)
    }

    /// Connects the grant's redactor with its front. Anything but a socket is closed.
    ///
    /// # Errors
    /// `bad_request`; `internal` where the redactor is gone.
    pub(crate) fn link_redactor(&self, live: &LiveGrant, end: Option<OwnedFd>) -> Result<()> {
        let bad = |why: &str| Error::new(Class::Usage, "bad_request", why);
        let end = end.filter(is_socket).ok_or_else(|| bad("no socket came with the request"))?;
        live.redactor().ok_or_else(|| bad("this grant has no redactor"))?.link(end.as_fd())
    }

    /// Hands every redactor what is new in a vault that nobody reads from yet. Whose redactor does not take it in
    /// loses its grant: it must not be delivered what its output would show. One that is gone shows nothing.
    pub(crate) fn hand_ahead(&self, vault: &Vault) {
        for live in self.grants.all() {
            let Some(channel) = live.redactor().filter(|_| live.ended().is_none()) else { continue };
            let bindings = live.grant.every_binding();
            let handed = bindings.map(|binding| self.hand(&live, channel, vault, binding, CHANGE));
            let handed = handed.collect::<Result<Vec<bool>>>();
            let armed = handed
                .and_then(|new| if new.contains(&true) { channel.arm(CHANGE).map(drop) } else { Ok(()) });
            if armed.is_err_and(|error| error.class != Class::Internal) {
                self.withdraw(&live, Ending::RedactorFailed);
            }
        }
    }

    /// Whether there was something new to hand over.
    fn hand(
        &self,
        live: &LiveGrant,
        channel: &Channel,
        vault: &Vault,
        (file, binding): (&FileName, &Binding),
        within: Duration,
    ) -> Result<bool> {
        if binding.plain {
            return Ok(false);
        }
        let reference = &binding.reference;
        let Some(version) =
            vault.version(reference).filter(|version| !channel.has(file, reference, *version))
        else {
            return Ok(false);
        };
        let decided = || {
            let around = live.around(None);
            decide_redaction(&live.standing(None, &around), file, clock::now())
        };
        let permit = match decided() {
            Decision::Permit(permit) => permit,
            // What nobody is delivered need not be masked.
            Decision::Deny(_) => return Ok(false),
        };
        let (grant, project) = (live.grant.id, &live.grant.project);
        let event = Event::Redact { grant, project, file, reference, version };
        let still_valid = || match decided() {
            Decision::Permit(_) => Ok(()),
            Decision::Deny(denial) => Err(denial),
        };
        let logged = self.audit.append_permit(permit, &event, still_valid, || ()).map_err(Error::from)?;
        channel.hand((file, reference, version), &vault.unseal(&logged)?, within).map(|()| true)
    }
}

fn is_socket(end: &OwnedFd) -> bool {
    fstat(end.as_fd()).is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode).contains(SFlag::S_IFSOCK))
}
