//! The questions and answers of the control socket.
//!
//! Every request frame is a [`Request`]; every answer is an [`Answer`] around the type named beside the
//! request. Values travel as the frame's raw part. Both sides are built from one source; a client and a
//! broker of different protocols refuse each other (exit 6, `protocol_version`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use kin_policy::{
    DirectoryName, Ending, ExeDigest, FileName, FilePath, GrantId, Limits, ProjectName, Reach, Reference,
};
use serde::{Deserialize, Serialize};

use super::transfer::{ExportRequest, ImportRequest, LinkRequest, StageExport, StagedEntry, UnlinkRequest};
use crate::error::Error;
use crate::placeholders::Placeholder;
use crate::redaction::NotMasked;

/// Raised whenever a request or an answer changes its shape.
pub const PROTOCOL: u32 = 6;
/// The oldest protocol that a broker answers: what is asked in it means what it meant.
pub const OLDEST_PROTOCOL: u32 = 5;

/// What a keeper calls itself (`PR_SET_NAME`, at most 15 bytes).
pub const KEEPER_COMM: &str = "kin-keeper";

/// What a client sends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// [`PROTOCOL`] of the sender.
    pub protocol: u32,
    /// The sender's session bus, where its Secret Service answers: the broker may have been started in
    /// another session, or in none.
    #[serde(default)]
    pub session_bus: Option<String>,
    /// What is asked.
    #[serde(flatten)]
    pub question: Question,
}

impl From<Question> for Request {
    fn from(question: Question) -> Self {
        Self { protocol: PROTOCOL, session_bus: session_bus(), question }
    }
}

/// Where this session's D-Bus answers: where its variable says, else the well-known place of a user bus
/// (systemd's pam_systemd and dbus-user-session).
fn session_bus() -> Option<String> {
    if let Ok(address) = std::env::var("DBUS_SESSION_BUS_ADDRESS") {
        return Some(address);
    }
    let socket = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?).join("bus");
    socket.exists().then(|| format!("unix:path={}", socket.display()))
}

/// What the broker sends back.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer<T> {
    /// It was done.
    Done(T),
    /// It was refused or failed.
    Failed(Error),
}

