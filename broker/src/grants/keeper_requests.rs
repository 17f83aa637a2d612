//! What does a keeper say of its command and its tree, and what follows from it?

use std::sync::Arc;

use kin_policy::{Ending, Pid};

use crate::audit::Event;
use crate::broker::Broker;
use crate::grants::live::{Command, LiveGrant};
use crate::process::Held;
use crate::process::peer::{Peer, peer_gone};
use crate::sys::clock;
use crate::sys::error::{Class, Error, Result};

impl Broker {
    /// The grant that the peer is the keeper of.
    ///
    /// # Errors
    /// `bad_request` for everybody else.
    pub(crate) fn kept_by(&self, peer: &Peer) -> Result<Arc<LiveGrant>> {
        let live = self.grants.at(peer.held.process());
        live.ok_or_else(|| Error::new(Class::Usage, "bad_request", "only the keeper of a grant says that"))
    }

    /// The keeper has forked its command: from now on readers are to be in that one's namespaces. Where it had
    /// one before, the record says that there is another; windows begin anew with it.
    ///
    /// # Errors
    /// `peer_gone` where the process is no child of the keeper's; `other_pid_namespace`; `grant_ended`.
    pub(crate) fn command_started(&self, live: &LiveGrant, pid: u32) -> Result<()> {
        let command = self.child_of_keeper(live, pid).ok_or_else(peer_gone)?;
        // Its place is that of its readers, and in another pid namespace descent proves nothing.
        if !self.identifier.shares_pid_namespace(&command) {
            let message = "the command is in another pid namespace than the broker";
            return Err(Error::new(Class::Denied, "other_pid_namespace", message)
                .hint("start the namespace inside the run, not around its command"));
        }
        let namespaces = self.identifier.namespaces_of(&command);
        if live.command().is_some() {
            if !live.is_live(clock::now()) {
                return Err(Error::new(Class::Denied, "grant_ended", "the grant of this command has ended"));
            }
            let (grant, project) = (live.grant.id, &live.grant.project);
            self.record(&Event::GrantRestart { grant, project, command: command.process() })?;
        }
        let filters = self.filters_on(live, &command);
        let (process, started) = (command.process(), clock::now());
        live.command_started(Command { process, started, namespaces, filters });
        Ok(())
    }

    /// The keeper says that its grant is to end, as only these ways it may.
    ///
    /// # Errors
    /// `bad_request` for any other.
    pub(crate) fn finish(&self, live: &LiveGrant, ending: Ending) -> Result<()> {
        match ending {
            Ending::CommandExit | Ending::OwnerKilled => {}
            // A command that never ran leaves no descendants.
            Ending::TreeExit | Ending::CalledOff | Ending::NotStarted => live.tree_emptied(),
            _ => {
                return Err(Error::new(
                    Class::Usage,
                    "bad_request",
                    "a keeper ends its grant for no such reason",
                ));
            }
        }
        self.withdraw(live, ending);
        self.placeholders.release(live.grant.id);
        Ok(())
    }

    /// How many filters the command of a grant with pins has, where they are more than its keeper's own. What they
    /// say the kernel tells nobody without CAP_SYS_ADMIN (PTRACE_SECCOMP_GET_FILTER, ptrace(2)): a keeper of
    /// somebody's own can lay another. A grant without pins asks nothing.
    fn filters_on(&self, live: &LiveGrant, command: &Held) -> Option<u32> {
        if !live.grant.is_pinned() {
            return None;
        }
        let keepers = self.identifier.filters_of(live.keeper())?;
        self.identifier.filters_of(command).filter(|own| *own > keepers)
    }

    /// The process of this number, where it is the keeper's own child: a keeper names nobody else's.
    pub(crate) fn child_of_keeper(&self, live: &LiveGrant, pid: u32) -> Option<Held> {
        let held = self.identifier.hold(Pid::new(pid)?, None).ok()?;
        let parent = self.identifier.parent_of(&held)?;
        (parent == live.grant.root.pid && live.keeper().is_alive()).then_some(held)
    }
}
