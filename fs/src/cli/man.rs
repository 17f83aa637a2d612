//! `kin man`: the manual, one page for all commands.

use std::io;

use clap::{Args, CommandFactory};
use clap_mangen::Man;
use kin_broker::{Error, Result};

use super::{Cli, output};

/// Print the manual page
///
/// The page goes to standard output, in roff.
#[derive(Args)]
#[command(after_help = "Examples:
  kin man | man -l -
  kin man > ~/.local/share/man/man1/kin.1")]
pub(super) struct Arguments {}

pub(super) fn answer() -> Result<()> {
    output::write(&page().map_err(|error| Error::internal("write the manual", error))?)
}

fn page() -> io::Result<Vec<u8>> {
    let mut program = Cli::command();
    program.build();
    let mut page = Vec::new();
    let man = Man::new(program.clone()).manual("kinfs");
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    for command in program.get_subcommands() {
        if !command.is_hide_set() && command.get_name() != "help" {
            render_command(command, &mut page)?;
        }
    }
    let after = program.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    render_parts(".SH", &after, &mut page);
    Ok(page)
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
        let title = title.trim_end_matches(':').to_uppercase();
        page.extend(format!("{heading} \"{title}\"\n.nf\n").into_bytes());
        for line in lines.lines() {
            let line = line.strip_prefix("  ").unwrap_or(line).replace('\\', "\\e").replace('-', "\\-");
            page.extend(format!("\\&{line}\n").into_bytes());
        }
        page.extend(b".fi\n");
    }
}
