//! Do real programs read their secrets from the mount, unchanged? Each row is a program in three ways: it opens
//! the file in the mount, a symbolic link to it, or the file at its real path (`kin run --private`).
//!
//! What writes its secret back is a row of its own.
//!
//! docs/programs.md has the same rows, and a row fails where the page says something else than what was seen.
//! `KIN_PROGRAMS_PAGE=FILE` writes what is seen to a page instead; scripts/programs does that.

/// Makes of each row a test, and of their names a list in the order of the page.
macro_rules! rows {
    ($show:path => $($(#[$meta:meta])* fn $test:ident() $body:block)*) => {
        pub(crate) const ROWS: &[&str] = &[$(stringify!($test)),*];
        $(
            $(#[$meta])*
            #[test]
            fn $test() {
                $show(concat!(module_path!(), "::", stringify!($test)), &$body);
            }
        )*
    };
}

mod clients;
mod keys;
mod languages;
mod page;
mod plant;
mod refused;
mod servers;
mod stage;
mod tools;
mod web;
mod written;
