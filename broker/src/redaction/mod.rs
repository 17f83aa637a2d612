//! redaction answers: what may be shown of an output? Everything but values, in whatever form they stand there.

mod forms;
mod patterns;
mod redactor;

pub use forms::SHORTEST;
pub use patterns::{LONGEST, Patterns, Unmasked};
pub use redactor::Redactor;
