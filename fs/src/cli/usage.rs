//! What is said about a command line that does not parse: one line, one usage line, never a value.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use kin_broker::{Class, Error};

use super::{Cli, bad_usage, output};

/// Prints help and versions, and refuses the rest.
pub(super) fn answer(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let page = error.render();
            let text = match output::colours(&std::io::stdout()) {
                true => page.ansi().to_string(),
                false => page.to_string(),
            };
            match output::print(&text) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => output::fail(&error, false),
            }
        }
        _ => output::fail(&reshape(error, arguments), wants_json(arguments)),
    }
}

/// Verbs whose arguments may be a value by mistake: nothing that was written there is repeated.
fn keeps_quiet(verb: Option<&str>) -> bool {
    matches!(verb, Some("set" | "rotate" | "init" | "unlock" | "import" | "export" | "rekey" | "recovery"))
}

fn reshape(error: &clap::Error, arguments: &[OsString]) -> Error {
    let (verb, verbs) = (verb(arguments), verbs(arguments));
    let quiet = keeps_quiet(verb);
    let argument = context(error, ContextKind::InvalidArg);
    let surplus = argument.first().is_some_and(|argument| !argument.starts_with('-'));
    if error.kind() == ErrorKind::UnknownArgument && surplus && verb == Some("set") {
        return value_on_argv();
    }
    let message = match error.kind() {
        ErrorKind::InvalidSubcommand => {
            format!("there is no command {}", quoted(&context(error, ContextKind::InvalidSubcommand)))
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            "no command was given".into()
        }
        ErrorKind::UnknownArgument if surplus && quiet => "there is an argument too many".into(),
        ErrorKind::UnknownArgument if surplus => {
            format!("there is an argument too many: {}", quoted(&argument))
        }
        ErrorKind::UnknownArgument => format!("there is no option {}", quoted(&argument)),
        ErrorKind::MissingRequiredArgument => format!("{} is missing", argument.join(" and ")),
        ErrorKind::ArgumentConflict => conflict(&argument, &context(error, ContextKind::PriorArg)),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => bad_value(error, &argument, quiet),
        ErrorKind::InvalidUtf8 => "an argument is not UTF-8".into(),
        ErrorKind::TooManyValues => format!("{} takes no value", argument.join(" ")),
        _ => format!("bad arguments: {}", error.kind()),
    };
    let hint = match verb {
        Some(_) if wants_a_value(error) => format!("`kin help {}` says what it takes", verbs.join(" ")),
        _ => usage_line(&verbs),
    };
    Error::new(Class::Usage, "usage", message).hint(hint)
}

/// Whether an option stands there without its value.
fn wants_a_value(error: &clap::Error) -> bool {
    let value = context(error, ContextKind::InvalidValue);
    error.kind() == ErrorKind::InvalidValue && value.first().is_none_or(String::is_empty)
}

/// A value was written where every process of the machine can read it.
pub(super) fn value_on_argv() -> Error {
    bad_usage(
        "value_on_argv",
        "a value does not belong on the command line, where every process can read it",
        "`kin set REF` asks for it; `--stdin` and `--from-file F` read it",
    )
}

fn conflict(argument: &[String], prior: &[String]) -> String {
    let (argument, prior) = (argument.join(" "), prior.join(" "));
    match argument == prior || prior.is_empty() {
        true => format!("{argument} is given more than once"),
        false => format!("{argument} does not go with {prior}"),
    }
}

fn bad_value(error: &clap::Error, argument: &[String], quiet: bool) -> String {
    let argument = argument.join(" ");
    let value = context(error, ContextKind::InvalidValue);
    let known = context(error, ContextKind::ValidValue);
    match value.first() {
        _ if wants_a_value(error) => format!("{argument} needs a value"),
        Some(value) if !quiet && !known.is_empty() => {
            format!("{} is none of {}", quoted(std::slice::from_ref(value)), known.join(", "))
        }
        Some(value) if !quiet => format!("{argument} cannot be {}", quoted(std::slice::from_ref(value))),
        _ => format!("{argument} cannot be that"),
    }
}

/// The first of what clap names, cut where a value may begin, escaped and short.
fn quoted(names: &[String]) -> String {
    let name = names.first().map_or("", |name| name.split('=').next().unwrap_or_default());
    let mut short: String = name.chars().take(40).collect();
    if name.chars().nth(40).is_some() {
        short.push('…');
    }
    format!("\"{}\"", output::printable(&short))
}

fn context(error: &clap::Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        _ => Vec::new(),
    }
}

fn verb(arguments: &[OsString]) -> Option<&str> {
    arguments.iter().skip(1).find_map(|argument| argument.to_str().filter(|text| !text.starts_with('-')))
}

/// The verb, and behind it the verb of that: `audit export`.
fn verbs(arguments: &[OsString]) -> Vec<&str> {
    let Some(verb) = verb(arguments) else { return Vec::new() };
    let below = arguments.iter().skip_while(|argument| *argument != verb).nth(1);
    let below = below.and_then(|argument| argument.to_str()).filter(|below| {
        let command = Cli::command();
        command.find_subcommand(verb).is_some_and(|command| command.find_subcommand(below).is_some())
    });
    std::iter::once(verb).chain(below).collect()
}

