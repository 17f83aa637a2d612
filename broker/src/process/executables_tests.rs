//! Real processes whose executables are what they should be, and what they should not.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::*;
use crate::process::{Choice, Identifier, Identity, Roots};

struct Nobody;

impl Roots for Nobody {
    fn is_root(&self, _: &Identity) -> bool {
        false
    }
}

/// A program that waits for its input to end.
struct Running(Child);

impl Running {
    fn start(program: &Path) -> Self {
        let mut command = Command::new(program);
        // A program that was written just now may still be open for writing in a fork of another test.
        for _ in 0..100 {
            match command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn() {
                Ok(child) => return Self(child),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        panic!("{program:?} does not start");
    }

    fn known(&self) -> Arc<Known> {
        Identifier::new(Choice::Auto, 16).unwrap().identify(self.0.id(), &Nobody).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the reader runs, hashed where it must be, and whether it had to be.
fn look(executables: &Arc<Executables>, reader: &Running) -> (Exe, bool) {
    match executables.look(&reader.known()) {
        Looked::Done(exe) => (exe, false),
        Looked::Unhashed(unhashed) => {
            let (sender, receiver) = mpsc::channel();
            executables.hash(unhashed, move |exe| sender.send(exe).unwrap());
            (receiver.recv_timeout(2 * DEADLINE).unwrap(), true)
        }
    }
}

fn digest_of(path: &Path) -> Exe {
    Exe::File(ExeDigest::from_bytes(Sha256::digest(std::fs::read(path).unwrap()).into()))
}

fn copy(directory: &Path, name: &str) -> PathBuf {
    let to = directory.join(name);
    std::fs::copy("/bin/cat", &to).unwrap();
    std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755)).unwrap();
    to
}

#[test]
fn a_file_that_was_left_alone_is_hashed_once() {
    let (executables, reader) = (Arc::<Executables>::default(), Running::start(Path::new("/bin/cat")));
    assert_eq!(look(&executables, &reader), (digest_of(Path::new("/bin/cat")), true));
    assert_eq!(look(&executables, &reader), (digest_of(Path::new("/bin/cat")), false));
}

#[test]
fn a_file_that_was_just_written_is_hashed_each_time() {
    let directory = tempfile::tempdir().unwrap();
    let program = copy(directory.path(), "cat");
    let (executables, reader) = (Arc::<Executables>::default(), Running::start(&program));
    for _ in 0..2 {
        assert_eq!(look(&executables, &reader), (digest_of(&program), true));
    }
}

#[test]
fn a11_a_file_whose_name_is_gone_is_unpinnable() {
    let directory = tempfile::tempdir().unwrap();
    let executables = Arc::<Executables>::default();
    let removed = copy(directory.path(), "removed");
    let reader = Running::start(&removed);
    std::fs::remove_file(&removed).unwrap();
    assert_eq!(look(&executables, &reader).0, Exe::Unpinnable);
    let replaced = copy(directory.path(), "replaced");
    let reader = Running::start(&replaced);
    std::fs::rename(copy(directory.path(), "new"), &replaced).unwrap();
    assert_eq!(look(&executables, &reader).0, Exe::Unpinnable);
    let reader = Running::start(&copy(directory.path(), "cat (deleted)"));
    assert_eq!(look(&executables, &reader).0, Exe::Unpinnable);
}

#[test]
fn a11_a_file_that_never_had_a_name_is_unpinnable() {
    let memory = memfd_create("cat", MFdFlags::empty()).unwrap();
    std::fs::File::from(memory.try_clone().unwrap()).write_all(&std::fs::read("/bin/cat").unwrap()).unwrap();
    // Through another descriptor: one that is open for writing would be ETXTBSY.
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    let reading = OwnedFd::from(File::open(path).unwrap());
    drop(memory);
    let program = format!("/proc/{}/fd/{}", std::process::id(), reading.as_raw_fd());
    let reader = Running::start(Path::new(&program));
    assert_eq!(look(&Arc::default(), &reader).0, Exe::Unpinnable);
}

#[test]
fn many_that_wait_for_one_file_are_all_told() {
    let (executables, reader) = (Arc::<Executables>::default(), Running::start(Path::new("/bin/cat")));
    let (sender, receiver) = mpsc::channel();
    let known = reader.known();
    let mut waiting = 0;
    for _ in 0..4 * AT_ONCE {
        if let Looked::Unhashed(unhashed) = executables.look(&known) {
            let sender = sender.clone();
            executables.hash(unhashed, move |exe| sender.send(exe).unwrap());
            waiting += 1;
        }
    }
    assert!(waiting > 0);
    for _ in 0..waiting {
        assert_eq!(receiver.recv_timeout(2 * DEADLINE), Ok(digest_of(Path::new("/bin/cat"))));
    }
}

#[test]
fn what_hangs_is_given_up_in_time_and_does_not_pile_up() {
    let (release, held) = mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let began = Instant::now();
    let hanging: Vec<_> = (0..2 * AT_ONCE)
        .map(|_| {
            let held = Arc::clone(&held);
            std::thread::spawn(move || in_time(move || held.lock().recv().is_ok()))
        })
        .collect();
    assert!(hanging.into_iter().all(|thread| thread.join().unwrap().is_none()));
    assert!(began.elapsed() < 2 * DEADLINE);
    // Nothing more is begun while they hang.
    let asked = Instant::now();
    assert_eq!(in_time(|| ()), None);
    assert!(asked.elapsed() < DEADLINE);
    drop(release);
    while in_time(|| ()).is_none() {
        assert!(began.elapsed() < 8 * DEADLINE);
    }
}

#[test]
fn interpreters_and_loaders_run_anything() {
    for path in ["/usr/bin/python3.11", "/bin/sh", "/usr/bin/perl5.36", "/lib64/ld-linux-x86-64.so.2"] {
        assert!(runs_anything(Path::new(path)), "{path}");
    }
    for path in ["/usr/bin/git", "/usr/bin/ssh", "/usr/bin/psql", "/opt/api/server"] {
        assert!(!runs_anything(Path::new(path)), "{path}");
    }
}
