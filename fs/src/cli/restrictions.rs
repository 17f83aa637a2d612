//! How is it shown for which programs, and from where, a binding is?

use std::collections::BTreeSet;
use std::io::Write;

use kin_broker::control::protocol::{BindingInfo, ManifestInfo, PinInfo};
use kin_policy::{Reach, plain};

use super::{duration, output};

/// What a pin costs whoever runs the project.
const NO_GAIN: &str = "sudo and setuid programs gain nothing in a run that has it";

/// One line for each program that a binding is for, and one for each thing that it is let do beyond being read.
pub(super) fn lines(binding: &BindingInfo) -> Vec<String> {
    let anywhere = (binding.namespaces == Reach::Any)
        .then(|| "in any user namespace, and to the first process of any pid namespace".to_owned());
    let variable = binding
        .env_value
        .as_ref()
        .map(|name| format!("its value in {}, for the command and for all that it starts", plain(name)));
    let mapped = binding.mmap.then(|| "may be mapped in a private mount".to_owned());
    let opens = binding.max_opens.map(|most| match most {
        1 => "opens once for each grant".to_owned(),
        most => format!("opens {most} times for each grant"),
    });
    let window = binding
        .for_first_ms
        .map(|window| format!("opens for the first {} of a command", duration::brief(window.div_ceil(1000))));
    let written = binding.writable.then(|| "may be written: each close is a new version".to_owned());
    anywhere
        .into_iter()
        .chain(variable)
        .chain(mapped)
        .chain(written)
        .chain(opens)
        .chain(window)
        .chain(binding.levels.map(levels))
        .chain(binding.exe.iter().map(program))
        .chain((!binding.exe.is_empty()).then(|| NO_GAIN.to_owned()))
        .collect()
}

/// How far below the command something reaches.
pub(super) fn levels(levels: u32) -> String {
    match levels {
        1 => "for the command alone".to_owned(),
        levels => format!("for {levels} levels, of which the command is the first"),
    }
}

fn program(pin: &PinInfo) -> String {
    let path = shown(&pin.path);
    let state = match &pin.resolved {
        None => "  (not there)".to_owned(),
        Some(_) if !pin.matches => "  (another program is there now)".to_owned(),
        Some(_) => String::new(),
    };
    let file = match &pin.resolved {
        Some(resolved) if *resolved != pin.path => format!("{path} -> {}", shown(resolved)),
        _ => path,
    };
    format!("only {file} sha256 {}{state}", pin.sha256)
}

/// A path of kin.toml's, of which no part looks like another.
fn shown(path: &str) -> String {
    plain(&output::printable(path))
}

/// Says on stderr what a person should think over before, or after, agreeing.
pub(super) fn warn(manifest: &ManifestInfo) {
    for name in names(manifest).into_iter().filter(|name| !name.is_ascii()) {
        let _ = writeln!(
            std::io::stderr(),
            "warning: {}: not all of this name is ASCII, so it can look like another one",
            plain(&output::printable(&name))
        );
    }
    for binding in &manifest.bindings {
        for pin in &binding.exe {
            let path = shown(&pin.path);
            let why = match pin {
                PinInfo { resolved: None, .. } => format!("there is no {path}"),
                PinInfo { matches: false, .. } => format!("{path} is not the program that is pinned"),
                PinInfo { runs_anything: true, .. } => {
                    format!("{path} runs whatever it is given, so the pin keeps no program out")
                }
                _ => continue,
            };
            let _ = writeln!(std::io::stderr(), "warning: {}: {why}", binding.file);
        }
    }
}

/// Every name in the manifest that its author chose, and that is not of ASCII by its kind.
fn names(manifest: &ManifestInfo) -> BTreeSet<String> {
    let bindings = manifest.bindings.iter().flat_map(|binding| {
        let path = binding.path.as_ref().map(|path| path.as_str().to_owned());
        let pins = binding.exe.iter().map(|pin| pin.path.clone());
        [Some(binding.file.as_str().to_owned()), path, binding.env_value.clone()]
            .into_iter()
            .flatten()
            .chain(pins)
    });
    let files = manifest.files.iter().flat_map(|file| {
        let path = file.path.as_ref().map(|path| path.as_str().to_owned());
        [Some(file.file.as_str().to_owned()), path, file.env_path.clone()].into_iter().flatten()
    });
    bindings.chain(files).chain(manifest.scrub.iter().cloned()).collect()
}
