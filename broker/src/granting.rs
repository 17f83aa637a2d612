//! How is a grant made? From a trusted manifest, for the tree below the keeper that asks, never wider
//! than the grant it stands in.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chacha20poly1305::aead::OsRng;
use chacha20poly1305::aead::rand_core::RngCore;
use kin_policy::{
    Binding, Descend, DirectoryName, FileName, Grant, GrantId, Limits, Namespaces, Pid, Reach, Timestamp,
};

use crate::audit::Event;
use crate::broker::Broker;
use crate::clock;
use crate::control::protocol::{GrantRequest, Granted, KEEPER_COMM, TrustState};
use crate::control::{Peer, peer_gone};
use crate::custody::Asker;
use crate::error::{Class, Error, Result};
use crate::grants::{LiveGrant, limit};
use crate::identity::Held;
use crate::manifest::Manifest;

type Bindings = BTreeMap<FileName, Binding>;

impl Broker {
    /// Makes a grant rooted at the peer. [`Broker::hand_over`] must follow.
    ///
    /// # Errors
    /// Why not: the manifest (class `Unsafe`), the vault (`Locked`), an outer grant (`Denied`), …
    pub(crate) fn grant(
        &self,
        peer: Peer,
        request: &GrantRequest,
        bus: Option<&str>,
    ) -> Result<(Granted, Arc<LiveGrant>)> {
        let outer = self.innermost_of(&peer)?;
        if let Some(outer) = &outer
            && !outer.is_live(clock::now())
        {
            return Err(denied("grant_ended", "the grant around this process has ended"));
        }
        self.check_mount(request)?;
        let asker = if outer.is_none() { Asker::Person } else { Asker::Anybody };
        let opened = self.unlock(asker, None, bus)?;
        let manifest = Manifest::read(&request.directory)?;
        let project = {
            let trust = opened.trust.lock();
            trusted(&trust.check(&manifest), &manifest)?;
            trust.mounted_as(&manifest.directory).ok_or_else(|| untrusted(&manifest))?
        };
        let Manifest { bindings, directory, .. } = manifest;
        let namespaces = self.identifier.namespaces_of(&peer.held);
        let outer_view = outer.as_deref().map(|outer| Outer::seen_from(outer, namespaces));
        let mut bindings = choose(bindings, request.only.as_deref(), &project, outer_view.as_ref())?;
        bound(&mut bindings, &request.max_opens_of)?;
        for (file, binding) in &bindings {
            if opened.vault.info(&binding.reference).is_none() {
                return Err(missing(file, binding));
            }
        }
        let live = self.root_at(peer.held, request, (project, directory, bindings), outer)?;
        let private =
            request.private.as_ref().map(|private| self.prepare_private(&live, private)).transpose()?;
        self.enter(&live).inspect_err(|_| self.placeholders.release(live.grant.id))?;
        Ok((Granted { private, ..self.describe(&live) }, live))
    }

    /// From here on the warden watches over the grant.
    ///
    /// # Errors
    /// `internal` where the kernel will not watch; the grant has ended then.
    pub(crate) fn hand_over(&self, live: Arc<LiveGrant>) -> Result<()> {
        self.warden.watch(live.clone()).inspect_err(|_| {
            self.withdraw(&live, kin_policy::Ending::OwnerKilled);
            self.grants.strike(live.grant.root);
            self.placeholders.release(live.grant.id);
        })
    }

    /// The innermost grant whose tree the peer is in, live or not.
    ///
    /// # Errors
    /// `peer_gone` where it could not be told: nothing is assumed then. `grant_void` below a keeper of a
    /// broker that is gone: its tree has no grant, but is still no place of a person's.
    pub(crate) fn innermost_of(&self, peer: &Peer) -> Result<Option<Arc<LiveGrant>>> {
        if let Some(own) = self.grants.at(peer.held.process()) {
            return Ok(Some(own));
        }
        let lineage = self.identifier.walk_up(&peer.held, &self.grants).map_err(|_| peer_gone())?;
        let live = self.grants.innermost(&lineage);
        if live.is_none() && lineage.ancestors.iter().any(|ancestor| calls_itself_keeper(ancestor.pid)) {
            return Err(denied("grant_void", "the grant around this process ended with its broker")
                .hint("run it in a terminal of your own"));
        }
        Ok(live)
    }

