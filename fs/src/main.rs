//! The program `kin`: the command line in front of the library.

mod cli;

/// The broker is this program too: what its libraries free of keys and values is wiped.
#[global_allocator]
static ALLOCATOR: kin_broker::sys::allocator::Wiping = kin_broker::sys::allocator::Wiping;

fn main() -> std::process::ExitCode {
    cli::main()
}
