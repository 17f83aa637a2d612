//! kin-broker delivers: it holds the vault, knows the readers, keeps the grants, writes the record, and
//! hands out a value only under a permit that the record has.

pub mod audit;
pub mod control;
mod error;
pub mod files;
pub mod generate;
pub mod identity;
pub mod keys;
pub mod manifest;
pub mod paths;
pub mod sys;
pub mod trust;
pub mod vault;

pub use error::{Class, Error, Result, describe};
pub use sys::memory::Plaintext;