    fn root_at(
        &self,
        keeper: Held,
        request: &GrantRequest,
        (project, directory, bindings): (DirectoryName, PathBuf, Bindings),
        outer: Option<Arc<LiveGrant>>,
    ) -> Result<Arc<LiveGrant>> {
        let root = keeper.process();
        if self.grants.at(root).is_some() {
            return Err(denied("already_granted", "this process is the root of a grant already"));
        }
        // A front that is gone by now will not be missed by its keeper.
        if self.identifier.parent_of(&keeper) != Pid::new(request.front) {
            return Err(peer_gone());
        }
        let now = clock::now();
        let ttl = request.ttl_ms.map(|ms| now.after(Duration::from_millis(ms)));
        let expires: Option<Timestamp> =
            ttl.into_iter().chain(outer.as_ref().and_then(|outer| outer.grant.expires)).min();
        let (id, limits) = (random_id()?, request.limits);
        let grant = Grant { id, root, project, bindings, created: now, expires, limits };
        let (command, namespaces) = (request.command.clone(), self.identifier.namespaces_of(&keeper));
        Ok(Arc::new(LiveGrant::new(grant, outer, directory, command, keeper, namespaces)))
    }

    /// Recorded first, then entered: no open can precede its grant in the record.
    fn enter(&self, live: &Arc<LiveGrant>) -> Result<()> {
        let grant = &live.grant;
        let program = live.command_line.first().map_or("", String::as_str);
        let limit = limit();
        let _room = self.grants.room(limit).ok_or_else(|| {
            let message = format!("{limit} grants stand already, as many as this broker can hold");
            denied("grant_limit", &message).hint("see `kin status`, and `ulimit -n`")
        })?;
        self.record(&Event::GrantCreate {
            grant: grant.id,
            project: &grant.project,
            directory: &live.directory,
            bindings: &grant.bindings,
            root: grant.root,
            program: OsStr::new(program),
            ttl_ms: grant.expires.map(|expires| millis(expires.since(grant.created))),
            limits: grant.limits,
        })?;
        let references =
            grant.bindings.iter().map(|(file, binding)| (file.clone(), binding.reference.clone()));
        self.projects.write().entry(grant.project.clone()).or_default().extend(references);
        if let Some(outer) = &live.outer {
            outer.contains(live);
        }
        self.grants.enter(live.clone());
        self.identifier.forget_below(live.grant.root);
        if let Some(ending) = live.outer.as_ref().and_then(|outer| outer.ended()) {
            self.withdraw(live, ending);
        }
        Ok(())
    }

    fn describe(&self, live: &LiveGrant) -> Granted {
        let directory = self.directories.mountpoint().join(live.grant.project.as_str());
        let environment = live
            .grant
            .bindings
            .iter()
            .filter_map(|(file, binding)| Some((binding.env_path.clone()?, file.clone())))
            .collect();
        Granted { id: live.grant.id, directory, environment, private: None }
    }
}

/// Whether a process has a keeper's name. Whoever lies about its name only refuses itself.
fn calls_itself_keeper(pid: Pid) -> bool {
    std::fs::read(format!("/proc/{pid}/comm"))
        .is_ok_and(|comm| comm.trim_ascii_end() == KEEPER_COMM.as_bytes())
}

/// Bounds the opens of single files, beside what the manifest says.
fn bound(bindings: &mut Bindings, max_opens: &[(FileName, u64)]) -> Result<()> {
    for (file, most) in max_opens {
        let binding = bindings.get_mut(file).ok_or_else(|| {
            Error::new(Class::Usage, "unknown_binding", format!("the grant would have no file {file}"))
                .hint("`kin check` lists the bindings")
        })?;
        binding.limits = binding.limits.and(Limits { max_opens: Some(*most), for_first: None });
    }
    Ok(())
}

