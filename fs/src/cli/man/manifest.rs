//! What does the manual page kin.toml(5) say? One table of keys, which a test holds to what the parser takes.

use std::io::{self, Write};

/// A key of one of the tables of a manifest: where it stands, how it is written, what it means.
struct Key {
    table: &'static str,
    written: &'static str,
    means: &'static str,
}

const fn key(table: &'static str, written: &'static str, means: &'static str) -> Key {
    Key { table, written, means }
}

const TOP: &str = "top";
const PROJECT: &str = "[project]";
const BINDING: &str = "[bindings]";
const FILE: &str = "[files.NAME]";

const KEYS: [Key; 25] = [
    key(TOP, "schema = 1", "The schema of this page. Required."),
    key(TOP, "[project]", "The project as a whole."),
    key(TOP, "[bindings]", "File names, and the secrets that they stand for."),
    key(TOP, "[files.NAME]", "A file that is made of several bindings, in memory, for each open."),
    key(PROJECT, "name = \"api\"", "The project's name, and its directory in the mount. Required."),
    key(PROJECT, "scrub = true", "The command inherits no variable that bears a name of these bindings."),
    key(PROJECT, "redact = true", "Each run is redacted, unless it says --no-redact."),
    key(
        BINDING,
        "ref = \"db/url\"",
        "The secret's name in the vault. Required; alone it may stand for the table.",
    ),
    key(BINDING, "env_path = \"NAME\"", "The variable NAME of the command gets the file's path."),
    key(
        BINDING,
        "env_value = \"NAME\"",
        "The variable NAME gets the value itself, which all that the command starts inherits. Use files.",
    ),
    key(
        BINDING,
        "path = \".env\"",
        "Where `kin link` and `kin run --private` put the file: below the project, or below the home with ~/.",
    ),
    key(BINDING, "plain = true", "No secret: `kin run --redact` neither masks it nor warns of it."),
    key(BINDING, "scrub = true", "The command does not inherit the variables of this binding's names."),
    key(BINDING, "max_opens = 3", "At most so many opens under one grant; reads do not count."),
    key(BINDING, "for_first = \"30s\"", "Opens only so long after the start of the command."),
    key(
        BINDING,
        "descend = \"all\"",
        "How far below the command: \"child\" is the command alone, a number so many levels, \"all\" its whole tree.",
    ),
    key(
        BINDING,
        "exe = { path = \"/usr/bin/git\", sha256 = \"…\" }",
        "For this program alone, or for these of a list: its content decides. `kin check` says which digest to write.",
    ),
    key(
        BINDING,
        "namespaces = \"any\"",
        "Also from other user namespaces than the command's, and for the first process of another pid namespace.",
    ),
    key(BINDING, "writable = true", "Members may write the file: each close is a new version of the secret."),
    key(
        BINDING,
        "mmap = true",
        "With --private the file may be mapped. Who has it open then reads it from the kernel, without a question.",
    ),
    key(
        FILE,
        "format = \"dotenv\"",
        "One of dotenv, json, yaml, toml, aws-credentials, netrc, pgpass, npmrc, docker-config and kubeconfig.",
    ),
    key(
        FILE,
        "select = [\"DATABASE_URL\"]",
        "With a format: a list of bindings, or a table of texts that are templates.",
    ),
    key(
        FILE,
        "template = \"\"\"…\"\"\"",
        "Instead of both: a Jinja template over the bindings' names. It cannot look into a value.",
    ),
    key(FILE, "path = \".env\"", "As of a binding."),
    key(FILE, "env_path = \"NAME\"", "As of a binding."),
];

const TABLES: [(&str, &str); 4] = [
    (TOP, "THE FILE"),
    (PROJECT, "THE PROJECT"),
    (BINDING, "BINDINGS"),
    (FILE, "FILES MADE OF SEVERAL SECRETS"),
];

const DESCRIPTION: &str = "\
A project says in a kin.toml which secrets it wants and under which file names. The file is TOML, is committed, and has no values. \
It is looked for from the working directory upwards. It is inert until `kin trust`, and again when one byte of it changes or \
its directory moves. Unknown keys are errors. It has at most 1 MiB and 4096 bindings.
";

