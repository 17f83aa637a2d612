//! What is recorded, and what does each kind of record say?

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kin_policy::{
    Binding, DirectoryName, Ending, FileName, GrantId, Limits, Pid, Process, ProjectName, Reference, Tid,
};

use super::change::Span;
use crate::process::ancestry::Ancestry;
use crate::process::{Known, Program};

/// One thing that happened. Denied accesses are not here: they are summed up by
/// [`AuditLog::deny`](super::AuditLog::deny).
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// `broker.start`
    BrokerStart {
        /// The broker's version.
        version: &'a str,
        /// The last one did not stop by itself.
        unclean: bool,
        /// Grants that ended with it.
        grants_lost: u64,
    },
    /// `broker.stop`
    BrokerStop {
        /// Why: a signal, a request.
        reason: &'a str,
    },
    /// `grant.create`
    GrantCreate {
        /// Its id.
        grant: GrantId,
        /// The project's directory in the mount.
        project: &'a DirectoryName,
        /// The project's canonical path.
        directory: &'a Path,
        /// What may be delivered.
        bindings: &'a BTreeMap<FileName, Binding>,
        /// The keeper.
        root: Process,
        /// What runs: argv\[0\] alone, because arguments carry secrets.
        program: &'a OsStr,
        /// Until it ends by itself, in milliseconds.
        ttl_ms: Option<u64>,
        /// What bounds its opens.
        limits: Limits,
    },
    /// `grant.restart`: its command was started again, because a secret has another version.
    GrantRestart {
        /// Its id.
        grant: GrantId,
        /// The project's directory in the mount.
        project: &'a DirectoryName,
        /// The new command.
        command: Process,
    },
    /// `grant.revoke` where a person did it, else `grant.expire` with the reason.
    GrantEnd {
        /// Its id.
        grant: GrantId,
        /// The project's directory in the mount.
        project: &'a DirectoryName,
        /// How it ended.
        ending: Ending,
        /// Who asked for that, where somebody did.
        asker: Option<ReaderFacts<'a>>,
    },
    /// `open.allow`
    Allow {
        /// How it is delivered: `Op::Open` or `Op::Env`.
        op: Op,
        /// The grant that permits.
        grant: GrantId,
        /// The project's directory in the mount.
        project: &'a DirectoryName,
        /// The file.
        file: &'a FileName,
        /// The secret that is delivered.
        reference: &'a Reference,
        /// The version of it.
        version: u64,
        /// The reader is in other namespaces than its grant, which the binding allows.
        elsewhere: bool,
        /// Who asked.
        reader: ReaderFacts<'a>,
    },
    /// `open.allow` of a file that is made of several secrets.
    AllowRendered {
        /// The grant that permits.
        grant: GrantId,
        /// The project's directory in the mount.
        project: &'a DirectoryName,
        /// The file.
        file: &'a FileName,
        /// Every secret in it, with its version: all of one state of the vault.
        references: &'a [(Reference, u64)],
        /// The reader is in other namespaces than its grant, which every binding in it allows.
        elsewhere: bool,
        /// Who asked.
        reader: ReaderFacts<'a>,
    },
    /// `write.allow`: a member of the grant stores a new version. It stands before the version does.
    Write {
        /// How: `Op::Write`, or `Op::Rename`.
        op: Op,
        /// The grant that permits.
        grant: GrantId,
        /// The project's directory in the mount.
        project: &'a DirectoryName,
        /// The file.
        file: &'a FileName,
        /// The secret.
        reference: &'a Reference,
        /// The version that it will be.
        version: u64,
        /// The writer is in other namespaces than its grant, which the binding allows.
        elsewhere: bool,
        /// Who writes.
        reader: ReaderFacts<'a>,
    },
    /// `write.fail`: that version was not stored after all.
    WriteFail {
        /// The grant.
        grant: GrantId,
        /// The project's directory in the mount.
        project: &'a DirectoryName,
        /// The file.
        file: &'a FileName,
        /// The secret.
        reference: &'a Reference,
        /// The version that is not.
        version: u64,
        /// The error's code.
        reason: &'a str,
    },
    /// `file.render`: the broker made such a file for itself, to know its size.
    Render {
        /// The grant that has the file.
        grant: GrantId,
        /// The project's directory in the mount.
        project: &'a DirectoryName,
        /// The file.
        file: &'a FileName,
        /// Every secret in it, with its version.
        references: &'a [(Reference, u64)],
    },
    /// `redact.allow`: the redactor of the grant's output is handed a value, to mask it.
    Redact {
        /// The grant.
        grant: GrantId,
        /// The project's directory in the mount.
        project: &'a DirectoryName,
        /// The file.
        file: &'a FileName,
        /// The secret.
        reference: &'a Reference,
        /// The version of it.
        version: u64,
    },
    /// `change.fail`: what these records tell of did not happen after all.
    ChangeFail {
        /// Their event.
        change: &'static str,
        /// Their numbers. All records of that event between the two are of this change.
        span: Span,
        /// The secret, where it was one.
        reference: Option<&'a Reference>,
        /// The version of it.
        version: Option<u64>,
        /// The project's canonical path, where it was one's.
        directory: Option<&'a Path>,
        /// The error's code.
        reason: &'a str,
        /// Who asked for the change, where somebody did.
        asker: Option<ReaderFacts<'a>>,
    },
    /// `vault.init`, `vault.write` and so on.
    Vault {
        /// What was done.
        change: VaultChange,
        /// The secret, where it was one.
        reference: Option<&'a Reference>,
        /// The version of it.
        version: Option<u64>,
        /// More: why it was rejected, which kind of key. Never a value.
        reason: Option<&'a str>,
        /// Who asked for it, where somebody did.
        asker: Option<ReaderFacts<'a>>,
    },
    /// `policy.trust`, `policy.untrust`, `policy.adopt`, `policy.link`, `policy.unlink`, `policy.reject`,
    /// `policy.notice`
    Policy {
        /// What was done.
        change: PolicyChange,
        /// The project's name, where it is known.
        project: Option<&'a ProjectName>,
        /// The project's canonical path.
        directory: &'a Path,
        /// The manifest's SHA-256, hexadecimal.
        hash: Option<&'a str>,
        /// Why it was rejected.
        reason: Option<&'a str>,
        /// Who asked for it, where somebody did.
        asker: Option<ReaderFacts<'a>>,
    },
    /// `sock.deny`
    SockDeny {
        /// What was asked.
        verb: &'a str,
        /// Why not: the error's code.
        reason: &'a str,
        /// Who asked.
        peer: Option<Pid>,
        /// The same in full, where it could be identified.
        asker: Option<ReaderFacts<'a>>,
    },
    /// `audit.fault`: the record itself had failed, and works again.
    AuditFault {
        /// The kernel's name for it: `ENOSPC`.
        error: &'a str,
        /// Records that were refused, and with them what they stood for.
        refused: u64,
    },
    /// `audit.lost`: of what happened while none could be written, so many records were not kept until one could.
    AuditLost {
        /// How many.
        count: u64,
    },
    /// `audit.recover`: the last line had been torn by a crash and was cut off.
    AuditRecover {
        /// Its length.
        cut_bytes: u64,
    },
    /// `audit.anchor`: the vault remembers this record's beginning from now on.
    AuditAnchor {
        /// The public half of the first sealing key, hexadecimal.
        root: &'a str,
    },
    /// `audit.reject`: the record is not the one that the vault remembers.
    AuditReject {
        /// Why.
        reason: &'a str,
    },
    /// `mount.lost`
    MountLost,
}

