//! What did the user configure? `config.toml`, closed like a manifest: an unknown key is an error.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::sys::error::{Class, Error, Result};
use crate::sys::files;
use crate::sys::limits;
use crate::sys::paths::Directories;

/// Its name in the configuration directory.
pub const FILE: &str = "config.toml";
/// Bytes of it, at most.
const LIMIT: u64 = 64 << 10;

/// All that can be configured; what is left out has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[audit]`
    pub audit: AuditConfig,
    /// `[vault]`
    pub vault: VaultConfig,
}

/// `[audit]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// `sync`
    pub sync: Sync,
}

/// `[vault]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VaultConfig {
    /// `auto_lock`: how long the vault may go unused. 8 hours, and never where the key lies in a file: that
    /// is for machines without a person who could unlock it.
    pub auto_lock: Option<AutoLock>,
    /// `lock_on_suspend`: whether it locks when the machine was suspended. The same default.
    pub lock_on_suspend: Option<bool>,
    /// `remember`: who remembers the identity of an unlocked vault when the broker ends.
    pub remember: Remember,
    /// `require_mlock`: whether a broker that cannot lock its memory refuses to run.
    pub require_mlock: bool,
}

/// Who remembers the identity of an unlocked vault for a login session?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Remember {
    /// Nobody: the next broker asks again.
    #[default]
    Off,
    /// The kernel's session keyring.
    Kernel,
}

/// A time, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct AutoLock(pub(crate) Option<Duration>);

impl AutoLock {
    /// After how long without use; `None` is never.
    pub fn after(self) -> Option<Duration> {
        self.0
    }
}

impl TryFrom<String> for AutoLock {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == "off" {
            return Ok(Self(None));
        }
        let after = limits::duration(&text).ok_or("a time from 1s to 30d, or off, such as 15m")?;
        Ok(Self(Some(after)))
    }
}

/// When is a record on the disk?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sync {
    /// Written before the value leaves, which survives the end of the broker; on the disk within a second.
    #[default]
    Group,
    /// On the disk before the value leaves, which survives a power cut.
    Each,
}

impl Config {
    /// Reads the user's configuration; without a file, the defaults.
    ///
    /// # Errors
    /// All of class Unsafe: `config_invalid`, `unknown_key`, `unsafe_file`, `unsafe_owner`; a storage error
    /// where it cannot be read.
    pub fn read(directories: &Directories) -> Result<Self> {
        let path = directories.config.join(FILE);
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

    use std::os::unix::fs::PermissionsExt;

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
    fn without_a_file_everything_has_its_default() {
        let nowhere = PathBuf::from("/nonexistent");
        let directories = Directories {
            config: nowhere.clone(),
            data: nowhere.clone(),
            state: nowhere.clone(),
            runtime: nowhere,
        };
        assert_eq!(Config::read(&directories).unwrap(), Config::default());
        assert_eq!(read("").unwrap().audit.sync, Sync::Group);
        assert_eq!(read("[audit]\n").unwrap().audit.sync, Sync::Group);
    }

    #[test]
    fn what_it_says_holds() {
        assert_eq!(read("[audit]\nsync = \"each\"\n").unwrap().audit.sync, Sync::Each);
        assert_eq!(read("[audit]\nsync = \"group\"\n").unwrap().audit.sync, Sync::Group);
    }

    #[test]
    fn k11_an_unknown_key_of_the_configuration_is_refused() {
        for (text, code, line) in [
            ("[audti]\nsync = \"each\"\n", "unknown_key", "line 1"),
            ("[audit]\nsink = \"each\"\n", "unknown_key", "line 2"),
            ("[audit]\nsync = \"never\"\n", "config_invalid", "line 2"),
            ("[audit]\n\nsync = 1\n", "config_invalid", "line 3"),
            ("audit = 1\n", "config_invalid", "line 1"),
            ("[audit\n", "config_invalid", "line 1"),
            ("[audit]\nsync = \"each\"\nsync = \"each\"\n", "config_invalid", "line 3"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!((error.class, error.code.as_ref()), (Class::Unsafe, code), "{text}: {error}");
            assert!(error.message.contains(line), "{text}: {error}");
            assert!(error.message.chars().all(|c| !c.is_control()), "{text}: {error}");
        }
    }

    #[test]
    fn a_configuration_that_others_can_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_owned().into_os_string();
        let directories =
            Directories::from_variables(&|name| (name == "KIN_HOME").then(|| home.clone())).unwrap();
        directories.create().unwrap();
        let path = Config::path(&directories);
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(Config::read(&directories).unwrap_err().code, "unsafe_owner");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert_eq!(Config::read(&directories).unwrap_err().code, "unsafe_file");
    }

    #[test]
    fn what_it_says_of_the_vault_holds() {
        assert_eq!(read("").unwrap().vault, VaultConfig::default());
        let text = "[vault]\nauto_lock = \"15m\"\nlock_on_suspend = true\nrequire_mlock = true\nremember = \"kernel\"\n";
        let vault = read(text).unwrap().vault;
        assert_eq!(vault.auto_lock.and_then(|auto_lock| auto_lock.after()), Some(Duration::from_secs(900)));
        assert_eq!((vault.lock_on_suspend, vault.require_mlock), (Some(true), true));
        assert_eq!(vault.remember, crate::sys::config::Remember::Kernel);
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
            ("[vault]\nremember = \"disk\"\n", "config_invalid"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!((error.class, error.code.as_ref()), (Class::Unsafe, code), "{text}: {error}");
        }
    }
}
