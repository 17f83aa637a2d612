//! `kin link`: the files of a project at their real paths, as links into the mount.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Args;
use kin_broker::admin::batches::{ImportReason, LinkInfo, LinkRequest, LinkState};
use kin_broker::control::Client;
use kin_broker::control::protocol::Question;
use kin_broker::project::mount_targets::{Target, Way};
use kin_broker::sys::paths::Directories;
use kin_broker::{Class, Error, Result, describe};
use kin_policy::{FileName, FilePath, Reference};

use super::import::staging::{self, Entry, Incoming};
use super::terminal::Terminal;
use super::{Format, bad_usage, connect, git, output, project, trust, unlock, value};

/// Put links to a project's files where its kin.toml says
///
/// Each binding with a `path` gets a symbolic link there that leads into the mount: a file for the processes of a
/// grant, and for all others nothing that they could open. In a git work tree .gitignore gets a line for it,
/// where git does not ignore it already. Without a broker the links lead nowhere. kin.toml has to be trusted.
///
/// A file that is there already stays, unless --adopt is said: then what it holds goes into the vault first, is
/// written and read back, and the link takes the file's place. Inside a grant's tree all of it is denied.
#[derive(Args)]
#[command(after_help = "Examples:
  kin link
  kin link .env --adopt                     what .env holds moves into the vault
  kin unlink --restore .env                 and back")]
pub(super) struct Arguments {
    /// Only these files
    #[arg(value_name = "FILE")]
    files: Vec<OsString>,
    /// Move what the files there hold into the vault, and put the links in their place
    #[arg(long)]
    adopt: bool,
    /// With --adopt, give secrets that are there with another value a new version
    #[arg(long, requires = "adopt")]
    overwrite: bool,
    /// Agree here instead of on a terminal
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let files = files(&arguments.files)?;
    let directories = Directories::from_environment()?;
    let directory = project::directory()?;
    let mut client = connect::to_broker(&directories)?;
    let links = Links { directory, files };
    let seen = links.look(&mut client)?;
    let there: Vec<_> = seen.iter().filter(|info| info.state == LinkState::File).collect();
    let replace = match arguments.adopt && !there.is_empty() {
        true => adopt(arguments, &mut client, &links, &there)?,
        false => Vec::new(),
    };
    let adopted: Vec<PathBuf> = there.iter().map(|info| info.path.clone()).collect();
    let made = links.put(&mut client, &seen, &replace)?;
    match arguments.format.json {
        true => output::json(&made)?,
        false => say(&made)?,
    }
    warn_of_what_is_left(&links.directory, &adopted);
    Ok(())
}

/// File names from the command line; `None` where there are none.
///
/// # Errors
/// `bad_name`.
pub(super) fn files(arguments: &[OsString]) -> Result<Option<Vec<FileName>>> {
    let parse = |argument: &OsString| match argument.to_str() {
        Some(text) => Ok(FileName::new(text)?),
        None => Err(Error::new(Class::Unsafe, "bad_name", "bad file name: it is not UTF-8")),
    };
    match arguments {
        [] => Ok(None),
        names => names.iter().map(parse).collect::<Result<_>>().map(Some),
    }
}

/// The links of one project, or some of them.
pub(super) struct Links {
    pub(super) directory: PathBuf,
    pub(super) files: Option<Vec<FileName>>,
}

impl Links {
    /// What is at their places.
    ///
    /// # Errors
    /// The broker's, and those of unlocking.
    pub(super) fn look(&self, client: &mut Client) -> Result<Vec<LinkInfo>> {
        // Without the key nothing can be said about trust: this unlocks the vault where that is needed.
        trust::inspect(client, &self.directory)?;
        self.ask(client, Vec::new(), Vec::new(), false)
    }

    /// Puts them there; the files of `replace` give way.
    ///
    /// # Errors
    /// As [`Self::look`].
    pub(super) fn put(
        &self,
        client: &mut Client,
        seen: &[LinkInfo],
        replace: &[(FileName, Reference)],
    ) -> Result<Vec<LinkInfo>> {
        let below = |info: &LinkInfo| info.path.strip_prefix(&self.directory).ok().map(Path::to_owned);
        let shown = |info: &&LinkInfo| below(info).is_some_and(|path| !git::ignores(&self.directory, &path));
        let ignore = match git::is_work_tree(&self.directory) {
            true => seen.iter().filter(shown).map(|info| info.file.clone()).collect(),
            false => Vec::new(),
        };
        self.ask(client, ignore, replace.to_vec(), true)
    }

