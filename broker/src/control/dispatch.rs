//! What does the broker answer, and to whom? Inside a grant's tree less is allowed than outside.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::admin::unlock::Asker;
use crate::audit::Event;
use crate::audit::behalf::Behalf;
use crate::broker::Broker;
use crate::control::protocol::{Hello, Question, Remembered, Request, Withdrawn};
use crate::control::verbs::{self, Asked, Inside};
use crate::control::{Document, Enclosed, Reply, document};
use crate::process::Known;
use crate::process::peer::Peer;
use crate::project::manifest::Manifest;
use crate::sys::error::{Class, Error, Result};
use crate::sys::memory::Plaintext;

impl Broker {
    /// Answers one question of `peer`.
    ///
    /// # Errors
    /// Its refusal, which the caller sends instead.
    pub(crate) fn answer(&self, peer: &Peer, request: Request, with: Enclosed<'_>) -> Result<Reply> {
        let Request { question, session_bus, .. } = request;
        let verb = verbs::of(&question);
        let _behalf = (verb.asker == Asked::Recorded).then(|| Behalf::of(self.known(peer)));
        if verb.inside == Inside::Refused {
            self.outside_every_tree(peer, verb.name)?;
        }
        self.answer_anybody(question, session_bus.as_deref(), with, peer)
    }

    /// Answers what is asked of the vault and of what people agreed to; the rest is for a keeper to ask.
    fn answer_anybody(
        &self,
        question: Question,
        bus: Option<&str>,
        Enclosed { value, device, staged }: Enclosed<'_>,
        peer: &Peer,
    ) -> Result<Reply> {
        let secret = value.as_ref();
        match question {
            Question::Hello => plain(&Hello { pid: std::process::id(), version: version() }),
            Question::Init { method } => plain(&self.init(&method, secret, bus)?),
            Question::Unlock(how) => plain(&self.unlock_as(how, secret, bus)?),
            Question::Lock => plain(&Withdrawn { grants: self.lock() }),
            Question::Set(new) => plain(&self.set(new, value, bus)?),
            Question::List => self.list(bus),
            Question::Show { reference } => plain(&self.show_secret(&reference, bus)?),
            Question::Reveal { reference, version, confirmed } => {
                with_value(self.reveal(&reference, version, confirmed, bus)?)
            }
            Question::History { reference } => plain(&self.history(&reference, bus)?),
            Question::Remove { reference } => plain(&self.remove_secret(&reference, bus)?),
            Question::Backup { path } => plain(&self.backup(&path, bus)?),
            Question::Restore { path, confirmed, identity } => {
                plain(&self.restore(&path, confirmed, (identity, secret), bus)?)
            }
            Question::Stage { entries } => plain(&self.stage(staged, entries, value)?),
            Question::StageExport(asked) => plain(&self.stage_export(staged, &asked, secret, bus)?),
            Question::Import(asked) => plain(&self.import(staged, &asked, bus)?),
            Question::Select { references } => plain(&self.select(staged, references, bus)?),
            Question::Export(asked) => plain(&self.export(&asked.with(staged.selected()), secret, bus)?),
            Question::Link(asked) => plain(&self.link(&asked, bus)?),
            Question::Unlink(asked) => plain(&self.unlink(&asked, bus)?),
            Question::Rekey { method } => plain(&self.rekey(method, secret, bus)?),
            Question::RecoveryNew { confirmed } => with_value(self.recovery_new(confirmed, bus)?),
            Question::RecoveryAdd { recipient, confirmed } => {
                plain(&self.recovery_add(&recipient, confirmed, bus)?)
            }
            Question::RecoveryList => plain(&self.unlock(Asker::Anybody, None, bus)?.vault.recipients()),
            Question::RecoveryRemove { recipient } => plain(&self.recovery_remove(&recipient, bus)?),
            Question::Recover(asked) => plain(&self.recover(&asked, secret, bus)?),
            Question::Inspect { directory } => plain(&self.look_into(&Manifest::read(&directory)?, bus)),
            Question::Trust { directory, hash, confirmed } => {
                plain(&self.trust(&Manifest::read(&directory)?, &hash, confirmed, bus)?)
            }
            Question::Untrust { directory } => plain(&self.untrust(&directory, bus)?),
            Question::Status => plain(&self.status()),
            Question::Revoke { grant } => plain(&Withdrawn { grants: self.revoke(grant.as_deref())? }),
            Question::FlushAudit => plain(&self.flush_audit()?),
            Question::Stop => plain(&stop()),
            keepers @ (Question::Grant(_)
            | Question::TellVersions
            | Question::EnvironmentValue { .. }
            | Question::ServeMount { .. }
            | Question::ServeOutput
            | Question::CommandStarted { .. }
            | Question::Finish { .. }) => self.answer_a_keeper(keepers, peer, device),
        }
    }

