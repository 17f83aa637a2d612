//! What can be asked of `kin`, and who answers? This is the one definition behind parsing, help, completions and
//! the man page.

mod audit;
mod backup;
mod check;
mod completions;
mod connect;
mod daemon;
mod doctor;
mod duration;
mod env_file;
mod export;
mod git;
mod history;
mod import;
mod init;
mod key;
mod keyring_agent;
mod link;
mod list;
mod lock;
mod man;
mod output;
mod project;
mod recovery;
mod rekey;
mod rendered;
mod restore;
mod restrictions;
mod reveal;
mod revoke;
mod rm;
mod rotate;
mod run;
mod select;
mod set;
mod show;
mod status;
mod stop;
mod terminal;
mod trust;
mod unlink;
mod unlock;
mod untrust;
mod usage;
mod value;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use kin_broker::{Class, Error, Result};
use kin_policy::Reference;

/// What holds for all commands; the man page makes a section of each part.
const ENVIRONMENT: &str = "\
Environment:
  KIN_HOME          one directory for everything of kin's, instead of the next four
  XDG_CONFIG_HOME   config.toml, and how the vault is unlocked: kin/ below it
  XDG_DATA_HOME     the vault and what is trusted
  XDG_STATE_HOME    the audit log
  XDG_RUNTIME_DIR   the socket and the mount
  NO_COLOR          no colours

Exit codes:
  0  done                        5  denied, or a person has to agree
  1  a defect of kin's           6  no broker, no FUSE, or not to be trusted
  2  a bad command line          7  something does not authenticate
  3  an untrusted or unsafe      8  storage failed or is full
     file or directory           9  a deadline passed
  4  locked
  kin run returns its command's own code, or dies by its signal: 126 where it cannot be
  executed, 127 where it is not found, 125 where kin failed after it had started";

/// Secrets as files that only a process's own kin can read
///
/// `kin run -- CMD` gives CMD and its descendants a grant: the mount answers them and nobody else. When
/// the last of them exits, the grant is gone.
#[derive(Parser)]
#[command(name = "kin", version, max_term_width = 100, after_long_help = ENVIRONMENT)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Init(init::Arguments),
    Set(set::Arguments),
    List(list::Arguments),
    Show(show::Arguments),
    Reveal(reveal::Arguments),
    Rotate(rotate::Arguments),
    History(history::Arguments),
    Rm(rm::Arguments),
    Import(import::Arguments),
    Export(export::Arguments),
    Backup(backup::Arguments),
    Restore(restore::Arguments),
    Rekey(rekey::Arguments),
    Recovery(recovery::Arguments),
    Trust(trust::Arguments),
    Untrust(untrust::Arguments),
    Link(link::Arguments),
    Unlink(unlink::Arguments),
    Check(check::Arguments),
    Run(run::Arguments),
    Status(status::Arguments),
    Revoke(revoke::Arguments),
    Lock(lock::Arguments),
    Unlock(unlock::Arguments),
    Audit(Box<audit::Arguments>),
    Daemon(daemon::Arguments),
    Stop(stop::Arguments),
    Doctor(doctor::Arguments),
    Completions(completions::Arguments),
    Man(man::Arguments),
    #[command(hide = true)]
    KeyringAgent(keyring_agent::Arguments),
}

/// How data and errors are printed.
#[derive(Args, Clone, Copy)]
struct Format {
    /// Print JSON, and errors as {class, code, message}
    #[arg(long)]
    json: bool,
}

/// `kin run` alone, as [`Cli`] has it among the others.
#[derive(Parser)]
struct Wrapped {
    #[command(flatten)]
    arguments: run::Arguments,
}

/// Every wrapped command waits for the parser of `kin run`: where that one takes the line, the definitions of
/// all the others, which cost more than what is done with them, are not made. What it does not take is for the
/// whole to say.
fn parse(arguments: &[OsString]) -> clap::error::Result<Cli> {
    let wraps = arguments.get(1).is_some_and(|verb| verb == "run");
    match wraps.then(|| Wrapped::try_parse_from(&arguments[1..])) {
        Some(Ok(Wrapped { arguments })) => Ok(Cli { verb: Verb::Run(arguments) }),
        _ => Cli::try_parse_from(arguments),
    }
}

/// Parses the command line, does what it says, and answers with the exit code.
pub(crate) fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if kin_broker::sys::process::has_gained_rights() {
        return output::fail(&speaks_for_its_owner(), arguments.iter().any(|argument| argument == "--json"));
    }
    match parse(&arguments) {
        Ok(cli) => {
            let json = cli.verb.json();
            start(cli.verb).unwrap_or_else(|error| output::fail(&error, json))
        }
        Err(error) => usage::answer(&error, &arguments),
    }
}

/// A copy of kin with a setuid bit or capabilities would act for its owner, at anybody's word.
fn speaks_for_its_owner() -> Error {
    let message =
        "kin runs with more rights than its caller has: it is setuid, setgid or has file capabilities";
    Error::new(Class::Unsafe, "privileged_program", message)
        .hint("install a copy without: chmod u-s,g-s; setcap -r")
}

