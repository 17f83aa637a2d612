//! control carries questions from the command line to the broker and answers back, over a Unix socket.

mod client;
mod frame;
pub mod protocol;

pub use client::Client;
pub use frame::{MAX_VALUE, read_frame, write_frame};
