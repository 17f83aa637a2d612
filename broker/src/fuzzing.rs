//! What do the parsers make of bytes that nobody wrote? The entrances for fuzzers (tests/fuzz), and a short run
//! of each with every test of this room: any bytes, and no panic.

use std::cell::OnceCell;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kin_policy::{Pid, Process};

use crate::Plaintext;
use crate::audit::{self, AuditLog, Event, Filter, VaultChange};
use crate::control::protocol::{Question, Request};
use crate::control::{read_frame, write_frame};
use crate::delivery::redaction::{Patterns, Redactor};
use crate::grants::messages::GrantRequest;
use crate::keys::{Identity, age_file, authenticate};
use crate::project::manifest;
use crate::project::manifest::Manifest;
use crate::sys::frame::Answer;
use crate::vault::{Place, Vault};

/// An identity for the vaults of fuzzers alone: corpora outlive a process.
const IDENTITY: &[u8] = b"AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";

/// One parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A vault's file.
    Container,
    /// What is in a vault, written by its owner all the same.
    Payload,
    /// A `kin.toml`.
    Manifest,
    /// The record's newest file.
    Record,
    /// What comes through the control socket, either way.
    Frame,
    /// Values, and an output that is cut into pieces.
    Redactor,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Container, Self::Payload, Self::Manifest, Self::Record, Self::Frame, Self::Redactor];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Payload => "payload",
            Self::Manifest => "manifest",
            Self::Record => "record",
            Self::Frame => "frame",
            Self::Redactor => "redactor",
        }
    }

    /// What it understands, to begin with.
    pub fn seeds(self) -> Vec<Vec<u8>> {
        match self {
            Self::Container => vec![VAULT.with(|vault| vault.get_or_init(Furnished::new).file.clone())],
            Self::Payload => vec![VAULT.with(|vault| vault.get_or_init(Furnished::new).payload.clone())],
            Self::Manifest => MANIFESTS.iter().map(|text| text.as_bytes().to_vec()).collect(),
            Self::Record => vec![LOG.with(|log| log.get_or_init(Log::new).text.clone())],
            Self::Frame => frames(),
            Self::Redactor => OUTPUTS.iter().map(|output| output.to_vec()).collect(),
        }
    }

    /// Takes the bytes in; whether they were understood to the end.
    pub fn takes(self, bytes: &[u8]) -> bool {
        match self {
            Self::Container => VAULT.with(|vault| vault.get_or_init(Furnished::new).opens(bytes)),
            Self::Payload => VAULT.with(|vault| vault.get_or_init(Furnished::new).opens_with(bytes)),
            Self::Manifest => PROJECT.with(|project| reads_manifest(project.get_or_init(Folder::new), bytes)),
            Self::Record => LOG.with(|log| log.get_or_init(Log::new).verifies(bytes)),
            Self::Frame => understands_frame(bytes),
            Self::Redactor => masks(bytes),
        }
    }
}

thread_local! {
    static VAULT: OnceCell<Furnished> = const { OnceCell::new() };
    static PROJECT: OnceCell<Folder> = const { OnceCell::new() };
    static LOG: OnceCell<Log> = const { OnceCell::new() };
}

/// A private directory in memory, where the system has some; its own thread's.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let shm = Path::new("/dev/shm");
        let above = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
        let name = format!("kin-fuzz-{}-{}", std::process::id(), nix::unistd::gettid());
        let made = (0..)
            .map(|number| above.join(format!("{name}-{number}")))
            .find(|path| fs::DirBuilder::new().mode(0o700).create(path).is_ok());
        Self(made.unwrap_or(above))
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        let written = fs::write(&path, bytes)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)));
        assert!(written.is_ok(), "{path:?}: {written:?}");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A vault with something of everything in it.
struct Furnished {
    folder: Folder,
    identity: Identity,
    file: Vec<u8>,
    payload: Vec<u8>,
}

impl Furnished {
    fn new() -> Self {
        Self::made().expect("a vault")
    }