const EXAMPLE: &str = "\
Example:
  schema = 1

  [project]
  name = \"api\"

  [bindings]
  deploy_key   = \"deploy/key\"
  DATABASE_URL = { ref = \"db/url\", env_path = \"DATABASE_URL_FILE\" }
  git_token    = { ref = \"git/token\", exe = { path = \"/usr/bin/git\", sha256 = \"…\" } }

  [files.\".env\"]
  format = \"dotenv\"
  select = [\"DATABASE_URL\", \"git_token\"]
  path   = \".env\"";

/// Writes the page, in roff.
///
/// # Errors
/// Those of `page`.
pub(super) fn render(page: &mut Vec<u8>) -> io::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    writeln!(page, ".TH kin.toml 5 \"\" \"kin {version}\" kinfs")?;
    writeln!(page, ".SH NAME\nkin.toml \\- what a project asks for, and under which file names")?;
    writeln!(page, ".SH DESCRIPTION\n{}", super::escaped(DESCRIPTION.trim_end()))?;
    for (table, title) in TABLES {
        writeln!(page, ".SH \"{title}\"")?;
        for key in KEYS.iter().filter(|key| key.table == table) {
            writeln!(page, ".TP\n\\fB{}\\fR\n{}", super::escaped(key.written), super::escaped(key.means))?;
        }
    }
    let (title, lines) = EXAMPLE.split_once('\n').unwrap_or_default();
    super::render_part(".SH", title, lines, page);
    writeln!(page, ".SH \"SEE ALSO\"\n.BR kin (1)")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kin_broker::project::manifest::Manifest;

    use super::*;

    /// The name of a key, or of a table, as it is written.
    fn name(written: &str) -> &str {
        let name = written.trim_start_matches('[');
        name.split(['=', ']', '.', ' ']).next().unwrap_or_default()
    }

    fn documented(table: &str) -> BTreeSet<String> {
        KEYS.iter().filter(|key| key.table == table).map(|key| name(key.written).to_owned()).collect()
    }

    /// What the parser says that it knows, where a key is one that it does not.
    fn known(text: &str) -> BTreeSet<String> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("kin.toml"), text).unwrap();
        let error = Manifest::read(directory.path()).unwrap_err();
        assert_eq!(error.code, "unknown_key", "{error}");
        let hint = error.hint.unwrap();
        let known = hint.split_once("known here: ").unwrap().1;
        known.split(", ").map(str::to_owned).collect()
    }

    #[test]
    fn the_page_has_every_key_that_a_manifest_may_have_and_no_other() {
        let start = "schema = 1\nproject.name = \"a\"\n";
        for (table, text) in [
            (TOP, "schema = 1\nzzz = 1\n".to_owned()),
            (PROJECT, "schema = 1\n[project]\nname = \"a\"\nzzz = 1\n".to_owned()),
            (BINDING, format!("{start}[bindings]\nA = {{ ref = \"a\", zzz = 1 }}\n")),
            (FILE, format!("{start}bindings.A = \"a\"\n[files.F]\nzzz = 1\n")),
        ] {
            assert_eq!(documented(table), known(&text), "{table}");
        }
    }

    #[test]
    fn the_reference_in_docs_names_every_key_too() {
        let text = include_str!("../../../../docs/files.md");
        for key in &KEYS {
            let name = name(key.written);
            assert!(text.contains(name), "docs/files.md does not name {name}");
        }
        for key in KEYS.iter().filter(|key| key.table == PROJECT || key.table == BINDING) {
            let row = text.lines().any(|line| line.starts_with(&format!("| `{} ", name(key.written))));
            assert!(row || name(key.written) == "ref", "docs/files.md has no row for {}", key.written);
        }
    }

    #[test]
    fn the_example_is_a_manifest() {
        let directory = tempfile::tempdir().unwrap();
        let (_, lines) = EXAMPLE.split_once('\n').unwrap();
        let lines: Vec<_> = lines.lines().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect();
        let text = lines.join("\n").replace('…', &"0".repeat(64));
        std::fs::write(directory.path().join("kin.toml"), text).unwrap();
        let manifest = Manifest::read(directory.path()).unwrap();
        assert_eq!((manifest.bindings.len(), manifest.files.len()), (3, 1));
    }
}
