//! What did the user configure? `config.toml`, closed like a manifest: an unknown key is an error.

use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use crate::autolock::VaultConfig;
use crate::error::{Class, Error, Result};
use crate::files;
use crate::paths::Directories;

/// Its name in the configuration directory.
pub const FILE: &str = "config.toml";
/// Bytes of it, at most.
const LIMIT: u64 = 64 << 10;

/// All that can be configured; what is left out has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[vault]`
    pub vault: VaultConfig,
}

impl Config {
    /// Reads the user's configuration; without a file, the defaults.
    ///
    /// # Errors
    /// All of class Unsafe: `config_invalid`, `unknown_key`, `unsafe_file`, `unsafe_owner`; a storage error
    /// where it cannot be read.
    pub fn read(directories: &Directories) -> Result<Self> {
        let path = Self::path(directories);
        if !files::exists(&path) {
            return Ok(Self::default());
        }
        let Some(bytes) = files::read_shared(&path, LIMIT)? else { return Ok(Self::default()) };
        let text =
            String::from_utf8(bytes).map_err(|_| invalid(&path, None, "config_invalid", "is not UTF-8"))?;
        toml::from_str(&text).map_err(|error| {
            let line = error.span().map(|span| 1 + text[..span.start].matches('\n').count());
            let why = error.message().lines().next().unwrap_or_default();
            let code = if why.starts_with("unknown field") { "unknown_key" } else { "config_invalid" };
            let why = why.replacen("unknown field", "unknown key", 1);
            let why: String = why.chars().take(120).flat_map(char::escape_debug).collect();
            invalid(&path, line, code, &why.replace("\\'", "'"))
        })
    }

    /// The file's path, for people.
    pub fn path(directories: &Directories) -> PathBuf {
        directories.config.join(FILE)
    }
}

fn invalid(path: &Path, line: Option<usize>, code: &'static str, why: &str) -> Error {
    let place = line.map_or_else(String::new, |line| format!(" line {line}"));
    Error::new(Class::Unsafe, code, format!("{}{place}: {why}", path.display()))
        .hint("mend it, or move it away for the defaults")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn read(text: &str) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_owned().into_os_string();
        let directories =
            Directories::from_variables(&|name| (name == "KIN_HOME").then(|| home.clone())).unwrap();
        directories.create().unwrap();
        std::fs::write(Config::path(&directories), text).unwrap();
        Config::read(&directories)
    }

    #[test]
    fn what_it_says_of_the_vault_holds() {
        assert_eq!(read("").unwrap().vault, VaultConfig::default());
        let text = "[vault]\nauto_lock = \"15m\"\nlock_on_suspend = true\nrequire_mlock = true\n";
        let vault = read(text).unwrap().vault;
        assert_eq!(vault.auto_lock.and_then(|auto_lock| auto_lock.after()), Some(Duration::from_secs(900)));
        assert_eq!((vault.lock_on_suspend, vault.require_mlock), (Some(true), true));
        assert_eq!(read("[vault]\nauto_lock = \"off\"\n").unwrap().vault.auto_lock.unwrap().after(), None);
    }

    #[test]
    fn k11_an_unknown_key_or_time_of_the_vault_is_refused() {
        for (text, code) in [
            ("[vault]\nautolock = \"15m\"\n", "unknown_key"),
            ("[valut]\n", "unknown_key"),
            ("[vault]\nauto_lock = \"0s\"\n", "config_invalid"),
            ("[vault]\nauto_lock = \"10m5\"\n", "config_invalid"),
            ("[vault]\nauto_lock = \"31d\"\n", "config_invalid"),
            ("[vault]\nauto_lock = 15\n", "config_invalid"),
            ("[vault]\nlock_on_suspend = \"yes\"\n", "config_invalid"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!((error.class, error.code.as_ref()), (Class::Unsafe, code), "{text}: {error}");
        }
    }
}
