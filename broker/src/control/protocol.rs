//! The questions and answers of the control socket.
//!
//! Every request frame is a [`Request`]; every answer is an [`Answer`] around the type named beside the
//! request. Values travel as the frame's raw part. Both sides are built from one source; a client and a
//! broker of different protocols refuse each other (exit 6, `protocol_version`).

use std::path::PathBuf;

use kin_policy::{Ending, FileName, Reference};
use serde::{Deserialize, Serialize};

use crate::admin::batches::{
    ExportRequest, ImportRequest, LinkRequest, StageExport, StagedEntry, UnlinkRequest,
};
pub use crate::admin::requests::{BackupMade, NewVersion, Recovery, Rekeyed, Restored, Unlock, VaultMade};
pub use crate::grants::messages::{
    FileEdges, GrantRequest, GrantStatus, Granted, KEEPER_COMM, Laid, Left, Owner, PrivateGranted,
    PrivateRequest, REDACTION_WANTED, TreeProcess, Withdrawn,
};
pub use crate::keys::KeyMethod;
pub use crate::project::info::{BindingInfo, ManifestInfo, PinInfo, RenderedInfo, TrustState};
pub use crate::sys::frame::Answer;
use crate::sys::path_bytes;
pub use crate::vault::info::{DueInfo, RecipientInfo, Remembered, SecretInfo, VersionInfo};

/// Raised whenever a request or an answer changes its shape.
pub const PROTOCOL: u32 = 6;
/// The oldest protocol that a broker answers: what is asked in it means what it meant.
pub const OLDEST_PROTOCOL: u32 = 5;

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

/// The answer to [`Question::Hello`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The broker's pid.
    pub pid: u32,
    /// The broker's version.
    pub version: String,
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
