//! How do many values get to the broker, and what does a person see of them first?

use kin_broker::admin::batches::{ImportInfo, ImportReason, ImportRequest, ImportState, StagedEntry};
use kin_broker::control::protocol::Question;
use kin_broker::control::{Client, MAX_VALUE};
use kin_broker::{Plaintext, Result};
use kin_policy::Reference;

use crate::cli::terminal::Terminal;
use crate::cli::{output, unlock};

/// A value, and the name that it is to have.
pub(in crate::cli) struct Entry {
    pub(in crate::cli) reference: Reference,
    pub(in crate::cli) value: Plaintext,
}

/// Names in one frame, at most: its document has a limit too.
const NAMES: usize = 500;

/// Hands them over, many in one frame; nothing is stored yet.
///
/// # Errors
/// The broker's.
pub(in crate::cli) fn stage(client: &mut Client, entries: &[Entry]) -> Result<()> {
    let mut rest = entries;
    while !rest.is_empty() {
        let mut size = 0;
        let fits = |entry: &&Entry| {
            size += entry.value.len();
            size <= MAX_VALUE
        };
        let count = rest.iter().take(NAMES).take_while(fits).count().max(1);
        let (now, later) = rest.split_at(count);
        send(client, now)?;
        rest = later;
    }
    Ok(())
}

fn send(client: &mut Client, entries: &[Entry]) -> Result<()> {
    let mut packed = Plaintext::zeroed(entries.iter().map(|entry| entry.value.len()).sum());
    let mut at = 0;
    for entry in entries {
        let end = at + entry.value.len();
        packed.bytes_mut()[at..end].copy_from_slice(entry.value.bytes());
        at = end;
    }
    let named = entries
        .iter()
        .map(|entry| StagedEntry { reference: entry.reference.clone(), size: entry.value.len() as u64 });
    client.ask_with(Question::Stage { entries: named.collect() }, Some(&packed))
}

/// What was staged on a connection.
pub(in crate::cli) struct Incoming {
    pub(in crate::cli) overwrite: bool,
    pub(in crate::cli) reason: ImportReason,
}

impl Incoming {
    /// What storing it would change.
    ///
    /// # Errors
    /// The broker's, and those of unlocking.
    pub(in crate::cli) fn look(&self, client: &mut Client) -> Result<Vec<ImportInfo>> {
        self.ask(client, false)
    }

    /// Stores it.
    ///
    /// # Errors
    /// As [`Self::look`]; `would_overwrite`.
    pub(in crate::cli) fn commit(&self, client: &mut Client) -> Result<Vec<ImportInfo>> {
        self.ask(client, true)
    }

    /// Asks the person; what would be overwritten is asked for too.
    ///
    /// # Errors
    /// `not_confirmed`.
    pub(in crate::cli) fn agree(
        &mut self,
        terminal: &mut Terminal,
        seen: &[ImportInfo],
        question: &str,
    ) -> Result<()> {
        terminal.confirm(question)?;
        let changed = seen.iter().filter(|info| info.state == ImportState::Changed).count();
        if changed > 0 && !self.overwrite {
            terminal.confirm(&format!("Replace the values of {changed} that are there?"))?;
            self.overwrite = true;
        }
        Ok(())
    }

    fn ask(&self, client: &mut Client, confirmed: bool) -> Result<Vec<ImportInfo>> {
        let request = ImportRequest { overwrite: self.overwrite, confirmed, reason: self.reason };
        unlock::asking(client, |client| client.ask(Question::Import(request.clone())))
    }
}

/// Whether a new version of it is, or would be, stored.
pub(in crate::cli) fn is_written(info: &ImportInfo) -> bool {
    info.state != ImportState::Same
}

/// Names, how they stand, and sizes; no value.
pub(in crate::cli) fn table(secrets: &[ImportInfo]) -> String {
    let rows = secrets.iter().map(|info| {
        let state = match info.state {
            ImportState::New => "new",
            ImportState::Changed => "changed",
            ImportState::Same => "same",
        };
        vec![info.reference.to_string(), state.into(), info.version.to_string(), info.size.to_string()]
    });
    output::table(&["REFERENCE", "STATE", "VERSION", "BYTES"], rows)
}
