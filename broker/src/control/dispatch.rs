//! What does the broker answer, and to whom? Inside a grant's tree less is allowed than outside.

use std::path::Path;
use std::sync::Arc;

use kin_policy::{Ending, ExePin, FileName, Permit, Reference, decide_reveal};

use crate::admin::requests::confirmation;
use crate::admin::unlock::{Asker, Custody, locked};
use crate::audit::behalf::{Behalf, with_asker};
use crate::audit::version_event;
use crate::audit::{Event, Logged, PolicyChange, VaultChange};
use crate::broker::Broker;
use crate::control::protocol::{
    AuditStatus, BindingInfo, BrokerStatus, GrantStatus, Hello, ManifestInfo, MountStatus, NewVersion,
    PinInfo, Question, Remembered, RenderedInfo, Request, SecretInfo, Status, TreeProcess, TrustState,
    VaultStatus, Withdrawn,
};
use crate::control::{Document, Enclosed, Reply, document};
use crate::grants::book::LiveGrant;
use crate::grants::start;
use crate::keys;
use crate::process::executables;
use crate::process::peer::Peer;
use crate::process::{Known, covered_in_proc, tree_of};
use crate::project::manifest::{FileRecipe, Manifest};
use crate::project::trust_store;
use crate::project::trust_store::TrustStore;
use crate::sys::clock;
use crate::sys::error::{Class, Error, Result};
use crate::sys::memory::{self, Plaintext};
use crate::vault::generate;
use crate::vault::{self, Facts};

