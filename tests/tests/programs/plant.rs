//! What do the programs read? Secrets, and what has to be beside them.

use std::any::Any;
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::time::Duration;

use kin_tests::{World, canary, eventually, process};
use nix::sys::signal::Signal;

use crate::stage::Planted;
use crate::web::Web;

/// A pair for TLS: the key is printed, `$PLACE/cert.pem` is its certificate for localhost and `me`.
pub(crate) const PAIR: &str = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
    -subj /CN=me -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout - -out $PLACE/cert.pem 2>/dev/null";

/// What a script prints in the world, outside every tree, where nothing is secret yet.
pub(crate) fn made(world: &World, script: &str) -> Vec<u8> {
    let path = "PATH=$PATH:$(echo /usr/lib/postgresql/*/bin)\n";
    let command = world.other("bash", ["-ec".into(), format!("{path}{script}")]);
    command.env("PLACE", world.path("place")).run().exits(0).stdout
}

/// `before` + a canary + `after`; the canary is the word.
pub(crate) fn text(world: &World, before: &str, after: &str) -> Planted {
    let word = world.canary();
    Planted { value: format!("{before}{word}{after}").into_bytes(), word, ..Planted::default() }
}

/// Some pages of text.
pub(crate) fn pages(world: &World) -> Planted {
    let lines: String = (0..400).map(|line| format!("{line} {}\n", canary::canary())).collect();
    let word = world.canary();
    Planted { value: format!("{lines}{word}\n").into_bytes(), word, ..Planted::default() }
}

/// A private key in OpenSSH's form; the public one is the word.
pub(crate) fn ssh_key(world: &World) -> Planted {
    let value = made(world, "cd $PLACE; ssh-keygen -q -t ed25519 -N '' -C '' -f seed; cat seed; rm seed");
    let word = String::from_utf8_lossy(&made(world, "cat $PLACE/seed.pub")).trim().to_owned();
    Planted { value, word, ..Planted::default() }
}

/// A private key for TLS, with its certificate beside it, and a port where nobody listens.
pub(crate) fn tls_key(world: &World) -> Planted {
    Planted { value: made(world, PAIR), port: free_port(), ..Planted::default() }
}

/// What a web server on `port` is to be logged in with: `value` makes the file of the port and a password, `login` the
/// Authorization of the password.
pub(crate) fn web(world: &World, value: fn(u16, &str) -> String, login: fn(&str) -> String) -> Planted {
    let word = world.canary();
    let web = Web::of(login(&word));
    let (value, port) = (value(web.port, &word).into_bytes(), web.port);
    Planted { value, word, port, server: Some(Box::new(web)) }
}

/// A port of the loopback that was free just now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|bound| bound.local_addr()).expect("a port").port()
}

/// A server that ends with the row.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        process::signal(self.0.id(), Signal::SIGQUIT);
        let _ = self.0.wait();
    }
}

const INITDB: &str =
    "cd $PLACE; initdb -N -U me -A scram-sha-256 --pwfile password -D pg >/dev/null; rm password
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
    -keyout pg/server.key -out pg/server.crt 2>/dev/null
chmod 0600 pg/server.key
echo 'hostssl template1 me 127.0.0.1/32 cert' >pg/pg_hba.conf
echo 'host all me 127.0.0.1/32 scram-sha-256' >>pg/pg_hba.conf";

const POSTGRES: &str = "exec $(echo /usr/lib/postgresql/*/bin)/postgres -D $PLACE/pg -k $PLACE -p $0 -F -c ssl=on \
    -c listen_addresses=127.0.0.1 -c ssl_ca_file=$PLACE/cert.pem -c shared_buffers=1MB";

/// A PostgreSQL server outside every tree: `me` logs in with this password, or to template1 with the key of
/// `$PLACE/cert.pem`. Its port, and what ends it.
fn postgres(world: &World, password: &str) -> (u16, Box<dyn Any>) {
    let port = free_port();
    std::fs::write(world.path("place/password"), password).expect("the password");
    made(world, INITDB);
    let mut command = world.program("bash");
    command.args(["-c", POSTGRES, &port.to_string()]).env("PLACE", world.path("place"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Server(command.spawn().expect("PostgreSQL"));
    eventually("PostgreSQL answers", Duration::from_secs(20), || {
        let mut asked = world.program("pg_isready");
        asked.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]);
        asked.status().is_ok_and(|status| status.success())
    });
    (port, Box::new(server))
}

/// A line of `.pgpass`, and the server that it is for.
pub(crate) fn pgpass(world: &World) -> Planted {
    made(world, PAIR);
    let word = world.canary();
    let (port, server) = postgres(world, &word);
    let value = format!("127.0.0.1:{port}:*:me:{word}\n").into_bytes();
    Planted { value, word, port, server: Some(server) }
}

/// A client's key, and the server that knows its certificate.
pub(crate) fn client_key(world: &World) -> Planted {
    let value = made(world, PAIR);
    let (port, server) = postgres(world, &world.canary());
    Planted { value, word: "accepted".into(), port, server: Some(server) }
}
