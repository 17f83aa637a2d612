//! Where do links into the mount stand, and may they be put and taken away? Only what kin made goes, and no
//! file gives way whose bytes the vault does not have.

use std::path::{Path, PathBuf};

use kin_policy::{DirectoryName, FileName, FilePath, Reference};

use crate::admin::batches::{LinkInfo, LinkRequest, LinkState, UnlinkInfo, UnlinkRequest, UnlinkState};
use crate::admin::requests::confirmation;
use crate::admin::unlock::{Asker, Opened};
use crate::audit::{Change, Event, Logged, PolicyChange, VaultChange};
use crate::broker::Broker;
use crate::grants::start;
use crate::project::manifest::Manifest;
use crate::project::mount_targets::{Target, Way};
use crate::sys::error::{Class, Error, Result};
use crate::sys::memory::Plaintext;

mod ignored;
mod place;
mod store;

use place::{Old, Place};
use store::{Linked, Store};

impl Broker {
    /// Puts links where a trusted manifest says; or, not confirmed, says what is there.
    ///
    /// # Errors
    /// Those of trust; `no_paths`, `unknown_binding` (Usage); `unsafe_target`; `file_exists`, `file_changed`
    /// (Denied); a storage error.
    pub(crate) fn link(&self, request: &LinkRequest, session_bus: Option<&str>) -> Result<Vec<LinkInfo>> {
        let opened = self.unlock(Asker::Person, None, session_bus)?;
        let manifest = Manifest::read(&request.directory)?;
        let project = {
            let trust = opened.trust.lock();
            start::trusted(&trust, &manifest)?
        };
        let _changing = self.change()?;
        let mut store = Store::open(&self.directories.links_file(), &opened.identity)?;
        let chosen = chosen(&manifest, request.files.as_deref())?;
        let mut told = Vec::new();
        for wanted in &chosen {
            told.push(self.look(request, &manifest, &project, wanted)?);
        }
        if !request.confirmed {
            return Ok(told);
        }
        check_replaced(&told, &request.replace)?;
        for (info, wanted) in told.iter_mut().zip(&chosen) {
            self.put(&opened, &mut store, request, &manifest, info, wanted.path)?;
        }
        Ok(told)
    }

    fn look(
        &self,
        request: &LinkRequest,
        manifest: &Manifest,
        project: &DirectoryName,
        Wanted { file, path, reference, writable }: &Wanted<'_>,
    ) -> Result<LinkInfo> {
        let base = if path.is_in_home() { &request.home } else { &manifest.directory };
        let target = self.directories.mounted_file(project, file, *writable);
        let way = Way { base, path, link: &target };
        let state = match way.find()? {
            Target::Missing => LinkState::Missing,
            Target::Link => LinkState::Linked,
            Target::File(_) => LinkState::File,
        };
        let (file, reference) = (FileName::clone(file), reference.cloned());
        Ok(LinkInfo { file, path: way.whole(), target, state, reference })
    }

    /// Puts one link, once that is on the record. A file gives way only where the vault has what it holds.
    fn put(
        &self,
        opened: &Opened,
        store: &mut Store,
        request: &LinkRequest,
        manifest: &Manifest,
        info: &mut LinkInfo,
        path: &FilePath,
    ) -> Result<()> {
        let base = if path.is_in_home() { &request.home } else { &manifest.directory };
        let target = info.target.clone();
        let way = Way { base, path, link: &target };
        let ignore = request.ignore.contains(&info.file) && !path.is_in_home();
        let known = store.at(&Linked::new(manifest, info, base, path, &[])).is_some();
        if info.state == LinkState::Linked
            && known
            && (!ignore || ignored::is_there(&manifest.directory, path)?)
        {
            return Ok(());
        }
        let old = match info.state {
            LinkState::File => Some(self.old_file(opened, request, info, way)?),
            _ => None,
        };
        let change = Relinking::of(PolicyChange::Link, &manifest.directory, &info.file, path);
        self.perform(change, |logged| place_link(&logged, store, (manifest, ignore), info, (way, old)))
    }

