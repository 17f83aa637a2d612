//! Grants: permission for one process tree to be delivered certain bindings of one project.

use core::fmt;
use core::str::FromStr;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::limits::{Descend, Limits, Uses};
use crate::names::{DirectoryName, FileName, FilePath, Reference};
use crate::process::{Namespaces, Process};
use crate::program::ExePin;
use crate::time::Timestamp;

/// 128 random bits, drawn by the broker. Knowing one authorises nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GrantId([u8; 16]);

impl GrantId {
    /// From the bytes that the broker drew.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl From<GrantId> for String {
    fn from(id: GrantId) -> Self {
        id.to_string()
    }
}

impl FromStr for GrantId {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "a grant id is 32 hexadecimal digits";
        if text.len() != 32 || !text.is_ascii() {
            return Err(RULE);
        }
        let mut bytes = [0; 16];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).map_err(|_| RULE)?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for GrantId {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Project X may be delivered `reference` under a file name, which is the key it is stored by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The secret's name in the vault.
    #[serde(rename = "ref")]
    pub reference: Reference,
    /// The environment variable that gets the file's path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env_path: Option<String>,
    /// The variable of the command alone that gets the value itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env_value: Option<String>,
    /// How often and for how long it may be opened.
    #[serde(default)]
    pub limits: Limits,
    /// Who in the tree may have it.
    #[serde(default)]
    pub descend: Descend,
    /// In which namespaces a reader may be.
    #[serde(default, skip_serializing_if = "Reach::is_same")]
    pub namespaces: Reach,
    /// The programs that alone may open and read it; none is every program.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exe: Vec<ExePin>,
    /// Where a private mount lays the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<FilePath>,
    /// In a private mount it may be mapped: the kernel may keep it in the page cache.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub mmap: bool,
    /// Members may write it: what they store is a new version of the secret.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub writable: bool,
    /// It is no secret: a redactor does not mask it.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub plain: bool,
}

impl Binding {
    /// To this secret, without any edge.
    pub fn plain(reference: Reference) -> Self {
        Self {
            reference,
            env_path: None,
            env_value: None,
            limits: Limits::default(),
            descend: Descend::All,
            namespaces: Reach::Same,
            exe: Vec::new(),
            path: None,
            mmap: false,
            writable: false,
            plain: false,
        }
    }

    /// Whether it is for every program and every descendant: only then may a command have its value in its
    /// environment, which all that it starts inherits.
    pub fn may_be_inherited(&self) -> bool {
        self.exe.is_empty() && self.descend == Descend::All
    }
}

/// A file that is made of the values of several bindings: to open it is to open each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderedFile {
    /// The bindings, by name. A grant may have one here that it has no file for.
    pub bindings: BTreeMap<FileName, Binding>,
    /// The environment variable that gets the file's path.
    pub env_path: Option<String>,
    /// Where a private mount lays the file.
    pub path: Option<FilePath>,
}

/// In which user and pid namespaces a reader may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// In those of its grant, and of every grant around that one.
    #[default]
    Same,
    /// In any.
    Any,
}

impl Reach {
    /// Whether it is the default.
    pub fn is_same(&self) -> bool {
        *self == Self::Same
    }
}

/// One grant, as it was made. What happens to it later is its [`Standing`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// The keeper: descendants of this process, and nobody else.
    pub root: Process,
    /// The project's directory in the mount.
    pub project: DirectoryName,
    /// What may be delivered: a snapshot of the trusted manifest.
    pub bindings: BTreeMap<FileName, Binding>,
    /// The files that are made of several; each brings its own bindings.
    pub files: BTreeMap<FileName, RenderedFile>,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends by itself.
    pub expires: Option<Timestamp>,
    /// How often and for how long anything may be opened.
    pub limits: Limits,
}

impl Grant {
    /// Every file, in the order of their names.
    pub fn names(&self) -> impl Iterator<Item = &FileName> {
        let (mut bindings, mut files) = (self.bindings.keys().peekable(), self.files.keys().peekable());
        core::iter::from_fn(move || match (bindings.peek(), files.peek()) {
            (Some(binding), Some(file)) if file < binding => files.next(),
            (Some(_), _) => bindings.next(),
            (None, _) => files.next(),
        })
    }

