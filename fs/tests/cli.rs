//! Does the built program say what it promises, to people and to scripts, and never hang or panic?

#![allow(clippy::unwrap_used)]

#[path = "cli/broker.rs"]
mod broker;
#[path = "cli/program.rs"]
mod program;

#[path = "cli/answers.rs"]
mod answers;
#[path = "cli/errors.rs"]
mod errors;
#[path = "cli/help.rs"]
mod help;
#[path = "cli/terminal.rs"]
mod terminal;