impl Broker {
    /// Answers one question of `peer`.
    ///
    /// # Errors
    /// Its refusal, which the caller sends instead.
    pub(crate) fn answer(&self, peer: &Peer, request: Request, with: Enclosed<'_>) -> Result<Reply> {
        let Request { question, session_bus, .. } = request;
        let Enclosed { value, device, staged } = with;
        let bus = session_bus.as_deref();
        let _behalf = is_a_persons(&question).then(|| Behalf::of(self.known(peer)));
        if let Some(verb) = forbidden_inside(&question) {
            self.outside_every_tree(peer, verb)?;
        }
        match question {
            Question::Hello => plain(&Hello { pid: std::process::id(), version: version() }),
            Question::Init { method } => plain(&self.init(&method, value.as_ref(), bus)?),
            Question::Unlock(how) => plain(&match how.accept_rollback {
                false => self.unlock_by(Asker::Unlock, how, value.as_ref(), bus).map(drop)?,
                true => self.accept_rollback(how, value.as_ref(), bus).map(drop)?,
            }),
            Question::Lock => plain(&Withdrawn { grants: self.lock() }),
            Question::Set(new) => plain(&self.set(new, value, bus)?),
            Question::List => {
                self.unlock(Asker::Anybody, None, bus)?;
                Ok((Document::Pages(Self::secrets_after), None))
            }
            Question::Show { reference } => {
                self.unlock(Asker::Anybody, None, bus)?;
                plain(&self.info(&reference)?)
            }
            Question::Reveal { reference, version, confirmed } => {
                self.reveal(&reference, version, confirmed, bus)
            }
            Question::History { reference } => {
                let opened = self.unlock(Asker::Anybody, None, bus)?;
                self.info(&reference)?;
                plain(&opened.vault.history(&reference, clock::unix_seconds())?)
            }
            Question::Remove { reference } => plain(&self.remove_secret(&reference, bus)?),
            Question::Backup { path } => plain(&self.backup(&path, bus)?),
            Question::Restore { path, confirmed, identity } => {
                plain(&self.restore(&path, confirmed, (identity, value.as_ref()), bus)?)
            }
            Question::Stage { entries } => plain(&self.stage(staged, entries, value)?),
            Question::StageExport(request) => {
                plain(&self.stage_export(staged, &request, value.as_ref(), bus)?)
            }
            Question::Import(request) => plain(&self.import(staged, &request, bus)?),
            Question::Select { references } => plain(&self.select(staged, references, bus)?),
            Question::Export(mut request) => {
                request.references.splice(..0, staged.selected());
                plain(&self.export(&request, value.as_ref(), bus)?)
            }
            Question::Link(request) => plain(&self.link(&request, bus)?),
            Question::Unlink(request) => plain(&self.unlink(&request, bus)?),
            Question::Rekey { method } => plain(&self.rekey(method, value.as_ref(), bus)?),
            Question::RecoveryNew { confirmed: false } | Question::RecoveryAdd { confirmed: false, .. } => {
                Err(confirmation("recovery"))
            }
            Question::RecoveryNew { confirmed: true } => {
                let (info, key) = self.recovery_new(bus)?;
                Ok((document(&info)?, Some(key)))
            }
            Question::RecoveryAdd { recipient, .. } => plain(&self.recovery_add(&recipient, bus)?),
            Question::RecoveryList => plain(&self.unlock(Asker::Anybody, None, bus)?.vault.recipients()),
            Question::RecoveryRemove { recipient } => plain(&self.recovery_remove(&recipient, bus)?),
            Question::Recover(asked) => plain(&self.recover(&asked, value.as_ref(), bus)?),
            Question::Inspect { directory } => {
                // Without the key nothing can be said about trust, but the manifest can still be shown.
                let _ = self.unlock(Asker::Anybody, None, bus);
                plain(&self.inspect(&Manifest::read(&directory)?))
            }
            Question::Trust { directory, hash, confirmed } => {
                plain(&self.trust(&Manifest::read(&directory)?, &hash, confirmed, bus)?)
            }
            Question::Untrust { directory } => plain(&self.untrust(&directory, bus)?),
            Question::Status => plain(&self.status()),
            Question::Revoke { grant } => plain(&Withdrawn { grants: self.revoke(grant.as_deref())? }),
            Question::FlushAudit => {
                self.audit.flush(true);
                // Without an anchor of now a reader compares with one of a second ago.
                let _ = self.audit.tend(false);
                let known = self.audit.remembered()?;
                plain(&known.map(|known| Remembered {
                    root: known.root,
                    seq: known.head.seq,
                    mac: known.head.mac,
                }))
            }
            Question::Stop => {
                // The broker's main thread waits for just this signal, whoever sends it.
                let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGTERM);
                plain(&())
            }
            Question::EnvironmentValue { file } => {
                Ok((document(&())?, Some(self.environment_value(peer, &file)?)))
            }
            Question::Grant(_) | Question::TellVersions => {
                Err(Error::internal("answer the keeper", "it takes the connection itself"))
            }
            Question::ServeMount { pid, owner } => {
                plain(&self.serve_private(&self.kept_by(peer)?, pid, owner)?)
            }
            Question::ServeOutput => plain(&self.link_redactor(&*self.kept_by(peer)?, device)?),
            Question::CommandStarted { pid } => plain(&self.command_started(&*self.kept_by(peer)?, pid)?),
            Question::Finish { ending } => plain(&self.finish(&*self.kept_by(peer)?, ending)?),
        }
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

    /// Writes down that a person is given a value; the record says who asked.
    ///
    /// # Errors
    /// Those of the record.
    pub(crate) fn log_for_a_person(&self, permit: Permit, event: &Event<'_>) -> Result<Logged<Permit>> {
        with_asker(|asker| self.audit.append_permit(permit, &event.asked_by(asker), || Ok(()), || ()))
            .map_err(Error::from)
    }

