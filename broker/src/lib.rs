//! kin-broker delivers: it holds the vault, knows the readers, keeps the grants, writes the record, and
//! hands out a value only under a permit that the record has.
//!
//! The rooms, from the top down: `control`, `admin`, `delivery`, `grants`, `project`, `vault`, `keys`, `audit`,
//! `children`, `process`, `sys`. `broker` builds their services.

pub mod admin;
pub mod audit;
mod broker;
pub mod children;
pub mod control;
pub mod delivery;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod grants;
pub mod keys;
pub mod process;
pub mod project;
pub mod sys;
pub mod vault;

pub use broker::Broker;
pub use children::renamer::Renamer;
pub use children::zygote::Zygote;
pub use delivery::open_file::{Delivery, Reading};
pub use delivery::versions::ShowVersions;
pub use delivery::write::ServeWritable;
pub use grants::private_mount::{Mapped, ServePrivate};
pub use grants::temp_file::Scratch;
pub use process::executables::Unhashed;
pub use sys::error::{Class, Error, Result, describe};
pub use sys::memory::Plaintext;
