//! How is it shown what a project makes of its bindings: files of several, and variables?

use kin_broker::control::protocol::{ManifestInfo, RenderedInfo};

use kin_policy::plain;

use super::output;

/// One line for each file that is made of several bindings, one for the variables that are kept from a
/// command, and one where its output is redacted.
pub(super) fn lines(manifest: &ManifestInfo) -> Vec<String> {
    let mut lines: Vec<_> = manifest.files.iter().map(file).collect();
    if !manifest.scrub.is_empty() {
        lines.push(format!("not inherited by a command: {}", plain(&manifest.scrub.join(", "))));
    }
    if manifest.redact {
        lines.push("masked in what a command writes: every value of the project (redact = true)".to_owned());
    }
    lines
}

fn file(file: &RenderedInfo) -> String {
    let uses: Vec<_> = file.uses.iter().map(ToString::to_string).collect();
    let mut line =
        format!("{} is made of {} ({})", file.file, uses.join(", "), output::printable(&file.format));
    if let Some(path) = &file.path {
        line += &format!(", at {path} with --private");
    }
    if let Some(name) = &file.env_path {
        line += &format!(", its path in {}", plain(name));
    }
    line
}
