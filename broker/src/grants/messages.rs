//! What does a keeper ask for, what is it granted, and what is shown of a grant?

use std::path::PathBuf;

use kin_policy::{DirectoryName, FileName, FilePath, GrantId, Limits, Reference};
use serde::{Deserialize, Serialize};

use crate::grants::placeholders::Placeholder;
use crate::sys::path_bytes;

/// What a keeper calls itself (`PR_SET_NAME`, at most 15 bytes).
pub const KEEPER_COMM: &str = "kin-keeper";

/// The code of the refusal of a grant that is to be asked for again, with a redactor or expressly without.
pub const REDACTION_WANTED: &str = "redaction_wanted";

/// What a keeper asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GrantRequest {
    /// The directory that holds `kin.toml`.
    #[serde(with = "path_bytes")]
    pub directory: PathBuf,
    /// Only these files, where given.
    pub only: Option<Vec<FileName>>,
    /// How long, in milliseconds, where it ends by itself.
    pub ttl_ms: Option<u64>,
    /// What bounds its opens.
    #[serde(default)]
    pub limits: Limits,
    /// Opens of single files, at most: beside what the manifest says.
    #[serde(default)]
    pub max_opens_of: Vec<(FileName, u64)>,
    /// Variables of the command that get the values of these secrets, beside what the manifest says.
    #[serde(default)]
    pub values: Vec<(String, Reference)>,
    /// The front that the keeper answers to: the keeper's parent.
    pub front: u32,
    /// The command, for `kin status`: escaped text, never a record.
    pub command: Vec<String>,
    /// The grant ends with the command, not with its tree.
    pub end_with_child: bool,
    /// A mount for this tree alone, with files at their real paths.
    #[serde(default)]
    pub private: Option<PrivateRequest>,
    /// A redactor for the command's output, or none; where nothing is said and the project wants one, the answer
    /// is [`REDACTION_WANTED`].
    #[serde(default)]
    pub redact: Option<bool>,
}

/// What a private mount is asked for with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PrivateRequest {
    /// The directory that `~/` stands for.
    #[serde(with = "path_bytes")]
    pub home: PathBuf,
}

/// Who owns the files of a private mount, as the namespace it is in has them.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Owner {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// A grant was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Granted {
    /// Its id.
    pub id: GrantId,
    /// Its directory in the mount.
    #[serde(with = "path_bytes")]
    pub directory: PathBuf,
    /// Its directory in the mount of what can be written.
    #[serde(with = "path_bytes")]
    pub writable_directory: PathBuf,
    /// The files that it may write, which are there too.
    #[serde(default)]
    pub writable: Vec<FileName>,
    /// Variables for the command, and the files whose paths they get.
    pub environment: Vec<(String, FileName)>,
    /// Variables for the command, and the files whose values it asks for itself.
    #[serde(default)]
    pub values: Vec<(String, FileName)>,
    /// Variables that the command does not inherit.
    #[serde(default)]
    pub scrub: Vec<String>,
    /// Nobody has been warned yet of these values in an environment.
    #[serde(default)]
    pub warn_of_values: bool,
    /// How its private mount is to be made, where one was asked for.
    #[serde(default)]
    pub private: Option<PrivateGranted>,
    /// Files whose values its redactor does not mask, or not in every form.
    #[serde(default)]
    pub unmasked: Vec<NotMasked>,
    /// It has files for certain programs: its command is to be kept from naming its own executable.
    #[serde(default)]
    pub pinned: bool,
}

impl Granted {
    /// The path of one of its files: where it can be written, if that is so.
    pub fn path_of(&self, file: &FileName) -> PathBuf {
        let writable = self.writable.contains(file);
        let directory = if writable { &self.writable_directory } else { &self.directory };
        directory.join(file.as_str())
    }
}

/// How a private mount is to be made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PrivateGranted {
    /// Where: over the user's own mount, so that every path stays what it is.
    #[serde(with = "path_bytes")]
    pub mountpoint: PathBuf,
    /// The files that are to be laid at their real paths; there is something at each to lay them over.
    pub laid: Vec<Laid>,
    /// What was put there for that, and goes when the grant does.
    pub placeholders: Vec<Placeholder>,
}

/// One file at its real path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Laid {
    /// The file in the grant's directory.
    pub file: FileName,
    /// The directory that the path is below, and does not leave.
    #[serde(with = "path_bytes")]
    pub base: PathBuf,
    /// The path.
    pub path: FilePath,
}

/// Grants were withdrawn.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Withdrawn {
    /// Their ids.
    pub grants: Vec<GrantId>,
}

/// One live grant, as `kin status` shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GrantStatus {
    /// Its id.
    pub id: GrantId,
    /// Its project's directory in the mount.
    pub project: DirectoryName,
    /// The command.
    pub command: Vec<String>,
    /// The files it may be delivered.
    pub bindings: Vec<FileName>,
    /// Those of them that it may write.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub writable: Vec<FileName>,
    /// Opens that were allowed.
    pub opens: u64,
    /// Seconds since it was made.
    pub age_s: u64,
    /// Milliseconds until it ends by itself.
    pub ttl_left_ms: Option<u64>,
    /// What is left of its limits.
    #[serde(flatten)]
    pub left: Left,
    /// What is left for those of its files that have edges of their own.
    #[serde(default)]
    pub edges: Vec<FileEdges>,
    /// Its process tree, the keeper first.
    pub tree: Vec<TreeProcess>,
}

/// What is left of limits, those of the grants around included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Opens; `None` where they are not counted.
    pub opens_left: Option<u64>,
    /// Milliseconds in which it may be opened; `None` where that does not end before the grant.
    pub window_left_ms: Option<u64>,
}

/// The edges of one file, as `kin status` shows them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileEdges {
    /// The file.
    pub file: FileName,
    /// What is left of its own limits.
    #[serde(flatten)]
    pub left: Left,
    /// Levels of processes that may have it, of which the command is the first; `None` is all.
    pub levels: Option<u32>,
}

/// One process of a grant's tree.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TreeProcess {
    /// Its pid.
    pub pid: u32,
    /// Steps below the keeper, which is 0.
    pub depth: u32,
    /// Its name (`/proc/PID/comm`), escaped.
    pub comm: String,
}

/// A file of the grant whose value is not masked, or not in every form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotMasked {
    /// Its name.
    pub file: String,
    /// Why.
    pub why: Unmasked,
}

/// Why a value is not masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unmasked {
    /// It has less than 8 bytes, and so has each of its lines.
    Short,
    /// It has more than 64 KiB, or all values together have too much.
    Long,
    /// As it is it is masked, but in no other form: all values together have too much.
    Encoded,
}
