//! Agreeing to a manifest, and showing what it asks for.

use std::path::Path;

use kin_policy::{ExePin, FileName, Reference};

use crate::admin::requests::confirmation;
use crate::admin::unlock::{Asker, locked};
use crate::audit::{Event, PolicyChange};
use crate::broker::Broker;
use crate::grants::start;
use crate::process::executables;
use crate::project::info::{BindingInfo, ManifestInfo, PinInfo, RenderedInfo, TrustState};
use crate::project::manifest::{FileRecipe, Manifest};
use crate::project::trust_store::{self, TrustStore};
use crate::sys::clock;
use crate::sys::error::{Class, Error, Result};

impl Broker {
    /// What a manifest asks for. Without the key nothing can be said about trust, but it can still be shown.
    pub(crate) fn look_into(&self, manifest: &Manifest, bus: Option<&str>) -> ManifestInfo {
        let _ = self.unlock(Asker::Anybody, None, bus);
        self.inspect(manifest)
    }

    pub(crate) fn inspect(&self, manifest: &Manifest) -> ManifestInfo {
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

    pub(crate) fn trust(
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

    pub(crate) fn untrust(&self, directory: &Path, bus: Option<&str>) -> Result<()> {
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
