//! control carries questions from the command line to the broker and answers back, over a Unix socket.

mod frame;
pub mod protocol;

pub use frame::{read_frame, write_frame};
