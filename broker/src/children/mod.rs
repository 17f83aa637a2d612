//! Which processes of its own does the broker have, and which programs does it run?
//!
//! They come from a [`zygote`], which was forked before the broker held anything.

pub(crate) mod mounter;
pub mod programs;
pub(crate) mod renamer;
pub(crate) mod zygote;
