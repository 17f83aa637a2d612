//! How do many values come in at once, and go out together? All of them or none; in the clear never.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::Path;

use kin_policy::{Permit, Reference, decide_reveal};

use crate::admin::batches::{
    ExportKey, ExportMade, ExportRequest, ImportInfo, ImportRequest, ImportState, StageExport, StagedEntry,
};
use crate::admin::unlock::{Asker, Opened};
use crate::audit::version_event;
use crate::audit::{Span, VaultChange};
use crate::broker::Broker;
use crate::sys::clock;
use crate::sys::error::{Class, Error, Result};
use crate::sys::files;
use crate::sys::memory::Plaintext;
use crate::vault::info::SecretInfo;
use crate::vault::{Facts, Place, Vault};
use crate::{audit, keys};

mod document;
mod envelope;

/// Secrets of one import, at most, and bytes of their values.
const MOST: usize = 10_000;
const BYTES: usize = 64 << 20;
/// Bytes of an export's file, at most.
const FILE: u64 = 128 << 20;

/// Values that came in on one connection and wait for a word.
#[derive(Default)]
pub(crate) struct Staged {
    values: Vec<Incoming>,
    names: BTreeSet<Reference>,
    bytes: usize,
    selected: Vec<Reference>,
}

/// One of them.
pub(crate) struct Incoming {
    pub(crate) reference: Reference,
    pub(crate) value: Plaintext,
    pub(crate) facts: Facts,
}

impl Staged {
    /// What was selected so far. It stays so: an export that has to be asked for again has all of it again.
    pub(crate) fn selected(&self) -> Vec<Reference> {
        self.selected.clone()
    }

    fn push(&mut self, incoming: Incoming) -> Result<()> {
        self.bytes += incoming.value.len();
        if self.values.len() >= MOST || self.bytes > BYTES {
            let message = format!("an import has at most {MOST} secrets and {} MiB", BYTES >> 20);
            return Err(Error::new(Class::Usage, "import_too_large", message).hint("import it in parts"));
        }
        if !self.names.insert(incoming.reference.clone()) {
            let message = format!("{} is there twice", incoming.reference);
            return Err(Error::new(Class::Usage, "name_collision", message)
                .hint("give one of them another name, or import them one after the other"));
        }
        self.values.push(incoming);
        Ok(())
    }
}

impl Broker {
    /// Takes the values of one frame.
    ///
    /// # Errors
    /// `bad_request`, `import_too_large`, `name_collision`.
    pub(crate) fn stage(
        &self,
        staged: &mut Staged,
        entries: Vec<StagedEntry>,
        packed: Option<Plaintext>,
    ) -> Result<()> {
        let bad = || Error::new(Class::Usage, "bad_request", "the sizes are not those of the values");
        let packed = packed.ok_or_else(bad)?;
        let mut rest = packed.bytes();
        for StagedEntry { reference, size } in entries {
            let size = usize::try_from(size).map_err(|_| bad())?;
            let (value, after) = rest.split_at_checked(size).ok_or_else(bad)?;
            rest = after;
            let value = Plaintext::copy_of(value);
            staged.push(Incoming { reference, value, facts: Facts::default() })?;
        }
        if rest.is_empty() { Ok(()) } else { Err(bad()) }
    }

    /// Takes the names of secrets that are to be exported: of no more than there are.
    ///
    /// # Errors
    /// `secret_missing`, `bad_request`; those of an unlock.
    pub(crate) fn select(
        &self,
        staged: &mut Staged,
        references: Vec<Reference>,
        session_bus: Option<&str>,
    ) -> Result<()> {
        let opened = self.unlock(Asker::Person, None, session_bus)?;
        if staged.selected.len() + references.len() > opened.vault.count() {
            return Err(Error::new(Class::Usage, "bad_request", "more names than the vault has"));
        }
        match references.iter().find(|reference| opened.vault.version(reference).is_none()) {
            Some(unknown) => Err(crate::vault::missing(unknown)),
            None => {
                staged.selected.extend(references);
                Ok(())
            }
        }
    }