    fn made() -> Option<Self> {
        let folder = Folder::new();
        let identity = Identity::parse(IDENTITY)?;
        let place = Place::new(folder.0.join("vault.age"), folder.0.join("vault.anchor"));
        let mut vault = Vault::made(&place, &identity).ok()?;
        for (reference, value) in
            [("db/url", &b"postgres://db"[..]), ("empty", b""), ("db/url", b"a newer one")]
        {
            let reference = kin_policy::Reference::new(reference).ok()?;
            vault.set(&reference, &Plaintext::copy_of(value), Default::default(), 1_800_000_000).ok()?;
        }
        let file = fs::read(folder.0.join("vault.age")).ok()?;
        let signed = age_file::decrypt(&file, &identity.age()).ok()?;
        let mut document: serde_json::Value = serde_json::from_slice(&signed).ok()?;
        document.as_object_mut()?.remove("mac");
        Some(Self { folder, identity, file, payload: serde_json::to_vec(&document).ok()? })
    }

    fn opens(&self, file: &[u8]) -> bool {
        let place = Place::new(self.folder.0.join("other.age"), self.folder.0.join("other.anchor"));
        let Ok(vault) = Vault::of_backup(&place, &self.folder.0, file, &self.identity) else { return false };
        for secret in vault.list() {
            let _ = vault.history(&secret.reference, 1_900_000_000);
        }
        true
    }

    fn opens_with(&self, payload: &[u8]) -> bool {
        // Only an object can be signed.
        if payload.last() != Some(&b'}') {
            return false;
        }
        let signed = authenticate::sign(&self.identity.derive("kin/vault-mac/1"), payload.to_vec());
        let file = age_file::encrypt(&signed, &self.identity.age().to_public());
        file.is_ok_and(|file| self.opens(&file))
    }
}

const MANIFESTS: [&str; 4] = [
    "schema = 1\n[project]\nname = \"api\"\n[bindings]\nDATABASE_URL = \"db/url\"\n",
    "schema = 1\n[project]\nname = \"api\"\n[bindings]\n\"tls.key\" = { ref = \"tls/key\", \
     env_path = \"TLS_KEY_FILE\", path = \"~/.tls/key\", max_opens = 3, for_first = \"30s\", descend = \"child\" }\n\
     other = { ref = \"a/b\", namespaces = \"any\", descend = 2, path = \".env\" }\n",
    "schema = 1\n[project]\nname = \"api\"\nscrub = true\nredact = true\n[bindings]\nDB = { ref = \"a\", env_value = \"DB\" }\n\
     [files.x]\ntemplate = \"\"\"\n{# é #}{{ DB | trim | json }}{% for n in [\"DB\"] %}{{ bindings[n] ~ 1 }}\
     {% if not loop.last %},{% endif %}{% endfor %}\n\"\"\"\npath = \".env\"\n",
    "schema = 1\nproject.name = \"api\"\nbindings.DB = \"a\"\n[files.x]\nformat = \"toml\"\n\
     select = { a = { b = \"{{ DB }}\" }, c = \"x\" }\n[files.y]\nformat = \"pgpass\"\n\
     select = [{ host = \"h\", user = \"u\", password = \"p{{ DB }}\" }]\n",
];

fn reads_manifest(folder: &Folder, text: &[u8]) -> bool {
    folder.put(manifest::FILE, text);
    Manifest::read(&folder.0).is_ok()
}

/// A record as it was written, with what lies beside it.
struct Log {
    folder: Folder,
    beside: Vec<(String, Vec<u8>)>,
    text: Vec<u8>,
}

const LOG_FILE: &str = "audit.jsonl";

impl Log {
    fn new() -> Self {
        Self::written().expect("a record")
    }

