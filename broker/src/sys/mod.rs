//! What does the machine give? Files, paths, clocks, memory, processes, mounts.
//!
//! The one room with `unsafe`: kernel calls that no safe wrapper offers. Each block states why it holds.

#![allow(unsafe_code)]

pub mod allocator;
pub mod child;
pub mod filter;
pub mod fuse;
pub mod inherited;
pub mod link;
pub mod lock;
pub mod memory;
pub mod mount;
pub mod pidfd;
pub mod proc;
pub mod process;
pub mod socket;
pub mod standard;
pub mod statx;
pub mod terminal;

#[deny(unsafe_code)]
pub(crate) mod bus;
#[deny(unsafe_code)]
pub mod clock;
#[deny(unsafe_code)]
pub mod config;
#[deny(unsafe_code)]
pub(crate) mod ebb;
#[deny(unsafe_code)]
pub mod error;
#[deny(unsafe_code)]
pub mod files;
#[deny(unsafe_code)]
pub mod frame;
#[deny(unsafe_code)]
pub mod limits;
#[deny(unsafe_code)]
pub mod mounts;
#[deny(unsafe_code)]
pub mod path_bytes;
#[deny(unsafe_code)]
pub mod paths;
#[deny(unsafe_code)]
pub mod places;