/// The grant that another is asked for in, as its keeper sees it.
struct Outer<'a> {
    live: &'a LiveGrant,
    /// The keeper is in the namespaces that the outer grant's readers are to be in.
    same_namespaces: bool,
}

impl<'a> Outer<'a> {
    fn seen_from(live: &'a LiveGrant, namespaces: Option<Namespaces>) -> Self {
        Self { live, same_namespaces: namespaces.is_some() && namespaces == live.namespaces() }
    }

    /// Whether an inner grant may have it: the same secret, for no more programs and places, only where the
    /// keeper itself could have read it, and only what is for the whole tree: what is for some levels below a
    /// command is nothing for another command.
    fn allows(&self, file: &FileName, binding: &Binding) -> bool {
        let Some(own) = self.live.grant.bindings.get(file) else { return false };
        let restricted = own.namespaces == binding.namespaces && own.exe == binding.exe;
        own.reference == binding.reference
            && restricted
            && own.descend == Descend::All
            && (self.same_namespaces || own.namespaces == Reach::Any)
    }
}

/// The bindings that are asked for; inside another grant, only what that one has.
fn choose(
    manifest: Bindings,
    only: Option<&[FileName]>,
    project: &DirectoryName,
    outer: Option<&Outer<'_>>,
) -> Result<Bindings> {
    let allowed = |file: &FileName, binding: &Binding| outer.is_none_or(|outer| outer.allows(file, binding));
    if outer.is_some_and(|outer| outer.live.grant.project != *project) {
        return Err(denied("wider_grant", &format!("the grant around this process is not for {project}"))
            .hint("start it outside this tree"));
    }
    let Some(only) = only else {
        return Ok(manifest.into_iter().filter(|(file, binding)| allowed(file, binding)).collect());
    };
    let mut chosen = Bindings::new();
    for file in only {
        let binding = manifest.get(file).ok_or_else(|| {
            Error::new(Class::Usage, "unknown_binding", format!("the manifest binds no file {file}"))
                .hint("`kin check` lists the bindings")
        })?;
        if !allowed(file, binding) {
            return Err(denied(
                "wider_grant",
                &format!("the grant around this process has no binding {file}"),
            )
            .hint("start it outside this tree"));
        }
        chosen.insert(file.clone(), binding.clone());
    }
    Ok(chosen)
}

/// Refuses a manifest that is not trusted exactly as it is.
pub(crate) fn trusted(state: &TrustState, manifest: &Manifest) -> Result<()> {
    match state {
        TrustState::Trusted => Ok(()),
        TrustState::Changed { diff } => {
            let message = format!("{} has changed since it was trusted", manifest.path().display());
            Err(Error::new(Class::Unsafe, "manifest_changed", message)
                .hint("look at the change, then `kin trust`")
                .detail(diff.clone()))
        }
        TrustState::Untrusted | TrustState::Locked => Err(untrusted(manifest)),
    }
}

pub(crate) fn untrusted(manifest: &Manifest) -> Error {
    let message = format!("{} is not trusted", manifest.path().display());
    Error::new(Class::Unsafe, "manifest_untrusted", message).hint("read it, then `kin trust`")
}

fn missing(file: &FileName, binding: &Binding) -> Error {
    let message = format!("the vault has no {}, which {file} is bound to", binding.reference);
    Error::new(Class::Unsafe, "secret_missing", message).hint(format!("`kin set {}`", binding.reference))
}

fn denied(code: &'static str, message: &str) -> Error {
    Error::new(Class::Denied, code, message)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn random_id() -> Result<GrantId> {
    let mut bytes = [0; 16];
    OsRng.try_fill_bytes(&mut bytes).map_err(|error| Error::internal("draw a grant id", error))?;
    Ok(GrantId::from_bytes(bytes))
}
