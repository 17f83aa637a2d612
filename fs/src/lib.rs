//! kin-fs presents: as files to programs, and (with the binary `kin`) as a command line to people.

pub mod adapter;
pub mod ancestry;
mod content;
pub mod daemon;
pub mod deadlines;
pub mod inodes;
pub mod mount;
pub mod private;
pub mod run;
pub mod secretfs;
pub mod watches;
pub mod writable;
