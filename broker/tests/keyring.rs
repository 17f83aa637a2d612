//! Does the identity survive in a real Secret Service (gnome-keyring, KeePassXC), and does every failure of it
//! lock?
//!
//! Without libtest: this program is also the child that the broker's side starts, and it runs its cases
//! inside session buses of their own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use kin_broker::control::protocol::KeyMethod;
use kin_broker::keys::keyring::Agent;
use kin_broker::keys::{create_through, keyring_agent, load_through};
use kin_broker::sys::paths::Directories;
use kin_broker::{Class, Result};

/// Says that this is the run inside a bus, and whose.
const INSIDE: &str = "KIN_TEST_INSIDE_BUS";

/// A bus that starts nobody by itself: only who is there answers.
const BUS: &str = "<!DOCTYPE busconfig PUBLIC '-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN'
 'http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd'>
<busconfig><type>session</type><listen>unix:tmpdir=/tmp</listen><policy context='default'>
<allow send_destination='*' eavesdrop='true'/><allow eavesdrop='true'/><allow own='*'/></policy></busconfig>
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [verb, action, recipient] = &arguments[..]
        && verb == keyring_agent::VERB
    {
        let (input, output) = (std::io::stdin().lock(), std::io::stdout().lock());
        return ExitCode::from(keyring_agent::serve(action, recipient, input, output));
    }
    match std::env::var(INSIDE).as_deref() {
        Ok("gnome-keyring") => gnome_keyring(),
        Ok("keepassxc") => keepassxc(),
        _ => return inside_buses(&["gnome-keyring", "keepassxc"]),
    }
    ExitCode::SUCCESS
}

