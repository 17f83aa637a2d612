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
    Binding, Descend, DirectoryName, FileName, Grant, GrantId, Limits, Namespaces, Pid, Reach, Reference,
    RenderedFile, Timestamp,
};

use crate::admin::unlock::Asker;
use crate::audit::Event;
use crate::broker::Broker;
use crate::grants::book::limit;
use crate::grants::live::LiveGrant;
use crate::grants::messages::{GrantRequest, Granted, KEEPER_COMM, REDACTION_WANTED};
use crate::grants::rendered_file::Rendered;
use crate::process::peer::{Peer, peer_gone};
use crate::process::{self, Held};
use crate::project::env_warning;
use crate::project::info::TrustState;
use crate::project::manifest::{FileRecipe, Manifest};
use crate::project::render::Recipe;
use crate::project::trust_store::{Refused, TrustStore};
use crate::sys::clock;
use crate::sys::error::{Class, Error, Result};

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
            trusted(&trust, &manifest)?
        };
        if manifest.redact && request.redact.is_none() {
            return Err(redaction_wanted(&manifest));
        }
        let (directory, scrub) = (manifest.directory.clone(), manifest.scrub.iter().cloned().collect());
        let namespaces = self.identifier.namespaces_of(&peer.held);
        let outer_view = outer.as_deref().map(|outer| Outer::seen_from(outer, namespaces));
        let mut chosen = choose(&manifest, request.only.as_deref(), &project, outer_view.as_ref())?;
        chosen.bound(&request.max_opens_of)?;
        if outer.is_some() && request.private.is_some() {
            chosen.may_move()?;
        }
        for (file, binding) in chosen.every_binding() {
            if opened.vault.info(&binding.reference).is_none() {
                return Err(missing(file, binding));
            }
        }
        let values = values(&chosen.bindings, &request.values)?;
        let live = self.root_at(peer.held, request, (project, directory, chosen), outer)?;
        let private =
            request.private.as_ref().map(|private| self.prepare_private(&live, private)).transpose()?;
        self.enter(&live).inspect_err(|_| self.placeholders.release(live.grant.id))?;
        let prepared = self.measure_all(&live, &opened.vault).and_then(|()| match request.redact {
            Some(true) => self.prepare_redaction(&live, &opened.vault),
            _ => Ok(Vec::new()),
        });
        let unmasked = prepared
            .and_then(|unmasked| self.show_writable(&live).map(|()| unmasked))
            .inspect_err(|_| self.call_off(&live))?;
        Ok((Granted { private, scrub, unmasked, ..self.describe(&live, values) }, live))
    }

    /// Has the files that a grant may write shown, where it has any.
    fn show_writable(&self, live: &LiveGrant) -> Result<()> {
        if live.grant.writable().next().is_none() {
            return Ok(());
        }
        let nobody = || Error::internal("show what can be written", "nobody shows it");
        self.writable_mount.get().ok_or_else(nobody)?.put_up()
    }

    /// From here on the warden watches over the grant.
    ///
    /// # Errors
    /// `internal` where the kernel will not watch; the grant has ended then.
    pub(crate) fn hand_over(&self, live: Arc<LiveGrant>) -> Result<()> {
        self.warden.watch(live.clone()).inspect_err(|_| self.call_off(&live))
    }

    /// Takes back a grant that nobody has been told of.
    fn call_off(&self, live: &LiveGrant) {
        self.withdraw(live, kin_policy::Ending::NotStarted);
        self.grants.strike(live.grant.root);
        self.placeholders.release(live.grant.id);
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
        (project, directory, chosen): (DirectoryName, PathBuf, Chosen),
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
        let Chosen { bindings, files, recipes } = chosen;
        let grant = Grant { id, root, project, bindings, files, created: now, expires, limits };
        let (command, namespaces) = (request.command.clone(), self.identifier.namespaces_of(&keeper));
        let live = LiveGrant::new(grant, outer, directory, command, keeper, namespaces);
        let rendered = recipes.into_iter().map(|(file, recipe)| (file, Rendered::of(recipe))).collect();
        Ok(Arc::new(live.rendering(rendered)))
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

    fn describe(&self, live: &LiveGrant, values: Vec<(String, FileName)>) -> Granted {
        let Grant { id, project, bindings, files, .. } = &live.grant;
        let paths = bindings.iter().map(|(file, binding)| (file, &binding.env_path));
        let paths = paths.chain(files.iter().map(|(file, rendered)| (file, &rendered.env_path)));
        let environment = paths.filter_map(|(file, name)| Some((name.clone()?, file.clone()))).collect();
        let names = values.iter().map(|(name, _)| name.as_str());
        let warn =
            !values.is_empty() && env_warning::is_first(&self.directories.state, &live.directory, names);
        let directory = self.directories.mountpoint().join(project.as_str());
        Granted {
            id: *id,
            directory,
            writable_directory: self.directories.writable_mountpoint().join(project.as_str()),
            writable: live.grant.writable().cloned().collect(),
            environment,
            values,
            scrub: Vec::new(),
            warn_of_values: warn,
            unmasked: Vec::new(),
            pinned: live.grant.is_pinned(),
            private: None,
        }
    }
}