    fn written() -> Option<Self> {
        let folder = Folder::new();
        let log = AuditLog::open(&folder.0).ok()?;
        let reference = kin_policy::Reference::new("db/url").ok()?;
        let root = Process { pid: Pid::new(100)?, start: 9 };
        let project = kin_policy::DirectoryName::new("api").ok()?;
        let grant = kin_policy::GrantId::from_bytes([7; 16]);
        let events = [
            Event::BrokerStart { version: "0", unclean: true, grants_lost: 1 },
            Event::GrantCreate {
                grant,
                project: &project,
                directory: Path::new("/src/api"),
                bindings: &Default::default(),
                root,
                program: "make".as_ref(),
                ttl_ms: Some(5),
                limits: Default::default(),
            },
            Event::Vault {
                change: VaultChange::Write,
                reference: Some(&reference),
                version: Some(2),
                reason: Some("\u{1b}[2J"),
                asker: None,
            },
            Event::GrantEnd { grant, project: &project, ending: kin_policy::Ending::Revoked, asker: None },
            Event::MountLost,
        ];
        events.iter().try_for_each(|event| log.append(event).ok().map(drop))?;
        log.tend(true).ok()?;
        drop(log);
        let mut beside = Vec::new();
        for entry in fs::read_dir(&folder.0).ok()? {
            let entry = entry.ok()?;
            beside.push((entry.file_name().into_string().ok()?, fs::read(entry.path()).ok()?));
        }
        let text = fs::read(folder.0.join(LOG_FILE)).ok()?;
        Some(Self { folder, beside, text })
    }

    fn verifies(&self, text: &[u8]) -> bool {
        let state = &self.folder.0;
        for (name, bytes) in &self.beside {
            self.folder.put(name, bytes);
        }
        self.folder.put(LOG_FILE, text);
        let verified = audit::verify(state).is_ok();
        let _ = audit::query(state, &Filter::default(), |record| {
            let shown = [record.reference(), record.project(), record.exe(), record.comm(), record.reason()];
            assert!(shown.iter().flatten().all(|text| !text.chars().any(char::is_control)));
            let _ = (record.chain(), record.process(), record.count(), record.time());
        });
        let _ = audit::query_last_run(state, |_| {});
        // What a broker does with it when it starts.
        let _ = AuditLog::open(state).map(|log| log.append(&Event::MountLost));
        verified
    }
}

fn frames() -> Vec<Vec<u8>> {
    let grant = GrantRequest {
        directory: "/src/api".into(),
        only: None,
        ttl_ms: Some(1000),
        limits: Default::default(),
        max_opens_of: Vec::new(),
        values: Vec::new(),
        front: 1,
        command: vec!["make".into()],
        end_with_child: false,
        private: None,
        redact: None,
    };
    let framed = |question: Question, value: Option<&Plaintext>| {
        let mut frame = Vec::new();
        write_frame(&mut frame, &Request::from(question), value).ok().map(|()| frame)
    };
    let value = Plaintext::copy_of(b"value");
    let asked = [
        framed(Question::Hello, None),
        framed(Question::Grant(grant), None),
        framed(Question::Unlock(Default::default()), Some(&value)),
    ];
    asked.into_iter().flatten().collect()
}

/// As a broker reads it, and as a client does.
fn understands_frame(bytes: &[u8]) -> bool {
    let _ = read_frame::<Answer<serde_json::Value>>(&mut &bytes[..]);
    crate::control::understands(bytes)
}

/// How many cuts; how far each is from the one before; two values of a line; the output.
const OUTPUTS: [&[u8]; 3] = [
    b"\x03\x05\x01\x20hunter2hunter2 ter2-tail-of-it\nlogin hunter2hunter2-tail-of-it and hunter2hunte",
    b"\x02\x08\x08hunter2hunter2 \xff\xfe\xfd\xfc\x00\x01\x02\x03\naHVudGVyMmh1bnRlcjI= \xff\xfe\xfd\xfc\x00\x01\x02\x03",
    b"\x00aaaaaaaa aaaaaaaab\naaaaaaaaaaaaaaaab 68756e7465723268 %61aaaaaaa",
];