/// What happened to the vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum VaultChange {
    Init,
    Write,
    Remove,
    Reveal,
    Unlock,
    Lock,
    Autolock,
    AcceptRollback,
    Backup,
    Restore,
    Compare,
    Export,
    Rekey,
    RecoveryAdd,
    RecoveryRemove,
    Recover,
    Reject,
}

/// What happened to the trust in a manifest, or to the links that it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum PolicyChange {
    Trust,
    Untrust,
    Adopt,
    Link,
    Unlink,
    Reject,
    Notice,
}

/// The request of the file system that was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Op {
    Open,
    Read,
    Getattr,
    Access,
    Opendir,
    Lookup,
    Write,
    Create,
    Rename,
    Unlink,
    Env,
}

impl Op {
    /// The word that records use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Getattr => "getattr",
            Self::Access => "access",
            Self::Opendir => "opendir",
            Self::Lookup => "lookup",
            Self::Write => "write",
            Self::Create => "create",
            Self::Rename => "rename",
            Self::Unlink => "unlink",
            Self::Env => "env",
        }
    }

    /// The event that its denial is.
    pub(super) const fn denial(self) -> &'static str {
        match self {
            Self::Read => "read.deny",
            Self::Write | Self::Create | Self::Rename | Self::Unlink => "write.deny",
            _ => "open.deny",
        }
    }
}

/// What is known of a reader. Exe and comm are its own claims, written down as they were found.
#[derive(Clone, Copy, Debug)]
pub struct ReaderFacts<'a> {
    /// The thread; `None` where the kernel said 0.
    pub tid: Option<Tid>,
    /// Its thread group and start, where that was proven.
    pub process: Option<Process>,
    /// Its user.
    pub uid: Option<u32>,
    /// The program file (`/proc/TID/exe`), where it can be read.
    pub exe: Option<&'a [u8]>,
    /// Whether that is what the kernel loaded; else it is what the process says.
    pub proven: bool,
    /// Its name (`/proc/TID/comm`) without the newline.
    pub comm: &'a [u8],
    /// Its ancestors.
    pub chain: &'a Ancestry,
}