    /// The file that is to give way, and the secret that has its bytes.
    fn old_file(
        &self,
        opened: &Opened,
        request: &LinkRequest,
        info: &LinkInfo,
        way: Way<'_>,
    ) -> Result<(Old, Reference)> {
        let kept = request.replace.iter().find(|(file, _)| *file == info.file);
        let (_, reference) = kept.ok_or_else(|| Error::internal("replace a file", "nobody asked for it"))?;
        let place = Place::at(way)?.ok_or_else(|| changed(info, reference))?;
        let old = place.read(way)?;
        match self.is_current(opened, reference, old.bytes(), "adopt")? {
            true => Ok((old, reference.clone())),
            false => Err(changed(info, reference)),
        }
    }

    /// Takes links of a project away that kin made and that are still the same; a file that one had replaced
    /// comes back where that is asked for.
    ///
    /// # Errors
    /// `unknown_link` (Usage), `confirmation_needed` (Denied); a storage error.
    pub(crate) fn unlink(
        &self,
        request: &UnlinkRequest,
        session_bus: Option<&str>,
    ) -> Result<Vec<UnlinkInfo>> {
        let opened = self.unlock(Asker::Person, None, session_bus)?;
        let _changing = self.change()?;
        let mut store = Store::open(&self.directories.links_file(), &opened.identity)?;
        let directory = request.directory.canonicalize().unwrap_or_else(|_| request.directory.clone());
        let chosen = store.of(&directory, request.files.as_deref())?;
        if request.restore && !request.confirmed && chosen.iter().any(|linked| linked.kept.is_some()) {
            return Err(confirmation("unlink --restore"));
        }
        let mut told = Vec::new();
        for linked in chosen {
            let value = self.kept_value(&opened, &linked, request.restore)?;
            let change = Relinking::of(PolicyChange::Unlink, &directory, &linked.file, &linked.path);
            let state = self.perform(change, |logged| {
                let state = take_away(&logged, &linked, value.as_ref())?;
                // Where something stands in the way of a file, that can still be brought back later.
                if !(value.is_some() && state == UnlinkState::Kept) {
                    store.forget(&linked)?;
                }
                Ok(state)
            })?;
            told.push(UnlinkInfo { file: linked.file.clone(), path: linked.whole(), state });
        }
        Ok(told)
    }

    /// What a link had replaced, where that is to come back, and with which permissions.
    fn kept_value(
        &self,
        opened: &Opened,
        linked: &Linked,
        restore: bool,
    ) -> Result<Option<(Plaintext, u32)>> {
        let Some(kept) = linked.kept.as_ref().filter(|_| restore) else { return Ok(None) };
        let version = opened.vault.version(&kept.reference).unwrap_or(0);
        let logged = self.logged(VaultChange::Reveal, (&kept.reference, version), "restore")?;
        Ok(Some((opened.vault.unseal(&logged)?, kept.mode)))
    }
}

/// One link is about to come, or to go.
#[must_use]
struct Relinking {
    change: PolicyChange,
    directory: PathBuf,
    what: String,
}

impl Relinking {
    fn of(change: PolicyChange, directory: &Path, file: &FileName, path: &FilePath) -> Self {
        Self { change, directory: directory.to_owned(), what: format!("{file} at {path}") }
    }
}

impl Change for Relinking {
    fn events(&self) -> Vec<Event<'_>> {
        let (change, directory, reason) = (self.change, self.directory.as_path(), Some(self.what.as_str()));
        vec![Event::Policy { change, project: None, directory, hash: None, reason, asker: None }]
    }
}