/// What can be asked, and the type of the answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Question {
    /// Is somebody there? → [`Hello`].
    Hello,
    /// Make the vault and its identity; a passphrase travels as the value. → [`VaultMade`].
    Init {
        /// Where the identity is kept.
        method: KeyMethod,
    },
    /// Unlock the vault; a passphrase or the identity travels as the value. → `()`.
    Unlock(Unlock),
    /// Lock the vault and end every grant. → [`Withdrawn`].
    Lock,
    /// Store a new version; the value travels as the value, or is generated here. → [`SecretInfo`].
    Set(NewVersion),
    /// Every secret's metadata. → `Vec<SecretInfo>`.
    List,
    /// One secret's metadata. → [`SecretInfo`].
    Show {
        /// Its name.
        reference: Reference,
    },
    /// A value for a person to read; it travels as the value. → [`SecretInfo`].
    Reveal {
        /// Its name.
        reference: Reference,
        /// Which version; without, the current one.
        #[serde(default)]
        version: Option<u64>,
        /// A person confirmed, on a terminal or by an explicit flag.
        confirmed: bool,
    },
    /// Every version of a secret that is remembered. → `Vec<VersionInfo>`, oldest first.
    History {
        /// Its name.
        reference: Reference,
    },
    /// Destroy every version. → [`SecretInfo`].
    Remove {
        /// Its name.
        reference: Reference,
    },
    /// Keep a copy of the vault elsewhere. → [`BackupMade`].
    Backup {
        /// A file that is not there yet.
        #[serde(with = "path_bytes")]
        path: PathBuf,
    },
    /// Put the vault of a backup in the place of the one that is there; a passphrase or an identity travels
    /// as the value. → [`Restored`].
    Restore {
        /// The backup.
        #[serde(with = "path_bytes")]
        path: PathBuf,
        /// A person confirmed; without, it is only looked at.
        confirmed: bool,
        /// The value is the identity itself.
        #[serde(default)]
        identity: bool,
    },
    /// Values that wait on this connection for [`Self::Import`]; they travel as the value, packed. → `()`.
    Stage {
        /// Their names and sizes, in the order that they are packed in.
        entries: Vec<StagedEntry>,
    },
    /// The same, from a file that is encrypted; its key travels as the value. → `()`.
    StageExport(StageExport),
    /// Store all that is staged, or say what that would change. → `Vec<ImportInfo>`, as it was staged.
    Import(ImportRequest),
    /// Secrets that wait on this connection for [`Self::Export`]: more than its own request has room for. → `()`.
    Select {
        /// Their names.
        references: Vec<Reference>,
    },
    /// Write secrets to a file for others, and those that were selected; a passphrase travels as the value. →
    /// `ExportMade`.
    Export(ExportRequest),
    /// Put links to a project's files where its manifest says, or say what is there. → `Vec<LinkInfo>`.
    Link(LinkRequest),
    /// Take them away. → `Vec<UnlinkInfo>`.
    Unlink(UnlinkRequest),
    /// Give the vault another identity; a passphrase or an identity travels as the value. → [`Rekeyed`].
    Rekey {
        /// Where the new one is kept; `None` is where the old one is.
        method: Option<KeyMethod>,
    },
    /// Make a recovery key, which is in the answer's value and nowhere else. → [`RecipientInfo`].
    RecoveryNew {
        /// A person confirmed, on a terminal or by an explicit flag.
        confirmed: bool,
    },
    /// Make the vault one for somebody else too. → [`RecipientInfo`].
    RecoveryAdd {
        /// `age1…`
        recipient: String,
        /// A person confirmed, on a terminal or by an explicit flag.
        confirmed: bool,
    },
    /// Whom the vault is for beside its owner. → `Vec<RecipientInfo>`.
    RecoveryList,
    /// Make it no longer one for somebody. → [`RecipientInfo`].
    RecoveryRemove {
        /// The recipient, or an unambiguous beginning of it.
        recipient: String,
    },
    /// Give the vault, or that of a backup, a new identity, with the key of somebody that it is for. The value is
    /// that key, and after a line break the passphrase or identity that the method wants. → [`Rekeyed`].
    Recover(Recovery),
    /// What would be trusted. → [`ManifestInfo`].
    Inspect {
        /// The directory that holds `kin.toml`.
        #[serde(with = "path_bytes")]
        directory: PathBuf,
    },
    /// Trust the manifest as it is now. → [`ManifestInfo`].
    Trust {
        /// The directory that holds `kin.toml`.
        #[serde(with = "path_bytes")]
        directory: PathBuf,
        /// The content that was shown and agreed to: SHA-256, hexadecimal. Anything else is refused.
        hash: String,
        /// A person confirmed, on a terminal or by an explicit flag.
        confirmed: bool,
    },
    /// Trust it no longer. → `()`.
    Untrust {
        /// The directory that holds `kin.toml`.
        #[serde(with = "path_bytes")]
        directory: PathBuf,
    },
    /// A grant for the tree below the process that asks: the keeper. → [`Granted`].
    Grant(GrantRequest),
    /// The keeper's command waits in a mount namespace of its own: it is to have the grant's private mount there.
    /// → `()`.
    ServeMount {
        /// The command.
        pid: u32,
        /// Who owns the files in it.
        owner: Owner,
    },
    /// One value for the environment of the command that asks, before it is executed; the value travels as the
    /// value. → `()`.
    EnvironmentValue {
        /// The file that it is the value of.
        file: FileName,
    },
    /// The command's output is to go through the grant's redactor: a socket whose other end is the front's comes
    /// with this. → `()`.
    ServeOutput,
    /// The keeper has forked its command, the first or the next, and lets it go once this is answered. → `()`.
    CommandStarted {
        /// Its pid: a child of the keeper's.
        pid: u32,
    },
    /// Tell the keeper whenever a secret of its grant has another version. → `()`, and from then on a byte for
    /// each time, until the grant ends and the connection with it.
    TellVersions,
    /// The keeper's tree is empty, or its command ended and that was to be the end, or its front was killed
    /// before that. → `()`.
    Finish {
        /// How: with its tree, its command or its front, or before the command ran.
        ending: Ending,
    },
    /// What is going on. → [`Status`].
    Status,
    /// End grants. → [`Withdrawn`].
    Revoke {
        /// Which: an id or an unambiguous beginning of one; `None` is all of them.
        grant: Option<String>,
    },
    /// Write what the record still holds back (counts of repeated denials), and anchor it. →
    /// `Option<`[`Remembered`]`>`, where the vault is open.
    FlushAudit,
    /// Stop. → `()`.
    Stop,
}

