//! Does a program that writes its credential back do so where it may, and is that one new version?

use kin_tests::{Role, World, as_nobody};

use crate::page;
use crate::plant::{ssh_key, text};
use crate::stage::{self, Planted, Setting, Way, own_name};

/// A program that changes what it was given.
struct Written {
    program: &'static str,
    version: &'static str,
    real: &'static str,
    plant: fn(&World) -> Planted,
    script: &'static str,
    /// What is in the new version, and was in none before.
    holds: &'static str,
    /// How it goes about it.
    how: &'static str,
    /// The same at the real path of a private mount, where no other file can take the name.
    private: bool,
}

/// Holds a row to its promise; for root it is run again as nobody.
fn write(test: &str, row: &Written) {
    if as_nobody(own_name(test)) == Role::Done {
        return;
    }
    let ways = [(Way::Direct, true), (Way::Private, row.private)];
    let mut version = String::new();
    for (way, works) in ways {
        let setting = Setting::writable(row.real, row.plant);
        version = stage::version(&setting.world, row.program, row.version);
        let before = setting.stored();
        let (code, out, err) = setting.stage(way).run(row.script);
        let said = format!("{} {way:?}: code {code}: {}{err}", row.program, String::from_utf8_lossy(&out));
        let (after, versions) = (setting.stored(), setting.versions());
        assert_eq!((code == 0, versions), (works, if works { 2 } else { 1 }), "{said}");
        let holds = |value: &[u8]| String::from_utf8_lossy(value).contains(row.holds);
        assert!(!holds(&before) && holds(&after) == works, "{said}");
    }
    let private = if row.private { "yes" } else { "no" };
    page::hold(test, &[row.program, &version, "yes", private, row.how]);
}

fn profile(world: &World) -> Planted {
    text(world, "[default]\naws_secret_access_key = ", "\n")
}

rows! { write =>
    fn git_credential_store_writes_back() {
        Written {
            program: "git credential-store store",
            version: "git --version",
            real: "~/.git-credentials",
            plant: |world| text(world, "https://me:", "@git.example.com\n"),
            script: "printf 'protocol=https\nhost=h\nusername=u\npassword=p\n\n' |
                git credential-store --file $secret store",
            holds: "https://u:p@h",
            how: "a lock beside it that takes its name",
            private: true,
        }
    }

    fn aws_configure_writes_back() {
        Written {
            program: "aws configure set",
            version: "aws --version",
            real: "~/.aws/credentials",
            plant: profile,
            script: "AWS_SHARED_CREDENTIALS_FILE=$secret aws configure set aws_secret_access_key new-key",
            holds: "new-key",
            how: "in place",
            private: true,
        }
    }

    fn ssh_keygen_changes_a_passphrase() {
        Written {
            program: "ssh-keygen -p",
            version: "ssh -V",
            real: "~/.ssh/id_ed25519",
            plant: ssh_key,
            script: "ssh-keygen -q -p -P '' -N phrase -f $secret; ssh-keygen -y -P phrase -f $secret >&2",
            holds: "YmNyeXB0",
            how: "in place",
            private: true,
        }
    }

    fn sed_puts_another_file_in_its_place() {
        Written {
            program: "sed -i",
            version: "sed --version",
            real: ".env",
            plant: |world| text(world, "TOKEN=", "\n"),
            script: "sed -i 's/^TOKEN=.*/TOKEN=another/' $secret",
            holds: "TOKEN=another",
            how: "a file beside it that takes its name",
            private: false,
        }
    }

    fn vim_puts_a_new_file_in_its_place() {
        Written {
            program: "vim",
            version: "vim --version",
            real: "config/secret.txt",
            plant: |world| text(world, "old ", "\n"),
            script: "vim -es -u NONE -i NONE -c 's/old/new/' -c wq $secret",
            holds: "new ",
            how: "the old file renamed away meanwhile, and a new one in its place; at the real path in place",
            private: true,
        }
    }

    fn python_replaces_it() {
        Written {
            program: "os.replace (Python)",
            version: "/usr/bin/python3 --version",
            real: "token.json",
            plant: |world| text(world, "{\"token\": \"", "\"}\n"),
            script: "python 'import json, os, sys, tempfile; p = sys.argv[1]
fd, name = tempfile.mkstemp(dir=os.path.dirname(p))
with os.fdopen(fd, \"w\") as f: json.dump({\"token\": \"refreshed\"}, f)
os.replace(name, p)'",
            holds: "refreshed",
            how: "a file beside it that takes its name",
            private: false,
        }
    }
}
