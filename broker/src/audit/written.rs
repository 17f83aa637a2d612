//! What does each kind of record say?

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;

use kin_policy::{Binding, DirectoryName, Ending, FileName, GrantId, ProjectName, Reference};

use super::json::Members;
use super::record::{Denied, Event, Op, ReaderFacts};

// Most bytes of a text once escaped. Any sum of them that one event can have fits into
// `chain::MAX_LINE`; a test holds every event to that.
const EXE: usize = 2048;
// Less where a list of references needs the room; no file's name is longer (255 bytes of UTF-8).
const RENDERED_EXE: usize = 1024;
const RENDERED_FILE: usize = 768;
const COMM: usize = 96;
const FILE: usize = 1536;
const NAME: usize = 512;
const PATH: usize = 2048;
const PROGRAM: usize = 1024;
const BINDINGS: usize = 3584;
const ANY_NAMESPACE: usize = 256;
const WRITABLE: usize = 256;
const PINS: usize = 512;

impl Event<'_> {
    pub(super) fn write(&self, out: &mut Members<'_>) {
        match *self {
            Self::GrantCreate { .. } => self.write_created(out),
            Self::GrantRestart { .. } | Self::GrantEnd { .. } => self.write_grant(out),
            Self::Allow { .. }
            | Self::Write { .. }
            | Self::AllowRendered { .. }
            | Self::Render { .. }
            | Self::Redact { .. }
            | Self::WriteFail { .. } => self.write_file(out),
            Self::ChangeFail { .. } | Self::Vault { .. } | Self::Policy { .. } | Self::SockDeny { .. } => {
                self.write_change(out);
            }
            Self::BrokerStart { version, unclean, grants_lost } => {
                out.text("version", version.as_bytes(), NAME);
                out.flag("unclean", unclean);
                out.number("grants_lost", grants_lost);
            }
            Self::BrokerStop { reason } => out.text("reason", reason.as_bytes(), NAME),
            Self::AuditFault { error, refused } => {
                out.text("error", error.as_bytes(), NAME);
                out.number("refused", refused);
            }
            Self::AuditLost { count } => out.number("count", count),
            Self::AuditRecover { cut_bytes } => out.number("cut_bytes", cut_bytes),
            Self::AuditAnchor { root } => out.text("root", root.as_bytes(), NAME),
            Self::AuditReject { reason } => out.text("reason", reason.as_bytes(), NAME),
            Self::MountLost => {}
        }
    }

    /// The records of grants.
    fn write_grant(&self, out: &mut Members<'_>) {
        match *self {
            Self::GrantRestart { grant, project, command } => {
                write_grant_id(out, Some(grant));
                out.word("project", project.as_str());
                out.number("command", command.pid.get().into());
                out.number("command_start", command.start);
            }
            Self::GrantEnd { grant, project, ending, asker } => {
                write_grant_id(out, Some(grant));
                out.word("project", project.as_str());
                if ending != Ending::Revoked {
                    out.word("reason", ending.as_str());
                }
                write_asker(out, asker);
            }
            _ => {}
        }
    }

    /// Those of files that were delivered, made or written.
    fn write_file(&self, out: &mut Members<'_>) {
        match *self {
            Self::Allow { op, grant, project, file, reference, version, elsewhere, reader }
            | Self::Write { op, grant, project, file, reference, version, elsewhere, reader } => {
                out.word("op", op.as_str());
                out.word("project", project.as_str());
                out.text("file", file.as_str().as_bytes(), FILE);
                out.word("reference", reference.as_str());
                out.number("version", version);
                write_grant_id(out, Some(grant));
                if elsewhere {
                    out.flag("other_namespace", true);
                }
                reader.write(out);
            }
            Self::AllowRendered { grant, project, file, references, elsewhere, reader } => {
                out.word("op", Op::Open.as_str());
                write_rendered(out, grant, project, file, references);
                if elsewhere {
                    out.flag("other_namespace", true);
                }
                reader.write_within(out, RENDERED_EXE);
            }
            Self::Render { grant, project, file, references } => {
                write_rendered(out, grant, project, file, references);
            }
            Self::Redact { grant, project, file, reference, version } => {
                out.word("project", project.as_str());
                out.text("file", file.as_str().as_bytes(), FILE);
                out.word("reference", reference.as_str());
                out.number("version", version);
                write_grant_id(out, Some(grant));
            }
            Self::WriteFail { grant, project, file, reference, version, reason } => {
                out.word("project", project.as_str());
                out.text("file", file.as_str().as_bytes(), FILE);
                out.word("reference", reference.as_str());
                out.number("version", version);
                write_grant_id(out, Some(grant));
                out.text("reason", reason.as_bytes(), NAME);
            }
            _ => {}
        }
    }

    /// Those of changes, and of questions that were refused.
    fn write_change(&self, out: &mut Members<'_>) {
        match *self {
            Self::ChangeFail { change, span, reference, version, directory, reason, asker } => {
                out.word("change", change);
                out.number("of", span.first);
                if span.last != span.first {
                    out.number("to", span.last);
                }
                write_optional(out, "reference", reference.map(Reference::as_str));
                if let Some(version) = version {
                    out.number("version", version);
                }
                if let Some(directory) = directory {
                    out.text("directory", directory.as_os_str().as_bytes(), PATH);
                }
                out.text("reason", reason.as_bytes(), NAME);
                write_asker(out, asker);
            }
            Self::Vault { reference, version, reason, asker, .. } => {
                write_optional(out, "reference", reference.map(Reference::as_str));
                if let Some(version) = version {
                    out.number("version", version);
                }
                write_optional(out, "reason", reason);
                write_asker(out, asker);
            }
            Self::Policy { project, directory, hash, reason, asker, .. } => {
                write_optional(out, "project", project.map(ProjectName::as_str));
                out.text("directory", directory.as_os_str().as_bytes(), PATH);
                write_optional(out, "hash", hash);
                write_optional(out, "reason", reason);
                write_asker(out, asker);
            }
            Self::SockDeny { verb, reason, peer, asker } => {
                out.text("verb", verb.as_bytes(), NAME);
                out.text("reason", reason.as_bytes(), NAME);
                out.maybe_number("peer", peer.map(|pid| pid.get().into()));
                write_asker(out, asker);
            }
            _ => {}
        }
    }

    fn write_created(&self, out: &mut Members<'_>) {
        let &Self::GrantCreate { grant, project, directory, bindings, root, program, ttl_ms, limits } = self
        else {
            return;
        };
        write_grant_id(out, Some(grant));
        out.word("project", project.as_str());
        out.text("directory", directory.as_os_str().as_bytes(), PATH);
        let entries = bindings.iter().map(|(file, binding)| (file.as_str(), binding.reference.as_str()));
        let elided = out.map("bindings", entries, BINDINGS);
        if elided > 0 {
            out.number("bindings_elided", elided);
        }
        write_restrictions(out, bindings);
        out.number("root", root.pid.get().into());
        out.number("root_start", root.start);
        out.text("program", program.as_bytes(), PROGRAM);
        out.maybe_number("ttl_ms", ttl_ms);
        if let Some(most) = limits.max_opens {
            out.number("max_opens", most);
        }
        if let Some(window) = limits.for_first {
            out.number("for_first_ms", u64::try_from(window.as_millis()).unwrap_or(u64::MAX));
        }
    }
}

