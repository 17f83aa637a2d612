//! `kin set`: stores a new version of a secret.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::Args;
use kin_broker::control::Client;
use kin_broker::control::protocol::{NewVersion, Question, SecretInfo};
use kin_broker::sys::paths::Directories;
use kin_broker::{Class, Error, Plaintext, Result};
use kin_policy::Reference;

use super::terminal::Terminal;
use super::{Format, connect, duration, output, select, unlock, usage, value};

/// Store a new version of a secret
///
/// On a terminal the value is asked for and not shown. It is never taken from the command line or the
/// environment, where other processes could read it. Values have at most 1 MiB.
#[derive(Args)]
#[command(after_help = "Examples:
  kin set db/url                                     ask for the value
  printf %s \"$(pass show db)\" | kin set db/url --stdin
  kin set tls/key --from-file key.pem
  kin set app/session --generate hex:32 --note 'rotate each May'
  kin set deploy/key --generate ssh-ed25519 --attr env=prod")]
pub(super) struct Arguments {
    /// The secret's name, such as stripe/test_key
    #[arg(value_name = "REF")]
    reference: OsString,
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    facts: Facts,
    #[command(flatten)]
    pub(super) format: Format,
}

/// What is known of a version beside its value.
#[derive(Args)]
pub(super) struct Facts {
    /// When it should be replaced, from now: 30d, 12h. It is said when it is due; nothing stops working
    #[arg(long, value_name = "D")]
    expires: Option<OsString>,
    /// A note for people, which is no secret
    #[arg(long, value_name = "T")]
    note: Option<String>,
    /// What it can be found by, which is no secret; may be given more than once
    #[arg(long, value_name = "KEY=TEXT", value_parser = select::attribute)]
    attr: Vec<(String, String)>,
}

/// Where a value comes from.
#[derive(Args)]
pub(super) struct Source {
    /// Read the value from standard input, byte for byte: a newline at its end belongs to it
    #[arg(long, group = "source")]
    stdin: bool,
    /// Read the value from a file, byte for byte
    #[arg(long, value_name = "F", group = "source")]
    from_file: Option<PathBuf>,
    /// Let the broker make the value, which nobody sees: hex:32 and base64:32 (32 random bytes), password:24,
    /// password:6:digits (or letters, alnum, printable, =abc…), words:7, uuid, age and ssh-ed25519 (a private key),
    /// x509:localhost (a private key and its certificate)
    #[arg(long, value_name = "SPEC", group = "source")]
    generate: Option<String>,
}

pub(super) fn answer(arguments: Arguments) -> Result<()> {
    let reference = quiet_reference(&arguments.reference)?;
    let directories = Directories::from_environment()?;
    let facts = arguments.facts.of(reference.clone())?;
    let value = arguments.source.value(&reference)?;
    let new = NewVersion { generate: arguments.source.generate, ..facts };
    let mut client = connect::to_broker(&directories)?;
    store(&mut client, new, value.as_ref(), arguments.format)
}

impl Facts {
    /// The question for a version of the secret with these facts, which is no rotation and that nobody makes.
    ///
    /// # Errors
    /// `bad_time`.
    pub(super) fn of(self, reference: Reference) -> Result<NewVersion> {
        let expires_s = self.expires.as_deref().map(duration::rotation).transpose()?;
        let attributes = self.attr.into_iter().collect();
        Ok(NewVersion {
            reference,
            generate: None,
            note: self.note,
            expires_s,
            from_version: None,
            attributes,
            rotate: false,
        })
    }
}

/// Stores a version, and says which.
pub(super) fn store(
    client: &mut Client,
    new: NewVersion,
    value: Option<&Plaintext>,
    format: Format,
) -> Result<()> {
    let question = Question::Set(new);
    let stored: SecretInfo = unlock::asking(client, |client| client.ask_with(question.clone(), value))?;
    if format.json {
        return output::json(&stored);
    }
    let (version, size) = (stored.version, stored.size);
    output::line(&format!("stored {}, version {version}, {size} bytes", stored.reference))
}

/// A name in which nobody wrote a value; a bad one is not repeated, because it may be one.
pub(super) fn quiet_reference(argument: &OsStr) -> Result<Reference> {
    if argument.as_encoded_bytes().contains(&b'=') {
        return Err(usage::value_on_argv());
    }
    let Some(text) = argument.to_str() else {
        return Err(Error::new(Class::Unsafe, "bad_name", "bad reference: it is not UTF-8"));
    };
    Reference::new(text).map_err(|bad| {
        let message = bad.to_string();
        let rule = message.rsplit_once("\": ").map_or("it is no name", |(_, rule)| rule);
        Error::new(Class::Unsafe, "bad_name", format!("bad reference: {rule}"))
            .hint("a name looks like stripe/test_key")
    })
}

impl Source {
    /// Whether the command line names one.
    pub(super) fn is_given(&self) -> bool {
        self.stdin || self.from_file.is_some() || self.generate.is_some()
    }

    /// How the broker is to make the value, where it is.
    pub(super) fn into_generate(self) -> Option<String> {
        self.generate
    }

    /// The value, from the terminal where the command line names nothing; `None` where the broker makes it.
    ///
    /// # Errors
    /// `value_needed` without a terminal; those of [`value`].
    pub(super) fn value(&self, reference: &Reference) -> Result<Option<Plaintext>> {
        if self.generate.is_some() {
            return Ok(None);
        }
        if self.stdin {
            return value::from_stdin().map(Some);
        }
        if let Some(path) = &self.from_file {
            return value::from_file(path).map(Some);
        }
        let mut terminal = Terminal::open().ok_or_else(|| {
            Error::new(
                Class::Denied,
                "value_needed",
                "the value is needed, and there is no terminal to ask at",
            )
            .hint("give it with --stdin, --from-file F or --generate SPEC")
        })?;
        value::checked(terminal.hidden(&format!("Value of {reference}: "))?).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn z03_a_value_on_the_command_line_is_refused_and_not_repeated() {
        let error = quiet_reference(OsStr::new("db/url=CANARY")).unwrap_err();
        assert_eq!((error.exit_code(), error.code.as_ref()), (2, "value_on_argv"));
        for bad in ["=CANARY", "CANARY=", "CANARY CANARY", "CANARY\": x", "CANARY\n"] {
            let error = quiet_reference(OsStr::new(bad)).unwrap_err();
            assert!(!format!("{error:?}").contains("CANARY"), "{error:?}");
        }
    }

    #[test]
    fn the_broken_rule_is_named() {
        let error = quiet_reference(OsStr::new("db//url")).unwrap_err();
        assert_eq!(error.message, "bad reference: no part between '/' may be empty");
    }
}