/// Whether a process has a keeper's name. Whoever lies about its name only refuses itself.
fn calls_itself_keeper(pid: Pid) -> bool {
    process::comm(pid).is_ok_and(|comm| comm.trim_ascii_end() == KEEPER_COMM.as_bytes())
}

/// What a grant is made for.
#[derive(Default)]
struct Chosen {
    bindings: Bindings,
    files: BTreeMap<FileName, RenderedFile>,
    recipes: BTreeMap<FileName, Recipe>,
}

impl Chosen {
    fn every_binding(&self) -> impl Iterator<Item = (&FileName, &Binding)> {
        self.bindings.iter().chain(self.files.values().flat_map(|rendered| rendered.bindings.iter()))
    }

    /// Takes a file of the manifest in, with the bindings that it is made of.
    fn take(&mut self, manifest: &Manifest, file: &FileName, of: &FileRecipe) {
        let parts = of.recipe.uses().into_iter();
        let bindings = parts.filter_map(|name| manifest.bindings.get_key_value(&name));
        let bindings = bindings.map(|(name, binding)| (name.clone(), binding.clone())).collect();
        let (env_path, path) = (of.env_path.clone(), of.path.clone());
        self.files.insert(file.clone(), RenderedFile { bindings, env_path, path });
        self.recipes.insert(file.clone(), of.recipe.clone());
    }

    /// Refuses a private mount inside a tree for what is to stay in the outer grant's namespaces: without root
    /// such a mount has a user namespace of its own (user_namespaces(7)), and nothing would open there.
    fn may_move(&self) -> Result<()> {
        let stays = |(_, binding): &(_, &Binding)| binding.namespaces == Reach::Same;
        match self.every_binding().find(stays) {
            Some((file, _)) if !nix::unistd::geteuid().is_root() => {
                let message = format!("{file} is for the namespaces of the run around this process alone");
                Err(denied("private_inside", &message)
                    .hint("leave --private out, or start it outside this tree"))
            }
            _ => Ok(()),
        }
    }

    /// Bounds the opens of single bindings, beside what the manifest says, whichever file they are opened by.
    fn bound(&mut self, max_opens: &[(FileName, u64)]) -> Result<()> {
        for (file, most) in max_opens {
            if self.files.contains_key(file) {
                let message = format!("{file} has no opens of its own: it is made of bindings that have");
                return Err(Error::new(Class::Usage, "unknown_binding", message)
                    .hint("`kin check` lists what it is made of"));
            }
            let parts = self.files.values_mut().filter_map(|rendered| rendered.bindings.get_mut(file));
            let mut bound = false;
            for binding in self.bindings.get_mut(file).into_iter().chain(parts) {
                binding.limits = binding.limits.and(Limits { max_opens: Some(*most), for_first: None });
                bound = true;
            }
            if !bound {
                let message = format!("the grant would have no file {file}");
                return Err(Error::new(Class::Usage, "unknown_binding", message)
                    .hint("`kin check` lists the bindings"));
            }
        }
        Ok(())
    }
}

