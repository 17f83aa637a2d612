//! Does the identity survive in a real Secret Service (gnome-keyring), and does every failure of it lock?
//!
//! Without libtest: this program is also the child that the broker's side starts, and it runs its cases
//! inside a session bus of its own.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use kin_broker::control::protocol::KeyMethod;
use kin_broker::keys::keyring::Agent;
use kin_broker::keys::{create_through, keyring_agent, load_through};
use kin_broker::paths::Directories;
use kin_broker::{Class, Result};

/// Says that this is the run inside the bus.
const INSIDE: &str = "KIN_TEST_INSIDE_BUS";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [verb, action, recipient] if verb == keyring_agent::VERB => ExitCode::from(keyring_agent::serve(
            action,
            recipient,
            std::io::stdin().lock(),
            std::io::stdout().lock(),
        )),
        _ if std::env::var_os(INSIDE).is_some() => {
            cases();
            ExitCode::SUCCESS
        }
        _ => inside_a_bus(),
    }
}

/// Runs this program again under a session bus that ends with it, and with a home of its own.
fn inside_a_bus() -> ExitCode {
    let home = tempfile::TempDir::new().expect("a directory");
    let status = Command::new("timeout")
        .args(["60", "dbus-run-session", "--"])
        .arg(std::env::current_exe().expect("this program"))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home.path())
        .env("XDG_RUNTIME_DIR", home.path())
        .env(INSIDE, "1")
        .status()
        .expect("dbus-run-session and timeout must be installed");
    ExitCode::from(u8::from(!status.success()))
}

fn cases() {
    let home = std::env::var("HOME").expect("HOME");
    let first = directories(&Path::new(&home).join("first"));
    let second = directories(&Path::new(&home).join("second"));

    let daemon = Daemon::start(Some("password"));
    an_identity_survives_in_the_secret_service_and_two_homes_do_not_collide(&first, &second);
    g09_a_planted_item_is_refused(&first, &second);
    a_missing_item_is_said_to_be(&second);
    drop(daemon);

    let daemon = Daemon::start(None);
    g08_a_locked_keyring_locks_in_time(&first);
    drop(daemon);

    g08_no_bus_is_unavailable(&first);
    let daemon = Daemon::start(Some("password"));
    assert!(load(&first).is_ok(), "the identity is gone after all that");
    drop(daemon);
}

fn agent() -> Agent {
    Agent { program: std::env::current_exe().expect("this program"), ..Agent::own() }
}

fn directories(home: &Path) -> Directories {
    let made = Directories::from_variables(&|name| (name == "KIN_HOME").then(|| home.into()));
    let made = made.expect("directories");
    made.create().expect("directories");
    made
}

fn load(at: &Directories) -> Result<String> {
    load_through(&agent(), at, None, None).map(|identity| identity.recipient().to_owned())
}

fn create(at: &Directories) -> String {
    create_through(&agent(), at, &KeyMethod::Keyring, None, None).expect("created").recipient().to_owned()
}

fn refused(at: &Directories) -> String {
    let error = load(at).expect_err("it was loaded");
    assert_eq!(error.class, Class::Locked, "{error:?}");
    assert!(error.hint.is_some(), "{error:?}");
    assert!(!error.message.contains("AGE-SECRET"), "{error:?}");
    error.code.into_owned()
}

fn an_identity_survives_in_the_secret_service_and_two_homes_do_not_collide(a: &Directories, b: &Directories) {
    agent().probe(None).expect("a service answers");
    let (first, second) = (create(a), create(b));
    assert_ne!(first, second);
    assert_eq!((load(a).expect("first"), load(b).expect("second")), (first, second));
}

/// Somebody puts another identity, or garbage, where ours was.
fn g09_a_planted_item_is_refused(victim: &Directories, other: &Directories) {
    let ours = load(victim).expect("ours");
    let theirs = run(&["get", &load(other).expect("theirs")], &[]);
    let before = run(&["get", &ours], &[]);
    for planted in [&theirs[..], b"garbage", b"\xff\0\xfe"] {
        run(&["put", &ours], planted);
        assert_eq!(refused(victim), "identity_mismatch");
    }
    run(&["put", &ours], &before);
    assert_eq!(load(victim).expect("put back"), ours);
}

/// The vault's item was deleted: here, one that never was.
fn a_missing_item_is_said_to_be(at: &Directories) {
    let config = at.key_config();
    let text = std::fs::read_to_string(&config).expect("key.json");
    let absent = "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq";
    std::fs::write(&config, text.replace(&load(at).expect("loaded"), absent)).expect("key.json");
    assert_eq!(refused(at), "keyring_item_missing");
    std::fs::write(&config, text).expect("key.json");
}

fn g08_a_locked_keyring_locks_in_time(at: &Directories) {
    let started = Instant::now();
    let code = refused(at);
    assert!(["keyring_locked", "keyring_timeout"].contains(&&*code), "{code}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

fn g08_no_bus_is_unavailable(at: &Directories) {
    let error = load_through(&agent(), at, None, Some("unix:path=/nowhere/bus")).err().expect("refused");
    assert_eq!(error.code, "keyring_unavailable");
    let error = agent().probe(Some("nonsense")).expect_err("refused");
    assert_eq!(error.code, "keyring_unavailable");
}

/// Runs the child by hand.
fn run(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .arg(keyring_agent::VERB)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawned");
    child.stdin.take().expect("stdin").write_all(input).expect("written");
    let output = child.wait_with_output().expect("ended");
    assert!(output.status.success(), "{arguments:?}");
    output.stdout
}

/// gnome-keyring in the foreground, so that it can be ended by its own pid.
struct Daemon(Child);

impl Daemon {
    /// Unlocked with `password`, which makes the login keyring the first time; or locked.
    fn start(password: Option<&str>) -> Self {
        let mut child = Command::new("gnome-keyring-daemon")
            .args(["--foreground", "--components=secrets"])
            .args(password.map(|_| "--unlock"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("gnome-keyring-daemon must be installed");
        let mut stdin = child.stdin.take().expect("stdin");
        stdin.write_all(password.unwrap_or_default().as_bytes()).expect("written");
        drop(stdin);
        let daemon = Self(child);
        let until = Instant::now() + Duration::from_secs(10);
        while !owns_the_service(daemon.0.id()) {
            assert!(Instant::now() < until, "gnome-keyring-daemon does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether `pid` is who answers for the Secret Service: not one that the bus activated by itself.
fn owns_the_service(pid: u32) -> bool {
    let output = Command::new("dbus-send")
        .args(["--session", "--print-reply=literal", "--dest=org.freedesktop.DBus", "/org/freedesktop/DBus"])
        .args(["org.freedesktop.DBus.GetConnectionUnixProcessID", "string:org.freedesktop.secrets"])
        .output()
        .expect("dbus-send must be installed");
    String::from_utf8_lossy(&output.stdout).trim() == format!("uint32 {pid}")
}
