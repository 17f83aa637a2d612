//! `kin completions`: a completion script for a shell.

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use kin_broker::Result;

use super::{Cli, output};

/// Print a completion script for a shell
///
/// The script goes to standard output.
#[derive(Args)]
#[command(after_help = "Examples:
  kin completions bash > ~/.local/share/bash-completion/completions/kin
  kin completions zsh > ~/.zfunc/_kin
  kin completions fish > ~/.config/fish/completions/kin.fish")]
pub(super) struct Arguments {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "kin", &mut script);
    output::write(&script)
}