    fn set(&self, new: NewVersion, value: Option<Plaintext>, bus: Option<&str>) -> Result<SecretInfo> {
        let bad = |why: &str| Error::new(Class::Usage, "bad_request", why.to_owned());
        let NewVersion { reference, mut generate, note, expires_s, from_version, attributes, rotate } = new;
        let now = clock::unix_seconds();
        let asked = expires_s.map(|seconds| now.saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX)));
        let mut facts = Facts { note, due: asked, generated: None, grant: None, attributes };
        if rotate {
            self.unlock(Asker::Person, None, bus)?;
            let mut old = self.info(&reference)?;
            let made = old.generated.take().filter(|_| value.is_none() && from_version.is_none());
            generate = generate.or(made);
            let kept = Facts::kept(old, now);
            facts.note = facts.note.or(kept.note);
            facts.attributes = kept.attributes.into_iter().chain(facts.attributes).collect();
            facts.due = facts.due.or(kept.due);
        }
        if let Some(version) = from_version {
            if generate.is_some() || value.is_some() || !rotate {
                return Err(bad("an old version is another source than a value"));
            }
            return self.bring_back(&reference, version, facts);
        }
        let value = match (&generate, value) {
            (Some(spec), None) => generate::generate(spec)?,
            (None, Some(value)) => value,
            _ => return Err(bad("either a value or a way to make one")),
        };
        facts.generated = generate;
        self.set_secret(&reference, &value, facts, bus)
    }

    /// Some of the secrets whose names come after this one.
    fn secrets_after(&self, after: Option<&Reference>) -> Result<Vec<SecretInfo>> {
        /// They fit into a few parts of an answer.
        const PAGE: usize = 512;
        let vault =
            self.vault().ok_or_else(|| Error::internal("list the vault", "it was locked meanwhile"))?;
        Ok(vault.infos(after).take(PAGE).collect())
    }

    fn info(&self, reference: &Reference) -> Result<SecretInfo> {
        self.vault().and_then(|vault| vault.info(reference)).ok_or_else(|| unknown(reference))
    }

    /// The one way that a value leaves for a person: confirmed, outside every tree, and on the record.
    fn reveal(
        &self,
        reference: &Reference,
        version: Option<u64>,
        confirmed: bool,
        bus: Option<&str>,
    ) -> Result<Reply> {
        let opened = self.unlock(Asker::Person, None, bus)?;
        let (info, now) = (self.info(reference)?, clock::unix_seconds());
        version.map(|version| opened.vault.check_version(reference, version, now)).transpose()?;
        let permit = decide_reveal(reference, false, confirmed).ok_or_else(|| confirmation("reveal"))?;
        let revealed = (reference, version.unwrap_or(info.version));
        let logged = self.log_for_a_person(permit, &version_event(VaultChange::Reveal, revealed, None))?;
        let value = match version {
            Some(version) => opened.vault.unseal_version(&logged, version, now)?,
            None => opened.vault.unseal(&logged)?,
        };
        Ok((document(&info)?, Some(value)))
    }

    fn inspect(&self, manifest: &Manifest) -> ManifestInfo {
        let opened = self.custody.read().opened();
        let (trust, mounted_as) = match &opened {
            Some(opened) => {
                let store = opened.trust.lock();
                (store.check(manifest), store.would_mount_as(manifest))
            }
            None => (TrustState::Locked, (&manifest.project).into()),
        };
        let known = |reference: &Reference| Some(opened.as_ref()?.vault.info(reference));
        let bindings = manifest.bindings.iter().map(|(file, binding)| {
            let info = known(&binding.reference);
            BindingInfo {
                file: file.clone(),
                reference: binding.reference.clone(),
                path: binding.path.clone(),
                env_value: binding.env_value.clone(),
                mmap: binding.mmap,
                writable: binding.writable,
                max_opens: binding.limits.max_opens,
                for_first_ms: binding.limits.for_first.map(start::millis),
                levels: binding.descend.levels(),
                namespaces: binding.namespaces,
                exe: binding.exe.iter().map(pin).collect(),
                present: info.as_ref().map(Option::is_some),
                due: info.flatten().and_then(|info| info.due),
            }
        });
        ManifestInfo {
            directory: manifest.directory.clone(),
            project: manifest.project.clone(),
            mounted_as,
            hash: manifest.hash.clone(),
            trust,
            bindings: bindings.collect(),
            files: manifest.files.iter().map(|(file, of)| rendered(file, of)).collect(),
            scrub: manifest.scrub.iter().cloned().collect(),
            redact: manifest.redact,
        }
    }

    fn trust(
        &self,
        manifest: &Manifest,
        hash: &str,
        confirmed: bool,
        bus: Option<&str>,
    ) -> Result<ManifestInfo> {
        if !confirmed {
            return Err(confirmation("trust"));
        }
        if !manifest.hash.eq_ignore_ascii_case(hash) {
            let message = format!("{} is not the content that was agreed to", manifest.path().display());
            return Err(Error::new(Class::Unsafe, "manifest_changed", message)
                .hint(format!("its hash is {}: read it again", manifest.hash)));
        }
        self.unlock(Asker::Person, None, bus)?;
        self.change_trust(|store| store.plan_trust(manifest, clock::unix_seconds()).map(Some))?;
        Ok(self.inspect(manifest))
    }

    fn untrust(&self, directory: &std::path::Path, bus: Option<&str>) -> Result<()> {
        self.unlock(Asker::Person, None, bus)?;
        let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
        if self.change_trust(|store| store.plan_untrust(&directory))? {
            return Ok(());
        }
        // Nothing was trusted there; that it should not be is worth a line all the same.
        self.record(&Event::Policy {
            change: PolicyChange::Untrust,
            project: None,
            directory: &directory,
            hash: None,
            reason: None,
            asker: None,
        })
    }

    /// Changes what is trusted, once that is on the record; whether there was something to change.
    pub(crate) fn change_trust(
        &self,
        plan: impl FnOnce(&TrustStore) -> Result<Option<trust_store::Planned>>,
    ) -> Result<bool> {
        let changing = self.change()?;
        let opened = self.custody.read().opened().ok_or_else(locked)?;
        let mut store = opened.trust.lock();
        let Some(planned) = plan(&store)? else { return Ok(false) };
        self.perform(planned, |logged| {
            self.replace_vault(&changing, |vault| store.commit(logged, vault)).map(|_| true)
        })
    }

    fn revoke(&self, which: Option<&str>) -> Result<Vec<kin_policy::GrantId>> {
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

    fn status(&self) -> Status {
        let now = clock::now();
        let grants = self.grants.all();
        let (state, secrets) = match &*self.custody.read() {
            Custody::Open(opened) => {
                let infos = opened.vault.infos(None).filter(|secret| secret.due.is_some());
                ("unlocked", Some((opened.vault.count(), infos.collect::<Vec<_>>())))
            }
            Custody::Suspended => ("suspended", None),
            _ => ("locked", None),
        };
        let (secrets, with_a_date) = secrets.unzip();
        let due = vault::due(with_a_date.as_deref().unwrap_or_default(), clock::unix_seconds());
        let key = keys::method(&self.directories).ok().flatten();
        let state = if key.is_none() { "absent" } else { state };
        Status {
            broker: BrokerStatus {
                pid: std::process::id(),
                version: version(),
                uptime_s: now.since(self.started).as_secs(),
                identity: self.identifier.table().to_owned(),
                memory_locked: memory::is_locked(),
                proc_covered: covered_in_proc(),
            },
            vault: VaultStatus {
                state: state.to_owned(),
                key,
                secrets,
                overdue: due.iter().filter(|secret| secret.overdue).count(),
                due,
                notices: self.settings.notices(),
            },
            mount: MountStatus {
                path: self.directories.mountpoint(),
                mounted: crate::sys::mounts::is_mounted(&self.directories.mountpoint()),
                writable_path: self.directories.writable_mountpoint(),
                writable: crate::sys::mounts::is_mounted(&self.directories.writable_mountpoint()),
            },
            audit: self.audit_status(),
            grants: grants.iter().filter(|live| live.is_live(now)).map(|live| self.show(live)).collect(),
        }
    }

    fn audit_status(&self) -> AuditStatus {
        let recording = self.audit.recording();
        let state = if recording.refused > 0 { "refusing" } else { "recording" };
        AuditStatus {
            state: state.to_owned(),
            refused: recording.refused,
            since: recording.since,
            reason: recording.error,
        }
    }

    fn show(&self, live: &LiveGrant) -> GrantStatus {
        let now = clock::now();
        let tree = tree_of(live.grant.root).into_iter().map(|branch| TreeProcess {
            pid: branch.pid.get(),
            depth: u32::try_from(branch.depth).unwrap_or(u32::MAX),
            comm: branch.comm.escape_ascii().to_string(),
        });
        let left = live.grant.expires.map(|expires| expires.since(now).as_millis());
        GrantStatus {
            id: live.grant.id,
            project: live.grant.project.clone(),
            command: live.command_line.clone(),
            bindings: live.grant.names().cloned().collect(),
            writable: live.grant.writable().cloned().collect(),
            opens: live.opens(),
            age_s: now.since(live.grant.created).as_secs(),
            ttl_left_ms: left.map(|left| u64::try_from(left).unwrap_or(u64::MAX)),
            left: live.left(now),
            edges: live.edges(now),
            tree: tree.collect(),
        }
    }
}

