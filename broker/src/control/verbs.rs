//! What is each question called, who may ask it, and is it recorded who did? One row for each, and none is left out.

use crate::admin::requests::NewVersion;
use crate::control::protocol::Question;

/// What holds of one kind of question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verb {
    /// As people know it: the command that asks it.
    pub(crate) name: &'static str,
    /// Whether a member of a grant's tree may ask it.
    pub(crate) inside: Inside,
    /// Whether what it leads to is recorded with who asked. A keeper and a look ask on nobody's behalf.
    pub(crate) asker: Asked,
}

/// A question from inside a grant's tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inside {
    /// Is answered.
    Allowed,
    /// Is refused, and recorded.
    Refused,
}

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Stands in the records that it leads to.
    Recorded,
    /// Does not.
    Unrecorded,
}

/// For people outside of every tree.
const fn person(name: &'static str) -> Verb {
    Verb { name, inside: Inside::Refused, asker: Asked::Recorded }
}

/// For everybody; what it leads to bears who asked.
const fn anybody(name: &'static str) -> Verb {
    Verb { name, inside: Inside::Allowed, asker: Asked::Recorded }
}

/// A look that leads to nothing, or what a keeper says of its own grant.
const fn on_nobodys_behalf(name: &'static str) -> Verb {
    Verb { name, inside: Inside::Allowed, asker: Asked::Unrecorded }
}

/// The row of a question.
pub(crate) const fn of(question: &Question) -> Verb {
    match question {
        Question::Init { .. } => person("init"),
        Question::Unlock(_) => person("unlock"),
        Question::Rekey { .. } => person("rekey"),
        Question::RecoveryNew { .. }
        | Question::RecoveryAdd { .. }
        | Question::RecoveryRemove { .. }
        | Question::Recover(_) => person("recovery"),
        Question::Set(NewVersion { rotate: true, .. }) => person("rotate"),
        Question::Set(_) => person("set"),
        Question::Reveal { .. } => person("reveal"),
        Question::Remove { .. } => person("rm"),
        Question::Backup { .. } => person("backup"),
        Question::Restore { .. } => person("restore"),
        Question::Stage { .. } | Question::StageExport(_) | Question::Import(_) => person("import"),
        Question::Select { .. } | Question::Export(_) => person("export"),
        Question::Link(_) => person("link"),
        Question::Unlink(_) => person("unlink"),
        Question::Trust { .. } => person("trust"),
        Question::Untrust { .. } => person("untrust"),
        Question::Lock => anybody("lock"),
        Question::Revoke { .. } => anybody("revoke"),
        // They may open the vault.
        Question::List => anybody("list"),
        Question::Show { .. } => anybody("show"),
        Question::History { .. } => anybody("history"),
        Question::RecoveryList => anybody("recovery"),
        Question::Inspect { .. } => anybody("check"),
        Question::Hello => on_nobodys_behalf("hello"),
        Question::Status => on_nobodys_behalf("status"),
        Question::FlushAudit => on_nobodys_behalf("audit"),
        Question::Stop => on_nobodys_behalf("stop"),
        Question::Grant(_)
        | Question::ServeMount { .. }
        | Question::EnvironmentValue { .. }
        | Question::ServeOutput
        | Question::CommandStarted { .. }
        | Question::TellVersions
        | Question::Finish { .. } => on_nobodys_behalf("run"),
    }
}
