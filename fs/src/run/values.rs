//! How do values come into the environment of the command? Its process asks the broker for them, after the fork
//! and before the exec: neither keeper nor front ever has one.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use kin_broker::control::Client;
use kin_broker::control::protocol::{Granted, Question};
use kin_broker::sys::paths::Directories;
use kin_broker::{Class, Error, Plaintext, Result};
use kin_policy::FileName;

/// Bytes of one variable with its name and its end: MAX_ARG_STRLEN (execve(2)).
const LONGEST: usize = 128 << 10;

/// What stands on the person's terminal, once, before values are in an environment.
pub(super) fn warning(granted: &Granted) -> String {
    let names: Vec<_> = granted.values.iter().map(|(name, _)| name.as_str()).collect();
    let (verb, them) = if names.len() == 1 { ("is", "it") } else { ("are", "them") };
    format!(
        "warning: {} {verb} in the command's environment: all that it starts inherits {them}, and other processes \
         of yours can read {them} (said once for this project)",
        names.join(", ")
    )
}

/// Asks for every value that is to be in the environment. The keeper has named this process to the broker.
///
/// # Errors
/// The broker's refusal; `unwritable_value` where no variable can have the value.
pub(super) fn put_into(command: &mut Command, directories: &Directories, granted: &Granted) -> Result<()> {
    if granted.values.is_empty() {
        return Ok(());
    }
    let mut broker = Client::connect(directories)?;
    for (name, file) in &granted.values {
        let question = Question::EnvironmentValue { file: file.clone() };
        let ((), value) = broker.ask_for_value::<()>(question)?;
        check(name, file, &value)?;
        command.env(name, OsStr::from_bytes(value.bytes()));
    }
    Ok(())
}

fn check(name: &str, file: &FileName, value: &Plaintext) -> Result<()> {
    let why = if value.bytes().contains(&0) {
        "it has a NUL byte"
    } else if name.len() + value.len() + 2 > LONGEST {
        "it is too large"
    } else {
        return Ok(());
    };
    let message = format!("the value of {file} cannot be in the variable {name}: {why}");
    Err(Error::new(Class::Unsafe, "unwritable_value", message)
        .hint("give the command the file's path: env_path"))
}
