//! How does a value get out, or back in?
//!
//! [`open`] is the way of one open, step by step; what an open handle holds is an [`open_file`].

pub(crate) mod environment;
mod judge;
pub mod open;
pub(crate) mod open_file;
pub mod redaction;
pub(crate) mod rendered;
pub mod siblings;
pub(crate) mod versions;
pub mod write;
