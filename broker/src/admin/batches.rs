//! Questions and answers about many secrets at once, and about links into the mount.

use std::path::PathBuf;

use kin_policy::{FileName, Reference};
use serde::{Deserialize, Serialize};

use crate::sys::path_bytes;

/// One of the values that travel in one frame, packed one behind the other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StagedEntry {
    /// The secret's name.
    pub reference: Reference,
    /// Bytes of its value.
    pub size: u64,
}

/// A file that `kin export` made, whose secrets are to be staged.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageExport {
    /// The file.
    #[serde(with = "path_bytes")]
    pub path: PathBuf,
    /// What opens it.
    pub key: ExportKey,
    /// What the names are put below.
    #[serde(default)]
    pub prefix: Option<Reference>,
}

/// What opens an encrypted export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportKey {
    /// The identity of the vault that it is imported into.
    Vault,
    /// A passphrase, which travels as the value.
    Passphrase,
    /// An age identity, which travels as the value.
    Identity,
}

/// What is to become of what was staged on this connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImportRequest {
    /// Secrets that are there with another value get a new version.
    pub overwrite: bool,
    /// A person confirmed; without, it is only looked at, and stays staged.
    pub confirmed: bool,
    /// Why, for the record.
    pub reason: ImportReason,
}

/// Why values come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportReason {
    /// `kin import`.
    Import,
    /// `kin link --adopt`: a link is to take the place of the file that they were in.
    Adopt,
}

impl ImportReason {
    /// The word that records use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Import => "import",
            Self::Adopt => "adopt",
        }
    }
}

/// One secret of an import.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImportInfo {
    /// Its name.
    pub reference: Reference,
    /// Bytes of the value.
    pub size: u64,
    /// How it stands, or stood, with what the vault has.
    pub state: ImportState,
    /// The version that it is, or would be.
    pub version: u64,
}

/// How a value stands with what the vault has under its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportState {
    /// The vault has nothing.
    New,
    /// The vault has another value.
    Changed,
    /// The vault has this value: nothing is written.
    Same,
}

/// An encrypted export; a passphrase travels as the value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExportRequest {
    /// A file that is not there yet.
    #[serde(with = "path_bytes")]
    pub path: PathBuf,
    /// Which secrets.
    pub references: Vec<Reference>,
    /// To whom: `age1…`.
    pub recipients: Vec<String>,
}

impl ExportRequest {
    /// The same, of these too.
    pub(crate) fn with(mut self, selected: Vec<Reference>) -> Self {
        self.references.splice(..0, selected);
        self
    }
}

/// An encrypted export was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExportMade {
    /// The file.
    #[serde(with = "path_bytes")]
    pub path: PathBuf,
    /// How many secrets are in it.
    pub secrets: usize,
}

/// Links from real paths into the mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LinkRequest {
    /// The directory that holds `kin.toml`.
    #[serde(with = "path_bytes")]
    pub directory: PathBuf,
    /// The directory that `~/` stands for.
    #[serde(with = "path_bytes")]
    pub home: PathBuf,
    /// Only these files, where given; without, all that have a path.
    pub files: Option<Vec<FileName>>,
    /// Files whose path is to be in the project's `.gitignore`.
    pub ignore: Vec<FileName>,
    /// Files whose link takes the place of a regular file, and the secret that has all of its bytes.
    pub replace: Vec<(FileName, Reference)>,
    /// Without, it is only looked at.
    pub confirmed: bool,
}

/// One place that a link is, or could be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LinkInfo {
    /// The file in the mount.
    pub file: FileName,
    /// The place.
    #[serde(with = "path_bytes")]
    pub path: PathBuf,
    /// What the link says.
    #[serde(with = "path_bytes")]
    pub target: PathBuf,
    /// What is there.
    pub state: LinkState,
    /// The secret behind it, where it is one.
    pub reference: Option<Reference>,
}

/// What is at the place of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// Nothing.
    Missing,
    /// The link.
    Linked,
    /// A regular file.
    File,
    /// The link was put where nothing was.
    Made,
    /// The link was put in the place of a file.
    Replaced,
}

/// Links that are to go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UnlinkRequest {
    /// The directory that holds, or held, `kin.toml`.
    #[serde(with = "path_bytes")]
    pub directory: PathBuf,
    /// Only these files, where given.
    pub files: Option<Vec<FileName>>,
    /// Files that a link took the place of come back, in the clear.
    pub restore: bool,
    /// A person confirmed that.
    pub confirmed: bool,
}

/// One link that is gone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UnlinkInfo {
    /// The file in the mount.
    pub file: FileName,
    /// The place.
    #[serde(with = "path_bytes")]
    pub path: PathBuf,
    /// What became of it.
    pub state: UnlinkState,
}

/// What became of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnlinkState {
    /// It was taken away.
    Removed,
    /// The file that it had replaced is back.
    Restored,
    /// It was gone already.
    Gone,
    /// Something else is in its place, and stays.
    Kept,
}
