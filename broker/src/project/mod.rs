//! What does a project ask for, and did a person agree?

pub(crate) mod env_warning;
pub mod info;
pub mod manifest;
pub mod mount_targets;
pub mod render;
pub mod trust_store;
