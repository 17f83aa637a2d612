//! Which programs of the machine does the broker run, and with what environment? Only root's, and one of its own
//! making: whoever starts a broker has no say in what it executes.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::sys::bus;

/// Where a program is looked for by name, whoever asks: never in a directory of the user's.
pub const PATH: &str = "/usr/bin:/bin:/usr/sbin:/sbin";
/// Where fuser takes the program from, instead of looking for it in PATH.
const FUSERMOUNT: &str = "FUSERMOUNT_PATH";
/// What tells a broker where things are, and how to identify readers. Nothing of it is executed or loaded.
const KEPT: [&str; 8] = [
    "HOME",
    "KIN_HOME",
    "KIN_IDENTITY",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "XDG_RUNTIME_DIR",
    "CREDENTIALS_DIRECTORY",
];

/// The environment of a broker that is started with these variables. What it makes of its own result is the same.
pub fn environment(get: &dyn Fn(&str) -> Option<OsString>) -> Vec<(OsString, OsString)> {
    let named = |name: &str, value: OsString| (OsString::from(name), value);
    let kept = KEPT.into_iter().filter_map(|name| Some(named(name, get(name)?)));
    let bus = get(bus::VARIABLE).and_then(|address| bus::plain(address.to_str()?));
    let missing = || PathBuf::from("/usr/bin/fusermount3");
    let fixed = [
        named("PATH", PATH.into()),
        // Where there is none, not another one that happens to be in PATH.
        named(FUSERMOUNT, fusermount().unwrap_or_else(missing).into()),
    ];
    kept.chain(bus.map(|address| named(bus::VARIABLE, address.into()))).chain(fixed).collect()
}

/// The system's fusermount3, by its real path; `None` where there is none that only root could have put there.
pub fn fusermount() -> Option<PathBuf> {
    /// The last three are those of NixOS and Guix System, and what was built by hand.
    const DIRECTORIES: [&str; 7] = [
        "/usr/bin",
        "/bin",
        "/usr/sbin",
        "/sbin",
        "/run/wrappers/bin",
        "/run/privileged/bin",
        "/usr/local/bin",
    ];
    let named = |name: &'static str| DIRECTORIES.iter().map(move |directory| Path::new(directory).join(name));
    named("fusermount3").chain(named("fusermount")).find_map(|path| program_of_root(&path))
}

/// The program at `path` with links resolved, where it and every directory above it is root's and nobody else may
/// write it. Who owns `/` is as good as root: in a user namespace that has no root, nobody (65534) does.
fn program_of_root(path: &Path) -> Option<PathBuf> {
    let real = path.canonicalize().ok()?;
    let top = Path::new("/").metadata().ok()?.uid();
    let only_roots = |path: &Path| {
        path.symlink_metadata().is_ok_and(|meta| [0, top].contains(&meta.uid()) && meta.mode() & 0o022 == 0)
    };
    let program = real.metadata().ok().filter(|meta| meta.is_file() && meta.mode() & 0o111 != 0);
    (program.is_some() && real.ancestors().all(only_roots)).then_some(real)
}

/// Whether these variables, in any order, are what [`environment`] makes of them.
pub fn is_own(mut variables: Vec<(OsString, OsString)>) -> bool {
    let get = |name: &str| {
        let found = variables.iter().find(|(other, _)| other == OsStr::new(name));
        found.map(|(_, value)| value.clone())
    };
    let mut own = environment(&get);
    own.sort();
    variables.sort();
    own == variables
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn j16_a_broker_has_an_environment_of_its_own_making() {
        let hostile = [
            ("HOME", "/home/me"),
            ("KIN_HOME", "/home/me/kin"),
            ("PATH", "/home/me/node_modules/.bin:/usr/bin"),
            ("FUSERMOUNT_PATH", "/home/me/evil"),
            ("LD_PRELOAD", "/home/me/evil.so"),
            ("LD_LIBRARY_PATH", "/home/me"),
            ("GLIBC_TUNABLES", "glibc.malloc.check=3"),
            ("MALLOC_PERTURB_", "1"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("DATABASE_URL", "secret"),
            ("KIN_X", "1"),
            ("XDG_DATA_DIRS", "/home/me"),
            ("TMPDIR", "/home/me"),
            ("TZ", ":/home/me/zone"),
            ("RUST_LOG", "trace"),
            ("DBUS_SESSION_BUS_ADDRESS", "unixexec:path=/home/me/evil"),
        ];
        let given = |name: &str| hostile.iter().find(|(own, _)| *own == name).map(|(_, value)| value.into());
        let made = environment(&given);
        let names: Vec<&str> = made.iter().filter_map(|(name, _)| name.to_str()).collect();
        assert_eq!(names, ["HOME", "KIN_HOME", "PATH", "FUSERMOUNT_PATH"]);
        assert!(made.iter().all(|(_, value)| !value.to_string_lossy().contains("evil")), "{made:?}");
        assert_eq!(made[2].1, PATH);
        assert!(is_own(made.clone()));
        let hostile = hostile.map(|(name, value)| (name.into(), value.into()));
        assert!(!is_own(hostile.to_vec()));
        let twice = [made, vec![("PATH".into(), "/home/me".into())]].concat();
        assert!(!is_own(twice), "a variable that is there twice");
    }

    #[test]
    fn j16_a_program_that_another_could_have_put_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("fusermount3");
        std::fs::copy("/bin/true", &program).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        // /tmp is everybody's.
        assert_eq!(program_of_root(&program), None);
        let link = dir.path().join("link");
        symlink("/bin/true", &link).unwrap();
        let real = Path::new("/bin/true").canonicalize().unwrap();
        assert_eq!(program_of_root(&link), Some(real));
        assert_eq!(program_of_root(Path::new("/usr/bin")), None);
        assert_eq!(program_of_root(Path::new("/no/such")), None);
    }
}
