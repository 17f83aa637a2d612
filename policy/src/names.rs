//! Names are parsed once; after that a name is known to be good, and cheap to hand on.

use core::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a name was refused. The text names the rule, never more of the input than a short, escaped piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadName {
    what: &'static str,
    rule: &'static str,
    excerpt: String,
}

impl BadName {
    fn new(what: &'static str, rule: &'static str, input: &str) -> Self {
        let mut excerpt: String = input.chars().take(40).flat_map(char::escape_default).collect();
        if input.chars().nth(40).is_some() {
            excerpt.push('…');
        }
        Self { what, rule, excerpt }
    }
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bad {} \"{}\": {}", self.what, self.excerpt, self.rule)
    }
}

impl core::error::Error for BadName {}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses the name.
            ///
            /// # Errors
            /// [`BadName`] says which rule was broken.
            pub fn new(text: impl Into<String>) -> Result<Self, BadName> {
                let text = text.into();
                match $check(&text) {
                    Ok(()) => Ok(Self(text.into())),
                    Err(rule) => Err(BadName::new($what, rule, &text)),
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Whether no character of it can look like another, to somebody who reads it.
            pub fn is_ascii(&self) -> bool {
                self.0.is_ascii()
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                Self::new(text)
            }
        }

        impl core::str::FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        /// For people: what is not ASCII can look like something else, and is escaped (`\\u{41e}`). Programs get
        /// `as_str`.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if self.is_ascii() {
                    return f.pad(&self.0);
                }
                f.pad(&plain(&self.0))
            }
        }

        impl core::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// What `[project] name` says: a label, not an identity. A project is its canonical path.
    ProjectName, "project name", check_project
);
name!(
    /// A project's directory in the mount: `api`, or `api~1a2b3c4d` for a second checkout of that name.
    DirectoryName, "project directory", check_directory
);
name!(
    /// The name of a file that a binding presents.
    FileName, "file name", check_file
);
name!(
    /// Where a private mount lays a file: below the project's directory, or below the home after `~/`.
    FilePath, "path", check_path
);
name!(
    /// The name of a secret in the vault, `stripe/test_key`.
    Reference, "reference", check_reference
);

impl FilePath {
    /// Whether it is below the home, and not below the project's directory.
    pub fn is_in_home(&self) -> bool {
        self.as_str().starts_with(HOME)
    }

    /// The path below that directory.
    pub fn below(&self) -> &str {
        self.as_str().strip_prefix(HOME).unwrap_or(self.as_str())
    }

    /// Whether git takes the file for its configuration ("FILES", git-config(1)): it changes that by a lock beside it.
    pub fn is_of_git(&self) -> bool {
        const OF_GIT: [&str; 3] = [".gitconfig", ".config/git/config", ".git/config"];
        OF_GIT.iter().any(|name| {
            self.below().strip_suffix(name).is_some_and(|above| above.is_empty() || above.ends_with('/'))
        })
    }

    /// Whether one of them would have to be a directory for the other to be a file.
    pub fn is_above(&self, other: &Self) -> bool {
        other.as_str().strip_prefix(self.as_str()).is_some_and(|rest| rest.starts_with('/'))
    }
}

/// How a path below the home begins.
const HOME: &str = "~/";

/// The name itself is the directory of the first checkout that has it.
impl From<&ProjectName> for DirectoryName {
    fn from(project: &ProjectName) -> Self {
        Self(project.0.clone())
    }
}

const PLAIN: &str = "only letters, digits, '.', '_' and '-' are allowed";

fn check_label(text: &str, limit: usize, extra: &[char]) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > limit {
        return Err("it is too long");
    }
    if text == "." || text == ".." {
        return Err("'.' and '..' are directories");
    }
    if text.starts_with('-') {
        return Err("it must not start with '-'");
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') || extra.contains(&c);
    if text.chars().all(allowed) { Ok(()) } else { Err(PLAIN) }
}

fn check_project(text: &str) -> Result<(), &'static str> {
    check_label(text, 64, &[])?;
    if text.starts_with('.') { Err("it must not start with '.'") } else { Ok(()) }
}

fn check_directory(text: &str) -> Result<(), &'static str> {
    let (project, suffix) = match text.split_once('~') {
        Some((project, suffix)) => (project, Some(suffix)),
        None => (text, None),
    };
    check_project(project)?;
    match suffix {
        None => Ok(()),
        Some(hash) if hash.len() == 8 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => Ok(()),
        Some(_) => Err("after '~' come eight hexadecimal digits"),
    }
}

/// Names that any file system and any shell can carry: no separators, no control or invisible
/// characters, at most 255 bytes (`NAME_MAX`).
fn check_file(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > 255 {
        return Err("it is longer than 255 bytes");
    }
    if text == "." || text == ".." {
        return Err("'.' and '..' are directories");
    }
    if text.starts_with('-') {
        return Err("it must not start with '-'");
    }
    if text.contains('/') {
        return Err("it must not contain '/'");
    }
    if text.chars().any(unprintable) {
        return Err("control and invisible characters are not allowed");
    }
    Ok(())
}