/// The variables of the command that get values, with the files whose values they are: those that the manifest
/// says, and those that the person who starts it asks for by reference, which has to be bound.
fn values(bindings: &Bindings, asked: &[(String, Reference)]) -> Result<Vec<(String, FileName)>> {
    let said = bindings.iter().filter_map(|(file, binding)| Some((binding.env_value.clone()?, file.clone())));
    let mut values: Vec<_> = said.filter(|(name, _)| asked.iter().all(|(other, _)| other != name)).collect();
    for (name, reference) in asked {
        let mut bound = bindings.iter().filter(|(_, binding)| binding.reference == *reference).peekable();
        if bound.peek().is_none() {
            let message = format!("{name} is to be {reference}, which this grant does not bind");
            return Err(Error::new(Class::Usage, "unknown_binding", message)
                .hint("a file of variables names only what kin.toml binds: see `kin check`"));
        }
        let (file, _) = bound.find(|(_, binding)| binding.may_be_inherited()).ok_or_else(|| {
            let message = format!("{name} is to be {reference}, which is for some programs or levels alone");
            denied("not_for_the_environment", &message)
                .hint("all that a command starts inherits its environment: read it as a file")
        })?;
        values.push((name.clone(), file.clone()));
    }
    Ok(values)
}

/// The grant that another is asked for in, as its keeper sees it.
struct Outer<'a> {
    live: &'a LiveGrant,
    /// The keeper is in the namespaces that the outer grant's readers are to be in.
    same_namespaces: bool,
}

impl<'a> Outer<'a> {
    fn seen_from(live: &'a LiveGrant, namespaces: Option<Namespaces>) -> Self {
        Self { live, same_namespaces: live.is_place_of(namespaces) }
    }

    /// Whether an inner grant may have it: the same secret, for no more programs and places, only where the
    /// keeper itself could have read it, and only what is for the whole tree: what is for some levels below a
    /// command is nothing for another command.
    fn allows(&self, file: &FileName, binding: &Binding) -> bool {
        self.live.grant.bindings.get(file).is_some_and(|own| self.passes_on(own, binding))
    }

    /// Whether an inner grant may have the file: where it may have all that it is made of, or the outer one has
    /// just this file.
    fn allows_file(&self, file: &FileName, of: &FileRecipe, bindings: &Bindings) -> bool {
        let uses = of.recipe.uses();
        let own = self
            .live
            .grant
            .files
            .get(file)
            .filter(|_| self.live.rendered(file).is_some_and(|rendered| rendered.is_made_as(&of.recipe)));
        uses.iter().all(|name| {
            let part = own.and_then(|own| own.bindings.get(name));
            let passes =
                |binding| self.allows(name, binding) || part.is_some_and(|own| self.passes_on(own, binding));
            bindings.get(name).is_some_and(passes)
        })
    }

    fn passes_on(&self, own: &Binding, binding: &Binding) -> bool {
        let restricted = own.namespaces == binding.namespaces && own.exe == binding.exe;
        own.reference == binding.reference
            && restricted
            && (own.mmap || !binding.mmap)
            && (own.writable || !binding.writable)
            && own.descend == Descend::All
            && (self.same_namespaces || own.namespaces == Reach::Any)
    }
}

