//! One voice for refusals: a class (the exit code), a code (for scripts), a line, and what to do next.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What went wrong, as far as a caller must tell it apart. The number is the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// A defect of ours, or a system call that never fails failed.
    Internal = 1,
    /// The command line was wrong.
    Usage = 2,
    /// Configuration, a file or a directory is untrusted or unsafe.
    Unsafe = 3,
    /// The vault is locked, or its key cannot be had.
    Locked = 4,
    /// Policy says no, or a person has to say yes first.
    Denied = 5,
    /// The broker, or FUSE beneath it, cannot be reached or cannot be trusted.
    Unreachable = 6,
    /// Something that is authenticated does not authenticate.
    Integrity = 7,
    /// Storage failed or is full.
    Storage = 8,
    /// A deadline passed.
    Timeout = 9,
}

/// A refusal or a failure. It never carries a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// Its class.
    pub class: Class,
    /// A stable word for scripts: `manifest_untrusted`.
    pub code: Cow<'static, str>,
    /// One line: what was refused. Lower case, no period.
    pub message: String,
    /// One line: what to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// More lines that belong to it (a diff).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What fallible calls here return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A new error of `class`.
    pub fn new(class: Class, code: &'static str, message: impl Into<String>) -> Self {
        Self { class, code: Cow::Borrowed(code), message: message.into(), hint: None, detail: None }
    }

    /// With what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With more lines that belong to it.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Storage failed: `what` says what was being done, in words ("write the vault").
    pub fn storage(what: &str, error: &std::io::Error) -> Self {
        let full = matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG));
        let code = if full { "disk_full" } else { "storage_failed" };
        let next = if full { "free some space and try again" } else { "see `kin doctor`" };
        Self::new(Class::Storage, code, format!("could not {what}: {}", describe(error))).hint(next)
    }

    /// A defect of ours, or a system call that never fails failed.
    pub fn internal(what: &str, error: impl fmt::Display) -> Self {
        Self::new(Class::Internal, "internal", format!("could not {what}: {error}"))
    }

    /// The exit code of the program.
    pub fn exit_code(&self) -> u8 {
        self.class as u8
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<kin_policy::BadName> for Error {
    fn from(bad: kin_policy::BadName) -> Self {
        Self::new(Class::Unsafe, "bad_name", bad.to_string())
    }
}

/// The kernel's words for an I/O error, without Rust's "(os error N)".
pub fn describe(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_lowercase(),
        None => error.to_string(),
    }
}
