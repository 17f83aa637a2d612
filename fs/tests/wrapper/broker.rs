//! A broker that grants everything and notes what it hears.

use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use kin_broker::control::protocol::{Answer, GrantRequest, Granted, Hello, Question, Request};
use kin_broker::control::{read_frame, write_frame};
use kin_broker::{Class, Error};
use kin_policy::{Ending, FileName, GrantId};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::Serialize;
use tempfile::TempDir;

/// What the broker heard, in order.
#[derive(Clone, Debug)]
pub(crate) enum Heard {
    Grant { keeper: u32, request: GrantRequest },
    Started(u32),
    Tell(Arc<UnixStream>),
    Finish(Ending),
}

/// What it says to the first question for a grant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    Granted,
    Locked,
    Denied,
    /// No answer, ever.
    Silence,
}

pub(crate) struct Stub {
    home: TempDir,
    heard: Arc<Mutex<Vec<Heard>>>,
}

/// A broker in a process of its own, which ends once it has answered to the start of a command.
const THAT_ENDS: &str = r#"
import json, socket, struct, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print(flush=True)
stream = listener.accept()[0]
started = False
while not started:
    length = struct.unpack('<II', stream.recv(8, socket.MSG_WAITALL))[0]
    verb = json.loads(stream.recv(length, socket.MSG_WAITALL))['verb']
    started = verb == 'command_started'
    answer = json.dumps({'done': json.loads(sys.argv[2]) if verb == 'grant' else None}).encode()
    stream.sendall(struct.pack('<II', len(answer), 0xffffffff) + answer)
"#;

impl Stub {
    pub(crate) fn that_ends() -> (Self, Child) {
        let stub = Self { home: home(), heard: Arc::default() };
        let granted = serde_json::to_string(&granted()).expect("a document");
        let mut broker = Command::new("python3");
        broker.args(["-c", THAT_ENDS]).arg(stub.path("run/socket")).arg(granted);
        let mut broker = broker.stdout(Stdio::piped()).spawn().expect("python3");
        let ready = broker.stdout.take().expect("a pipe").read(&mut [0]);
        assert_eq!(ready.expect("a line"), 1);
        (stub, broker)
    }

    pub(crate) fn new(first: First) -> Self {
        let home = home();
        let listener = UnixListener::bind(home.path().join("run/socket")).expect("a socket");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (notes, mut first) = (heard.clone(), Some(first));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (notes, first) = (notes.clone(), first.take().unwrap_or(First::Granted));
                std::thread::spawn(move || serve(stream, first, &notes));
            }
        });
        Self { home, heard }
    }

    /// The harness, with this broker; `script` is what its `sh -c` runs, in the home directory.
    pub(crate) fn shell(&self, script: &str) -> Command {
        self.command(&["sh", "-c", script])
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(super::wrap());
        command.args(arguments).env("KIN_HOME", self.home.path()).current_dir(self.home.path());
        command
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().expect("no panic").clone()
    }

    /// The first note that `pick` takes, once it is there.
    pub(crate) fn hears<T>(&self, what: &str, pick: impl Fn(&Heard) -> Option<T>) -> T {
        super::until(what, || self.heard().iter().find_map(&pick))
    }

    pub(crate) fn keeper(&self) -> u32 {
        self.hears("a grant", |heard| match heard {
            Heard::Grant { keeper, .. } => Some(*keeper),
            _ => None,
        })
    }

    pub(crate) fn started(&self) -> u32 {
        self.hears("the start", |heard| match heard {
            Heard::Started(pid) => Some(*pid),
            _ => None,
        })
    }

    /// The processes that were named as the command, in order.
    pub(crate) fn commands(&self) -> Vec<u32> {
        let command = |heard| if let Heard::Started(pid) = heard { Some(pid) } else { None };
        self.heard().into_iter().filter_map(command).collect()
    }

    /// Tells the keeper, as the broker does, of another version of a secret.
    pub(crate) fn rotate(&self) {
        let keeper = self.hears("somebody to tell", |heard| match heard {
            Heard::Tell(stream) => Some(stream.clone()),
            _ => None,
        });
        (&*keeper).write_all(b"v").expect("the keeper listens");
    }

    pub(crate) fn finish(&self) -> Ending {
        self.hears("the end", |heard| match heard {
            Heard::Finish(ending) => Some(*ending),
            _ => None,
        })
    }
}

fn home() -> TempDir {
    let home = tempfile::tempdir().expect("a directory");
    std::fs::DirBuilder::new().mode(0o700).create(home.path().join("run")).expect("run");
    home
}

fn serve(mut stream: UnixStream, first: First, notes: &Mutex<Vec<Heard>>) {
    let keeper = getsockopt(&stream, PeerCredentials).expect("a peer").pid().unsigned_abs();
    let note = |heard| notes.lock().expect("no panic").push(heard);
    while let Ok(Some((request, _))) = read_frame::<Request>(&mut stream) {
        match request.question {
            Question::Hello => answer(&mut stream, Hello { pid: std::process::id(), version: String::new() }),
            Question::Grant(request) => {
                note(Heard::Grant { keeper, request });
                match first {
                    First::Granted => answer(&mut stream, granted()),
                    First::Silence => {}
                    First::Locked => refuse(&mut stream, Class::Locked, "the vault is locked"),
                    First::Denied => refuse(&mut stream, Class::Denied, "no"),
                }
            }
            Question::CommandStarted { pid } => {
                note(Heard::Started(pid));
                answer(&mut stream, ());
            }
            Question::Finish { ending } => {
                note(Heard::Finish(ending));
                answer(&mut stream, ());
            }
            Question::TellVersions => {
                answer(&mut stream, ());
                note(Heard::Tell(Arc::new(stream)));
                return;
            }
            other => panic!("a wrapper does not ask {other:?}"),
        }
    }
}

fn granted() -> Granted {
    let environment = vec![("TLS_KEY_FILE".to_owned(), FileName::new("tls.key").expect("a good name"))];
    Granted {
        id: GrantId::from_bytes([7; 16]),
        writable_directory: PathBuf::new(),
        writable: Vec::new(),
        directory: "/mnt/api".into(),
        environment,
        values: Vec::new(),
        scrub: Vec::new(),
        warn_of_values: false,
        private: None,
        unmasked: Vec::new(),
        pinned: false,
    }
}

fn answer(stream: &mut UnixStream, answer: impl Serialize) {
    let _ = write_frame(stream, &Answer::Done(answer), None);
}

fn refuse(stream: &mut UnixStream, class: Class, message: &str) {
    let _ = write_frame(stream, &Answer::<()>::Failed(Error::new(class, "refused", message)), None);
}
