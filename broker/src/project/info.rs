//! What does a manifest ask for, as a person is shown it?

use std::path::PathBuf;

use kin_policy::{DirectoryName, ExeDigest, FileName, FilePath, ProjectName, Reach, Reference};
use serde::{Deserialize, Serialize};

use crate::sys::path_bytes;

/// How a manifest stands with trust.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum TrustState {
    /// Exactly this content is trusted at this path.
    Trusted,
    /// Nothing is trusted at this path.
    Untrusted,
    /// Other content is trusted at this path.
    Changed {
        /// What changed, as a unified diff.
        diff: String,
    },
    /// The trust store cannot be read while the vault is locked.
    Locked,
}

/// A manifest, and how it stands with trust.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ManifestInfo {
    /// The project's canonical directory: its identity.
    #[serde(with = "path_bytes")]
    pub directory: PathBuf,
    /// What it calls itself.
    pub project: ProjectName,
    /// Its directory in the mount: given at the first trust, and what it would be before.
    pub mounted_as: DirectoryName,
    /// SHA-256 of its bytes, hexadecimal.
    pub hash: String,
    /// How it stands with trust.
    pub trust: TrustState,
    /// Its bindings, and whether the vault has what they name (`None` while it is locked).
    pub bindings: Vec<BindingInfo>,
    /// The files that it makes of several bindings.
    pub files: Vec<RenderedInfo>,
    /// Variables that a command does not inherit.
    pub scrub: Vec<String>,
    /// Values are masked in what a command writes, unless who starts it says otherwise.
    #[serde(default)]
    pub redact: bool,
}

/// One file of a manifest that is made of several bindings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RenderedInfo {
    /// The file.
    pub file: FileName,
    /// Its format, or `template`.
    pub format: String,
    /// The bindings that it is made of.
    pub uses: Vec<FileName>,
    /// Where a private mount lays it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<FilePath>,
    /// The variable that gets its path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env_path: Option<String>,
}

/// One binding of a manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BindingInfo {
    /// The file.
    pub file: FileName,
    /// The secret.
    pub reference: Reference,
    /// Where a private mount lays it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<FilePath>,
    /// The variable of the command that gets the value itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env_value: Option<String>,
    /// Whether it may be mapped in a private mount.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub mmap: bool,
    /// Whether members may write it.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub writable: bool,
    /// How often it may be opened under one grant; `None` is without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_opens: Option<u64>,
    /// For how long after the command's start it may be opened; `None` is for as long as the grant lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_first_ms: Option<u64>,
    /// Levels of processes that may have it, of which the command is the first; `None` is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub levels: Option<u32>,
    /// Whether the vault has it; `None` while the vault is locked.
    pub present: Option<bool>,
    /// In which namespaces a reader may be.
    pub namespaces: Reach,
    /// The programs that alone may read it; none is every program.
    pub exe: Vec<PinInfo>,
    /// When it should be replaced: seconds of Unix time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<i64>,
}

/// A program that a binding is for, and what is at its path now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PinInfo {
    /// The path, as the manifest has it.
    pub path: String,
    /// The digest that it has to have.
    pub sha256: ExeDigest,
    /// The file that is there now, with links resolved; `None` where none can be read.
    pub resolved: Option<String>,
    /// Whether that has the digest.
    pub matches: bool,
    /// Whether it runs what it is given (an interpreter, a loader), so that the pin is of little use.
    pub runs_anything: bool,
}