/// A path whose every part is a file name: it cannot leave the directory that it is below.
fn check_path(text: &str) -> Result<(), &'static str> {
    if text.starts_with('/') {
        return Err("it is below the project's directory, or below the home after '~/'");
    }
    let below = text.strip_prefix(HOME).unwrap_or(text);
    if text.len() > 1024 {
        return Err("it is longer than 1024 bytes");
    }
    if below.starts_with('~') {
        return Err("only '~/' is a home");
    }
    below.split('/').try_for_each(check_file).map_err(|rule| match rule {
        "it is empty" => "no part between '/' may be empty",
        rule => rule,
    })
}

fn check_reference(text: &str) -> Result<(), &'static str> {
    if text.len() > 255 {
        return Err("it is longer than 255 bytes");
    }
    text.split('/').try_for_each(|segment| check_label(segment, 255, &['+'])).map_err(|rule| match rule {
        "it is empty" => "no part between '/' may be empty",
        PLAIN => "only letters, digits, '.', '_', '-', '+' and '/' between parts are allowed",
        rule => rule,
    })
}

/// Control characters (C0, DEL, C1), line and paragraph separators, and the format characters that reorder
/// or hide text on a terminal.
pub fn unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Text with every character that is not ASCII escaped: a name in another script can be drawn exactly as one in Latin
/// letters, and no list of such characters is complete.
pub fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() { shown.push(c) } else { shown.extend(c.escape_default()) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k09_bad_file_names_are_refused() {
        let long = "x".repeat(256);
        for bad in ["", ".", "..", "../x", "/x", "a/b", "a\nb", "a\0b", "-x", "a\u{202e}b", &long] {
            assert!(FileName::new(bad).is_err(), "{bad:?}");
        }
        for good in [".env", "tls.key", "DATABASE_URL", "a b", "ключ", &"x".repeat(255)] {
            assert!(FileName::new(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn what_git_takes_for_its_configuration_is_known() {
        let is = |path: &str| FilePath::new(path).unwrap().is_of_git();
        assert!(
            ["~/.gitconfig", "~/.config/git/config", ".git/config", "sub/.git/config"].into_iter().all(is)
        );
        assert!(!["~/.git-credentials", "x.gitconfig", "config", ".git/configs"].into_iter().any(is));
    }

    #[test]
    fn k17_a_name_that_is_not_ascii_is_shown_with_escapes_and_stays_what_it_is() {
        for (name, shown) in [
            ("\u{41e}KEN", "\\u{41e}KEN"),
            (".\u{435}nv", ".\\u{435}nv"),
            ("\u{ff21}PI", "\\u{ff21}PI"),
            ("e\u{301}", "e\\u{301}"),
            ("clé", "cl\\u{e9}"),
            ("tls.key", "tls.key"),
            ("a b", "a b"),
        ] {
            let file = FileName::new(name).unwrap();
            assert_eq!((file.to_string().as_str(), file.as_str()), (shown, name));
            assert_eq!(file.is_ascii(), name == shown);
            let path = FilePath::new(format!("~/x/{name}")).unwrap();
            assert_eq!(path.to_string(), format!("~/x/{shown}"));
        }
    }

    #[test]
    fn k09_bad_paths_are_refused() {
        let long = format!("{}x", "x/".repeat(512));
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../x",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            "~",
            "~/",
            "~root/x",
            "~/../x",
            "~//x",
            "a\nb",
            "a\u{202e}b",
            "-x",
            &long,
        ] {
            assert!(FilePath::new(bad).is_err(), "{bad:?}");
        }
        for (good, home, below) in [
            (".env", false, ".env"),
            ("conf/a b", false, "conf/a b"),
            ("~/.aws/credentials", true, ".aws/credentials"),
        ] {
            let path = FilePath::new(good).unwrap();
            assert_eq!((path.is_in_home(), path.below()), (home, below));
        }
        let path = |text: &str| FilePath::new(text).unwrap();
        assert!(path("a/b").is_above(&path("a/b/c")));
        assert!(!path("a/b").is_above(&path("a/bc")) && !path("a/b").is_above(&path("~/a/b/c")));
    }

    #[test]
    fn references_are_labels_between_slashes() {
        for bad in ["", "/", "a//b", "a/", "/a", "../a", "a/../b", "-a", "a/-b", "a b", "a@1", "a\n", "$(id)"]
        {
            assert!(Reference::new(bad).is_err(), "{bad:?}");
        }
        for good in ["db/url", "stripe/test_key", "a", "a.b/c+d"] {
            assert!(Reference::new(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn a_second_checkout_has_a_tagged_directory() {
        assert!(DirectoryName::new("api").is_ok());
        assert!(DirectoryName::new("api~0123abcd").is_ok());
        for bad in ["api~", "api~xyz", "api~0123abcde", "~01234567", "a/b", "..", ".git"] {
            assert!(DirectoryName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_error_never_repeats_control_characters() {
        let message = FileName::new("a\n\u{1b}[31m").unwrap_err().to_string();
        assert!(message.chars().all(|c| !c.is_control()), "{message:?}");
    }
}
