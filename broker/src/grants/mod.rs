//! Who may read what, and for how long?
//!
//! A grant starts in [`start`], stands in the [`book`] as a [`live`] one, and ends by itself in [`expiry`].

pub mod book;
pub(crate) mod expiry;
pub(crate) mod keeper_requests;
pub(crate) mod limits_left;
pub mod live;
pub mod messages;
pub mod placeholders;
pub(crate) mod private_mount;
pub(crate) mod redactor;
pub(crate) mod rendered_file;
pub(crate) mod start;
pub(crate) mod temp_file;