    /// Takes the values of an encrypted export, which are decrypted here: no client sees them.
    ///
    /// # Errors
    /// `export_missing` (Usage), those of an unsafe file, `export_corrupt`, `export_locked`, `wrong_passphrase`.
    pub(crate) fn stage_export(
        &self,
        staged: &mut Staged,
        request: &StageExport,
        key: Option<&Plaintext>,
        session_bus: Option<&str>,
    ) -> Result<()> {
        let opened = self.unlock(Asker::Person, None, session_bus)?;
        let path = &request.path;
        let file = files::read_shared(path, FILE)?.ok_or_else(|| {
            let message = format!("there is no export at {}", path.display());
            Error::new(Class::Usage, "export_missing", message).hint("`kin export FILE` makes one")
        })?;
        let content = match (request.key, key) {
            (ExportKey::Vault, None) => envelope::open_for(&file, path, &opened.identity.age()),
            (ExportKey::Passphrase, Some(passphrase)) => envelope::open_with(&file, path, passphrase),
            (ExportKey::Identity, Some(text)) => {
                let identity = keys::Identity::parse(text.bytes()).ok_or_else(|| {
                    Error::new(Class::Usage, "bad_identity", "that is no age identity")
                        .hint("it is a line AGE-SECRET-KEY-1…")
                })?;
                envelope::open_for(&file, path, &identity.age())
            }
            _ => return Err(Error::new(Class::Usage, "bad_request", "a key, or none, is needed")),
        }?;
        for mut incoming in document::read(&content, path)? {
            if let Some(prefix) = &request.prefix {
                incoming.reference = Reference::new(format!("{prefix}/{}", incoming.reference))?;
            }
            staged.push(incoming)?;
        }
        Ok(())
    }

    /// Says what an import would change; confirmed, does it in one write of the vault, and reads that back.
    ///
    /// # Errors
    /// `nothing_to_import`, `would_overwrite` (Denied), `vault_changed` (Denied), `readback_failed` (Integrity); those
    /// of a write. Nothing has changed then, except after `readback_failed` and where the record failed.
    pub(crate) fn import(
        &self,
        staged: &mut Staged,
        request: &ImportRequest,
        session_bus: Option<&str>,
    ) -> Result<Vec<ImportInfo>> {
        let opened = self.unlock(Asker::Person, None, session_bus)?;
        if staged.values.is_empty() {
            return Err(Error::new(Class::Usage, "nothing_to_import", "there is nothing to import")
                .hint("see `kin import --help`"));
        }
        let compare = |incoming: &Incoming| self.compare(&opened, incoming);
        let mut told = staged.values.iter().map(compare).collect::<Result<Vec<_>>>()?;
        if !request.confirmed {
            return Ok(told);
        }
        let changed = told.iter().filter(|info| info.state == ImportState::Changed).count();
        if changed > 0 && !request.overwrite {
            let first = told.iter().find(|info| info.state == ImportState::Changed);
            let first = first.map(|info| info.reference.to_string()).unwrap_or_default();
            let message = format!("{changed} of them have another value in the vault, {first} first");
            return Err(
                Error::new(Class::Denied, "would_overwrite", message).hint("say --overwrite to replace them")
            );
        }
        let values = std::mem::take(staged).values;
        let all = values.into_iter().zip(&mut told);
        let new: Vec<_> = all.filter(|(_, info)| info.state != ImportState::Same).collect();
        self.take_in(&opened, new, request.reason.as_str())?;
        Ok(told)
    }

