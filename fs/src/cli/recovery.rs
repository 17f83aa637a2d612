//! `kin recovery`: whom the vault is for beside its owner, and how they get it back.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use kin_broker::control::Client;
use kin_broker::control::protocol::{KeyMethod, Question, RecipientInfo, Recovery, Rekeyed};
use kin_broker::sys::paths::Directories;
use kin_broker::{Class, Error, Plaintext, Result};

use super::backup::absolute;
use super::terminal::{Terminal, confirmation_needed};
use super::unlock::value_from_environment_is_refused;
use super::{Format, bad_usage, connect, key, list, output, rekey, unlock, value};

/// Make, list and use recovery keys
///
/// A recovery key on paper opens the vault, and every later backup, when the identity is lost. A colleague's age
/// recipient does the same: who has either can read every value of the vault's file and write a vault that is
/// accepted here.
#[derive(Args)]
#[command(subcommand_required = true, disable_help_subcommand = true)]
#[command(after_help = "Examples:
  kin recovery new                          print a key, once
  kin recovery list
  kin recovery restore --from /media/stick/kin.age --owner age1…")]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    New(New),
    Add(Add),
    List(List),
    Remove(Remove),
    Restore(Restore),
}

/// Print a new recovery key, once: kin keeps only its recipient
#[derive(Args)]
#[command(after_help = "Examples:
  kin recovery new
  kin recovery new --yes | lp")]
struct New {
    /// Agree here instead of on a terminal
    #[arg(long)]
    yes: bool,
}

/// Make the vault one for somebody else's age recipient too
#[derive(Args)]
#[command(after_help = "Example:
  kin recovery add age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p")]
struct Add {
    /// What `age-keygen -y` prints for them
    #[arg(value_name = "RECIPIENT")]
    recipient: String,
    /// Agree here instead of on a terminal
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    format: Format,
}

/// Show whom the vault is for beside its owner
#[derive(Args)]
#[command(after_help = "Example:
  kin recovery list --json")]
struct List {
    #[command(flatten)]
    format: Format,
}

/// Make the vault no longer one for a recipient
#[derive(Args)]
#[command(after_help = "Example:
  kin recovery remove age1ql3z7")]
struct Remove {
    /// The recipient, or the beginning of one
    #[arg(value_name = "RECIPIENT")]
    recipient: String,
    #[command(flatten)]
    format: Format,
}

/// Open the vault with a recovery key, and give it a new identity
#[derive(Args)]
#[command(after_help = "Examples:
  kin recovery restore                      ask for the key, then for a new passphrase
  kin recovery restore --keyring --yes < key          a file of age-keygen's too
  kin recovery restore --from kin.age --owner age1… --passphrase-stdin --yes < key-and-passphrase")]
struct Restore {
    #[command(flatten)]
    place: key::Place,
    /// Take the vault of this backup; without, the one that is there
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Whose vault it is: the recipient that `kin init` and `kin rekey` print. Needed where nothing here says it
    #[arg(long, value_name = "RECIPIENT")]
    owner: Option<String>,
    /// Take a vault that is not the newest that was written here
    #[arg(long)]
    accept_rollback: bool,
    /// Agree here instead of on a terminal
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    format: Format,
}

impl Arguments {
    pub(super) fn json(&self) -> bool {
        match &self.verb {
            Verb::New(_) => false,
            Verb::Add(arguments) => arguments.format.json,
            Verb::List(arguments) => arguments.format.json,
            Verb::Remove(arguments) => arguments.format.json,
            Verb::Restore(arguments) => arguments.format.json,
        }
    }
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    value_from_environment_is_refused()?;
    match &arguments.verb {
        Verb::New(arguments) => new(arguments),
        Verb::Add(arguments) => add(arguments),
        Verb::List(arguments) => list(arguments),
        Verb::Remove(arguments) => remove(arguments),
        Verb::Restore(arguments) => restore(arguments),
    }
}

/// What a person agrees to: the same words for a key on paper and for a colleague.
const POWER: &str = "Who has it can read every value in the vault's file and in later backups, without a record, and \
                     can write a vault that is accepted here.\n";

fn agreed(yes: bool, what: &str, question: &str) -> Result<()> {
    if yes {
        return Ok(());
    }
    let refused = || confirmation_needed(what).hint("a script that means it says --yes");
    let mut terminal = Terminal::open().ok_or_else(refused)?;
    terminal.say(POWER)?;
    terminal.confirm(question)
}

fn broker() -> Result<Client> {
    connect::to_broker(&Directories::from_environment()?)
}

fn new(arguments: &New) -> Result<()> {
    agreed(arguments.yes, "a recovery key", "Make a recovery key, and print it here?")?;
    let mut client = broker()?;
    let question = Question::RecoveryNew { confirmed: true };
    let (info, key) =
        unlock::asking(&mut client, |client| client.ask_for_value::<RecipientInfo>(question.clone()))?;
    output::write(key.bytes())?;
    output::line("")?;
    let owner = kin_broker::keys::pinned(&Directories::from_environment()?)?.unwrap_or_default();
    output::note(&format!(
        "this key is kept nowhere else: write it down, with the vault's recipient\n{owner}\n\
         its own recipient is {}; `kin recovery restore` takes it, and so does age",
        output::printable(&info.recipient)
    ));
    Ok(())
}