pub(crate) fn vault_event<'a>(
    change: VaultChange,
    reference: Option<&'a Reference>,
    reason: Option<&'a str>,
) -> Event<'a> {
    Event::Vault { change, reference, version: None, reason, asker: None }
}

/// As [`vault_event`], of one version of a secret.
pub(crate) fn version_event<'a>(
    change: VaultChange,
    (reference, version): (&'a Reference, u64),
    reason: Option<&'a str>,
) -> Event<'a> {
    Event::Vault { change, reference: Some(reference), version: Some(version), reason, asker: None }
}

impl<'a> ReaderFacts<'a> {
    /// Of a reader: proven once, but for the program, which is what it claims.
    pub(crate) fn of(known: &'a Known, program: &'a Program, uid: u32) -> Self {
        let lineage = known.lineage();
        Self {
            tid: Some(lineage.tid),
            process: Some(lineage.process),
            uid: Some(uid),
            exe: program.exe.as_ref().map(|exe| exe.as_os_str().as_bytes()),
            proven: program.proven,
            comm: &program.comm,
            chain: known.ancestry(),
        }
    }
}

/// An access that was denied.
#[derive(Clone, Copy, Debug)]
pub struct Denied<'a> {
    /// What was asked for: `Op::Read` makes a `read.deny`, what changes something a `write.deny`, all others an
    /// `open.deny`.
    pub op: Op,
    /// In which project's directory, as the reader named it.
    pub project: &'a [u8],
    /// Which file, as the reader named it; `None` is the directory.
    pub file: Option<&'a [u8]>,
    /// The secret behind it, where that is known.
    pub reference: Option<&'a Reference>,
    /// The grant that decided, where one did.
    pub grant: Option<GrantId>,
    /// [`kin_policy::Denial::reason`], or another word of ours.
    pub reason: &'static str,
    /// Who asked.
    pub reader: ReaderFacts<'a>,
}

impl<'a> Event<'a> {
    /// The same, with who asked for it; nobody asks for an access to a file but its reader.
    #[must_use]
    pub fn asked_by(mut self, who: Option<ReaderFacts<'a>>) -> Self {
        if let Self::GrantEnd { asker, .. }
        | Self::Vault { asker, .. }
        | Self::Policy { asker, .. }
        | Self::ChangeFail { asker, .. }
        | Self::SockDeny { asker, .. } = &mut self
        {
            *asker = who;
        }
        self
    }

    /// The event's name, as it stands in the record.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::BrokerStart { .. } => "broker.start",
            Self::BrokerStop { .. } => "broker.stop",
            Self::GrantCreate { .. } => "grant.create",
            Self::GrantRestart { .. } => "grant.restart",
            Self::GrantEnd { ending: Ending::Revoked, .. } => "grant.revoke",
            Self::GrantEnd { .. } => "grant.expire",
            Self::Allow { .. } | Self::AllowRendered { .. } => "open.allow",
            Self::Write { .. } => "write.allow",
            Self::WriteFail { .. } => "write.fail",
            Self::Render { .. } => "file.render",
            Self::Redact { .. } => "redact.allow",
            Self::ChangeFail { .. } => "change.fail",
            Self::Vault { change, .. } => change.event(),
            Self::Policy { change: PolicyChange::Trust, .. } => "policy.trust",
            Self::Policy { change: PolicyChange::Untrust, .. } => "policy.untrust",
            Self::Policy { change: PolicyChange::Adopt, .. } => "policy.adopt",
            Self::Policy { change: PolicyChange::Link, .. } => "policy.link",
            Self::Policy { change: PolicyChange::Unlink, .. } => "policy.unlink",
            Self::Policy { change: PolicyChange::Reject, .. } => "policy.reject",
            Self::Policy { change: PolicyChange::Notice, .. } => "policy.notice",
            Self::SockDeny { .. } => "sock.deny",
            Self::AuditFault { .. } => "audit.fault",
            Self::AuditLost { .. } => "audit.lost",
            Self::AuditRecover { .. } => "audit.recover",
            Self::AuditAnchor { .. } => "audit.anchor",
            Self::AuditReject { .. } => "audit.reject",
            Self::MountLost => "mount.lost",
        }
    }
}

impl VaultChange {
    const fn event(self) -> &'static str {
        match self {
            Self::Init => "vault.init",
            Self::Write => "vault.write",
            Self::Remove => "vault.remove",
            Self::Reveal => "vault.reveal",
            Self::Unlock => "vault.unlock",
            Self::Lock => "vault.lock",
            Self::Autolock => "vault.autolock",
            Self::Backup => "vault.backup",
            Self::Compare => "vault.compare",
            Self::Export => "vault.export",
            Self::Restore => "vault.restore",
            Self::Rekey => "vault.rekey",
            Self::RecoveryAdd => "vault.recovery_add",
            Self::RecoveryRemove => "vault.recovery_remove",
            Self::Recover => "vault.recover",
            Self::AcceptRollback => "vault.accept_rollback",
            Self::Reject => "vault.reject",
        }
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