/// Runs this program again for each service, under a session bus that ends with it, and with a home of its own.
fn inside_buses(services: &[&str]) -> ExitCode {
    let passes = |service: &&str| {
        let home = tempfile::TempDir::new().expect("a directory");
        let bus = home.path().join("bus.conf");
        std::fs::write(&bus, BUS).expect("the bus's configuration");
        let status = Command::new("timeout")
            .args(["--kill-after=5", "90", "dbus-run-session"])
            .arg(format!("--config-file={}", bus.display()))
            .arg("--")
            .arg(std::env::current_exe().expect("this program"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", home.path())
            .env("XDG_RUNTIME_DIR", home.path())
            .env(INSIDE, service)
            .status()
            .expect("dbus-run-session and timeout must be installed");
        status.success()
    };
    ExitCode::from(u8::from(!services.iter().all(passes)))
}

fn gnome_keyring() {
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

/// One session with an open database: where it is closed again, KeePassXC asks on its window, and there is
/// nobody.
fn keepassxc() {
    let home = std::env::var("HOME").expect("HOME");
    let home = Path::new(&home);
    let (first, second) = (directories(&home.join("first")), directories(&home.join("second")));
    let database = Database::made(home);
    let daemon = Daemon::keepassxc(home, &database);
    an_identity_survives_in_the_secret_service_and_two_homes_do_not_collide(&first, &second);
    g09_a_planted_item_is_refused(&first, &second);
    a_missing_item_is_said_to_be(&second);
    let there = [load(&first).expect("first"), load(&second).expect("second")];
    let titles = database.titles_within(Duration::from_secs(20), &there);
    assert!(there.iter().all(|recipient| titles.contains(recipient)), "the database has {titles}");
    drop(daemon);
    let error = agent().probe(None).expect_err("nobody answers");
    assert_eq!(error.code, "keyring_unavailable");
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

/// A database of KeePassXC whose root group the Secret Service shows.
struct Database(PathBuf);

impl Database {
    const PASSWORD: &str = "password";
    const XML: &str = "<?xml version='1.0' encoding='UTF-8'?><KeePassFile><Meta><CustomData><Item>
<Key>FDO_SECRETS_EXPOSED_GROUP</Key><Value>{a0b1c2d3-e4f5-4607-8899-aabbccddeeff}</Value></Item></CustomData>
</Meta><Root><Group><UUID>oLHC0+T1RgeImaq7zN3u/w==</UUID><Name>kin</Name></Group></Root></KeePassFile>";

    fn made(home: &Path) -> Self {
        let (xml, path) = (home.join("database.xml"), home.join("database.kdbx"));
        std::fs::write(&xml, Self::XML).expect("a file");
        let mut import = Self::ask("import");
        import.arg("-p").arg(&xml).arg(&path);
        told(import, &format!("{0}\n{0}\n", Self::PASSWORD));
        Self(path)
    }

    fn ask(verb: &str) -> Command {
        let mut command = Command::new("keepassxc-cli");
        command.arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }

    /// What its file lists once that is all of `wanted`, or at the end of the time.
    fn titles_within(&self, time: Duration, wanted: &[String]) -> String {
        let until = Instant::now() + time;
        loop {
            let mut list = Self::ask("ls");
            list.arg("-R").arg(&self.0);
            let titles = told(list, &format!("{}\n", Self::PASSWORD));
            if wanted.iter().all(|title| titles.contains(title)) || Instant::now() > until {
                return titles;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// What a command says that is told `input`, and succeeds.
fn told(mut command: Command, input: &str) -> String {
    let mut child = command.spawn().expect("keepassxc-cli must be installed");
    child.stdin.take().expect("stdin").write_all(input.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("ended");
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// A Secret Service in the foreground, so that it can be ended by its own pid.
struct Daemon(Child);

impl Daemon {
    /// gnome-keyring, unlocked with `password`, which makes the login keyring the first time; or locked.
    fn start(password: Option<&str>) -> Self {
        let mut command = Command::new("gnome-keyring-daemon");
        command.args(["--foreground", "--components=secrets"]).args(password.map(|_| "--unlock"));
        Self::spawn(command, password.unwrap_or_default())
    }

    /// KeePassXC without a screen, once its database is open.
    fn keepassxc(home: &Path, database: &Database) -> Self {
        let settings = "[General]\nUpdateCheckMessageShown=true\n[GUI]\nCheckForUpdates=false\n[FdoSecrets]\n\
                        Enabled=true\nConfirmAccessItem=false\nConfirmDeleteItem=false\nShowNotification=false\n\
                        UnlockBeforeSearch=false\n";
        let (config, local) = (home.join("keepassxc.ini"), home.join("local.ini"));
        std::fs::write(&config, settings).expect("a file");
        let mut command = Command::new("keepassxc");
        command.arg("--config").arg(config).arg("--localconfig").arg(local);
        command.arg("--pw-stdin").arg(&database.0);
        // It names its lock after the user.
        command.env("QT_QPA_PLATFORM", "offscreen").env("USER", "kin");
        let daemon = Self::spawn(command, &format!("{}\n", Database::PASSWORD));
        eventually("KeePassXC has opened its database", || {
            let answer = asked(
                "org.freedesktop.secrets",
                "/org/freedesktop/secrets/aliases/default",
                &[
                    "org.freedesktop.DBus.Properties.Get",
                    "string:org.freedesktop.Secret.Collection",
                    "string:Locked",
                ],
            );
            answer.contains("boolean false")
        });
        daemon
    }

    fn spawn(mut command: Command, input: &str) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut daemon = Self(child);
        let mut stdin = daemon.0.stdin.take().expect("stdin");
        stdin.write_all(input.as_bytes()).expect("written");
        drop(stdin);
        eventually("the Secret Service answers", || owns_the_service(daemon.0.id()));
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn eventually(what: &str, is: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(40);
    while !is() {
        assert!(Instant::now() < until, "in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether `pid` is who answers for the Secret Service.
fn owns_the_service(pid: u32) -> bool {
    let question = ["org.freedesktop.DBus.GetConnectionUnixProcessID", "string:org.freedesktop.secrets"];
    asked("org.freedesktop.DBus", "/org/freedesktop/DBus", &question) == format!("uint32 {pid}")
}

/// What somebody on the session's bus answers.
fn asked(whom: &str, object: &str, question: &[&str]) -> String {
    let output = Command::new("dbus-send")
        .args(["--session", "--print-reply=literal", &format!("--dest={whom}"), object])
        .args(question)
        .output()
        .expect("dbus-send must be installed");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
