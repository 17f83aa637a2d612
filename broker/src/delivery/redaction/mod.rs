//! redaction answers: what may be shown of an output? Everything but values, in whatever form they stand there.
//!
//! The values of a grant are in a process of its own for that: a redactor, which is not dumpable, reads what the
//! command writes, and writes what may be seen. What it masks, and how, is pure: [`Redactor`], [`Patterns`].

mod forms;
mod handing;
mod parts;
mod patterns;
mod process;
mod redactor;
mod stream;

pub use forms::SHORTEST;
pub use patterns::{LONGEST, Patterns};
pub use process::link;
pub(crate) use process::main;
pub use redactor::Redactor;