/// The line for git first, then the memory of the link, then the link, where it replaces something.
fn place_link(
    _logged: &Logged<Relinking>,
    store: &mut Store,
    (manifest, ignore): (&Manifest, bool),
    info: &mut LinkInfo,
    (way, old): (Way<'_>, Option<(Old, Reference)>),
) -> Result<()> {
    let ignored = if ignore { ignored::add(&manifest.directory, way.path)? } else { None };
    let place = Place::make(way)?;
    let mut linked = Linked::new(manifest, info, way.base, way.path, place.made());
    linked.also(ignored, store);
    match (info.state, old) {
        (LinkState::File, Some((old, reference))) => {
            linked.replaced(&reference, &old);
            place.replace(old, way.link, |inode| store.remember(linked.of(inode)))?;
            info.state = LinkState::Replaced;
            Ok(())
        }
        (LinkState::Missing, _) => {
            let inode = place.link(way.link)?;
            let linked = linked.of(inode);
            // One that nobody remembers could not be taken away again.
            store.remember(linked.clone()).inspect_err(|_| drop(place.remove(&linked)))?;
            info.state = LinkState::Made;
            Ok(())
        }
        _ => store.remember(linked.of(place.inode()?)),
    }
}

/// Takes the link away; `value` comes in its place, with these permissions.
fn take_away(
    _logged: &Logged<Relinking>,
    linked: &Linked,
    value: Option<&(Plaintext, u32)>,
) -> Result<UnlinkState> {
    let way = linked.way();
    let place = match value {
        Some(_) => Some(Place::make(way)?),
        None => Place::at(way)?,
    };
    let Some(place) = place else { return Ok(UnlinkState::Gone) };
    let state = place.remove(linked)?;
    if let (Some((value, mode)), UnlinkState::Removed | UnlinkState::Gone) = (value, state) {
        // The line for git stays: a file in the clear is the last thing to be committed.
        place.write(value, *mode)?;
        return Ok(UnlinkState::Restored);
    }
    if let Some(line) = &linked.ignored {
        ignored::remove(&linked.base, &linked.path, line)?;
    }
    linked.made.iter().rev().for_each(crate::grants::placeholders::Placeholder::remove);
    Ok(state)
}

/// A file of a manifest that has a path.
#[derive(Clone, Copy)]
struct Wanted<'m> {
    file: &'m FileName,
    path: &'m FilePath,
    /// The secret that it is, where it is one.
    reference: Option<&'m Reference>,
    /// It is written by that link, too.
    writable: bool,
}

/// All of them, or these.
fn chosen<'m>(manifest: &'m Manifest, files: Option<&[FileName]>) -> Result<Vec<Wanted<'m>>> {
    let usage = |code, message: String, hint: &str| Err(Error::new(Class::Usage, code, message).hint(hint));
    let bindings = manifest.bindings.iter().filter_map(|(file, binding)| {
        let (path, writable) = (binding.path.as_ref()?, binding.writable);
        Some(Wanted { file, path, reference: Some(&binding.reference), writable })
    });
    let made = manifest.files.iter().filter_map(|(file, made)| {
        Some(Wanted { file, path: made.path.as_ref()?, reference: None, writable: false })
    });
    let all: Vec<_> = bindings.chain(made).collect();
    let Some(files) = files else {
        if all.is_empty() {
            let hint = "a binding with `path = \"…\"` says where its link goes";
            return usage("no_paths", "no binding of this project has a path".into(), hint);
        }
        return Ok(all);
    };
    let mut chosen = Vec::new();
    for file in files {
        match all.iter().find(|own| own.file == file) {
            Some(found) => chosen.push(*found),
            None => {
                let message = format!("the project binds no {file} that has a path");
                return usage("unknown_binding", message, "`kin check` lists the bindings");
            }
        }
    }
    Ok(chosen)
}

/// Nothing is done where one of them has to stay.
fn check_replaced(told: &[LinkInfo], replace: &[(FileName, Reference)]) -> Result<()> {
    let stays = |info: &&LinkInfo| {
        info.state == LinkState::File && !replace.iter().any(|(file, _)| *file == info.file)
    };
    match told.iter().find(stays) {
        None => Ok(()),
        Some(info) => {
            let message = format!("{} is a file already", info.path.display());
            Err(Error::new(Class::Denied, "file_exists", message)
                .hint("say --adopt to move what it holds into the vault, or move it away"))
        }
    }
}

fn changed(info: &LinkInfo, reference: &Reference) -> Error {
    let message = format!("{} does not hold what the vault has as {reference}", info.path.display());
    Error::new(Class::Denied, "file_changed", message).hint("it was left as it is; look at it, and try again")
}

#[cfg(test)]
#[path = "links/links_tests.rs"]
mod tests;
