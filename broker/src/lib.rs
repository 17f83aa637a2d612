//! kin-broker delivers: it holds the vault, knows the readers, keeps the grants, writes the record, and
//! hands out a value only under a permit that the record has.

pub mod access;
mod answer;
pub mod audit;
mod autolock;
mod backup;
mod broker;
pub mod clock;
pub mod config;
pub mod control;
mod custody;
mod delivery;
mod edges;
mod environment;
mod error;
mod executables;
pub mod files;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod generate;
mod granting;
pub mod grants;
pub mod identity;
mod keepers;
pub mod keys;
pub mod limits;
mod links;
pub mod manifest;
pub mod mounts;
pub mod paths;
pub mod placeholders;
mod private;
mod recovery;
pub mod redaction;
mod rekey;
pub mod render;
mod rendered;
mod rotation;
mod scratch;
pub mod succession;
pub mod sys;
pub mod targets;
mod transfer;
pub mod trust;
pub mod vault;
mod warden;
mod warned;

pub use access::ServeWritable;
pub use broker::Broker;
pub use delivery::{Delivery, Reading};
pub use error::{Class, Error, Result, describe};
pub use executables::Unhashed;
pub use private::{Mapped, ServePrivate};
pub use rotation::ShowVersions;
pub use scratch::Scratch;
pub use sys::memory::Plaintext;
