//! Does a program read what it is given, in each way, and nothing of it outside the tree?

use std::any::Any;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use kin_tests::{Actor, Role, World, as_nobody, canary, record};
use serde_json::{Value, json};

use crate::page;
use crate::plant::made;

/// What the vault calls the secret of a row.
const REFERENCE: &str = "program/secret";

/// What every script begins with. `$secret` is where the program finds its secret, `$dir` an empty directory of
/// its own; PLACE has what was planted beside the secret, PACKAGES what scripts/programs installed.
const PRELUDE: &str = r#"
PATH=$PATH:$(echo /usr/lib/postgresql/*/bin) secret=$1 dir=$2
python() { PYTHONPATH=$PACKAGES/python /usr/bin/python3 -s -c "$1" "$secret"; }
aws() { PYTHONPATH=$PACKAGES/python /usr/bin/python3 -s $PACKAGES/python/bin/aws "$@"; }
# serves COMMAND...: in the background until the script ends; waits COMMAND...: until it succeeds.
serves() { timeout 18 "$@" >&2 & pid=$!; trap 'kill $pid; wait $pid || :' EXIT; }
waits() { for _ in $(seq 300); do "$@" >/dev/null 2>&1 && return; kill -0 $pid || return; sleep 0.05; done; return 1; }
"#;

/// Nothing, or what was wrong.
pub(crate) type Shown = Result<(), String>;

/// A program that reads a secret.
pub(crate) struct Row {
    /// As the reader of the page knows it.
    pub(crate) program: &'static str,
    /// A line of shell that prints its version.
    pub(crate) version: &'static str,
    /// How the name of the executable begins that has to be seen opening the file.
    pub(crate) reader: &'static str,
    /// The file's real path: with `--private` it is there, and the symbolic link is.
    pub(crate) real: &'static str,
    /// Makes the secret, and what has to be beside it.
    pub(crate) plant: fn(&World) -> Planted,
    /// Runs the program.
    pub(crate) act: fn(&Stage<'_>) -> Shown,
    /// What shows that it got the secret, in words.
    pub(crate) shows: &'static str,
}

/// A secret, and what belongs to it.
#[derive(Default)]
pub(crate) struct Planted {
    pub(crate) value: Vec<u8>,
    /// What the program prints when it has read it.
    pub(crate) word: String,
    /// A port on which something listens for it.
    pub(crate) port: u16,
    /// What serves the row, and ends with it.
    #[expect(dead_code, reason = "held for its end")]
    pub(crate) server: Option<Box<dyn Any>>,
}

/// How a program finds the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By its path in the mount.
    Direct,
    /// By its real path, in a private mount.
    Private,
    /// By a symbolic link at its real path.
    Link,
    /// By that link, outside the tree.
    Outside,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Private => "private",
            Self::Link => "link",
            Self::Outside => "outside",
        }
    }
}

/// One row, furnished.
pub(crate) struct Setting {
    pub(crate) world: World,
    planted: Planted,
    real: PathBuf,
    file: PathBuf,
}

impl Setting {
    /// A world whose project `api` binds what `plant` makes, with `real` as its path.
    pub(crate) fn new(real: &str, plant: fn(&World) -> Planted) -> Self {
        Self::bound(real, plant, "")
    }

    /// As [`Self::new`], and the program may write it: where it can is the file.
    pub(crate) fn writable(real: &str, plant: fn(&World) -> Planted) -> Self {
        let setting = Self::bound(real, plant, ", writable = true");
        let file = setting.world.writable(&setting.file.file_name().expect("a name").to_string_lossy());
        Self { file, ..setting }
    }

    /// What the vault has now.
    pub(crate) fn stored(&self) -> Vec<u8> {
        self.world.kin(["reveal", REFERENCE, "--yes"]).run().exits(0).stdout
    }

    /// How many versions it has of it.
    pub(crate) fn versions(&self) -> usize {
        let versions = self.world.kin(["history", REFERENCE, "--json"]).run().exits(0).json();
        versions.as_array().map_or(0, Vec::len)
    }

    fn bound(real: &str, plant: fn(&World) -> Planted, more: &str) -> Self {
        let world = World::new().initialised();
        std::fs::create_dir(world.path("place")).expect("a directory");
        let planted = plant(&world);
        // From a file, as some are binary.
        let given = world.path("given");
        std::fs::write(&given, &planted.value).expect("a file");
        let given = given.to_str().expect("a path in UTF-8");
        world.kin(["set", REFERENCE, "--from-file", given]).run().exits(0);
        std::fs::remove_file(given).expect("it goes");
        let base = real.rsplit('/').next().unwrap_or(real).trim_start_matches('.');
        world.manifest(&format!(
            "schema = 1\n[project]\nname = \"api\"\n[bindings]\n\
             \"{base}\" = {{ ref = \"{REFERENCE}\", path = \"{real}\"{more} }}\n"
        ));
        world.trust();
        let below = real.strip_prefix("~/").map(|rest| world.path("home").join(rest));
        let real = below.unwrap_or_else(|| world.project().join(real));
        let file = world.file(base);
        Self { world, planted, real, file }
    }

    /// The row in one of its ways.
    pub(crate) fn stage(&self, way: Way) -> Stage<'_> {
        if matches!(way, Way::Link | Way::Outside) && !self.real.is_symlink() {
            std::fs::create_dir_all(self.real.parent().expect("a parent")).expect("its directory");
            symlink(&self.file, &self.real).expect("a symbolic link");
        }
        let dir = self.world.path(way.name());
        std::fs::DirBuilder::new().mode(0o700).create(&dir).expect("a directory");
        let actor: Box<dyn Actor> = match way {
            Way::Direct | Way::Link => Box::new(self.world.member(&[])),
            Way::Private => Box::new(self.world.member(&["--private"])),
            Way::Outside => Box::new(self.world.outsider()),
        };
        let path = if way == Way::Direct { self.file.clone() } else { self.real.clone() };
        Stage { world: &self.world, planted: &self.planted, actor, path, dir }
    }

    /// How often an executable whose name begins like this was answered with this event.
    fn answered(&self, event: &str, reader: &str) -> usize {
        let records = self.world.audit();
        let is_reader = |line: &&Value| {
            let exe = Path::new(record::text(line, "exe")).file_name().unwrap_or_default();
            exe.to_string_lossy().starts_with(reader)
        };
        record::of(&records, event).into_iter().filter(is_reader).count()
    }
}

/// One row in one way.
pub(crate) struct Stage<'w> {
    pub(crate) world: &'w World,
    pub(crate) planted: &'w Planted,
    actor: Box<dyn Actor>,
    path: PathBuf,
    dir: PathBuf,
}

impl Stage<'_> {
    /// Runs a script: its output, or what it said when it failed.
    pub(crate) fn sh(&self, script: &str) -> Result<Vec<u8>, String> {
        let (code, out, err) = self.run(script);
        if code == 0 { Ok(out) } else { Err(format!("code {code}: {}{err}", String::from_utf8_lossy(&out))) }
    }

    /// Runs a script: its code, output and errors.
    pub(crate) fn run(&self, script: &str) -> (i64, Vec<u8>, String) {
        let argv = json!(["bash", "-ec", format!("{PRELUDE}{script}"), "row", self.path, self.dir]);
        let env = json!({
            "PLACE": self.world.path("place"),
            "PACKAGES": packages(),
            "PORT": self.planted.port.to_string(),
        });
        let done = self.actor.ask("run", json!({ "argv": argv, "env": env })).expect("bash");
        let bytes = |field: &str| canary::decode(done[field].as_str().expect("base64"));
        (
            done["code"].as_i64().expect("a code"),
            bytes("out"),
            String::from_utf8_lossy(&bytes("err")).into_owned(),
        )
    }

    /// A new version of the secret: what `script` prints outside the tree.
    pub(crate) fn rotate(&self, script: &str) {
        self.world.set(REFERENCE, &made(self.world, script));
    }

    /// The script prints `text`, spaces around it aside.
    pub(crate) fn says(&self, text: &str, script: &str) -> Shown {
        let out = self.sh(script)?;
        let out = String::from_utf8_lossy(&out);
        if out.trim() == text { Ok(()) } else { Err(format!("not {text:?}: {out:?}")) }
    }

    /// The script prints the planted word.
    pub(crate) fn word(&self, script: &str) -> Shown {
        self.says(&self.planted.word, script)
    }

    /// The script prints the secret, byte for byte.
    pub(crate) fn whole(&self, script: &str) -> Shown {
        let out = self.sh(script)?;
        let given = &self.planted.value;
        if &out == given { Ok(()) } else { Err(format!("{} bytes of {} or others", out.len(), given.len())) }
    }
}

/// What PyPI and npm gave: `KIN_PACKAGES`, or where scripts/programs puts it.
fn packages() -> PathBuf {
    let here = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/programs");
    let path = std::env::var_os("KIN_PACKAGES").map_or_else(here, PathBuf::from);
    assert!(path.join("installed").is_file(), "nothing at {}: scripts/programs installs it", path.display());
    path
}

/// The first number in what `line` prints.
///
/// # Panics
/// Where there is none: the program is missing.
pub(crate) fn version(world: &World, program: &str, line: &str) -> String {
    let script = format!("{PRELUDE}{line}");
    let output = world.other("bash", ["-ec", &script, "row", "", ""]).env("PACKAGES", packages()).run();
    let said = output.text() + &output.stderr;
    let from = said.find(|c: char| c.is_ascii_digit()).filter(|_| output.code() == 0);
    let Some(from) = from else {
        panic!("{program} is missing (scripts/programs installs it): {output}");
    };
    said[from..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '.').collect()
}

/// The name by which the test is run again: without the crate's.
pub(crate) fn own_name(test: &str) -> &str {
    test.split_once("::").map_or(test, |(_, name)| name)
}

/// Holds a row to its promise. For root it is run again as nobody: PostgreSQL and others refuse root.
pub(crate) fn show(test: &str, row: &Row) {
    show_in(test, row, &[Way::Direct, Way::Private, Way::Link]);
}

/// The same, for a program that takes no symbolic link.
pub(crate) fn show_without_link(test: &str, row: &Row) {
    show_in(test, row, &[Way::Direct, Way::Private]);
}

fn show_in(test: &str, row: &Row, ways: &[Way]) {
    if as_nobody(own_name(test)) == Role::Done {
        return;
    }
    let setting = Setting::new(row.real, row.plant);
    let version = version(&setting.world, row.program, row.version);
    let mut faults: Vec<String> = ways.iter().filter_map(|way| inside(&setting, row, *way).err()).collect();
    faults.extend(outside(&setting, row).err());
    assert!(faults.is_empty(), "{}:\n{}", row.program, faults.join("\n"));
    let [direct, private, link] =
        [Way::Direct, Way::Private, Way::Link].map(|way| if ways.contains(&way) { "yes" } else { "no" });
    let real = format!("`{}`", row.real);
    page::hold(test, &[row.program, &version, &real, direct, private, link, row.shows]);
}

/// It gets the secret, and the record says that it was this program which opened the file.
fn inside(setting: &Setting, row: &Row, way: Way) -> Shown {
    let before = setting.answered("open.allow", row.reader);
    (row.act)(&setting.stage(way)).map_err(|why| format!("{way:?}: {why}"))?;
    if setting.answered("open.allow", row.reader) == before {
        return Err(format!("{way:?}: no open by {} in {:#?}", row.reader, setting.world.audit()));
    }
    Ok(())
}

/// It does not, and the record says that it was refused.
fn outside(setting: &Setting, row: &Row) -> Shown {
    if (row.act)(&setting.stage(Way::Outside)).is_ok() {
        return Err("outside the tree it is no different".into());
    }
    if setting.answered("open.deny", row.reader) == 0 {
        return Err(format!("outside, no denial of {} in {:#?}", row.reader, setting.world.audit()));
    }
    Ok(())
}