    /// Answers what a keeper, or its command before it is executed, says and asks.
    fn answer_a_keeper(&self, question: Question, peer: &Peer, device: Option<OwnedFd>) -> Result<Reply> {
        match question {
            Question::EnvironmentValue { file } => with_value(((), self.environment_value(peer, &file)?)),
            Question::ServeMount { pid, owner } => {
                plain(&self.serve_private(&self.kept_by(peer)?, pid, owner)?)
            }
            Question::ServeOutput => plain(&self.link_redactor(&*self.kept_by(peer)?, device)?),
            Question::CommandStarted { pid } => plain(&self.command_started(&*self.kept_by(peer)?, pid)?),
            Question::Finish { ending } => plain(&self.finish(&*self.kept_by(peer)?, ending)?),
            // A grant and the telling of versions take the connection itself.
            other => Err(Error::internal("answer", verbs::of(&other).name)),
        }
    }

    /// Every secret's metadata, a page at a time.
    fn list(&self, bus: Option<&str>) -> Result<Reply> {
        self.unlock(Asker::Anybody, None, bus)?;
        Ok((Document::Pages(Self::secrets_after), None))
    }

    /// Writes what the record still holds back, and anchors it.
    fn flush_audit(&self) -> Result<Option<Remembered>> {
        self.audit.flush(true);
        // Without an anchor of now a reader compares with one of a second ago.
        let _ = self.audit.tend(false);
        let known = self.audit.remembered()?;
        Ok(known.map(|known| Remembered { root: known.root, seq: known.head.seq, mac: known.head.mac }))
    }

    /// Refuses to answer a process that is gone, and one in another pid namespace than the broker's, and records
    /// that it tried. There, its ancestors prove nothing: it may be a member of a tree that was adopted outside of
    /// it ([`crate::identity`]).
    ///
    /// # Errors
    /// `peer_gone`; `other_pid_namespace`.
    pub(crate) fn admit(&self, peer: &Peer, question: &Question) -> Result<()> {
        peer.check_alive()?;
        if self.identifier.shares_pid_namespace(&peer.held) {
            return Ok(());
        }
        peer.check_alive()?;
        let (reason, peer) = ("other_pid_namespace", Some(peer.held.process().pid));
        self.record_or_owe(&Event::SockDeny { verb: &question.verb(), reason, peer, asker: None });
        let message =
            "nobody can tell whose process this is: it lives in another pid namespace than the broker";
        Err(Error::new(Class::Denied, reason, message)
            .hint("a container or a sandbox has one of its own: run kin outside of it"))
    }

    /// Refuses what a member of a grant's tree may not do, and records that it tried.
    fn outside_every_tree(&self, peer: &Peer, verb: &'static str) -> Result<()> {
        if self.innermost_of(peer)?.is_none() {
            return Ok(());
        }
        let asked = peer.held.process().pid;
        let reason = "inside_a_tree";
        self.record_or_owe(&Event::SockDeny { verb, reason, peer: Some(asked), asker: None });
        let message = format!("`kin {verb}` is refused inside a grant's tree");
        Err(Error::new(Class::Denied, "inside_a_tree", message).hint("run it in a terminal of your own"))
    }

    /// What is known of the process at the other end, where it still is the one that connected.
    fn known(&self, peer: &Peer) -> Option<Arc<Known>> {
        let known = self.identifier.identify(peer.held.process().pid.get(), &self.grants).ok()?;
        known.identity().is_same(&peer.held.identity()).then_some(known)
    }
}

fn plain(answer: &impl serde::Serialize) -> Result<Reply> {
    Ok((document(answer)?, None))
}

fn with_value((answer, value): (impl serde::Serialize, Plaintext)) -> Result<Reply> {
    Ok((document(&answer)?, Some(value)))
}

/// The broker's main thread waits for just this signal, whoever sends it.
fn stop() {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGTERM);
}

fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}