    fn ask(
        &self,
        client: &mut Client,
        ignore: Vec<FileName>,
        replace: Vec<(FileName, Reference)>,
        confirmed: bool,
    ) -> Result<Vec<LinkInfo>> {
        let (directory, files) = (self.directory.clone(), self.files.clone());
        let request = LinkRequest { directory, home: home(), files, ignore, replace, confirmed };
        unlock::asking(client, |client| client.ask(Question::Link(request.clone())))
    }
}

/// What `~/` stands for; without one, a path that nothing is below.
fn home() -> PathBuf {
    std::env::home_dir().filter(|home| home.is_absolute()).unwrap_or_else(|| "/nonexistent".into())
}

/// Moves what the files hold into the vault; which secret has which of them.
fn adopt(
    arguments: &Arguments,
    client: &mut Client,
    links: &Links,
    there: &[&LinkInfo],
) -> Result<Vec<(FileName, Reference)>> {
    let mut entries = Vec::new();
    let mut replace = Vec::new();
    for info in there {
        let Some(reference) = &info.reference else {
            let message = format!("{} is made of several secrets", info.file);
            return Err(bad_usage(
                "not_one_secret",
                message,
                "`kin import FILE --link --by-key --overwrite` moves each of its keys",
            ));
        };
        let value = read(&links.directory, info)?;
        entries.push(Entry { reference: reference.clone(), value });
        replace.push((info.file.clone(), reference.clone()));
    }
    staging::stage(client, &entries)?;
    let mut incoming = Incoming { overwrite: arguments.overwrite, reason: ImportReason::Adopt };
    let seen = incoming.look(client)?;
    let terminal = if arguments.yes { None } else { Terminal::open() };
    if let Some(mut terminal) = terminal {
        terminal.say(&staging::table(&seen))?;
        for info in there {
            terminal.say(&format!("{} becomes a link\n", shown_path(info)))?;
        }
        incoming.agree(&mut terminal, &seen, "Move them into the vault?")?;
    }
    let done = incoming.commit(client)?;
    if !arguments.format.json {
        output::print(&staging::table(&done))?;
    }
    Ok(replace)
}

/// What a file holds, by a way that does not leave the directory that it belongs to.
fn read(directory: &Path, info: &LinkInfo) -> Result<kin_broker::Plaintext> {
    let home = home();
    let (base, text) = match info.path.strip_prefix(directory) {
        Ok(below) => (directory, below.to_string_lossy().into_owned()),
        Err(_) => {
            let below = info.path.strip_prefix(&home).unwrap_or(&info.path);
            (home.as_path(), format!("~/{}", below.to_string_lossy()))
        }
    };
    let path = FilePath::new(text)?;
    let way = Way { base, path: &path, link: &info.target };
    let Target::File(seen) = way.find()? else {
        let message = format!("{} has changed meanwhile", shown_path(info));
        return Err(Error::new(Class::Denied, "file_changed", message).hint("try again"));
    };
    let own = format!("/proc/self/fd/{}", seen.as_fd().as_raw_fd());
    let file = File::open(own).map_err(|error| {
        let message = format!("could not read {}: {}", shown_path(info), describe(&error));
        bad_usage("file_unreadable", message, "make it one that you can read")
    })?;
    let other_names = file.metadata().map_or(true, |meta| meta.nlink() != 1);
    if other_names {
        let message = format!("{} has other names, which would keep what it holds", shown_path(info));
        return Err(Error::new(Class::Unsafe, "unsafe_target", message).hint("remove the others first"));
    }
    value::from_open(&file)
}

fn shown_path(info: &LinkInfo) -> String {
    output::printable_path(&info.path)
}

/// One line for each link.
///
/// # Errors
/// Those of printing.
pub(super) fn say(links: &[LinkInfo]) -> Result<()> {
    for link in links {
        let what = match link.state {
            LinkState::Made => "linked",
            LinkState::Replaced => "moved into the vault and linked",
            _ => "is linked already:",
        };
        let (path, target) = (output::printable_path(&link.path), output::printable_path(&link.target));
        output::line(&format!("{what} {path} -> {target}"))?;
    }
    Ok(())
}

/// What no link undoes: the old bytes of a file are not overwritten, and git keeps what it was given.
pub(super) fn warn_of_what_is_left(directory: &Path, adopted: &[PathBuf]) {
    if adopted.is_empty() {
        return;
    }
    output::note("the disk, its snapshots and backups may still hold what the file held");
    for path in adopted {
        let Ok(below) = path.strip_prefix(directory) else { continue };
        if git::tracks(directory, below) {
            let below = output::printable_path(below);
            output::note(&format!(
                "git tracks {below}, so its history holds the values: `git rm --cached {below}`, and rotate them"
            ));
        }
    }
}
