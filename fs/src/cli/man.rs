//! `kin man`: the manual, one page for all commands, and one for kin.toml.

mod manifest;

use std::io;

use clap::{Args, CommandFactory, ValueEnum};
use clap_mangen::Man;
use kin_broker::{Error, Result};

use super::{Cli, output};

/// What only the page has, in the form of the parts of the help.
const PARTS: &str = "\
Environment of the command:
  KIN_DIR         the directory of the grant's files, for the command of kin run
  KIN_WRITE_DIR   the directory of those that it may write

Files:
  kin.toml                                what a project asks for: kin.toml(5)
  $XDG_CONFIG_HOME/kin/config.toml        settings, closed: [vault] and [audit]
  $XDG_CONFIG_HOME/kin/key.json           where the vault's identity is
  $XDG_DATA_HOME/kin/vault.age            the vault
  $XDG_DATA_HOME/kin/identity.age         its identity, under a passphrase
  $XDG_DATA_HOME/kin/trust.json           which manifests are trusted
  $XDG_STATE_HOME/kin/audit.jsonl         the record, and audit.* beside it
  $XDG_STATE_HOME/kin/vault.anchor        which vault was written last
  $XDG_RUNTIME_DIR/kin/socket             where the broker listens
  $XDG_RUNTIME_DIR/kin/mnt/PROJECT/FILE   a secret, for the tree of a grant
  $XDG_RUNTIME_DIR/kin/rw/PROJECT/FILE    the same, where it may be written
  where a variable is not set: ~/.config, ~/.local/share, ~/.local/state, /run/user/UID

See also:
  kin.toml(5), age(1), fusermount3(1), inotify(7)";

/// Print the manual page
///
/// The page goes to standard output, in roff.
#[derive(Args)]
#[command(after_help = "Examples:
  kin man | man -l -
  kin man kin.toml | man -l -
  kin man > ~/.local/share/man/man1/kin.1
  kin man kin.toml > ~/.local/share/man/man5/kin.toml.5")]
pub(super) struct Arguments {
    /// Which page
    #[arg(value_name = "PAGE", default_value = "kin")]
    page: Page,
}

/// A page of the manual.
#[derive(Clone, Copy, ValueEnum)]
enum Page {
    /// All commands: kin(1)
    #[value(name = "kin")]
    Commands,
    /// What a project's kin.toml may say: kin.toml(5)
    #[value(name = "kin.toml")]
    Manifest,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let mut page = Vec::new();
    let rendered = match arguments.page {
        Page::Commands => commands(&mut page),
        Page::Manifest => manifest::render(&mut page),
    };
    rendered.map_err(|error| Error::internal("write the manual", error))?;
    output::write(&page)
}

fn commands(page: &mut Vec<u8>) -> io::Result<()> {
    let mut program = Cli::command();
    program.build();
    let man = Man::new(program.clone()).manual("kinfs");
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    for command in program.get_subcommands() {
        if !command.is_hide_set() && command.get_name() != "help" {
            render_command(command, page)?;
        }
    }
    let after = program.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    render_parts(".SH", &after, page);
    render_parts(".SH", PARTS, page);
    // The one place that has the project's address; it has none yet.
    let repository = env!("CARGO_PKG_REPOSITORY");
    if !repository.is_empty() {
        render_part(".SH", "Bugs", &format!("  {repository}"), page);
    }
    Ok(())
}

/// One section for a command, with what would be sections of its own page below it.
fn render_command(command: &clap::Command, page: &mut Vec<u8>) -> io::Result<()> {
    let mut own = Vec::new();
    let man = Man::new(command.clone());
    man.render_synopsis_section(&mut own)?;
    man.render_description_section(&mut own)?;
    man.render_options_section(&mut own)?;
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        let man = Man::new(below.clone());
        man.render_synopsis_section(&mut own)?;
        man.render_description_section(&mut own)?;
    }
    let own = String::from_utf8(own).map_err(io::Error::other)?;
    page.extend(format!(".SH \"KIN {}\"\n", command.get_name().to_uppercase()).into_bytes());
    page.extend(own.replace(".SH ", ".SS ").into_bytes());
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    render_parts(".SS", &after, page);
    Ok(())
}

/// What follows the options in help: parts between blank lines, each a heading and lines that stay as they are.
fn render_parts(heading: &str, parts: &str, page: &mut Vec<u8>) {
    for (title, lines) in parts.split("\n\n").filter_map(|part| part.split_once('\n')) {
        render_part(heading, title, lines, page);
    }
}

/// A heading, and lines that stay as they are.
fn render_part(heading: &str, title: &str, lines: &str, page: &mut Vec<u8>) {
    let title = title.trim_end_matches(':').to_uppercase();
    page.extend(format!("{heading} \"{title}\"\n.nf\n").into_bytes());
    for line in lines.lines() {
        let line = escaped(line.strip_prefix("  ").unwrap_or(line));
        page.extend(format!("\\&{line}\n").into_bytes());
    }
    page.extend(b".fi\n");
}

/// Text that roff shows as it is.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}