/// What departs from the default: bindings that open in any namespace, those that may be written, and pinned ones
/// with the beginnings of their digests.
fn write_restrictions(out: &mut Members<'_>, bindings: &BTreeMap<FileName, Binding>) {
    let anywhere = bindings.iter().filter(|(_, binding)| !binding.namespaces.is_same());
    let anywhere: Vec<_> = anywhere.map(|(file, _)| (file.as_str(), "any")).collect();
    let pins: Vec<_> = bindings
        .iter()
        .filter(|(_, binding)| !binding.exe.is_empty())
        .map(|(file, binding)| {
            let digests = binding.exe.iter().map(|pin| format!("{:.16}", pin.sha256.to_string()));
            (file.as_str(), digests.collect::<Vec<_>>().join(" "))
        })
        .collect();
    let mut list = |key: &str, entries: &[(&str, &str)], limit| {
        if !entries.is_empty() && out.map(key, entries.iter().copied(), limit) > 0 {
            out.flag(&format!("{key}_elided"), true);
        }
    };
    let writable = bindings.iter().filter(|(_, binding)| binding.writable);
    let writable: Vec<_> =
        writable.map(|(file, binding)| (file.as_str(), binding.reference.as_str())).collect();
    list("namespaces", &anywhere, ANY_NAMESPACE);
    list("writable", &writable, WRITABLE);
    list("exe", &pins.iter().map(|(file, pins)| (*file, pins.as_str())).collect::<Vec<_>>(), PINS);
}

