//! Which project a command is about: the nearest directory upwards that has a `kin.toml`.

use std::path::PathBuf;

use kin_broker::{Class, Error, Result, describe};

/// The directory that holds `kin.toml`, from the working directory upwards. The broker judges whether it
/// may be believed.
///
/// # Errors
/// `manifest_missing`.
pub(super) fn directory() -> Result<PathBuf> {
    let start = std::env::current_dir().map_err(|error| {
        Error::new(
            Class::Unsafe,
            "manifest_missing",
            format!("the working directory cannot be found: {}", describe(&error)),
        )
        .hint("change to the project's directory")
    })?;
    find_upwards(&start).ok_or_else(|| {
        Error::new(Class::Unsafe, "manifest_missing", "there is no kin.toml here, nor in a directory above")
            .hint("change to a project that has one, or write one: `kin check --help` shows how it looks")
    })
}

fn find_upwards(start: &std::path::Path) -> Option<PathBuf> {
    start.ancestors().find(|dir| dir.join("kin.toml").symlink_metadata().is_ok()).map(PathBuf::from)
}
