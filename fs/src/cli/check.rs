//! `kin check`: what this project binds, and what the vault lacks.

use clap::Args;
use kin_broker::control::protocol::{BindingInfo, ManifestInfo, TrustState};
use kin_broker::sys::paths::Directories;
use kin_broker::{Class, Error, Result};

use super::{Format, connect, list, output, project, rendered, restrictions, trust};

/// Say what this project binds, and what the vault lacks
///
/// Reads kin.toml, and looks into the vault for what it names. Exit code 3 where a secret is missing. Of a rotation
/// that is overdue, or due within two weeks, it says the date.
#[derive(Args)]
#[command(after_help = "A kin.toml:
  schema = 1
  [project]
  name = \"api\"
  [bindings]                        # file name = secret
  DATABASE_URL = \"db/url\"
  \"tls.key\" = { ref = \"tls/key\", env_path = \"TLS_KEY_FILE\" }
  token = { ref = \"git/token\", exe = { path = \"/usr/bin/git\", sha256 = \"...\" } }
  cache = { ref = \"cache/key\", namespaces = \"any\" }    # also from user namespaces in the tree
  aws = { ref = \"aws/credentials\", path = \"~/.aws/credentials\" }   # there with kin run --private
  gh = { ref = \"git/token\", env_value = \"GH_TOKEN\" }   # the value itself in the environment
  [files.\".env\"]                    # made of bindings, at each open
  format = \"dotenv\"                 # json, yaml, toml, aws-credentials, netrc, pgpass, npmrc, ...
  select = [\"DATABASE_URL\"]
  path = \".env\"
  [files.\"app.conf\"]
  template = \"\"\"
  url = {{ DATABASE_URL | json }}
  \"\"\"

Examples:
  kin check
  kin check --json | jq '.bindings[] | select(.present == false)'")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) fn answer(arguments: &Arguments) -> Result<()> {
    let directories = Directories::from_environment()?;
    let directory = project::directory()?;
    let mut client = connect::to_broker(&directories)?;
    let manifest = trust::inspect(&mut client, &directory)?;
    match arguments.format.json {
        true => output::json(&manifest)?,
        false => output::print(&description(&manifest))?,
    }
    restrictions::warn(&manifest);
    let missing: Vec<_> = manifest.bindings.iter().filter(|binding| binding.present == Some(false)).collect();
    match missing.first() {
        None => Ok(()),
        Some(first) => Err(secret_missing(&missing).hint(format!("kin set {}", first.reference))),
    }
}

fn secret_missing(missing: &[&BindingInfo]) -> Error {
    let names: Vec<_> = missing.iter().map(|binding| binding.reference.as_str()).collect();
    let message = format!("the vault lacks {}", names.join(", "));
    Error::new(Class::Unsafe, "secret_missing", message)
}

fn description(manifest: &ManifestInfo) -> String {
    let trust = match manifest.trust {
        TrustState::Trusted => "trusted",
        TrustState::Untrusted => "not trusted yet: `kin trust`",
        TrustState::Changed { .. } => "changed since it was trusted: `kin trust` shows how",
        TrustState::Locked => "not known while the vault is locked",
    };
    let mut text = format!(
        "project    {}\ndirectory  {}\nmanifest   {trust}\n",
        manifest.project,
        output::printable_path(&manifest.directory)
    );
    if manifest.bindings.is_empty() {
        return text + "bindings   none\n";
    }
    let laid = manifest.bindings.iter().any(|binding| binding.path.is_some());
    let rows = manifest.bindings.iter().map(|binding| {
        let rotation = binding.due.and_then(list::rotation).map(|what| format!(", {what}"));
        let state = match binding.present {
            Some(true) => format!("in the vault{}", rotation.unwrap_or_default()),
            Some(false) => "missing".to_owned(),
            None => "not known while the vault is locked".to_owned(),
        };
        let mut row = vec![binding.file.to_string(), binding.reference.to_string(), state];
        row.extend(laid.then(|| binding.path.as_ref().map(ToString::to_string).unwrap_or_default()));
        row
    });
    text += "\n";
    let head = ["FILE", "SECRET", "STATE", "WITH --private AT"];
    text += &output::table(if laid { &head } else { &head[..3] }, rows);
    for binding in &manifest.bindings {
        for line in restrictions::lines(binding) {
            text += &format!("{} {line}\n", binding.file);
        }
    }
    for line in rendered::lines(manifest) {
        text += &format!("{line}\n");
    }
    text
}
