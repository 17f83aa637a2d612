//! Is this a session bus that may be asked for an identity? Only a Unix socket whose listener is the user's own: a
//! D-Bus address can also name a program to start (`unixexec:`, `launch:`) or another machine (`tcp:`).

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::sys::error::describe;
use crate::sys::paths;

/// Where a session says where its bus is.
pub(crate) const VARIABLE: &str = "DBUS_SESSION_BUS_ADDRESS";

/// A socket that a bus may be at.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// A path.
    Path(PathBuf),
    /// A name in the abstract namespace (unix(7)).
    Abstract(Vec<u8>),
}

/// `address` as it is passed on: one Unix socket, and nothing else of it but that; `None` where it is none. It says
/// nothing about who listens there.
pub(crate) fn plain(address: &str) -> Option<String> {
    parse(address).map(|place| written(&place))
}

/// The same, once it is certain that nobody but the user listens there. A path where nothing is passes: nobody else
/// can put something there.
///
/// # Errors
/// Why it may not be asked.
pub(crate) fn checked(address: &str) -> Result<String, String> {
    let place = parse(address).ok_or_else(|| {
        let transport = address.split(':').next().unwrap_or_default();
        let shown: String = transport.chars().take(32).flat_map(char::escape_default).collect();
        format!("its address begins with \"{shown}\", and kin takes only one Unix socket (unix:path=…)")
    })?;
    match &place {
        Place::Path(path) => check_path(path)?,
        Place::Abstract(name) => check_abstract(name)?,
    }
    Ok(written(&place))
}

fn check_path(path: &Path) -> Result<(), String> {
    let parent = path.parent().ok_or("its address names no socket")?;
    paths::check_way(parent).map_err(|error| error.message)?;
    match path.symlink_metadata() {
        Ok(meta) if !meta.file_type().is_socket() => Err(format!("{} is no socket", path.display())),
        Ok(meta) if !is_ours(meta.uid()) => Err(format!("{} belongs to uid {}", path.display(), meta.uid())),
        _ => Ok(()),
    }
}

/// Anybody may take such a name once it is free, so who has it is asked: a bus of another user is refused, though
/// not one that takes the name within the moment after.
fn check_abstract(name: &[u8]) -> Result<(), String> {
    let connected = SocketAddr::from_abstract_name(name).and_then(|at| UnixStream::connect_addr(&at));
    let stream = connected.map_err(|error| describe(&error))?;
    let listener = getsockopt(&stream, PeerCredentials).map_err(|errno| errno.desc().to_owned())?;
    match is_ours(listener.uid()) {
        true => Ok(()),
        false => Err(format!("uid {} listens there", listener.uid())),
    }
}

fn is_ours(uid: u32) -> bool {
    uid == nix::unistd::geteuid().as_raw()
}

/// The D-Bus specification, "Server Addresses" and "Unix Domain Sockets": keys and values, of which one names the
/// socket; `guid` says which bus it should be.
fn parse(address: &str) -> Option<Place> {
    let mut place = None;
    for pair in address.strip_prefix("unix:")?.split(',') {
        let (key, value) = pair.split_once('=')?;
        let named = match key {
            "guid" => continue,
            "path" => Place::Path(Path::new(&OsString::from_vec(unescaped(value)?)).to_owned()),
            "abstract" => Place::Abstract(unescaped(value)?),
            _ => return None,
        };
        if place.replace(named).is_some() {
            return None;
        }
    }
    let is_one = match place.as_ref()? {
        Place::Path(path) => path.is_absolute() && path.file_name().is_some(),
        Place::Abstract(name) => !name.is_empty(),
    };
    place.filter(|_| is_one)
}

fn written(place: &Place) -> String {
    match place {
        Place::Path(path) => format!("unix:path={}", escaped(path.as_os_str().as_bytes())),
        Place::Abstract(name) => format!("unix:abstract={}", escaped(name)),
    }
}

/// Bytes that stand for themselves.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_/.*".contains(&byte)
}

fn escaped(bytes: &[u8]) -> String {
    let one = |byte: &u8| match is_plain(*byte) {
        true => char::from(*byte).to_string(),
        false => format!("%{byte:02x}"),
    };
    bytes.iter().map(one).collect()
}

/// `None` where a byte should have been escaped, as `;` between two addresses, or is the end of a C string.
fn unescaped(value: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = value.as_bytes();
    while let [first, after @ ..] = rest {
        let (byte, later) = match (first, after) {
            (b'%', [high, low, later @ ..]) => {
                let digit = |digit: &u8| char::from(*digit).to_digit(16);
                (u8::try_from(digit(high)? * 16 + digit(low)?).ok()?, later)
            }
            // What else is not in the specification's list, but in addresses that are in use.
            (b'%' | b';' | b':', _) => return None,
            _ => (*first, after),
        };
        if byte == 0 {
            return None;
        }
        bytes.push(byte);
        rest = later;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn j16_an_address_is_one_unix_socket_or_none() {
        for (address, passed_on) in [
            ("unix:path=/run/user/1000/bus", "unix:path=/run/user/1000/bus"),
            ("unix:path=/tmp/a%20b,guid=0123", "unix:path=/tmp/a%20b"),
            ("unix:path=/tmp/a b", "unix:path=/tmp/a%20b"),
            ("unix:guid=0123,path=/tmp/x", "unix:path=/tmp/x"),
            ("unix:abstract=/tmp/dbus-x,guid=1", "unix:abstract=/tmp/dbus-x"),
        ] {
            assert_eq!(plain(address).as_deref(), Some(passed_on), "{address}");
            assert_eq!(plain(passed_on).as_deref(), Some(passed_on));
        }
        for bad in [
            "",
            "nonsense",
            "unixexec:path=/tmp/evil",
            "launch:",
            "autolaunch:",
            "tcp:host=127.0.0.1,port=1",
            "nonce-tcp:host=h,port=1,noncefile=/x",
            "vsock:cid=1,port=1",
            "systemd:",
            "unix:",
            "unix:path=",
            "unix:path=relative",
            "unix:path=/",
            "unix:path=/a,path=/b",
            "unix:path=/a,abstract=b",
            "unix:path=/a;unixexec:path=/evil",
            "unixexec:path=/evil;unix:path=/a",
            "unix:path=/a,argv0=x",
            "unix:tmpdir=/tmp",
            "unix:dir=/tmp",
            "unix:runtime=yes",
            "unix:path=/a%00b",
            "unix:path=/a%2",
            "unix:abstract=",
            "UNIX:path=/a",
            " unix:path=/a",
        ] {
            assert_eq!(plain(bad), None, "{bad}");
            assert!(checked(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn j16_a_bus_is_asked_where_nobody_else_can_listen() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| format!("unix:path={}", home.path().join(name).display());
        let _bus = UnixListener::bind(home.path().join("bus")).unwrap();
        assert_eq!(checked(&at("bus")), Ok(at("bus")));
        assert_eq!(checked(&at("absent")), Ok(at("absent")));
        std::fs::write(home.path().join("file"), "").unwrap();
        assert!(checked(&at("file")).unwrap_err().contains("no socket"));
        std::os::unix::fs::symlink("bus", home.path().join("link")).unwrap();
        assert!(checked(&at("link")).unwrap_err().contains("no socket"));
        let name = format!("kin-test-{}", std::process::id());
        let address = format!("unix:abstract={name}");
        assert!(checked(&address).is_err(), "nobody listens");
        let _listens = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        assert_eq!(checked(&address), Ok(address));
    }
}
