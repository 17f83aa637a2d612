//! Which project a command is about: the nearest directory upwards that has a `kin.toml`.

use std::path::{Path, PathBuf};

use kin_broker::project::manifest;
use kin_broker::{Class, Error, Result};

/// The directory that holds `kin.toml`, from the working directory upwards. The broker judges whether it
/// may be believed.
///
/// # Errors
/// `manifest_missing`.
pub(super) fn directory() -> Result<PathBuf> {
    manifest::find_upwards(Path::new(".")).ok_or_else(|| {
        Error::new(Class::Unsafe, "manifest_missing", "there is no kin.toml here, nor in a directory above")
            .hint("change to a project that has one, or write one: `kin check --help` shows how it looks")
    })
}
