//! What do programs see, and where does it hang?
//!
//! [`filesystem`] has plain methods and knows no FUSE; [`adapter`] is a few lines for each request; a [`session`] mounts
//! the two.

pub mod adapter;
pub mod deadlines;
pub mod filesystem;
pub mod inodes;
pub mod private;
pub mod session;
mod slow_path;
pub mod watches;
pub mod writable;