    /// What stands behind a file: one binding, or those that it is made of.
    pub fn behind(&self, file: &FileName) -> impl Iterator<Item = &Binding> {
        let rendered = self.files.get(file).into_iter().flat_map(|rendered| rendered.bindings.values());
        self.bindings.get(file).into_iter().chain(rendered)
    }

    /// The files that its members may write.
    pub fn writable(&self) -> impl Iterator<Item = &FileName> {
        self.bindings.iter().filter(|(_, binding)| binding.writable).map(|(file, _)| file)
    }

    /// Every binding, of files and of what they are made of; one can come more than once.
    pub fn every_binding(&self) -> impl Iterator<Item = (&FileName, &Binding)> {
        self.bindings.iter().chain(self.files.values().flat_map(|rendered| rendered.bindings.iter()))
    }

    /// Whether one of its bindings is for certain programs alone.
    pub fn is_pinned(&self) -> bool {
        self.every_binding().any(|(_, binding)| !binding.exe.is_empty())
    }

    /// The binding of this name: the file itself, or a part of the file `through`.
    pub(crate) fn binding(&self, file: &FileName, through: Option<&FileName>) -> Option<&Binding> {
        match through {
            None => self.bindings.get(file),
            Some(through) => self.files.get(through)?.bindings.get(file),
        }
    }

    /// What bounds the opens of a binding, whichever file it is opened by.
    pub(crate) fn limits_of(&self, binding: &FileName) -> Option<Limits> {
        let mut parts = self.files.values().filter_map(|rendered| rendered.bindings.get(binding));
        self.bindings.get(binding).or_else(|| parts.next()).map(|binding| binding.limits)
    }
}

/// Why a grant ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The last process of its tree exited.
    TreeExit,
    /// The command exited, and that was to be the end (`--end-with-child`).
    CommandExit,
    /// Its keeper, or its front before the command ended, was killed.
    OwnerKilled,
    /// Its redactor took no new value in.
    RedactorFailed,
    /// Its command never ran: who started it called that off.
    CalledOff,
    /// Its command never ran: something that it needs failed, or its keeper was gone before.
    NotStarted,
    /// Its time was up.
    TtlExpired,
    /// A person revoked it.
    Revoked,
    /// The vault was locked.
    Locked,
    /// The broker stopped.
    Stopped,
}

impl Ending {
    /// The word that records and messages use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TreeExit => "tree_exit",
            Self::CommandExit => "command_exit",
            Self::OwnerKilled => "owner_killed",
            Self::RedactorFailed => "redactor_failed",
            Self::CalledOff => "called_off",
            Self::NotStarted => "not_started",
            Self::TtlExpired => "ttl_expired",
            Self::Revoked => "revoked",
            Self::Locked => "locked",
            Self::Stopped => "stopped",
        }
    }
}

/// What holds for processes that descend from a root only because they were orphaned to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orphans {
    /// They are members: a double fork stays in the tree.
    Admitted,
    /// An inner keeper was killed, so orphans may be survivors of a narrower grant: only descendants
    /// of the root's own command (where it is known) are members from now on.
    Refused,
}

/// A grant and what has become of it.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// The grant.
    pub grant: &'a Grant,
    /// How it ended, where it has.
    pub ended: Option<Ending>,
    /// The vault locked itself: the grant stands, and waits for a person to unlock it.
    pub suspended: bool,
    /// As many files are open as values are held for.
    pub crowded: bool,
    /// The command that its root started, where that is known.
    pub command: Option<Process>,
    /// What holds for orphans.
    pub orphans: Orphans,
    /// The namespaces of its command; `None` where they could not be told.
    pub namespaces: Option<Namespaces>,
    /// What has been used of it.
    pub uses: Uses,
    /// The grants that it was made inside of: what is left of them, and their place, bound it too.
    pub around: &'a [Around<'a>],
}

/// A grant around another one.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// The grant.
    pub grant: &'a Grant,
    /// How it ended, where it has.
    pub ended: Option<Ending>,
    /// The namespaces of its command; `None` where they could not be told.
    pub namespaces: Option<Namespaces>,
    /// What has been used of it.
    pub uses: Uses,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_id_reads_back() {
        let id = GrantId::from_bytes([7; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "07", &"g".repeat(32), &"é".repeat(16)] {
            assert!(bad.parse::<GrantId>().is_err());
        }
    }
}
