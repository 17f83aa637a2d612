//! Do the libraries by which programs read their configuration find it in the mount?

use crate::plant::{made, text};
use crate::stage::{Planted, Row, show};

/// A variable of a `.env` file.
fn variable(world: &kin_tests::World) -> Planted {
    text(world, "OTHER=1\nTOKEN=", "\n")
}

pub(crate) fn bare(world: &kin_tests::World) -> Planted {
    text(world, "", "")
}

/// A keystore whose one entry has the word for a name.
fn keystore(world: &kin_tests::World) -> Planted {
    let word = format!("entry{}", world.canary().to_lowercase());
    let make = format!(
        "cd $PLACE; keytool -genkeypair -keyalg EC -dname CN=me -alias {word} -storepass changeit \
         -keystore store >/dev/null 2>&1; cat store; rm store"
    );
    Planted { value: made(world, &make), word, ..Planted::default() }
}

/// Sets NAME from the file that NAME_FILE names, as entrypoints of Docker's official images do: both set is an
/// error, the value is exported, the path is not.
const FILE_ENV: &str = r#"
from_file() {
    local name=$1 file_name=$1_FILE
    local file=${!file_name:-}
    if [ -n "$file" ]; then
        [ -z "${!name:-}" ] || { echo "$name and $file_name are both set" >&2; return 1; }
        local value; value=$(<"$file")
        export "$name=$value"
    fi
    unset "$file_name"
}
export TOKEN_FILE=$secret; from_file TOKEN
bash -c 'printf %s "$TOKEN$TOKEN_FILE"'"#;

pub(crate) const PYDANTIC: &str = "python '
import os, sys, pydantic_settings
class Settings(pydantic_settings.BaseSettings):
    token: str
print(Settings(_secrets_dir=os.path.dirname(sys.argv[1])).token)'";

rows! { show =>
    fn python_dotenv_reads_an_env_file() {
        Row {
            program: "python-dotenv",
            version: "python 'import importlib.metadata as m; print(m.version(\"python-dotenv\"))'",
            reader: "python3",
            real: ".env",
            plant: variable,
            act: |stage| {
                stage.word("python 'import dotenv, sys; print(dotenv.dotenv_values(sys.argv[1])[\"TOKEN\"])'")
            },
            shows: "the value of a variable",
        }
    }

    fn node_dotenv_reads_an_env_file() {
        Row {
            program: "dotenv (npm)",
            version: "node -p 'require(process.env.PACKAGES + \"/node_modules/dotenv/package.json\").version'",
            reader: "node",
            real: ".env",
            plant: variable,
            act: |stage| {
                stage.word(
                    "NODE_PATH=$PACKAGES/node_modules node -e '
                         const {parsed, error} = require(\"dotenv\").config({path: process.argv[1], quiet: true})
                         if (error) throw error
                         console.log(parsed.TOKEN)' $secret",
                )
            },
            shows: "the value of a variable",
        }
    }

    fn node_reads_an_env_file() {
        Row {
            program: "node --env-file",
            version: "node --version",
            reader: "node",
            real: ".env",
            plant: variable,
            act: |stage| stage.word("node --env-file=$secret -p process.env.TOKEN"),
            shows: "the value of a variable",
        }
    }

    fn bash_sources_an_env_file() {
        Row {
            program: "bash `.`",
            version: "bash --version",
            reader: "bash",
            real: ".env",
            plant: variable,
            act: |stage| stage.word("(. $secret; echo $TOKEN)"),
            shows: "the value of a variable",
        }
    }

    fn django_environ_reads_a_file_variable() {
        Row {
            program: "django-environ, `TOKEN_FILE`",
            version: "python 'import environ; print(environ.__version__)'",
            reader: "python3",
            real: "token",
            plant: bare,
            act: |stage| {
                stage.word("TOKEN_FILE=$secret python 'import environ; print(environ.FileAwareEnv()(\"TOKEN\"))'")
            },
            shows: "the value of the setting",
        }
    }

    fn an_entrypoint_takes_a_file_variable() {
        Row {
            program: "an entrypoint's `TOKEN_FILE`, in bash",
            version: "bash --version",
            reader: "bash",
            real: "token",
            plant: bare,
            act: |stage| stage.word(FILE_ENV),
            shows: "the variable that a child has",
        }
    }

    fn systemd_creds_reads_a_credentials_directory() {
        Row {
            program: "systemd-creds, `$CREDENTIALS_DIRECTORY`",
            version: "systemd-creds --version",
            reader: "systemd-creds",
            real: "credentials/token",
            plant: bare,
            act: |stage| {
                stage.whole("CREDENTIALS_DIRECTORY=$(dirname $secret) systemd-creds --newline=no cat token")
            },
            shows: "the whole value",
        }
    }

    fn keytool_opens_a_keystore() {
        Row {
            program: "keytool",
            version: "java --version",
            reader: "keytool",
            real: "keystore",
            plant: keystore,
            act: |stage| {
                stage.word("keytool -list -keystore $secret -storepass changeit | sed -n 's/, .*PrivateKeyEntry.*//p'")
            },
            shows: "the name of its entry; it opens the file several times",
        }
    }
}

/// Rows of programs that refuse a symbolic link: refused.rs shows it.
pub(crate) mod without_link {
    use super::*;
    use crate::stage::show_without_link;

    rows! { show_without_link =>
        fn pydantic_settings_reads_a_directory_of_secrets() {
            Row {
                program: "pydantic-settings, `secrets_dir`",
                version: "python 'import pydantic_settings as p; print(p.__version__)'",
                reader: "python3",
                real: "secrets/token",
                plant: bare,
                act: |stage| {
                    stage.word(PYDANTIC)
                },
                shows: "the value of a field",
            }
        }
    }
}
