//! k

pub mod run;
