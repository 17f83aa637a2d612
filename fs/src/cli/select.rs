//! Which secrets are meant? By name, by attribute, by when they are due: never by value.

use std::ffi::OsString;

use clap::Args;
use glob::{MatchOptions, Pattern};
use kin_broker::Result;
use kin_broker::control::protocol::SecretInfo;
use kin_broker::sys::clock;

use super::{bad_usage, duration, output};

/// What a command is given to choose by. All of it must hold; of several patterns one.
#[derive(Args)]
pub(super) struct Selection {
    // The help shows it as it is, so a pattern is not to be escaped.
    #[allow(rustdoc::broken_intra_doc_links)]
    /// A part of the name; or all of it, with * for any text, ? for one character and [ab] for one of them
    #[arg(value_name = "PATTERN")]
    pub(super) patterns: Vec<OsString>,
    #[command(flatten)]
    pub(super) facts: Facts,
}

/// What a secret is chosen by beside its name.
#[derive(Args)]
pub(super) struct Facts {
    /// Only those with this attribute; may be given more than once
    #[arg(long, value_name = "KEY=TEXT", value_parser = attribute)]
    attr: Vec<(String, String)>,
    /// Only those whose rotation is due within this time, or overdue
    #[arg(long, value_name = "D")]
    expiring: Option<OsString>,
}

impl Selection {
    /// Those of `secrets` that are meant.
    ///
    /// # Errors
    /// `bad_pattern`, `bad_time`.
    pub(super) fn of(&self, secrets: Vec<SecretInfo>) -> Result<Vec<SecretInfo>> {
        let names = self.patterns.iter().map(Name::parse).collect::<Result<Vec<_>>>()?;
        let by_name = |secret: &SecretInfo| {
            names.is_empty() || names.iter().any(|name| name.fits(secret.reference.as_str()))
        };
        let chosen = secrets.into_iter().filter(by_name).collect();
        self.facts.of(chosen)
    }
}

impl Facts {
    fn of(&self, mut secrets: Vec<SecretInfo>) -> Result<Vec<SecretInfo>> {
        let within = self.expiring.as_deref().map(duration::rotation).transpose()?;
        let until = within.map(|within| clock::unix_seconds().saturating_add_unsigned(within));
        secrets.retain(|secret| {
            self.attr.iter().all(|(key, text)| secret.attributes.get(key) == Some(text))
                && until.is_none_or(|until| secret.due.is_some_and(|due| due <= until))
        });
        Ok(secrets)
    }
}

/// A part of a name, or a pattern for all of it.
enum Name {
    Part(String),
    Whole(Pattern),
}

impl Name {
    fn parse(argument: &OsString) -> Result<Self> {
        let bad = |why: &str| {
            let message = format!("\"{}\" is no pattern: {why}", output::excerpt(argument));
            bad_usage("bad_pattern", message, "a pattern looks like db/* or stripe")
        };
        let text = argument.to_str().ok_or_else(|| bad("it is not UTF-8"))?;
        match text.contains(['*', '?', '[']) {
            false => Ok(Self::Part(text.to_owned())),
            true => Pattern::new(text).map(Self::Whole).map_err(|error| bad(error.msg)),
        }
    }

    fn fits(&self, name: &str) -> bool {
        match self {
            Self::Part(part) => name.contains(part.as_str()),
            Self::Whole(pattern) => pattern.matches_with(name, MatchOptions::new()),
        }
    }
}

/// `KEY=TEXT`, taken apart; the broker holds both to their rules.
///
/// # Errors
/// What clap says in its own words.
pub(super) fn attribute(argument: &str) -> Result<(String, String), String> {
    let (key, text) = argument.split_once('=').ok_or("it is not KEY=TEXT")?;
    Ok((key.to_owned(), text.to_owned()))
}

/// All attributes of a secret, on one line.
pub(super) fn attributes(secret: &SecretInfo) -> String {
    secret.attributes.iter().map(|(key, text)| format!("{key}={text}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str, attribute: Option<(&str, &str)>, due_in: Option<i64>) -> SecretInfo {
        SecretInfo {
            reference: name.parse().unwrap(),
            version: 1,
            size: 1,
            created: 0,
            note: None,
            due: due_in.map(|seconds| clock::unix_seconds() + seconds),
            generated: None,
            attributes: attribute.map(|(key, text)| (key.to_owned(), text.to_owned())).into_iter().collect(),
        }
    }

    fn chosen(patterns: &[&str], attr: &[&str], expiring: Option<&str>) -> Vec<String> {
        let day = 24 * 60 * 60;
        let all = vec![
            secret("db/url", Some(("env", "prod")), Some(day)),
            secret("db/key", Some(("env", "test")), Some(90 * day)),
            secret("stripe/db_key", None, Some(-1)),
        ];
        let facts = Facts {
            attr: attr.iter().map(|text| attribute(text).unwrap()).collect(),
            expiring: expiring.map(Into::into),
        };
        let selection = Selection { patterns: patterns.iter().map(Into::into).collect(), facts };
        selection.of(all).unwrap().iter().map(|secret| secret.reference.to_string()).collect()
    }

    #[test]
    fn secrets_are_found_by_name_attribute_and_time() {
        assert_eq!(chosen(&[], &[], None).len(), 3);
        assert_eq!(chosen(&["db"], &[], None), ["db/url", "db/key", "stripe/db_key"]);
        assert_eq!(chosen(&["db/*"], &[], None), ["db/url", "db/key"]);
        assert_eq!(chosen(&["*key", "db/u?l"], &[], None), ["db/url", "db/key", "stripe/db_key"]);
        assert_eq!(chosen(&["[s]*"], &[], None), ["stripe/db_key"]);
        assert_eq!(chosen(&["DB"], &[], None), [""; 0]);
        assert_eq!(chosen(&[], &["env=prod"], None), ["db/url"]);
        assert_eq!(chosen(&[], &["env=prod", "env=test"], None), [""; 0]);
        assert_eq!(chosen(&[], &[], Some("30d")), ["db/url", "stripe/db_key"]);
        assert_eq!(chosen(&["db/*"], &["env=test"], Some("91d")), ["db/key"]);
    }

    #[test]
    fn a_bad_pattern_is_refused() {
        for bad in ["[", "a***b"] {
            let error = Name::parse(&bad.into()).err().expect(bad);
            assert_eq!((error.exit_code(), &*error.code), (2, "bad_pattern"));
        }
    }
}
