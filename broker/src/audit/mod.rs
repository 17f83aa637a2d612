//! The record: who was delivered what, written before it was, chained so that no line can be changed
//! unseen.

mod anchor;
mod blocks;
mod chain;
mod change;
mod denials;
mod fault;
mod json;
mod keeper;
mod late;
mod log;
mod logged;
#[cfg(test)]
mod lying_tests;
mod overdue;
#[cfg(test)]
mod power_tests;
mod query;
mod record;
mod remembered;
mod seals;
mod storage;
mod tail;
#[cfg(test)]
mod testing;
mod unsynced;
mod verify;
mod when;

pub use anchor::Head;
pub use change::{Change, Span, Unlogged};
pub use fault::Recording;
pub(crate) use late::Late;
pub use log::{AuditLog, NotLogged, Settings};
pub use logged::Logged;
pub(crate) use logged::Receipt;
pub use query::{Filter, Queried, Record, parsed, query, query_last_run, query_lines};
pub use record::{Ancestry, Denied, Event, Op, PolicyChange, ReaderFacts, VaultChange};
pub use remembered::Remembered;
pub(crate) use remembered::signed_again;
pub use verify::{Verified, verify, verify_against};
pub use when::{Window, parse_window};
