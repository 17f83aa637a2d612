//! What happened? Who was delivered what is written down before it is, chained so that no line can be changed unseen.

mod anchor;
pub(crate) mod behalf;
mod blocks;
mod chain;
mod change;
mod denials;
mod fault;
mod json;
mod late;
mod log;
mod logged;
#[cfg(test)]
mod lying_tests;
mod overdue;
pub(crate) mod pending;
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
mod upkeep;
mod verify;
mod when;
mod written;

pub use anchor::Head;
pub use change::{Change, Span, Unlogged};
pub use fault::Recording;
pub(crate) use late::Late;
pub use log::{AuditLog, NotLogged, Settings};
pub use logged::Logged;
pub(crate) use logged::Receipt;
pub use query::{Filter, Queried, Record, parsed, query, query_last_run, query_lines};
pub use record::{Denied, Event, Op, PolicyChange, ReaderFacts, VaultChange};
pub(crate) use record::{vault_event, version_event};
pub use remembered::Remembered;
pub(crate) use remembered::signed_again;
pub use verify::{Verified, verify, verify_against};
pub use when::{Window, parse_window};