/// Whether the refused command line asked for JSON; what follows `--`, or belongs to `run`, is not ours.
fn wants_json(arguments: &[OsString]) -> bool {
    verb(arguments) != Some("run")
        && arguments
            .iter()
            .skip(1)
            .take_while(|argument| *argument != "--")
            .any(|argument| argument == "--json")
}

/// The first line of the usage of these verbs, or of the program.
fn usage_line(verbs: &[&str]) -> String {
    let mut command = Cli::command();
    command.build();
    for verb in verbs {
        let Some(below) = command.find_subcommand(verb) else { break };
        command = below.clone();
    }
    let usage = command.render_usage().to_string();
    format!("usage: {}", usage.trim_start_matches("Usage: ").lines().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn refused(line: &[&str]) -> Error {
        let arguments: Vec<OsString> = std::iter::once(&"kin").chain(line).map(OsString::from).collect();
        match Cli::try_parse_from(&arguments) {
            Ok(_) => panic!("{line:?} parses"),
            Err(error) => reshape(&error, &arguments),
        }
    }

    #[test]
    fn z01_a_bad_command_line_is_one_line_and_a_usage_line() {
        for line in [
            &[][..],
            &["frobnicate"],
            &["--frobnicate"],
            &["run"],
            &["run", "--"],
            &["run", "--frobnicate", "ls"],
            &["show"],
            &["show", "a", "b"],
            &["trust", "--yes", "--hash", "x"],
            &["completions", "basic"],
            &["list", "--json=1"],
            &["list", "--json", "--json"],
        ] {
            let error = refused(line);
            assert_eq!((error.class, error.exit_code()), (Class::Usage, 2), "{line:?}");
            assert!(error.hint.as_deref().unwrap_or_default().starts_with("usage: kin"), "{error:?}");
            for text in [&error.message, error.hint.as_ref().unwrap()] {
                assert!(!text.contains('\n'), "{text:?}");
            }
        }
    }

    #[test]
    fn the_usage_is_that_of_the_verb_below_a_verb() {
        for (line, usage) in [
            (&["audit", "export", "--format", "foo"][..], "usage: kin audit export [OPTIONS]"),
            (&["audit", "--limit", "x"], "usage: kin audit [OPTIONS]"),
            (&["recovery", "add", "--frobnicate"], "usage: kin recovery add "),
            (&["audit", "export", "--after"], "`kin help audit export` says what it takes"),
            (&["run", "--ttl"], "`kin help run` says what it takes"),
        ] {
            let hint = refused(line).hint.unwrap();
            assert!(hint.starts_with(usage), "{line:?}: {hint}");
        }
    }

    #[test]
    fn a_value_that_does_not_parse_is_refused_with_its_option() {
        for (line, message) in [
            (&["audit", "--limit", "x"][..], "--limit <N> cannot be \"x\""),
            (&["audit", "export", "--after", "-"], "--after <SEQ> cannot be \"-\""),
            (&["set", "db/url", "--attr", "CANARY"], "--attr <KEY=TEXT> cannot be that"),
            (&["unlock", "--identity-fd", "CANARY"], "--identity-fd <N> cannot be that"),
        ] {
            assert_eq!(refused(line).message, message, "{line:?}");
        }
    }

    #[test]
    fn z03_what_may_be_a_value_is_never_repeated() {
        for line in [
            &["set", "db/url", "CANARY"][..],
            &["set", "db/url", "--stdin=CANARY"],
            &["set", "db/url", "--value=CANARY"],
            &["set", "--value", "CANARY"],
            &["set", "a", "b", "CANARY"],
            &["init", "CANARY"],
            &["init", "--passphrase=CANARY"],
            &["init", "--passphrase-stdin=CANARY"],
            &["unlock", "--passphrase", "CANARY"],
            &["unlock", "CANARY"],
            &["unlock", "--identity-fd=CANARY"],
            &["rekey", "CANARY"],
            &["rekey", "--passphrase=CANARY"],
            &["recovery", "restore", "CANARY"],
            &["recovery", "restore", "--key=CANARY"],
        ] {
            let error = refused(line);
            assert_eq!(error.exit_code(), 2);
            assert!(!format!("{error:?}").contains("CANARY"), "{line:?}: {error:?}");
        }
        assert_eq!(refused(&["set", "db/url", "CANARY"]).code, "value_on_argv");
    }

    #[test]
    fn z06_json_is_asked_for_by_kin_and_not_by_its_command() {
        let asks = |line: &[&str]| wants_json(&line.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(asks(&["kin", "list", "--json", "--x"]));
        assert!(!asks(&["kin", "list", "--x"]));
        assert!(!asks(&["kin", "run", "--x", "echo", "--json"]));
        assert!(!asks(&["kin", "list", "--", "--json"]));
    }
}
