//! Would the command gain privileges by its exec, which it does not where its grant has files for certain programs?

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::RunOptions;

/// What stands on the person's terminal before such a command starts. Root keeps what it has, and in a private
/// mount's user namespace nothing is gained in any case (user_namespaces(7)).
pub(super) fn warning(options: &RunOptions) -> Option<String> {
    if geteuid().is_root() || options.private {
        return None;
    }
    let program = found(options.command.first()?)?;
    let gains = program.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o6000 != 0);
    gains.then(|| {
        format!(
            "warning: {} gains no privileges in this run: files with `exe` are for a tree with no_new_privs",
            program.display().to_string().escape_debug()
        )
    })
}

/// The file that an exec of this name finds (execvp(3)).
fn found(name: &OsStr) -> Option<PathBuf> {
    let is_file = |path: &PathBuf| path.metadata().is_ok_and(|meta| meta.is_file());
    if name.as_encoded_bytes().contains(&b'/') {
        return Some(Path::new(name).to_owned()).filter(is_file);
    }
    std::env::split_paths(&std::env::var_os("PATH")?).map(|directory| directory.join(name)).find(is_file)
}
