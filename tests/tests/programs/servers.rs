//! Do servers start with what they read from the mount, and take a new version when they are told to?

use crate::plant::{PAIR, free_port, made, text, tls_key};
use crate::stage::{Planted, Row, Shown, Stage, show};

/// nginx with what `$server` says, and `$main` outside of it.
pub(crate) const NGINX: &str = r#"
cat >$dir/nginx.conf <<END
$main daemon off; master_process on; worker_processes 1; pid $dir/pid; error_log stderr;
events { worker_connections 16; }
http {
    access_log off; client_body_temp_path $dir/b; proxy_temp_path $dir/p; fastcgi_temp_path $dir/f;
    uwsgi_temp_path $dir/u; scgi_temp_path $dir/s;
    server { $server }
}
END
serves nginx -e stderr -p $dir -c $dir/nginx.conf
"#;

/// nginx with a TLS key, whose certificate is `$PLACE/cert.pem`.
const TLS: &str = r#"server="listen 127.0.0.1:$PORT ssl; ssl_certificate $PLACE/cert.pem; ssl_certificate_key $secret;
    location / { return 200 accepted; }""#;

const ASK: &str = "ask() { curl -sS --max-time 2 --cacert $PLACE/cert.pem https://localhost:$PORT/; }\n";

/// nginx with a file of users, which a worker reads at each request.
pub(crate) const USERS: &str = r#"server="listen 127.0.0.1:$PORT; root $dir/www; auth_basic kin; auth_basic_user_file $secret;"
mkdir $dir/www; echo accepted >$dir/www/index.html"#;

pub(crate) const ASK_AS_ME: &str =
    "ask() { curl -sSf --max-time 2 -u me:$(cat $PLACE/password) http://127.0.0.1:$PORT/; }\n";

/// PostgreSQL with a TLS key, for whoever verifies its certificate.
const POSTGRES: &str = r#"initdb -N -U me -A trust -D $dir/pg >/dev/null
serves postgres -D $dir/pg -k $dir -p $PORT -F -c listen_addresses=127.0.0.1 -c shared_buffers=1MB \
    -c ssl=on -c ssl_cert_file=$PLACE/cert.pem -c ssl_key_file=$secret
ask() { psql -Atc "select 'accepted'" \
    "host=127.0.0.1 port=$PORT user=me dbname=postgres sslmode=verify-ca sslrootcert=$PLACE/cert.pem"; }
waits ask; ask"#;

/// A new database whose superuser has the password of the file.
const INITDB: &str = r#"initdb -N -U me -A scram-sha-256 --pwfile $secret -D $dir/pg >/dev/null
serves postgres -D $dir/pg -k $dir -p $PORT -F -c listen_addresses=127.0.0.1 -c shared_buffers=1MB
ask() { psql -w -Atc "select 'accepted'" "host=127.0.0.1 port=$PORT user=me dbname=postgres"; }
waits pg_isready -h 127.0.0.1 -p $PORT; ! ask 2>/dev/null
export PGPASSWORD=$(cat $secret); ask"#;

/// The server goes on after the script.
const LASTING: &str = "\nserves() { timeout 18 \"$@\" >$dir/log 2>&1 & pid=$!; echo $pid >$dir/served; }\n";

/// nginx has the first key, then a second one with its certificate is there, and it is told to reload.
fn reloads(stage: &Stage<'_>) -> Shown {
    stage.says("accepted", &format!("{TLS}{LASTING}{NGINX}{ASK} waits ask; ask"))?;
    stage.rotate(PAIR);
    // For a moment the old worker answers beside the new one: the answer that verified is the one that counts.
    let reload = "pid=$(cat $dir/served); trap 'kill $pid' EXIT; ! ask 2>/dev/null
        answer() { ask >$dir/answer; }
        kill -HUP $(cat $dir/pid); waits answer; cat $dir/answer";
    stage.says("accepted", &format!("{ASK}{reload}"))
}

pub(crate) fn users(world: &kin_tests::World) -> Planted {
    let planted = text(world, "", "");
    std::fs::write(world.path("place/password"), &planted.word).expect("a file");
    let value = made(world, "printf 'me:%s\\n' \"$(openssl passwd -apr1 -in $PLACE/password)\"");
    Planted { value, port: free_port(), ..planted }
}

rows! { show =>
    fn nginx_serves_tls_with_its_key() {
        Row {
            program: "nginx, `ssl_certificate_key`",
            version: "nginx -v",
            reader: "nginx",
            real: "tls.key",
            plant: tls_key,
            act: |stage| stage.says("accepted", &format!("{TLS}{NGINX}{ASK} waits ask; ask")),
            shows: "a handshake that verifies",
        }
    }

    fn nginx_takes_a_new_key_when_it_reloads() {
        Row {
            program: "nginx, `ssl_certificate_key`, reloaded",
            version: "nginx -v",
            reader: "nginx",
            real: "tls.key",
            plant: tls_key,
            act: reloads,
            shows: "a handshake that verifies with the certificate of the new version, and did not before",
        }
    }

    fn nginx_workers_read_a_file_of_users() {
        Row {
            program: "nginx, auth_basic_user_file",
            version: "nginx -v",
            reader: "nginx",
            real: "htpasswd",
            plant: users,
            act: |stage| {
                stage.says("accepted", &format!("{USERS}{NGINX}{ASK_AS_ME}waits ask; ask"))
            },
            shows: "a login accepted; the worker opens it, at each request",
        }
    }

    fn postgres_serves_tls_with_its_key() {
        Row {
            program: "PostgreSQL, `ssl_key_file`",
            version: "postgres --version",
            reader: "postgres",
            real: "server.key",
            plant: tls_key,
            act: |stage| stage.says("accepted", POSTGRES),
            shows: "a handshake that verifies; its check of owner and mode passes",
        }
    }

    fn initdb_takes_a_password_file() {
        Row {
            program: "initdb --pwfile",
            version: "initdb --version",
            reader: "initdb",
            real: "password",
            plant: |world| Planted { port: free_port(), ..text(world, "", "\n") },
            act: |stage| stage.says("accepted", INITDB),
            shows: "the new server accepts a login with it, and none without",
        }
    }

    fn redis_includes_a_file() {
        Row {
            program: "redis-server, `include`",
            version: "redis-server --version",
            reader: "redis-",
            real: "secret.conf",
            plant: |world| text(world, "requirepass ", "\n"),
            act: |stage| {
                stage.says(
                    "PONG",
                    "printf '%s\n' 'port 0' \"unixsocket $dir/s\" \"include $secret\" >$dir/redis.conf
                     serves redis-server $dir/redis.conf; waits redis-cli -s $dir/s ping
                     [ \"$(redis-cli -s $dir/s ping)\" = 'NOAUTH Authentication required.' ]
                     REDISCLI_AUTH=$(cut -d' ' -f2 $secret) redis-cli -s $dir/s ping",
                )
            },
            shows: "a login accepted with the password, and refused without",
        }
    }

    fn redis_takes_a_file_of_users() {
        Row {
            program: "redis-server, `aclfile`",
            version: "redis-server --version",
            reader: "redis-",
            real: "users.acl",
            plant: |world| text(world, "user default off\nuser me on ~* +@all >", "\n"),
            act: |stage| {
                stage.says(
                    "me",
                    "serves redis-server --port 0 --unixsocket $dir/s --aclfile $secret; waits redis-cli -s $dir/s ping
                     REDISCLI_AUTH=$(sed -n 's/.*>//p' $secret) redis-cli -s $dir/s --user me acl whoami",
                )
            },
            shows: "the user who logs in",
        }
    }
}
