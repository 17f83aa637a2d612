//! How does a value come into a command's environment? The command asks for it itself, in the moment before its
//! exec: decided and recorded like an open, and in nobody else's memory.

use kin_policy::FileName;

use crate::audit::Op;
use crate::broker::Broker;
use crate::delivery::open::{Caller, Halt, Refusal};
use crate::process::peer::{Peer, peer_gone};
use crate::sys::error::{Class, Error, Result};
use crate::sys::memory::Plaintext;

impl Broker {
    /// The value of a file, for the command of the grant that has it, and for no other process.
    ///
    /// # Errors
    /// `not_the_command`, `not_for_the_environment` and the denial (Denied); `secret_missing`, `audit_failed`.
    pub(crate) fn environment_value(&self, peer: &Peer, file: &FileName) -> Result<Plaintext> {
        let process = peer.held.process();
        let live = self.innermost_of(peer)?.filter(|live| live.command() == Some(process));
        let live = live.ok_or_else(|| {
            let message = "only a grant's command is given values for its environment";
            Error::new(Class::Denied, "not_the_command", message).hint("read them as files")
        })?;
        if live.grant.bindings.get(file).is_some_and(|binding| !binding.may_be_inherited()) {
            let message = format!("{file} is for some programs or levels alone");
            return Err(Error::new(Class::Denied, "not_for_the_environment", message)
                .hint("all that a command starts inherits its environment: read it as a file"));
        }
        let caller = Caller { tid: process.pid.get(), uid: nix::unistd::geteuid().as_raw(), mount: None };
        let delivery = self.deliver(caller, (&live.grant.project, file), None, Op::Env);
        let delivery = delivery.map_err(|halt| refused(file, &halt))?;
        // Its number was this process's all the while, or this is refused.
        peer.check_alive()?;
        let reading = delivery.reading().ok_or_else(peer_gone)?;
        Ok(Plaintext::copy_of(reading.whole()))
    }
}

fn refused(file: &FileName, halt: &Halt) -> Error {
    match halt {
        Halt::Refused(Refusal::Denied(denial)) => {
            let message = format!("the value of {file} is refused: {}", denial.reason());
            Error::new(Class::Denied, "open_denied", message).hint("`kin audit --denied` shows it")
        }
        Halt::Refused(Refusal::Missing) => {
            let message = format!("the vault no longer has what {file} is bound to");
            Error::new(Class::Unsafe, "secret_missing", message).hint("see `kin check`")
        }
        Halt::Refused(Refusal::NotRecorded) => {
            let message = format!("the value of {file} could not be recorded, and so not delivered");
            Error::new(Class::Storage, "audit_failed", message).hint("see `kin status`")
        }
        Halt::Refused(Refusal::Broken | Refusal::TooLarge | Refusal::Full) | Halt::Unhashed(_) => {
            Error::internal("deliver a value to the environment", file)
        }
    }
}