/// What is asked for; inside another grant, only what that one has. A file of several bindings is there where it
/// is named itself, or where all that it is made of is: without one of them it is absent.
fn choose(
    manifest: &Manifest,
    only: Option<&[FileName]>,
    project: &DirectoryName,
    outer: Option<&Outer<'_>>,
) -> Result<Chosen> {
    if outer.is_some_and(|outer| outer.live.grant.project != *project) {
        return Err(denied("wider_grant", &format!("the grant around this process is not for {project}"))
            .hint("start it outside this tree"));
    }
    let allowed = |file: &FileName, binding: &Binding| outer.is_none_or(|outer| outer.allows(file, binding));
    let file_allowed = |file: &FileName, of: &FileRecipe| {
        outer.is_none_or(|outer| outer.allows_file(file, of, &manifest.bindings))
    };
    let mut chosen = Chosen::default();
    let named = |file: &FileName| only.is_none_or(|only| only.contains(file));
    for (file, binding) in manifest.bindings.iter().filter(|(file, _)| named(file)) {
        match allowed(file, binding) {
            true => drop(chosen.bindings.insert(file.clone(), binding.clone())),
            false if only.is_some() => return Err(wider(file)),
            false => {}
        }
    }
    for (file, of) in &manifest.files {
        let asked = only.is_some_and(|only| only.contains(file));
        let whole = || of.recipe.uses().iter().all(|name| chosen.bindings.contains_key(name));
        match (asked || whole() || only.is_none(), file_allowed(file, of)) {
            (true, true) => chosen.take(manifest, file, of),
            (true, false) if asked => return Err(wider(file)),
            _ => {}
        }
    }
    let known =
        |file: &&FileName| manifest.bindings.contains_key(*file) || manifest.files.contains_key(*file);
    match only.unwrap_or_default().iter().find(|file| !known(file)) {
        None => Ok(chosen),
        Some(file) => {
            let message = format!("the manifest binds no file {file}");
            Err(Error::new(Class::Usage, "unknown_binding", message).hint("`kin check` lists the bindings"))
        }
    }
}

fn wider(file: &FileName) -> Error {
    denied("wider_grant", &format!("the grant around this process has no binding {file}"))
        .hint("start it outside this tree")
}

/// Refuses a manifest that is not trusted exactly as it is.
/// The directory in the mount of a manifest that is trusted.
pub(crate) fn trusted(store: &TrustStore, manifest: &Manifest) -> Result<DirectoryName> {
    match store.check(manifest) {
        TrustState::Trusted => store.mounted_as(&manifest.directory).ok_or_else(|| untrusted(manifest)),
        TrustState::Changed { diff } => {
            let message = format!("{} has changed since it was trusted", manifest.path().display());
            Err(Error::new(Class::Unsafe, "manifest_changed", message)
                .hint("look at the change, then `kin trust`")
                .detail(diff))
        }
        TrustState::Untrusted | TrustState::Locked => Err(match store.refused() {
            Some(Refused::RolledBack | Refused::Missing) => rolled_back(manifest),
            Some(Refused::Forged) | None => untrusted(manifest),
        }),
    }
}

fn rolled_back(manifest: &Manifest) -> Error {
    let message = format!(
        "{} is not trusted: the trust store is not the one that was written last",
        manifest.path().display()
    );
    Error::new(Class::Unsafe, "trust_rollback", message)
        .hint("nothing is trusted now: read each project's kin.toml, then `kin trust`")
}

fn untrusted(manifest: &Manifest) -> Error {
    let message = format!("{} is not trusted", manifest.path().display());
    Error::new(Class::Unsafe, "manifest_untrusted", message).hint("read it, then `kin trust`")
}

fn missing(file: &FileName, binding: &Binding) -> Error {
    let message = format!("the vault has no {}, which {file} is bound to", binding.reference);
    Error::new(Class::Unsafe, "secret_missing", message).hint(format!("`kin set {}`", binding.reference))
}

fn redaction_wanted(manifest: &Manifest) -> Error {
    let message = format!("the project {} wants its commands redacted", manifest.project);
    Error::new(Class::Usage, REDACTION_WANTED, message).hint("`kin run --redact`, or `--no-redact`")
}

fn denied(code: &'static str, message: &str) -> Error {
    Error::new(Class::Denied, code, message)
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn random_id() -> Result<GrantId> {
    let mut bytes = [0; 16];
    OsRng.try_fill_bytes(&mut bytes).map_err(|error| Error::internal("draw a grant id", error))?;
    Ok(GrantId::from_bytes(bytes))
}
