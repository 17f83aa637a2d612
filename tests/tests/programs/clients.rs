//! Do clients log in with what they read from the mount?

use kin_tests::canary::encode_standard;

use crate::plant::{client_key, pgpass, text, web};
use crate::stage::{Row, show};

rows! { show =>
    fn git_credential_store_reads_its_store() {
        Row {
            program: "git credential-store",
            version: "git --version",
            reader: "git",
            real: "~/.git-credentials",
            plant: |world| text(world, "https://me:", "@git.example.com\n"),
            act: |stage| {
                stage.word(
                    "printf 'protocol=https\\nhost=git.example.com\\n\\n' |
                     GIT_TERMINAL_PROMPT=0 git -c credential.helper= -c credential.helper=\"store --file $secret\" \\
                         credential fill | sed -n s/^password=//p",
                )
            },
            shows: "the password that it answers",
        }
    }

    fn curl_logs_in_with_a_netrc() {
        Row {
            program: "curl --netrc-file",
            version: "curl --version",
            reader: "curl",
            real: "~/.netrc",
            plant: |world| {
                let basic = |word: &str| format!("Basic {}", encode_standard(format!("me:{word}").as_bytes()));
                web(world, |_, word| format!("machine 127.0.0.1 login me password {word}\n"), basic)
            },
            act: |stage| {
                let ask = "curl -sS --max-time 5 --netrc-file $secret http://127.0.0.1:$PORT/";
                stage.says(r#"{"username":"accepted"}"#, ask)
            },
            shows: "a server accepts the login",
        }
    }

    fn psql_logs_in_with_a_pgpass_file() {
        Row {
            program: "psql, `.pgpass`",
            version: "psql --version",
            reader: "psql",
            real: "~/.pgpass",
            plant: pgpass,
            act: |stage| {
                let ask = "PGPASSFILE=$secret psql -w -h 127.0.0.1 -p $PORT -U me -Atc \"select 'accepted'\" postgres";
                stage.says("accepted", ask)
            },
            shows: "PostgreSQL accepts the login; its check of the mode passes",
        }
    }

    fn psql_logs_in_with_a_client_key() {
        Row {
            program: "psql, `sslkey`",
            version: "psql --version",
            reader: "psql",
            real: "~/.postgresql/postgresql.key",
            plant: client_key,
            act: |stage| {
                stage.says(
                    "accepted",
                    "psql -w -Atc \"select 'accepted'\" \"host=127.0.0.1 port=$PORT user=me dbname=template1 \
                     sslmode=require sslcert=$PLACE/cert.pem sslkey=$secret\"",
                )
            },
            shows: "PostgreSQL accepts the certificate; the check of the mode passes",
        }
    }

    fn mysql_reads_a_defaults_file() {
        Row {
            program: "mysql --defaults-file",
            version: "mysql --version | sed 's/.*Distrib//'",
            reader: "mariadb",
            real: "~/.my.cnf",
            plant: |world| text(world, "[client]\npassword=", "\n"),
            act: |stage| {
                stage.word("mysql --defaults-file=$secret --print-defaults | sed -n 's/.*--password=//p'")
            },
            shows: "the password that it would log in with",
        }
    }

    fn aws_reads_its_credentials() {
        Row {
            program: "aws",
            version: "aws --version",
            reader: "python3",
            real: "~/.aws/credentials",
            plant: |world| text(world, "[default]\naws_access_key_id = AKIAKIN\naws_secret_access_key = ", "\n"),
            act: |stage| {
                let ask = "AWS_SHARED_CREDENTIALS_FILE=$secret aws configure get aws_secret_access_key";
                stage.word(ask)
            },
            shows: "the key that it would sign with",
        }
    }

    fn npm_logs_in_with_its_npmrc() {
        Row {
            program: "npm",
            version: "npm --version",
            reader: "node",
            real: "~/.npmrc",
            plant: |world| {
                web(world, |port, word| format!("//127.0.0.1:{port}/:_authToken={word}\n"), |word| {
                    format!("Bearer {word}")
                })
            },
            act: |stage| {
                stage.says(
                    "accepted",
                    "npm whoami --userconfig $secret --registry http://127.0.0.1:$PORT/ --no-update-notifier",
                )
            },
            shows: "a registry accepts the token",
        }
    }

    fn docker_compose_reads_its_env_file() {
        Row {
            program: "docker-compose",
            version: "docker-compose --version",
            reader: "python3",
            real: ".env",
            plant: |world| text(world, "TOKEN=", "\n"),
            act: |stage| {
                stage.word(
                    "cd $dir; printf 'version: \"3\"\\nservices:\\n  a:\\n    image: $TOKEN\\n' >compose.yml
                     docker-compose -f compose.yml --env-file $secret config | sed -n 's/ *image: //p'",
                )
            },
            shows: "the value that it fills in",
        }
    }
}