fn add(arguments: &Add) -> Result<()> {
    if !kin_broker::keys::is_recipient(&arguments.recipient) {
        return Err(bad_usage(
            "bad_recipient",
            "this is no X25519 recipient of age",
            "it looks like age1… ; `age-keygen -y` prints it",
        ));
    }
    agreed(arguments.yes, "another recipient", "Make the vault one for this recipient too?")?;
    let mut client = broker()?;
    let question = Question::RecoveryAdd { recipient: arguments.recipient.clone(), confirmed: true };
    let info: RecipientInfo = unlock::asking(&mut client, |client| client.ask(question.clone()))?;
    if arguments.format.json {
        return output::json(&info);
    }
    output::line(&format!("the vault is for {} too", output::printable(&info.recipient)))
}

fn list(arguments: &List) -> Result<()> {
    let mut client = broker()?;
    let all: Vec<RecipientInfo> = unlock::asking(&mut client, |client| client.ask(Question::RecoveryList))?;
    if arguments.format.json {
        return output::json(&all);
    }
    if all.is_empty() {
        return output::line("the vault is for its owner alone: without its identity nothing opens it");
    }
    let row = |of: &RecipientInfo| {
        let kind = if of.paper { "recovery key" } else { "age recipient" };
        vec![of.recipient.clone(), kind.to_owned(), list::local_time(of.since)]
    };
    output::print(&output::table(&["RECIPIENT", "KIND", "SINCE"], all.iter().map(row)))
}

fn remove(arguments: &Remove) -> Result<()> {
    let mut client = broker()?;
    let question = Question::RecoveryRemove { recipient: arguments.recipient.clone() };
    let gone: RecipientInfo = unlock::asking(&mut client, |client| client.ask(question.clone()))?;
    if arguments.format.json {
        return output::json(&gone);
    }
    output::line(&format!("the vault is for {} no longer", output::printable(&gone.recipient)))?;
    output::note(
        "older copies of the vault stay open to it, and so does what it has learnt: `kin rekey` makes new keys",
    );
    Ok(())
}

fn restore(arguments: &Restore) -> Result<()> {
    let terminal = match arguments.yes {
        true => None,
        false => Some(Terminal::open().ok_or_else(|| {
            confirmation_needed("giving the vault a new identity").hint("a script that means it says --yes")
        })?),
    };
    let (method, secret) = keys(arguments)?;
    let from = arguments.from.as_deref().map(absolute).transpose()?;
    let (owner, accept_rollback) = (arguments.owner.clone(), arguments.accept_rollback);
    let mut client = broker()?;
    let mut ask = |confirmed| {
        let (method, from, owner) = (method.clone(), from.clone(), owner.clone());
        let recovery = Recovery { method, from, owner, accept_rollback, confirmed };
        client.ask_with::<Rekeyed>(Question::Recover(recovery), Some(&secret))
    };
    if let Some(mut terminal) = terminal {
        let found = ask(false)?;
        let (secrets, generation) = (found.secrets, found.generation);
        terminal.say(&format!("secrets     {secrets}\ngeneration  {generation}\n"))?;
        terminal.confirm("Give it a new identity, and put it in the place of the vault?")?;
    }
    let made = ask(true)?;
    key::warn(&made.key, None);
    match arguments.format.json {
        true => output::json(&made),
        false => rekey::say(&made),
    }
}

/// The recovery key, and on the next line what the new place of the identity wants.
fn keys(arguments: &Restore) -> Result<(KeyMethod, Plaintext)> {
    let (method, given) = arguments.place.method()?;
    let (recovery, rest) = match Terminal::open().filter(|_| !arguments.place.reads_stdin()) {
        Some(mut terminal) => (terminal.hidden("Recovery key: ")?, None),
        None => value::two_lines_from_stdin().map_err(no_key)?,
    };
    let second = match (method == KeyMethod::Passphrase, arguments.place.reads_stdin()) {
        (true, true) => rest,
        (true, false) => Some(key::new_passphrase()?),
        (false, _) => given,
    };
    Ok((method, joined(&recovery, second.as_ref())))
}

fn no_key(error: Error) -> Error {
    let needed = Error::new(
        Class::Locked,
        "recovery_key_needed",
        "the recovery key is needed, and standard input has none",
    );
    match &*error.code {
        "empty_passphrase" => needed.hint("give it on the first line of standard input, or at a terminal"),
        _ => error,
    }
}

fn joined(first: &Plaintext, second: Option<&Plaintext>) -> Plaintext {
    let room = first.len() + second.map_or(0, |second| 1 + second.len());
    let mut both = Plaintext::zeroed(room);
    both.bytes_mut()[..first.len()].copy_from_slice(first.bytes());
    if let Some(second) = second {
        both.bytes_mut()[first.len()] = b'\n';
        both.bytes_mut()[first.len() + 1..].copy_from_slice(second.bytes());
    }
    both
}
