//! kin-fs presents: as files to programs, and (with the binary `kin`) as a command line to people.

pub mod ancestry;
pub mod daemon;
pub mod mount;
pub mod run;
