//! Who else can open this vault, and what does it become under another identity?

use std::path::Path;

use super::container::{Content, Keys, MOST_RECIPIENTS, Recipient, Sealed, corrupt, place};
use super::{Place, Planned, Vault, anchor, container, seal};
use crate::audit::VaultChange;
use crate::keys::{Identity, Root};
use crate::sys::error::{Class, Error, Result};
use crate::sys::files;
use crate::vault::info::RecipientInfo;

/// A vault under another identity, of which nothing is written yet.
pub(crate) struct Rekeyed {
    /// It, once its file is in its place.
    pub(crate) vault: Vault,
    /// Its file.
    pub(crate) file: Vec<u8>,
    /// Its anchor.
    pub(crate) anchor: Vec<u8>,
}

impl Vault {
    /// Reads the vault as one that it is for too, and makes sure that `owner` wrote it and that it is the newest.
    ///
    /// # Errors
    /// As [`Self::open`]; `vault_unauthenticated` also where it is not for `reader`.
    pub(crate) fn open_as(place: &Place, reader: &Identity, owner: &str) -> Result<Self> {
        let file = files::read_private(&place.file, container::LIMIT)?.ok_or_else(|| super::absent(place))?;
        let vault = Self::of_backup_as(place, &place.file, &file, reader, owner)?;
        anchor::check(&place.anchor, vault.keys.anchor(), vault.content.generation, &file)?;
        Ok(vault)
    }

    /// As [`Self::of_backup`], for somebody that the vault is for too.
    ///
    /// # Errors
    /// As there; `vault_unauthenticated` also where it is not for `reader`.
    pub(crate) fn of_backup_as(
        place: &Place,
        from: &Path,
        bytes: &[u8],
        reader: &Identity,
        owner: &str,
    ) -> Result<Self> {
        let (content, data_key, keys) = Content::decode_for(bytes, from, reader, owner)?;
        Ok(Self::of(place, keys, data_key, content))
    }

    /// Who else it is for, the longest known first.
    pub(crate) fn recipients(&self) -> Vec<RecipientInfo> {
        self.content.recipients().iter().map(describe).collect()
    }

    /// Makes it one for `recipient` too; `now` is in seconds of Unix time.
    ///
    /// # Errors
    /// `bad_recipient`, `recipient_exists`, `too_many_recipients` (Usage).
    pub(crate) fn plan_add_recipient(
        &self,
        owner: &Identity,
        recipient: &str,
        now: i64,
        paper: bool,
    ) -> Result<(Planned, RecipientInfo)> {
        let mut others = self.content.recipients().to_vec();
        let refuse = |code, message: &str| {
            let hint = "`kin recovery list` shows whom it is for";
            Err(Error::new(Class::Usage, code, message.to_owned()).hint(hint))
        };
        if recipient == owner.recipient() || others.iter().any(|other| other.recipient == recipient) {
            return refuse("recipient_exists", "the vault is for this recipient already");
        }
        if others.len() == MOST_RECIPIENTS {
            return refuse("too_many_recipients", "the vault is for as many others as it can be");
        }
        let new = Recipient::new(owner, recipient, now, paper).ok_or_else(bad_recipient)??;
        let info = describe(&new);
        others.push(new);
        Ok(self.plan_recipients(VaultChange::RecoveryAdd, (self.shared_with(others), info)))
    }

    /// Makes it no longer one for the recipient that begins with `beginning`; tells which that was.
    ///
    /// # Errors
    /// `unknown_recipient`, `ambiguous_recipient` (Usage).
    pub(crate) fn plan_remove_recipient(&self, beginning: &str) -> Result<(Planned, RecipientInfo)> {
        let (gone, left): (Vec<_>, Vec<_>) =
            self.content.recipients().iter().cloned().partition(|of| of.recipient.starts_with(beginning));
        let refuse = |code, message: String| {
            let hint = "`kin recovery list` shows whom it is for";
            Err(Error::new(Class::Usage, code, message).hint(hint))
        };
        match &gone[..] {
            [] => {
                refuse("unknown_recipient", format!("the vault is for nobody that begins with {beginning}"))
            }
            [one] => {
                let next = (self.shared_with(left), describe(one));
                Ok(self.plan_recipients(VaultChange::RecoveryRemove, next))
            }
            _ => refuse("ambiguous_recipient", format!("more than one recipient begins with {beginning}")),
        }
    }

    fn shared_with(&self, recipients: Vec<Recipient>) -> Content {
        let mut next = Content::clone(&self.content);
        next.share(recipients);
        next
    }

    /// Whether this is its identity.
    pub(crate) fn is_of(&self, identity: &Identity) -> bool {
        identity.root().bytes().bytes() == self.root().bytes().bytes()
    }

    /// What its keys hang off.
    pub(crate) fn root(&self) -> &Root {
        self.keys.root()
    }

    /// The same secrets and recipients under another identity: each value sealed anew, with a new key. Nothing is
    /// written.
    ///
    /// # Errors
    /// `vault_corrupt` for a value that does not open; `vault_full`.
    pub(crate) fn rekeyed(&self, identity: &Identity) -> Result<Rekeyed> {
        let keys = Keys::of(identity);
        let (mut content, data_key) = Content::new(&keys)?;
        let marked = anchor::generation(&self.place.anchor, self.keys.anchor());
        content.generation = self.content.generation.max(marked) + 1;
        content.trust = self.newest_mark();
        content.secrets = self.content.secrets.clone();
        for (reference, record) in &mut content.secrets {
            for version in record.versions.iter_mut().filter(|version| version.sealed.is_some()) {
                let value = self.open_version(reference, version)?;
                let sealed = seal::seal(&data_key, &place(reference, version.version), value.bytes())?;
                version.sealed = Some(Sealed(sealed.into()));
            }
        }
        let again = |of: &Recipient| {
            let damaged = || corrupt(&self.place.file, "names a recipient that is none");
            Recipient::new(identity, &of.recipient, of.since, of.paper).ok_or_else(damaged)?
        };
        content.share(self.content.recipients().iter().map(again).collect::<Result<_>>()?);
        let file = self.encode(&content, &keys)?;
        let anchor = anchor::render(keys.anchor(), (content.generation, content.trust.as_ref()), &file)?;
        Ok(Rekeyed { vault: Self::of(&self.place, keys, data_key, content), file, anchor })
    }
}

fn describe(of: &Recipient) -> RecipientInfo {
    RecipientInfo { recipient: of.recipient.clone(), since: of.since, paper: of.paper }
}

fn bad_recipient() -> Error {
    Error::new(Class::Usage, "bad_recipient", "this is no X25519 recipient of age")
        .hint("it looks like age1… ; `age-keygen -y` prints it")
}

#[cfg(test)]
#[path = "recipients_tests.rs"]
mod tests;