    /// Writes them, reads the vault's file again, and holds it to each value under the record of its write.
    fn take_in(
        &self,
        opened: &Opened,
        new: Vec<(Incoming, &mut ImportInfo)>,
        reason: &'static str,
    ) -> Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        let now = clock::unix_seconds();
        let changing = self.change()?;
        self.replace_vault(&changing, |vault| {
            if new.iter().any(|(incoming, info)| {
                vault.version(&incoming.reference).unwrap_or(0) != info.version.saturating_sub(1)
            }) {
                return Err(Error::new(Class::Denied, "vault_changed", "the vault has changed meanwhile")
                    .hint("look again, and say yes again"));
            }
            let values = new.iter().map(|(new, _)| (new.reference.clone(), &new.value, new.facts.clone()));
            let planned = vault.plan_set_all(values, now, Some(reason))?;
            self.perform(planned, |logged| vault.commit(logged))
        })?;
        let (written, _) = Vault::copy(&Place::of(&self.directories), &opened.identity)?;
        drop(changing);
        for (incoming, info) in new {
            let reference = &incoming.reference;
            let permit = permit(reference)?;
            if !written.has_version(&permit, info.version, &incoming.value)? {
                let message = format!("the vault does not give {reference} back as it was written");
                return Err(Error::new(Class::Integrity, "readback_failed", message).hint("see `kin doctor`"));
            }
        }
        Ok(())
    }

    /// How one stands with what the vault has. A comparison of values is on the record: it could be a guess.
    fn compare(&self, opened: &Opened, incoming: &Incoming) -> Result<ImportInfo> {
        let (reference, size) = (&incoming.reference, incoming.value.len() as u64);
        let known = opened.vault.info(reference);
        let state = match &known {
            None => ImportState::New,
            Some(info)
                if info.size == size && self.is_current(opened, reference, &incoming.value, "import")? =>
            {
                ImportState::Same
            }
            Some(_) => ImportState::Changed,
        };
        let current = known.map_or(0, |info| info.version);
        let version = if state == ImportState::Same { current } else { current + 1 };
        Ok(ImportInfo { reference: reference.clone(), size, state, version })
    }

    /// Whether the vault's current value is this one; that is on the record.
    ///
    /// # Errors
    /// Those of the record and of unsealing.
    pub(crate) fn is_current(
        &self,
        opened: &Opened,
        reference: &Reference,
        value: &Plaintext,
        reason: &str,
    ) -> Result<bool> {
        let version = opened.vault.version(reference).unwrap_or(0);
        let logged = self.logged(VaultChange::Compare, (reference, version), reason)?;
        Ok(opened.vault.unseal(&logged)?.bytes() == value.bytes())
    }

    /// A permit for one value, outside every tree and on the record.
    pub(crate) fn logged(
        &self,
        change: VaultChange,
        (reference, version): (&Reference, u64),
        reason: &str,
    ) -> Result<audit::Logged<kin_policy::Permit>> {
        self.log_for_a_person(permit(reference)?, &version_event(change, (reference, version), Some(reason)))
    }

    /// Writes secrets to a file that is encrypted to others, where nothing may be.
    ///
    /// # Errors
    /// `file_exists` (Denied), `bad_recipient`, `recipient_needed` (Usage), `secret_missing`; those of an unlock; a
    /// storage error.
    pub(crate) fn export(
        &self,
        request: &ExportRequest,
        passphrase: Option<&Plaintext>,
        session_bus: Option<&str>,
    ) -> Result<ExportMade> {
        let opened = self.unlock(Asker::Person, None, session_bus)?;
        let path = &request.path;
        let seal = envelope::Seal::new(&request.recipients, passphrase)?;
        files::check_vacant(path, "file_exists")?;
        let mut chosen = Vec::new();
        for reference in &request.references {
            let info = opened.vault.info(reference).ok_or_else(|| crate::vault::missing(reference))?;
            chosen.push(info);
        }
        let span: Cell<Option<Span>> = Cell::default();
        let written = self.write_export(&opened, (path, &seal), &chosen, &span);
        written.inspect_err(|error| {
            span.get().into_iter().for_each(|span| self.record_failed("vault.export", span, error));
        })?;
        Ok(ExportMade { path: path.clone(), secrets: chosen.len() })
    }

    /// Each value under the record of its export; `span` is of these, also where the file is not written after all.
    fn write_export(
        &self,
        opened: &Opened,
        (path, seal): (&Path, &envelope::Seal),
        chosen: &[SecretInfo],
        span: &Cell<Option<Span>>,
    ) -> Result<()> {
        let content = document::write(chosen, clock::unix_seconds(), |info: &SecretInfo| {
            let exported = (&info.reference, info.version);
            let logged = self.logged(VaultChange::Export, exported, &seal.name())?;
            let last = logged.seq();
            span.set(Some(Span { first: span.get().map_or(last, |span| span.first), last }));
            opened.vault.unseal(&logged)
        })?;
        let file = seal.close(&content)?;
        if file.len() as u64 > FILE {
            let message = format!("the export would be larger than {} MiB", FILE >> 20);
            return Err(Error::new(Class::Usage, "export_too_large", message).hint("export it in parts"));
        }
        files::write_atomic(path, &file)
    }
}

/// A permit for one value, for a person who agreed, outside every tree.
fn permit(reference: &Reference) -> Result<Permit> {
    decide_reveal(reference, false, true)
        .ok_or_else(|| Error::internal("permit a value", "a person has not agreed"))
}
