//! A broker of two secrets and one project that speaks the wire protocol and keeps nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use kin_broker::control::protocol::{
    Answer, AuditStatus, BindingInfo, BrokerStatus, FileEdges, GrantStatus, Hello, KeyMethod, Left,
    ManifestInfo, MountStatus, Question, RenderedInfo, Request, SecretInfo, Status, TreeProcess, TrustState,
    VaultMade, VaultStatus, Withdrawn,
};
use kin_broker::control::{read_frame, write_frame};
use kin_broker::{Class, Error, Plaintext};
use kin_policy::GrantId;
use serde::Serialize;

use crate::program::Home;

pub(crate) const VALUE: &[u8] = b"CANARY-7f3a";
pub(crate) const PASSPHRASE: &[u8] = b"correct horse";
pub(crate) const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/// What it plays.
#[derive(Clone, Default)]
pub(crate) struct Scene {
    /// The vault is locked until its passphrase comes.
    pub(crate) locked: bool,
    /// How the manifest stands with trust.
    pub(crate) trust: Option<TrustState>,
    /// Whether the vault lacks a bound secret.
    pub(crate) lacks: bool,
    /// Live grants.
    pub(crate) grants: usize,
    /// What it was asked: nothing with a value, which a broker alone is sent.
    pub(crate) heard: Arc<Mutex<Vec<Question>>>,
}

impl Scene {
    /// Listens in `home` until the test process ends.
    pub(crate) fn play(self, home: &Home) -> Self {
        let listener = UnixListener::bind(home.path().join("run/socket")).unwrap();
        let (scene, place) = (self.clone(), home.path().to_path_buf());
        std::thread::spawn(move || {
            let mut scene = scene;
            for stream in listener.incoming() {
                scene.converse(stream.unwrap(), &place);
            }
        });
        self
    }

    pub(crate) fn was_asked(&self, wanted: impl Fn(&Question) -> bool) -> bool {
        self.heard.lock().unwrap().iter().any(wanted)
    }

    fn converse(&mut self, mut stream: UnixStream, home: &Path) {
        while let Ok(Some((Request { question, .. }, value))) = read_frame::<Request>(&mut stream) {
            self.heard.lock().unwrap().push(question.clone());
            if self.answer(&mut stream, question, value, home).is_err() {
                return;
            }
        }
    }

    fn answer(
        &mut self,
        stream: &mut UnixStream,
        question: Question,
        value: Option<Plaintext>,
        home: &Path,
    ) -> std::io::Result<()> {
        let needs_vault = matches!(
            question,
            Question::Set(_) | Question::List | Question::Show { .. } | Question::Reveal { .. }
        );
        if needs_vault && self.locked {
            return fail(stream, Error::new(Class::Locked, "passphrase_needed", "the vault is locked"));
        }
        match question {
            Question::Hello => done(stream, &Hello { pid: 0, version: env!("CARGO_PKG_VERSION").into() }),
            Question::Init { .. } => done(
                stream,
                &VaultMade { recipient: "age1example".into(), vault: home.join("data/vault.age") },
            ),
            Question::Unlock(_) if value.is_none() => {
                fail(stream, Error::new(Class::Locked, "passphrase_needed", "the vault is locked"))
            }
            Question::Unlock(_) if value.is_none_or(|value| value.bytes() != PASSPHRASE) => fail(
                stream,
                Error::new(Class::Locked, "wrong_passphrase", "that is not the vault's passphrase"),
            ),
            Question::Unlock(_) => {
                self.locked = false;
                done(stream, &())
            }
            Question::Lock | Question::Revoke { .. } => {
                let grants = (0..self.grants).map(|n| GrantId::from_bytes([n as u8 + 1; 16])).collect();
                done(stream, &Withdrawn { grants })
            }
            Question::Set(_) | Question::Remove { .. } => done(stream, &secret("db/url", None)),
            Question::List => {
                done(stream, &vec![secret("db/url", None), secret("tls/key", Some("from\u{1b}[31m ops"))])
            }
            Question::Show { reference } if reference.as_str() == "db/url" => {
                done(stream, &secret("db/url", Some("rotate each May")))
            }
            Question::Show { reference } => {
                let error =
                    Error::new(Class::Unsafe, "secret_missing", format!("the vault lacks {reference}"));
                fail(stream, error.hint(format!("kin set {reference}")))
            }
            Question::Reveal { .. } => {
                let answer = Answer::Done(secret("db/url", None));
                write_frame(stream, &answer, Some(&Plaintext::copy_of(VALUE)))
            }
            Question::Inspect { directory } | Question::Trust { directory, .. } => {
                done(stream, &self.manifest(&directory))
            }
            Question::Status => done(stream, &self.status(home)),
            _ => done(stream, &()),
        }
    }