impl Question {
    /// What it is called where it travels.
    pub(crate) fn verb(&self) -> String {
        let document = serde_json::to_value(self).unwrap_or_default();
        document["verb"].as_str().unwrap_or_default().to_owned()
    }
}

/// A new version of a secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewVersion {
    /// The secret's name.
    pub reference: Reference,
    /// A specification for a value that the broker makes: `hex:32`, `ssh-ed25519`.
    #[serde(default)]
    pub generate: Option<String>,
    /// A note for people.
    #[serde(default)]
    pub note: Option<String>,
    /// After how many seconds it should be replaced.
    #[serde(default)]
    pub expires_s: Option<u64>,
    /// The version of the same secret whose value it gets.
    #[serde(default)]
    pub from_version: Option<u64>,
    /// What it can be found by.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// It replaces one that is there, and keeps what is not given here: the note, the time until the next
    /// rotation, the attributes, and, without a value, how the broker made it.
    #[serde(default)]
    pub rotate: bool,
}

/// The answer to [`Question::Hello`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The broker's pid.
    pub pid: u32,
    /// The broker's version.
    pub version: String,
}

/// Where a vault's identity is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum KeyMethod {
    /// In the Secret Service of the session.
    Keyring,
    /// In a file, encrypted with a passphrase.
    Passphrase,
    /// In a file, as it is.
    KeyFile {
        /// The file.
        #[serde(with = "path_bytes")]
        path: PathBuf,
    },
    /// Nowhere of kin's: it is given at each unlock, by a descriptor or as a credential.
    Given,
}

/// How the vault is to be unlocked.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Unlock {
    /// Also one that is older than the newest: the person put it there.
    #[serde(default)]
    pub accept_rollback: bool,
    /// The value is the identity itself, not a passphrase.
    #[serde(default)]
    pub identity: bool,
    /// The kernel remembers the identity for this login session.
    #[serde(default)]
    pub remember: bool,
}

/// A vault, or the backup of one, that is to be had back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recovery {
    /// Where the new identity is kept.
    pub method: KeyMethod,
    /// The backup; `None` is the vault that is there.
    pub from: Option<PathBuf>,
    /// The recipient of the owner who wrote it; `None` is the one that is pinned here.
    pub owner: Option<String>,
    /// Also one that is older than the newest.
    pub accept_rollback: bool,
    /// A person confirmed; without, it is only looked at.
    pub confirmed: bool,
}

/// A vault has another identity, or would have.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rekeyed {
    /// The age recipient of the new one; `None` where it was only looked at.
    pub recipient: Option<String>,
    /// Where it is kept.
    pub key: KeyMethod,
    /// How many secrets the vault has.
    pub secrets: usize,
    /// Its generation.
    pub generation: u64,
}

/// Somebody that the vault is for beside its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientInfo {
    /// `age1…`
    pub recipient: String,
    /// Since when: seconds of Unix time.
    pub since: i64,
    /// Whether it is a recovery key that kin made.
    pub paper: bool,
}

/// A vault was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VaultMade {
    /// The age recipient that its identity belongs to.
    pub recipient: String,
    /// The vault's file.
    #[serde(with = "path_bytes")]
    pub vault: PathBuf,
}

/// A backup was made, and read back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackupMade {
    /// The vault's copy.
    #[serde(with = "path_bytes")]
    pub path: PathBuf,
    /// The copy of the identity that a passphrase opens, where there is one.
    pub identity: Option<PathBuf>,
    /// How many secrets are in it.
    pub secrets: usize,
    /// Its generation.
    pub generation: u64,
}

/// What is in a backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Restored {
    /// How many secrets are in it.
    pub secrets: usize,
    /// Its generation.
    pub generation: u64,
    /// How many secrets the vault had that it replaces, where that was open.
    pub replaces: Option<usize>,
}

