//! Does kin keep its promises on a real mount? Rows of the attack table bear their numbers.

use std::time::Duration;

use kin_tests::World;
use nix::errno::Errno;

/// Makes of each function two tests: with the best identity that the kernel offers, and with `/proc` alone.
macro_rules! both {
    ($($(#[$meta:meta])* fn $name:ident($identity:ident) $body:block)*) => { $(
        mod $name {
            use super::*;

            $(#[$meta])*
            fn promise($identity: kin_tests::Identity) $body

            #[test]
            fn natively() {
                promise(kin_tests::Identity::Native);
            }

            #[test]
            fn by_procfs() {
                promise(kin_tests::Identity::Procfs);
            }
        }
    )* };
}

mod attacks;
mod beside;
mod cli;
mod costs;
mod edges;
mod environment;
mod grants;
mod imports;
mod keys;
mod links;
mod private;
mod refusals;
mod rendered;
mod rotation;
mod semantics;
mod story;
mod writable;

/// The two files of a ready world.
const DATABASE: &str = "DATABASE_URL";
const API: &str = "API_KEY";

/// What an outsider gets.
const REFUSED: Errno = Errno::EACCES;

/// How long a withdrawal may take that nobody asked for: an exit, a kill.
const SOON: Duration = Duration::from_secs(1);

/// The content of `DATABASE_URL` in a ready world.
fn database(world: &World) -> Vec<u8> {
    world.value("db/url")
}