    fn manifest(&self, directory: &Path) -> ManifestInfo {
        let binding = |file: &str, reference: &str, present| BindingInfo {
            file: file.parse().unwrap(),
            reference: reference.parse().unwrap(),
            path: None,
            env_value: (file == "tls.key").then(|| "TLS_KEY".to_owned()),
            mmap: false,
            writable: false,
            max_opens: None,
            for_first_ms: None,
            levels: None,
            present: (!self.locked).then_some(present),
            namespaces: kin_policy::Reach::Same,
            exe: Vec::new(),
            due: None,
        };
        ManifestInfo {
            directory: directory.into(),
            project: "api".parse().unwrap(),
            mounted_as: "api".parse().unwrap(),
            hash: HASH.into(),
            trust: match self.locked {
                true => TrustState::Locked,
                false => self.trust.clone().unwrap_or(TrustState::Untrusted),
            },
            bindings: vec![
                binding("DATABASE_URL", "db/url", true),
                binding("tls.key", "tls/key", !self.lacks),
            ],
            files: vec![RenderedInfo {
                file: ".env".parse().unwrap(),
                format: "dotenv".into(),
                uses: vec!["DATABASE_URL".parse().unwrap()],
                path: Some(".env".parse().unwrap()),
                env_path: Some("ENV_FILE".into()),
            }],
            scrub: vec!["DATABASE_URL".into()],
            redact: true,
        }
    }

    fn status(&self, home: &Path) -> Status {
        let process = |pid, depth, comm: &str| TreeProcess { pid, depth, comm: comm.into() };
        let edges = |n: usize| match n {
            0 => vec![
                FileEdges {
                    file: "DATABASE_URL".parse().unwrap(),
                    left: Left { opens_left: Some(1), window_left_ms: Some(11_001) },
                    levels: Some(1),
                },
                FileEdges { file: "tls.key".parse().unwrap(), left: Left::default(), levels: Some(3) },
            ],
            _ => Vec::new(),
        };
        let grant = |n: usize| GrantStatus {
            id: GrantId::from_bytes([n as u8 + 1; 16]),
            project: "api".parse().unwrap(),
            command: vec!["npm".into(), "test".into(), "\u{1b}[2J".into()],
            bindings: vec!["DATABASE_URL".parse().unwrap(), "tls.key".parse().unwrap()],
            writable: (n == 0).then(|| "tls.key".parse().unwrap()).into_iter().collect(),
            opens: 12,
            age_s: 192,
            ttl_left_ms: (n == 0).then_some(3_407_001),
            left: Left { opens_left: (n == 0).then_some(3), window_left_ms: (n == 0).then_some(0) },
            edges: edges(n),
            tree: vec![
                process(4120, 0, "kin-keeper"),
                process(4121, 1, "npm"),
                process(4133, 2, "no\u{202e}de"),
            ],
        };
        Status {
            broker: BrokerStatus {
                pid: 4001,
                version: env!("CARGO_PKG_VERSION").into(),
                uptime_s: 7384,
                identity: "pidfd".into(),
                memory_locked: true,
                proc_covered: None,
            },
            vault: VaultStatus {
                state: if self.locked { "locked" } else { "unlocked" }.into(),
                key: Some(KeyMethod::Passphrase),
                secrets: (!self.locked).then_some(2),
                overdue: 0,
                due: Vec::new(),
                notices: Vec::new(),
            },
            mount: MountStatus {
                path: home.join("run/mnt"),
                mounted: true,
                writable_path: home.join("run/rw"),
                writable: self.grants > 0,
            },
            audit: AuditStatus { state: "recording".into(), refused: 0, since: None, reason: None },
            grants: (0..self.grants).map(grant).collect(),
        }
    }
}

fn secret(reference: &str, note: Option<&str>) -> SecretInfo {
    SecretInfo {
        reference: reference.parse().unwrap(),
        version: 3,
        size: 11,
        created: 1_795_000_000,
        note: note.map(Into::into),
        due: note.map(|_| 1),
        generated: None,
        attributes: note.map(|_| ("env".to_owned(), "prod".to_owned())).into_iter().collect(),
    }
}

fn done(stream: &mut UnixStream, answer: &(impl Serialize + Clone)) -> std::io::Result<()> {
    write_frame(stream, &Answer::Done(answer.clone()), None)
}

fn fail(stream: &mut UnixStream, error: Error) -> std::io::Result<()> {
    write_frame(stream, &Answer::<()>::Failed(error), None)
}

/// Makes the working directory a project.
pub(crate) fn write_manifest(home: &Home) {
    fs::write(home.work().join("kin.toml"), "schema = 1\n").unwrap();
    assert_eq!(home.work().metadata().unwrap().uid(), nix::unistd::geteuid().as_raw());
}
