//! What of the kernel, the machine and the session is in order?

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kin_broker::children::programs;
use kin_broker::control::protocol::{BrokerStatus, KeyMethod, Status};
use kin_broker::keys;
use kin_broker::process::{check_proc, proc_is_own};
use kin_broker::sys::memory;
use kin_broker::sys::mounts;
use kin_broker::sys::paths::{Directories, check_private};
use kin_broker::vault;
use kin_broker::{Class, Result, describe};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::geteuid;

use super::super::{connect, duration, key};
use super::Check;

/// How long the keyring may take to answer.
const KEYRING_DEADLINE: Duration = Duration::from_secs(5);

pub(super) fn fuse_device() -> Check {
    const NAME: &str = "fuse device";
    match fs::File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Check::ok(NAME, "/dev/fuse can be opened"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let fix =
                "chmod 0666 /dev/fuse as root, or for good the udev rule KERNEL==\"fuse\", MODE=\"0666\"";
            Check::fail(Class::Unreachable, NAME, "/dev/fuse may not be opened by this user", fix)
        }
        Err(error) => {
            let fix = "modprobe fuse as root; in a container, --device /dev/fuse";
            Check::fail(Class::Unreachable, NAME, format!("no /dev/fuse: {}", describe(&error)), fix)
        }
    }
}

pub(super) fn fusermount() -> Check {
    const NAME: &str = "fusermount3";
    let found = programs::fusermount();
    if geteuid().is_root() {
        let message = match &found {
            Some(path) => format!("{}, which root does not need", path.display()),
            None => "not installed, and root does not need it".into(),
        };
        return Check::ok(NAME, message);
    }
    let Some(path) = found else {
        let fix = "install it: apt install fuse3, dnf install fuse3";
        return Check::fail(Class::Unreachable, NAME, "it is not where root installs it", fix);
    };
    let set_uid = fs::metadata(&path).is_ok_and(|meta| meta.uid() == 0 && meta.mode() & 0o4000 != 0);
    if !set_uid {
        let fix = format!("chown root and chmod u+s {} as root", path.display());
        let message = format!("{} is not setuid root", path.display());
        return Check::fail(Class::Unreachable, NAME, message, fix);
    }
    // With no_new_privs a setuid bit means nothing (prctl(2)).
    if status_field("NoNewPrivs").is_some_and(|value| value != "0") {
        let fix = "start kin outside of the sandbox that sets no_new_privs";
        return Check::fail(
            Class::Unreachable,
            NAME,
            "this process cannot gain privileges, so it cannot mount",
            fix,
        );
    }
    Check::ok(NAME, format!("{} is setuid root", path.display()))
}

/// What `kin run --private` needs and nothing else does.
pub(super) fn namespaces() -> Check {
    const NAME: &str = "private mounts";
    match kin_fs::run::try_namespaces() {
        Ok(()) => Check::ok(NAME, "`kin run --private` works: this user may have namespaces"),
        Err(error) => {
            let sysctl = |name: &str, off: &str| {
                let value = fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap_or_default();
                (value.trim() == off).then(|| name.replace('/', "."))
            };
            let fix = [
                ("user/max_user_namespaces", "0", "10000"),
                ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
                ("kernel/unprivileged_userns_clone", "0", "1"),
            ]
            .into_iter()
            .find_map(|(name, off, on)| Some(format!("sysctl {}={on} as root", sysctl(name, off)?)))
            .unwrap_or_else(|| "run without --private; in a container, allow it user namespaces".into());
            Check::warn(NAME, error.message, fix)
        }
    }
}

fn status_field(name: &str) -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

pub(super) fn directories(directories: &Directories) -> Check {
    const NAME: &str = "directories";
    let all = [&directories.config, &directories.data, &directories.state, &directories.runtime];
    for dir in all.into_iter().filter(|dir| dir.symlink_metadata().is_ok()) {
        if let Err(error) = check_private(dir) {
            let fix = error.hint.unwrap_or_else(|| format!("look at {}", dir.display()));
            return Check::fail(error.class, NAME, error.message, fix);
        }
    }
    let runtime = directories.runtime.display();
    match directories.runtime.exists() {
        true => Check::ok(NAME, format!("private; socket and mount are in {runtime}")),
        false => Check::ok(NAME, format!("made at the first start; socket and mount will be in {runtime}")),
    }
}