/// What is common to the records of a file that is made of several secrets. Their names are bounded where a
/// manifest is read, and none is left out.
fn write_rendered(
    out: &mut Members<'_>,
    grant: GrantId,
    project: &DirectoryName,
    file: &FileName,
    references: &[(Reference, u64)],
) {
    out.word("project", project.as_str());
    out.text("file", file.as_str().as_bytes(), RENDERED_FILE);
    let named: Vec<_> = references.iter().map(|(name, version)| format!("\"{name}@{version}\"")).collect();
    out.raw("references", format!("[{}]", named.join(",")).as_bytes());
    write_grant_id(out, Some(grant));
}

fn write_asker(out: &mut Members<'_>, asker: Option<ReaderFacts<'_>>) {
    if let Some(asker) = asker {
        asker.write(out);
    }
}

impl ReaderFacts<'_> {
    fn write(&self, out: &mut Members<'_>) {
        self.write_within(out, EXE);
    }

    fn write_within(&self, out: &mut Members<'_>, exe: usize) {
        out.maybe_number("tid", self.tid.map(|tid| tid.get().into()));
        out.maybe_number("tgid", self.process.map(|process| process.pid.get().into()));
        out.maybe_number("start", self.process.map(|process| process.start));
        out.maybe_number("uid", self.uid.map(u64::from));
        out.maybe_text("exe", self.exe, exe);
        if self.exe.is_some() {
            out.flag("exe_proven", self.proven);
        }
        out.text("comm", self.comm, COMM);
        out.0.extend_from_slice(self.chain.as_json().as_bytes());
    }
}

impl Denied<'_> {
    pub(super) fn write(&self, out: &mut Members<'_>) {
        out.word("op", self.op.as_str());
        out.text("project", self.project, NAME);
        out.maybe_text("file", self.file, FILE);
        out.maybe_text("reference", self.reference.map(|name| name.as_str().as_bytes()), NAME);
        write_grant_id(out, self.grant);
        out.word("reason", self.reason);
        self.reader.write(out);
    }
}

/// The fields of a record that stands for many readers; `comm` is the first one's.
pub(super) fn write_crowd(
    out: &mut Members<'_>,
    op: Op,
    project: Option<&[u8]>,
    reason: &'static str,
    comm: &[u8],
) {
    out.word("op", op.as_str());
    out.maybe_text("project", project, NAME);
    for key in ["file", "reference", "grant"] {
        out.null(key);
    }
    out.word("reason", reason);
    for key in ["tid", "tgid", "start", "uid", "exe"] {
        out.null(key);
    }
    out.text("comm", comm, COMM);
    out.raw("chain", b"[]");
}

fn write_grant_id(out: &mut Members<'_>, grant: Option<GrantId>) {
    match grant {
        None => out.null("grant"),
        Some(grant) => out.hexadecimal("grant", grant.as_bytes()),
    }
}

fn write_optional(out: &mut Members<'_>, key: &str, text: Option<&str>) {
    if let Some(text) = text {
        out.text(key, text.as_bytes(), NAME);
    }
}
