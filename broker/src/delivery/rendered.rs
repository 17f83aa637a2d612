//! How is a file of several bindings delivered? As one open of each of them, of one state of the vault, under
//! one record that names them all.

use std::collections::BTreeMap;

use kin_policy::{Denial, FileName, Grant, Permit, decide_sizing};

use crate::Plaintext;
use crate::audit::{Event, Logged, NotLogged};
use crate::broker::Broker;
use crate::delivery::open::{FileFacts, Refusal, unsealing, versions};
use crate::grants::live::LiveGrant;
use crate::grants::rendered_file::{Measured, Rendered};
use crate::project::render::Unwritable;
use crate::sys::error::{Class, Error, Result};
use crate::vault::{self, Vault};

/// Why a file is not made.
enum Unmade {
    Refused(Refusal),
    Unwritable(Unwritable),
}

impl From<Refusal> for Unmade {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Unmade> for Refusal {
    fn from(unmade: Unmade) -> Self {
        match unmade {
            Unmade::Refused(refusal) => refusal,
            Unmade::Unwritable(_) => Self::Broken,
        }
    }
}

impl Rendered {
    /// Makes it, of the values as `vault` has them.
    ///
    /// # Errors
    /// `Missing`, and `Broken` where a value cannot be written in it.
    pub(crate) fn render(
        &self,
        grant: &Grant,
        file: &FileName,
        vault: &Vault,
        permit: &Logged<Permit>,
    ) -> Result<Plaintext, Refusal> {
        self.make(grant, file, vault, permit).map_err(Refusal::from)
    }

    fn make(
        &self,
        grant: &Grant,
        file: &FileName,
        vault: &Vault,
        permit: &Logged<Permit>,
    ) -> Result<Plaintext, Unmade> {
        let mut values = BTreeMap::new();
        for (binding, of) in grant.files.get(file).into_iter().flat_map(|rendered| &rendered.bindings) {
            let value = vault.unseal_of(permit, &of.reference).map_err(|error| unsealing(&error))?;
            values.insert(binding.clone(), value);
        }
        self.recipe.render(&values).map_err(Unmade::Unwritable)
    }
}

impl Broker {
    /// What a member may know of the file before it opens it.
    pub(crate) fn look_at_rendered(
        &self,
        live: &LiveGrant,
        file: &FileName,
        vault: &Vault,
    ) -> Result<FileFacts, Refusal> {
        let versions: Option<Vec<_>> =
            live.grant.behind(file).map(|binding| vault.info(&binding.reference)).collect();
        let modified = vault::modified(&versions.ok_or(Refusal::Missing)?);
        let size = self.measure(live, file, vault).map_err(Refusal::from)?;
        Ok(FileFacts { size, modified })
    }

    /// Makes every file of a new grant once, so that what cannot be made is told before anything starts.
    ///
    /// # Errors
    /// `unwritable_value` (Unsafe), `secret_missing`, `audit_failed`.
    pub(crate) fn measure_all(&self, live: &LiveGrant, vault: &Vault) -> Result<()> {
        live.grant.files.keys().try_for_each(|file| {
            self.measure(live, file, vault).map(drop).map_err(|unmade| match unmade {
                Unmade::Unwritable(unwritable) => cannot_make(file, &unwritable),
                Unmade::Refused(refusal) => {
                    let message = format!("the file {file} cannot be made: {refusal:?}");
                    Error::new(Class::Storage, "render_failed", message)
                        .hint("see `kin status` and `kin check`")
                }
            })
        })
    }

    /// The size of the file: made under a permit that is recorded, measured, and wiped. It is known until the
    /// vault changes.
    fn measure(&self, live: &LiveGrant, file: &FileName, vault: &Vault) -> Result<u64, Unmade> {
        let rendered = live.rendered(file).ok_or(Refusal::Broken)?;
        let generation = vault.generation();
        if let Some(measured) = rendered.measured.lock().filter(|known| known.generation == generation) {
            return measured.size.ok_or_else(|| Refusal::Broken.into());
        }
        let permit = decide_sizing(&live.grant, file).ok_or(Refusal::Denied(Denial::NoBinding))?;
        let references = versions(&permit, vault)?;
        let (grant, project) = (live.grant.id, &live.grant.project);
        let event = Event::Render { grant, project, file, references: &references };
        let stands = || live.ended().map_or(Ok(()), |ending| Err(Denial::Ended(ending)));
        let logged = self.audit.append_permit(permit, &event, stands, || ()).map_err(|why| match why {
            NotLogged::Denied(denial) => Refusal::Denied(denial),
            _ => Refusal::NotRecorded,
        })?;
        let made = rendered.make(&live.grant, file, vault, &logged);
        let size = made.as_ref().ok().map(|made| made.len() as u64);
        *rendered.measured.lock() = Some(Measured { generation, size });
        made.map(|made| made.len() as u64)
    }
}

fn cannot_make(file: &FileName, why: &Unwritable) -> Error {
    let message = match &why.binding {
        Some(binding) => format!("the value of {binding} cannot be written in {file}: {}", why.why),
        None => format!("the file {file} cannot be made: {}", why.why),
    };
    Error::new(Class::Unsafe, "unwritable_value", message)
        .hint("store another value, or take it out of the file in kin.toml")
}