/// Makes this process unreadable to others before it can hold anything secret. `run` keeps its limits,
/// because its command inherits them: a process that is not dumpable leaves no core either way (core(5)).
fn start(verb: Verb) -> Result<ExitCode> {
    if let Verb::Daemon(_) = verb {
        daemon::with_its_own_environment()?;
    }
    let hardened = match verb {
        Verb::Run(_) => nix::sys::prctl::set_dumpable(false),
        // It holds nothing, and tries what only a dumpable process may do.
        Verb::Doctor(_) => Ok(()),
        _ => kin_broker::sys::process::harden(),
    };
    hardened.map_err(|error| Error::internal("harden this process", error.desc()))?;
    verb.answer()
}

impl Verb {
    fn json(&self) -> bool {
        match self {
            Self::Init(arguments) => arguments.format.json,
            Self::Set(arguments) => arguments.format.json,
            Self::List(arguments) => arguments.format.json,
            Self::Show(arguments) => arguments.format.json,
            Self::Rotate(arguments) => arguments.format.json,
            Self::History(arguments) => arguments.format.json,
            Self::Rm(arguments) => arguments.format.json,
            Self::Import(arguments) => arguments.format.json,
            Self::Export(arguments) => arguments.format.json,
            Self::Link(arguments) => arguments.format.json,
            Self::Unlink(arguments) => arguments.format.json,
            Self::Backup(arguments) => arguments.format.json,
            Self::Restore(arguments) => arguments.format.json,
            Self::Rekey(arguments) => arguments.format.json,
            Self::Recovery(arguments) => arguments.json(),
            Self::Trust(arguments) => arguments.format.json,
            Self::Untrust(arguments) => arguments.format.json,
            Self::Check(arguments) => arguments.format.json,
            Self::Status(arguments) => arguments.format.json,
            Self::Revoke(arguments) => arguments.format.json,
            Self::Lock(arguments) => arguments.format.json,
            Self::Unlock(arguments) => arguments.format.json,
            Self::Audit(arguments) => arguments.json(),
            Self::Daemon(arguments) => arguments.format.json,
            Self::Stop(arguments) => arguments.format.json,
            Self::Doctor(arguments) => arguments.format.json,
            Self::KeyringAgent(_) => true,
            Self::Reveal(_) | Self::Run(_) | Self::Completions(_) | Self::Man(_) => false,
        }
    }

    fn answer(self) -> Result<ExitCode> {
        match self {
            Self::Init(arguments) => init::answer(&arguments),
            Self::Set(arguments) => set::answer(arguments),
            Self::List(arguments) => list::answer(&arguments),
            Self::Show(arguments) => show::answer(&arguments),
            Self::Reveal(arguments) => reveal::answer(&arguments),
            Self::Rotate(arguments) => rotate::answer(arguments),
            Self::History(arguments) => history::answer(&arguments),
            Self::Rm(arguments) => rm::answer(&arguments),
            Self::Import(arguments) => import::answer(&arguments),
            Self::Export(arguments) => export::answer(arguments),
            Self::Link(arguments) => link::answer(&arguments),
            Self::Unlink(arguments) => unlink::answer(&arguments),
            Self::Backup(arguments) => backup::answer(&arguments),
            Self::Restore(arguments) => restore::answer(&arguments),
            Self::Rekey(arguments) => rekey::answer(&arguments),
            Self::Recovery(arguments) => recovery::answer(&arguments),
            Self::Trust(arguments) => trust::answer(&arguments),
            Self::Untrust(arguments) => untrust::answer(&arguments),
            Self::Check(arguments) => check::answer(&arguments),
            Self::Run(arguments) => return run::answer(arguments),
            Self::Status(arguments) => status::answer(&arguments),
            Self::Revoke(arguments) => revoke::answer(&arguments),
            Self::Lock(arguments) => lock::answer(&arguments),
            Self::Unlock(arguments) => unlock::answer(&arguments),
            Self::Audit(arguments) => audit::answer(&arguments),
            Self::Daemon(arguments) => daemon::answer(&arguments),
            Self::Stop(arguments) => stop::answer(&arguments),
            Self::Doctor(arguments) => doctor::answer(&arguments),
            Self::Completions(arguments) => completions::answer(&arguments),
            Self::Man(arguments) => man::answer(&arguments),
            Self::KeyringAgent(arguments) => return Ok(keyring_agent::answer(&arguments)),
        }
        .map(|()| ExitCode::SUCCESS)
    }
}

/// A secret's name, from the command line.
///
/// # Errors
/// `bad_name`.
fn reference(argument: &OsStr) -> Result<Reference> {
    match argument.to_str() {
        Some(text) => Ok(Reference::new(text)?),
        None => {
            let text = output::printable_bytes(argument.as_encoded_bytes());
            Err(Error::new(Class::Unsafe, "bad_name", format!("bad reference \"{text}\": it is not UTF-8")))
        }
    }
}

/// The command line was wrong, in a way that has a name of its own.
fn bad_usage(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::new(Class::Usage, code, message).hint(hint)
}
