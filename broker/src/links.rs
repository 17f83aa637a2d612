//! Where do links into the mount stand, and may they be put and taken away? Only what kin made goes, and no
//! file gives way whose bytes the vault does not have.

use kin_policy::{DirectoryName, FileName, FilePath, Reference};

use crate::answer::confirmation;
use crate::audit::{Event, PolicyChange, VaultChange};
use crate::broker::Broker;
use crate::control::transfer::{LinkInfo, LinkRequest, LinkState, UnlinkInfo, UnlinkRequest, UnlinkState};
use crate::custody::{Asker, Opened};
use crate::error::{Class, Error, Result};
use crate::granting;
use crate::manifest::Manifest;
use crate::targets::{Target, Way};

mod ignored;
mod place;
mod store;

use place::Place;
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
            granting::trusted(&trust.check(&manifest), &manifest)?;
            trust.mounted_as(&manifest.directory).ok_or_else(|| granting::untrusted(&manifest))?
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

    /// Puts one link: the line for git first, then the memory of it, then the link, where it replaces something.
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
        let wanted = request.ignore.contains(&info.file) && !path.is_in_home();
        let ignored = if wanted { ignored::add(&manifest.directory, path)? } else { None };
        let place = Place::make(way)?;
        let mut linked = Linked::new(manifest, info, base, path, place.made());
        linked.also(ignored, store);
        match info.state {
            LinkState::File => {
                let kept = request.replace.iter().find(|(file, _)| *file == info.file);
                let (_, reference) =
                    kept.ok_or_else(|| Error::internal("replace a file", "nobody asked for it"))?;
                let old = place.read(way)?;
                if !self.is_current(opened, reference, old.bytes(), "adopt")? {
                    return Err(changed(info, reference));
                }
                linked.replaced(reference, &old);
                place.replace(old, &target, |inode| store.remember(linked.of(inode)))?;
                info.state = LinkState::Replaced;
            }
            LinkState::Missing => {
                let inode = place.link(&target)?;
                store.remember(linked.of(inode))?;
                info.state = LinkState::Made;
            }
            _ => match store.at(&linked) {
                Some(_) => return Ok(()),
                None => store.remember(linked.of(place.inode()?))?,
            },
        }
        self.record_link(PolicyChange::Link, manifest.directory.as_path(), &info.file, path)
    }

    fn record_link(
        &self,
        change: PolicyChange,
        directory: &std::path::Path,
        file: &FileName,
        path: &FilePath,
    ) -> Result<()> {
        let what = format!("{file} at {path}");
        self.record(&Event::Policy {
            change,
            project: None,
            directory,
            hash: None,
            reason: Some(&what),
            asker: None,
        })
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
            let state = self.take_away(&opened, &linked, request.restore)?;
            // Where something stands in the way of a file, that can still be brought back later.
            if !(request.restore && linked.kept.is_some() && state == UnlinkState::Kept) {
                store.forget(&linked)?;
            }
            self.record_link(PolicyChange::Unlink, &directory, &linked.file, &linked.path)?;
            told.push(UnlinkInfo { file: linked.file.clone(), path: linked.whole(), state });
        }
        Ok(told)
    }

    fn take_away(&self, opened: &Opened, linked: &Linked, restore: bool) -> Result<UnlinkState> {
        let way = linked.way();
        let kept = linked.kept.as_ref().filter(|_| restore);
        let value = match kept {
            Some(kept) => {
                let version = opened.vault.version(&kept.reference).unwrap_or(0);
                let logged = self.logged(VaultChange::Reveal, (&kept.reference, version), "restore")?;
                Some((opened.vault.unseal(&logged)?, kept.mode))
            }
            None => None,
        };
        let place = match &value {
            Some(_) => Some(Place::make(way)?),
            None => Place::at(way)?,
        };
        let Some(place) = place else { return Ok(UnlinkState::Gone) };
        let state = place.remove(linked)?;
        if let (Some((value, mode)), UnlinkState::Removed | UnlinkState::Gone) = (&value, state) {
            // The line for git stays: a file in the clear is the last thing to be committed.
            place.write(value, *mode)?;
            return Ok(UnlinkState::Restored);
        }
        if let Some(line) = &linked.ignored {
            ignored::remove(&linked.base, &linked.path, line)?;
        }
        linked.made.iter().rev().for_each(crate::placeholders::Placeholder::remove);
        Ok(state)
    }
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