/// `PIDFD_THREAD` came with Linux 6.9, `PIDFD_GET_INFO` with 6.13.
const PIDFDS: (u32, u32) = (6, 13);

pub(super) fn kernel() -> Check {
    const NAME: &str = "kernel";
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    match version(release) {
        Some(version) if version >= PIDFDS => {
            Check::ok(NAME, format!("Linux {release} identifies processes by pidfd"))
        }
        Some(version) if version >= (5, 6) => Check::warn(
            NAME,
            format!("Linux {release} identifies processes through /proc, which is right, but slower"),
            "Linux 6.13 or newer, where that matters",
        ),
        _ => Check::fail(
            Class::Unreachable,
            NAME,
            format!("Linux {release} is older than 5.6"),
            "use a newer kernel",
        ),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// With hidepid (proc(5)) other processes cannot be looked at, which the way through /proc needs. What is mounted
/// over a process's directory, here or where the broker is, makes it another's.
pub(super) fn proc_visible(broker: Option<&BrokerStatus>) -> Check {
    const NAME: &str = "/proc";
    if let Some(over) = broker.and_then(|broker| broker.proc_covered.as_ref()) {
        let message =
            format!("something is mounted over {over} where the broker runs, so it proves no program");
        return Check::fail(Class::Unreachable, NAME, message, format!("umount {over}"));
    }
    if let Err(error) = check_proc() {
        return Check::fail(error.class, NAME, error.message, error.hint.unwrap_or_default());
    }
    if !proc_is_own() {
        let (message, fix) =
            ("it is of another pid namespace", "unshare --mount-proc, or mount -t proc proc /proc");
        return Check::fail(Class::Unreachable, NAME, message, fix);
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    match mounts::hidepid() {
        None => Check::ok(NAME, "processes can be seen"),
        // Root sees them (ptrace(2), PTRACE_MODE_READ), and pidfds tell who descends from whom without it.
        Some(_) if geteuid().is_root() => Check::ok(NAME, "processes can be seen"),
        Some(level) if version(release.trim()) >= Some(PIDFDS) => Check::warn(
            NAME,
            format!("it is mounted with hidepid={level}: programs that are not dumpable cannot read files"),
            "mount /proc without hidepid, or say namespaces = \"any\" in kin.toml",
        ),
        Some(level) => Check::fail(
            Class::Unreachable,
            NAME,
            format!("it is mounted with hidepid={level}, so this kernel cannot tell kin who reads"),
            "mount /proc without hidepid, or use Linux 6.13 or newer",
        ),
    }
}

/// What the running broker says, or, where none runs, what one that is started here would find.
pub(super) fn memory(broker: Option<&BrokerStatus>) -> Check {
    const NAME: &str = "memory";
    const FIX: &str = "raise RLIMIT_MEMLOCK to 8 MiB: limits.conf memlock, or systemd's LimitMEMLOCK";
    if let Some(BrokerStatus { pid, memory_locked, .. }) = broker {
        return match memory_locked {
            true => Check::ok(NAME, format!("the broker, pid {pid}, has values locked in memory")),
            false => Check::warn(
                NAME,
                format!("the broker, pid {pid}, could not lock values in memory, so they may be swapped"),
                format!("{FIX}; then `kin stop`: the next run starts another"),
            ),
        };
    }
    let limit = match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((u64::MAX, _)) => "no limit".to_owned(),
        Ok((soft, _)) => format!("limit {} KiB", soft >> 10),
        Err(error) => error.desc().to_owned(),
    };
    match memory::is_locked() {
        true => Check::ok(NAME, format!("values are locked in memory ({limit})")),
        false => Check::warn(
            NAME,
            format!("values cannot be locked in memory ({limit}), so they may be swapped"),
            FIX,
        ),
    }
}

/// Yama (Documentation/admin-guide/LSM/Yama.rst): at 0 a process may trace any other of its user.
pub(super) fn ptrace() -> Check {
    const NAME: &str = "ptrace";
    const FIX: &str = "sysctl kernel.yama.ptrace_scope=1 as root";
    match fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").as_deref().map(str::trim) {
        Ok("0") => Check::warn(
            NAME,
            "ptrace_scope is 0: any program of yours can read the memory of the programs that read secrets",
            FIX,
        ),
        Ok(scope) => Check::ok(NAME, format!("ptrace_scope is {scope}")),
        Err(_) => Check::warn(
            NAME,
            "this kernel has no Yama: any program of yours can read the memory of the programs that read secrets",
            "use a kernel with Yama where programs of yours are not to be trusted",
        ),
    }
}

pub(super) fn swap() -> Check {
    const NAME: &str = "swap";
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    match swaps.lines().skip(1).find_map(|line| line.split_whitespace().next()) {
        None => Check::ok(NAME, "there is none"),
        Some(first) => Check::warn(
            NAME,
            format!("swap is on ({first}): what programs read may be written to it"),
            "encrypt the swap, or turn it off",
        ),
    }
}

pub(super) fn broker(status: Result<Status>) -> Check {
    const NAME: &str = "broker";
    let status = match status {
        Ok(status) => status,
        Err(error) if connect::is_absent(&error) => {
            return Check::ok(NAME, "none runs; `kin run` starts it");
        }
        Err(error) => {
            let fix = error.hint.unwrap_or_else(|| "kin stop, then try again".into());
            return Check::fail(error.class, NAME, error.message, fix);
        }
    };
    let (broker, ours) = (status.broker, env!("CARGO_PKG_VERSION"));
    let up = duration::brief(broker.uptime_s);
    if broker.version != ours {
        let message = format!("pid {} is version {}, this is {ours}", broker.pid, broker.version);
        Check::warn(NAME, message, "kin stop: the next run starts this version")
    } else if !status.mount.mounted {
        let message = format!("pid {} runs, but its mount is gone", broker.pid);
        Check::fail(Class::Unreachable, NAME, message, "kin stop: the next run mounts again")
    } else {
        Check::ok(NAME, format!("pid {}, version {ours}, up {up}", broker.pid))
    }
}

/// Also gives the place of its identity, where there is a vault.
pub(super) fn vault(directories: &Directories) -> (Check, Option<KeyMethod>) {
    const NAME: &str = "vault";
    let left = keys::left_of_a_lost_vault(directories);
    if !left.is_empty() {
        let error = keys::key_exists(&left);
        return (Check::fail(Class::Locked, NAME, error.message, error.hint.unwrap_or_default()), None);
    }
    let there = vault::is_there(directories);
    let method = match there.and_then(|there| Ok(keys::method(directories)?.filter(|_| there))) {
        Ok(method) => method,
        Err(error) => {
            let fix = error.hint.unwrap_or_else(|| "`kin restore BACKUP` puts one in its place".into());
            return (Check::fail(error.class, NAME, error.message, fix), None);
        }
    };
    let check = match &method {
        None if directories.vault_file().exists() => {
            let message =
                format!("nothing says where its key is: {} is missing", directories.key_config().display());
            Check::fail(Class::Locked, NAME, message, "put a copy of it back")
        }
        None => {
            Check::ok(NAME, "there is none yet; `kin init` makes it, `kin restore BACKUP` brings one back")
        }
        Some(kept @ KeyMethod::Keyring) => {
            let message = format!("{}; {}", key::protects(kept), key::warning(kept).unwrap_or_default());
            Check::warn(
                NAME,
                message,
                "kin rekey --passphrase-stdin, where programs of yours are not to be trusted",
            )
        }
        Some(kept @ (KeyMethod::Passphrase | KeyMethod::Given)) => Check::ok(NAME, key::protects(kept)),
        Some(kept @ KeyMethod::KeyFile { path }) => match path.metadata() {
            Ok(_) => Check::ok(NAME, key::protects(kept)),
            Err(error) => {
                let message = format!("its key file {}: {}", path.display(), describe(&error));
                Check::fail(Class::Locked, NAME, message, "put a copy of the key file back")
            }
        },
    };
    (check, method)
}

/// Asks in a process of its own, because a keyring may wait for a person for ever. Where no vault `uses_it`
/// an absent keyring breaks nothing.
pub(super) fn keyring(uses_it: bool) -> Check {
    const NAME: &str = "keyring";
    let message = match probe(Path::new("/proc/self/exe")) {
        Ok(true) => return Check::ok(NAME, "the Secret Service answers"),
        Ok(false) => "the Secret Service does not answer".to_owned(),
        Err(error) => format!("could not ask: {}", describe(&error)),
    };
    match uses_it {
        true => {
            let fix = "start and unlock gnome-keyring, KeePassXC or KWallet in this session";
            Check::fail(Class::Locked, NAME, message, fix)
        }
        false => {
            let fix = "start and unlock gnome-keyring, KeePassXC or KWallet, or use a passphrase";
            Check::warn(NAME, format!("{message}, so no vault can have its key there"), fix)
        }
    }
}

fn probe(program: &Path) -> io::Result<bool> {
    let mut child = Command::new(program)
        .args(["keyring-agent", "probe"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + KEYRING_DEADLINE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::State;
    use super::*;

    #[test]
    fn kernel_releases_are_compared_by_number() {
        assert_eq!(version("6.18.44-fc-v595"), Some((6, 18)));
        assert_eq!(version("6.1.0-31-amd64"), Some((6, 1)));
        assert_eq!(version("7.0"), Some((7, 0)));
        assert_eq!(version("unknown"), None);
        assert!(version("6.9") < version("6.13"));
    }

    #[test]
    fn an_open_directory_fails_with_the_command_that_closes_it() {
        let home = tempfile::tempdir().unwrap();
        let under = |name: &str| home.path().join(name);
        let dirs = Directories {
            config: under("config"),
            data: under("data"),
            state: under("state"),
            runtime: under("run"),
        };
        assert_eq!(directories(&dirs).state, State::Ok);
        fs::create_dir(&dirs.runtime).unwrap();
        fs::set_permissions(&dirs.runtime, fs::Permissions::from_mode(0o755)).unwrap();
        let check = directories(&dirs);
        assert_eq!((check.state, check.class), (State::Fail, Class::Unsafe));
        assert_eq!(check.fix, Some(format!("chmod 700 {}", dirs.runtime.display())));
    }

    #[test]
    fn no_vault_is_no_fault_and_a_vault_without_its_key_file_is_one() {
        let home = tempfile::tempdir().unwrap();
        let directories = Directories::from_variables(&|name| {
            (name == "KIN_HOME").then(|| home.path().as_os_str().to_owned())
        })
        .unwrap();
        assert_eq!(vault(&directories).0.state, State::Ok);
        let path = home.path().join("key");
        let method = KeyMethod::KeyFile { path: path.clone() };
        directories.create().unwrap();
        keys::create(&directories, &method, None, None).unwrap();
        assert_eq!(vault(&directories).0.state, State::Fail, "a key without its vault");
        private(&directories.vault_file(), "age-encryption.org/v1\n");
        let (check, told) = vault(&directories);
        assert_eq!((check.state, told), (State::Ok, Some(method)));
        fs::remove_file(&path).unwrap();
        let check = vault(&directories).0;
        assert_eq!((check.state, check.class), (State::Fail, Class::Locked));
        assert!(check.message.contains(&path.display().to_string()), "{}", check.message);
    }

    fn private(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn a_vault_that_would_not_be_opened_is_a_fault_that_says_why() {
        let home = tempfile::tempdir().unwrap();
        let directories = Directories::from_variables(&|name| {
            (name == "KIN_HOME").then(|| home.path().as_os_str().to_owned())
        })
        .unwrap();
        directories.create().unwrap();
        let method = KeyMethod::KeyFile { path: home.path().join("key") };
        keys::create(&directories, &method, None, None).unwrap();
        let (file, elsewhere) = (directories.vault_file(), home.path().join("elsewhere"));
        private(&elsewhere, "age-encryption.org/v1\n");
        let fails = |words: &str| {
            let check = vault(&directories).0;
            assert!(check.state == State::Fail && check.message.contains(words), "{words}: {check:?}");
            check
        };
        assert!(fails("key.json").fix.is_some_and(|fix| fix.contains("kin restore")));
        std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
        fails("vault.age");
        fs::remove_file(&file).unwrap();
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
        fails("regular file");
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        fails("regular file");
        fs::remove_dir(&file).unwrap();
        private(&file, "no vault");
        fails("no file of a vault's");
        private(&file, "age-encryption.org/v1\n");
        assert_eq!(vault(&directories).0.state, State::Ok);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(fails("0644").fix.is_some_and(|fix| fix.starts_with("chmod 600")));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::remove_file(directories.key_config()).unwrap();
        fails("key.json is missing");
        fs::remove_file(&file).unwrap();
        private(&directories.vault_anchor(), "x");
        fails("vault.anchor");
    }

    #[test]
    fn a_keyring_that_does_not_answer_is_given_up_on() {
        assert!(probe(Path::new("true")).unwrap());
        assert!(!probe(Path::new("false")).unwrap());
        assert!(probe(Path::new("/nonexistent")).is_err());
    }
}
