//! `kin trust`: trusts this project's `kin.toml` as it is now.

use clap::Args;
use kin_broker::control::Client;
use kin_broker::control::protocol::{ManifestInfo, Question, TrustState};
use kin_broker::sys::paths::Directories;
use kin_broker::{Class, Error, Result};
use kin_policy::plain;

use super::terminal::{Terminal, confirmation_needed};
use super::{Format, bad_usage, connect, output, project, rendered, restrictions, unlock};

/// Trust this project's kin.toml as it is now
///
/// A manifest does nothing until it is trusted: exactly this content, in exactly this directory. What it
/// binds is shown first, and the difference where other content was trusted before. A person has to
/// agree, on a terminal, by --yes, or by naming the content with --hash. Inside a grant's tree it is denied.
#[derive(Args)]
#[command(after_help = "Examples:
  kin trust
  kin trust --hash \"$(sha256sum kin.toml | cut -d' ' -f1)\"     only if it is still that content")]
pub(super) struct Arguments {
    /// Agree here instead of on a terminal
    #[arg(long, conflicts_with = "hash")]
    yes: bool,
    /// Agree to the content with this SHA-256 (64 hexadecimal digits), and to no other
    #[arg(long, value_name = "H")]
    hash: Option<String>,
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let agreed = arguments.hash.as_deref().map(parse_hash).transpose()?;
    let directories = Directories::from_environment()?;
    let directory = project::directory()?;
    let terminal = match arguments.yes || agreed.is_some() {
        true => None,
        false => Some(Terminal::open().ok_or_else(|| {
            confirmation_needed("trusting a manifest").hint("scripts say --hash H, or --yes")
        })?),
    };
    let mut client = connect::to_broker(&directories)?;
    let shown = inspect(&mut client, &directory)?;
    if agreed.is_some_and(|hash| !hash.eq_ignore_ascii_case(&shown.hash)) {
        let message = format!("kin.toml is other content than --hash names: it is {}", shown.hash);
        return Err(
            Error::new(Class::Unsafe, "manifest_changed", message).hint("read it before you trust it")
        );
    }
    // What is trusted already is asked for all the same: inside a grant's tree it is refused.
    let already = shown.trust == TrustState::Trusted;
    if let Some(mut terminal) = terminal
        && !already
    {
        terminal.say(&description(&shown, &directories))?;
        terminal.confirm("Trust it?")?;
    }
    restrictions::warn(&shown);
    let question = Question::Trust { directory, hash: shown.hash, confirmed: true };
    let trusted: ManifestInfo = unlock::asking(&mut client, |client| client.ask(question.clone()))?;
    say(arguments, &trusted, if already { "already trusted:" } else { "trusted" })
}

/// What would be trusted; the vault is unlocked where the trust store cannot be read without.
///
/// # Errors
/// The broker's, and those of unlocking.
pub(super) fn inspect(client: &mut Client, directory: &std::path::Path) -> Result<ManifestInfo> {
    let question = Question::Inspect { directory: directory.to_path_buf() };
    let seen: ManifestInfo = unlock::asking(client, |client| client.ask(question.clone()))?;
    if seen.trust != TrustState::Locked {
        return Ok(seen);
    }
    unlock::unlock(client, None)?;
    client.ask(question)
}

fn parse_hash(text: &str) -> Result<&str> {
    match text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(text),
        false => Err(bad_usage(
            "bad_hash",
            "--hash is not 64 hexadecimal digits",
            "it is what `sha256sum kin.toml` prints",
        )),
    }
}

fn say(arguments: &Arguments, manifest: &ManifestInfo, what: &str) -> Result<()> {
    if arguments.format.json {
        return output::json(manifest);
    }
    let directory = output::printable_path(&manifest.directory);
    output::line(&format!("{what} {} in {directory}, content {}", manifest.project, manifest.hash))?;
    for binding in &manifest.bindings {
        for line in restrictions::lines(binding) {
            output::line(&format!("  {} {line}", binding.file))?;
        }
    }
    rendered::lines(manifest).iter().try_for_each(|line| output::line(&format!("  {line}")))
}

/// What a person agrees to.
fn description(manifest: &ManifestInfo, directories: &Directories) -> String {
    let mount = directories.mountpoint().join(manifest.mounted_as.as_str());
    let mut text = format!(
        "project    {}\ndirectory  {}\nmounted    {}\ncontent    {}\nbindings   {}\n",
        manifest.project,
        output::printable_path(&manifest.directory),
        output::printable_path(&mount),
        output::printable(&manifest.hash),
        if manifest.bindings.is_empty() { "none" } else { "file = secret" },
    );
    for binding in &manifest.bindings {
        let missing = if binding.present == Some(false) { "  (not in the vault)" } else { "" };
        let place =
            binding.path.as_ref().map(|path| format!("  at {path} with --private")).unwrap_or_default();
        text += &format!("           {} = {}{place}{missing}\n", binding.file, binding.reference);
        for line in restrictions::lines(binding) {
            text += &format!("             {line}\n");
        }
    }
    for line in rendered::lines(manifest) {
        text += &format!("           {line}\n");
    }
    if let TrustState::Changed { diff } = &manifest.trust {
        text += "\nIt has changed since it was trusted:\n";
        for line in diff.lines() {
            text += &plain(&output::printable_line(line));
            text += "\n";
        }
    }
    text
}