/// What may be known of a secret without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretInfo {
    /// Its name.
    pub reference: Reference,
    /// Its current version, from 1.
    pub version: u64,
    /// The size of the current value, in bytes.
    pub size: u64,
    /// When the current version was made: seconds of Unix time.
    pub created: i64,
    /// A note for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// When the current version should be replaced: seconds of Unix time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<i64>,
    /// How the broker made the current version, where it did: `hex:32`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generated: Option<String>,
    /// What it can be found by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// One version of a secret, without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// From 1.
    pub version: u64,
    /// The size of its value, in bytes.
    pub size: u64,
    /// When it was made: seconds of Unix time.
    pub created: i64,
    /// A note for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// When it should be replaced: seconds of Unix time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<i64>,
    /// The grant whose tree wrote it, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantId>,
    /// When another replaced it; `None` for the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<i64>,
    /// Whether its value can still be read: the current one's always, an old one's for a while.
    pub readable: bool,
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

/// What is going on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The broker.
    pub broker: BrokerStatus,
    /// The vault.
    pub vault: VaultStatus,
    /// The mount.
    pub mount: MountStatus,
    /// The record.
    pub audit: AuditStatus,
    /// Live grants, oldest first.
    pub grants: Vec<GrantStatus>,
}

/// The broker, as `kin status` shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BrokerStatus {
    /// Its pid.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// How it identifies processes: `pidfd` or `procfs`.
    pub identity: String,
    /// Whether the pages for values are locked in memory.
    pub memory_locked: bool,
    /// The directory of a process in `/proc` that something is mounted over, as the broker has it: no program is
    /// proven meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proc_covered: Option<String>,
}

/// The vault, as `kin status` shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VaultStatus {
    /// `absent`, `locked`, `suspended` (it locked itself, and grants wait) or `unlocked`.
    pub state: String,
    /// Where its identity is kept.
    pub key: Option<KeyMethod>,
    /// How many secrets it has, where it is unlocked.
    pub secrets: Option<usize>,
    /// How many of them should have been replaced by now.
    #[serde(default)]
    pub overdue: usize,
    /// These, and those that should be within two weeks, the most urgent first.
    #[serde(default)]
    pub due: Vec<DueInfo>,
    /// What a person should know of it: that it is another one than before, or that a setting was weakened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
}

/// A secret that should be replaced by now, or soon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DueInfo {
    /// Its name.
    pub reference: Reference,
    /// When: seconds of Unix time.
    pub due: i64,
    /// Whether that is over.
    pub overdue: bool,
}

/// The mount, as `kin status` shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountStatus {
    /// Where.
    #[serde(with = "path_bytes")]
    pub path: PathBuf,
    /// Whether it answers.
    pub mounted: bool,
    /// Where files can be written, while somebody may write any.
    #[serde(with = "path_bytes")]
    pub writable_path: PathBuf,
    /// Whether that answers.
    pub writable: bool,
}

/// The record, as `kin status` shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditStatus {
    /// `recording`, or `refusing`: it cannot be written, and so nothing is delivered.
    pub state: String,
    /// Records that were refused since the last that succeeded.
    pub refused: u64,
    /// When the first of them was: seconds of Unix time.
    pub since: Option<i64>,
    /// The kernel's name for the last error: `ENOSPC`.
    pub reason: Option<String>,
}

/// What the vault remembers of the record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Remembered {
    /// The public half of its first sealing key.
    pub root: [u8; 32],
    /// The number of a record that it has had.
    pub seq: u64,
    /// That record's MAC.
    pub mac: [u8; 32],
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

/// Paths are bytes on Linux. UTF-8 ones travel as text, others as a list of bytes.
pub mod path_bytes {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Raw {
        Text(String),
        Bytes(Vec<u8>),
    }

    /// Writes a path.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        match path.to_str() {
            Some(text) => Raw::Text(text.to_owned()),
            None => Raw::Bytes(path.as_os_str().as_bytes().to_vec()),
        }
        .serialize(serializer)
    }

    /// Reads a path.
    ///
    /// # Errors
    /// Those of the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Ok(match Raw::deserialize(deserializer)? {
            Raw::Text(text) => PathBuf::from(text),
            Raw::Bytes(bytes) => PathBuf::from(OsString::from_vec(bytes)),
        })
    }
}
