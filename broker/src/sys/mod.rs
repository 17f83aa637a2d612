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
