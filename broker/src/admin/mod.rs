//! What may a person change?
//!
//! Each change takes a `Logged` one: the record says first that it is made.

pub(crate) mod autolock;
pub(crate) mod backup;
pub mod batches;
pub(crate) mod changes;
pub(crate) mod links;
pub(crate) mod recovery;
pub(crate) mod rekey;
pub mod rekey_files;
pub mod requests;
pub(crate) mod revoke;
pub(crate) mod secrets;
pub(crate) mod settings;
pub(crate) mod transfer;
pub(crate) mod trust;
pub(crate) mod unlock;
