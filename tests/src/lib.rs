//! What does kin do on a real mount, seen from real processes? The worlds, readers and records that the
//! suite is written with.
//!
//! A [`World`] is one user's kin under a directory of its own. A [`Probe`] is a process that does what it
//! is told and answers with data or an errno: started by `kin run` it is a member, started bare an outsider.

pub mod canary;
mod daemon;
mod disk;
#[cfg(test)]
mod documents;
mod ending;
mod kin;
mod load;
pub mod mount;
mod probe;
pub mod process;
pub mod program;
pub mod record;
mod rerun;
pub mod soak;
mod sweep;
mod terminal;
mod watchdog;
mod world;

pub use daemon::Daemon;
pub use disk::Disk;
pub use kin::{Kin, Output};
pub use load::Crowd;
pub use probe::{Actor, Part, Probe, Remote};
pub use rerun::{
    Role, answer, as_member, as_nobody, as_nobody_under_hidepid, in_user_namespace, is_root, needs_root,
};
pub use sweep::{of_files as leaks_below, of_memory as memory_of};
pub use terminal::{PROMPT, Terminal};
pub use world::{Identity, World, binary, eventually};
