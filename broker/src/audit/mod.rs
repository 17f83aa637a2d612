//! The record: who was delivered what, written before it was, chained so that no line can be changed
//! unseen.

mod logged;

pub use logged::Logged;
