//! The record: who was delivered what, written before it was, chained so that no line can be changed
//! unseen.

mod chain;
mod denials;
mod json;
mod log;
mod logged;
mod query;
mod record;
mod storage;
mod tail;
#[cfg(test)]
mod testing;
mod verify;
mod when;

pub use log::{AuditLog, NotLogged};
pub use logged::Logged;
pub use query::{Filter, Queried, Record, query};
pub use record::{Ancestry, Denied, Event, Op, PolicyChange, ReaderFacts, VaultChange};
pub use verify::{Verified, verify};
pub use when::parse_time;