fn rendered(file: &FileName, of: &FileRecipe) -> RenderedInfo {
    RenderedInfo {
        file: file.clone(),
        format: of.format.clone(),
        uses: of.recipe.uses().into_iter().collect(),
        path: of.path.clone(),
        env_path: of.env_path.clone(),
    }
}

/// What is at a pinned program's path now.
fn pin(pin: &ExePin) -> PinInfo {
    let there = executables::at(Path::new(&pin.path));
    let file = there.as_ref().map_or(Path::new(&pin.path), |(resolved, _)| resolved);
    PinInfo {
        path: pin.path.clone(),
        sha256: pin.sha256,
        runs_anything: executables::runs_anything(file),
        matches: there.as_ref().is_some_and(|(_, digest)| *digest == pin.sha256),
        resolved: there.map(|(resolved, _)| resolved.to_string_lossy().into_owned()),
    }
}

/// The verbs that a member of a grant's tree may not use, whoever it is.
fn forbidden_inside(question: &Question) -> Option<&'static str> {
    match question {
        Question::Init { .. } => Some("init"),
        Question::Unlock(_) => Some("unlock"),
        Question::Rekey { .. } => Some("rekey"),
        Question::RecoveryNew { .. }
        | Question::RecoveryAdd { .. }
        | Question::RecoveryRemove { .. }
        | Question::Recover(_) => Some("recovery"),
        Question::Set(NewVersion { rotate, .. }) => Some(if *rotate { "rotate" } else { "set" }),
        Question::Reveal { .. } => Some("reveal"),
        Question::Remove { .. } => Some("rm"),
        Question::Backup { .. } => Some("backup"),
        Question::Restore { .. } => Some("restore"),
        Question::Stage { .. } | Question::StageExport(_) | Question::Import(_) => Some("import"),
        Question::Select { .. } | Question::Export(_) => Some("export"),
        Question::Link(_) => Some("link"),
        Question::Unlink(_) => Some("unlink"),
        Question::Trust { .. } => Some("trust"),
        Question::Untrust { .. } => Some("untrust"),
        _ => None,
    }
}

/// Whether what it leads to is recorded with who asked. A keeper and a look ask on nobody's behalf.
fn is_a_persons(question: &Question) -> bool {
    let ends = matches!(question, Question::Lock | Question::Revoke { .. });
    let opens = matches!(
        question,
        Question::List
            | Question::Show { .. }
            | Question::History { .. }
            | Question::RecoveryList
            | Question::Inspect { .. }
    );
    ends || opens || forbidden_inside(question).is_some()
}

fn plain(answer: &impl serde::Serialize) -> Result<Reply> {
    Ok((document(answer)?, None))
}

fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

fn unknown(reference: &Reference) -> Error {
    Error::new(Class::Usage, "unknown_reference", format!("the vault has no {reference}"))
        .hint("`kin list` shows what it has")
}