/// Cut into pieces an output is masked as in one piece; whether anything of it was.
fn masks(bytes: &[u8]) -> bool {
    let Some((cuts, rest)) =
        bytes.split_first().and_then(|(count, rest)| rest.split_at_checked((*count).into()))
    else {
        return false;
    };
    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return false };
    let (values, text) = (&rest[..end], &rest[end + 1..]);
    let values =
        values.split(|byte| *byte == b' ').zip(["A", "B", "C", "D"]).map(|(value, name)| (name, value));
    let (patterns, _) = Patterns::new(values);
    let patterns = Arc::new(patterns);
    let masked = |cuts: &[u8]| {
        let (mut redactor, mut output, mut rest) = (Redactor::new(patterns.clone()), Vec::new(), text);
        for cut in cuts {
            let (piece, after) = rest.split_at(rest.len().min((*cut).into()));
            redactor.feed(piece, &mut output);
            rest = after;
        }
        redactor.feed(rest, &mut output);
        redactor.finish(&mut output);
        output
    };
    let whole = masked(&[]);
    assert!(masked(cuts) == whole, "the pieces are masked in another way than the whole");
    whole != text
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    use super::*;

    /// What is done to a seed: cut, overwritten, repeated, or something put in.
    fn edits() -> impl Strategy<Value = Vec<(usize, usize, Vec<u8>)>> {
        let token = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..8),
            prop::sample::select(vec![
                &b"\""[..],
                b"\\u0000",
                b"{",
                b"}",
                b"[",
                b"]",
                b",",
                b"\n",
                b"=",
                b"-1",
                b"1e999",
                b"18446744073709551616",
                b"\0",
                b"\xff",
                b"\xef\xbb\xbf",
                b"\\ud800",
                b"null",
                b"-> scrypt",
            ])
            .prop_map(<[u8]>::to_vec),
        ];
        proptest::collection::vec((any::<usize>(), 0..40usize, token), 0..6)
    }

    fn edited(seed: &[u8], edits: &[(usize, usize, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for (at, length, token) in edits {
            let at = at % (bytes.len() + 1);
            let end = (at + length).min(bytes.len());
            bytes.splice(at..end, token.iter().copied());
        }
        bytes
    }

    fn run(target: Target) {
        let seeds = target.seeds();
        assert!(!seeds.is_empty() && seeds.iter().all(|seed| target.takes(seed)), "{target:?}: its seeds");
        // Where libFuzzer begins: each is refused or understood, and none is missing.
        let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds").join(target.name());
        let committed: Vec<_> = fs::read_dir(committed).unwrap().flatten().collect();
        assert_eq!(committed.len(), seeds.len(), "{target:?}: its committed seeds");
        for seed in committed {
            target.takes(&fs::read(seed.path()).unwrap());
        }
        // Where `scripts/soak fuzz` puts them as they are now.
        if let Some(corpus) = std::env::var_os("KIN_FUZZ_CORPUS") {
            let corpus = Path::new(&corpus).join(target.name());
            fs::create_dir_all(&corpus).unwrap();
            for (number, seed) in seeds.iter().enumerate() {
                fs::write(corpus.join(format!("seed{number}")), seed).unwrap();
            }
        }
        let seconds = std::env::var("KIN_FUZZ_SECONDS").map_or(5, |text| text.parse().unwrap());
        let (end, mut ran, taken) = (Instant::now() + Duration::from_secs(seconds), 0, Cell::new(0));
        while Instant::now() < end {
            let mut runner =
                TestRunner::new(Config { cases: 64, failure_persistence: None, ..Config::default() });
            let strategy = (0..seeds.len(), edits());
            let outcome = runner.run(&strategy, |(seed, edits)| {
                let began = Instant::now();
                taken.set(taken.get() + u64::from(target.takes(&edited(&seeds[seed], &edits))));
                prop_assert!(began.elapsed() < Duration::from_secs(1), "too slow");
                Ok(())
            });
            outcome.unwrap_or_else(|error| panic!("{target:?}: {error}"));
            ran += 64;
        }
        let taken = taken.get();
        eprintln!("{}: {ran} inputs, {taken} of them understood", target.name());
        assert!(ran == 0 || ran > taken, "{target:?}: nothing was refused");
    }

    #[test]
    fn any_bytes_are_a_vault_or_are_refused() {
        run(Target::Container);
    }

    #[test]
    fn any_payload_of_the_owners_is_a_vault_or_is_refused() {
        run(Target::Payload);
    }

    #[test]
    fn any_bytes_are_a_manifest_or_are_refused() {
        run(Target::Manifest);
    }

    #[test]
    fn any_bytes_are_a_record_or_are_refused() {
        run(Target::Record);
    }

    #[test]
    fn j09_any_bytes_are_a_frame_or_are_refused() {
        run(Target::Frame);
    }

    #[test]
    fn r01_any_output_is_masked_in_pieces_as_it_is_in_one() {
        run(Target::Redactor);
    }
}
