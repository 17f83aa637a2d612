//! kin-policy answers one question: may this reader have this, now?
//!
//! It is pure: no I/O, no clock, no libc. Identity, time and grants are arguments; the answer is a
//! [`Decision`]. A [`Permit`] has no public constructor, so holding one proves that [`decide`] said yes.

#![forbid(unsafe_code)]

mod decide;
mod grant;
mod limits;
mod names;
mod process;
mod program;
mod time;

pub use decide::{
    Action, Decision, Denial, PageCache, Permit, Reader, Request, Unidentified, decide, decide_redaction,
    decide_reveal, decide_sizing, decide_together,
};
pub use grant::{Around, Binding, Ending, Grant, GrantId, Orphans, Reach, RenderedFile, Standing};
pub use limits::{Descend, Limits, Uses};
pub use names::{BadName, DirectoryName, FileName, FilePath, ProjectName, Reference, plain, unprintable};
pub use process::{Lineage, Namespaces, Pid, Process, Tid};
pub use program::{Exe, ExeDigest, ExePin};
pub use time::Timestamp;
