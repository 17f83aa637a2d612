//! What cannot work, and does it fail as the page says?

use kin_tests::{Role, World, as_nobody, needs_root};

use crate::page;
use crate::plant::{pages, text};
use crate::stage::{self, Planted, Setting, Way, own_name};
use crate::{languages, servers};

/// A program that does not get what it wants.
struct Refused {
    program: &'static str,
    version: &'static str,
    real: &'static str,
    plant: fn(&World) -> Planted,
    way: Way,
    /// Its parts.
    script: &'static [&'static str],
    /// What it says then.
    says: &'static str,
    why: &'static str,
}

/// Holds a row to its refusal; for root it is run again as nobody.
fn refuse(test: &str, row: &Refused) {
    if as_nobody(own_name(test)) == Role::Here {
        refuse_here(test, row);
    }
}

/// The same, for rows that only root can stage.
fn refuse_root(test: &str, row: &Refused) {
    needs_root();
    refuse_here(test, row);
}

fn refuse_here(test: &str, row: &Refused) {
    let setting = Setting::new(row.real, row.plant);
    let version = stage::version(&setting.world, row.program, row.version);
    let stage = setting.stage(row.way);
    let (code, out, err) = stage.run(&row.script.concat());
    let said = String::from_utf8_lossy(&out).into_owned() + &err;
    assert!(code != 0 && said.contains(row.says), "{}: code {code}: {said}", row.program);
    page::hold(test, &[row.program, &version, row.says, row.why]);
}

fn variable(world: &World) -> Planted {
    text(world, "TOKEN=", "\n")
}

rows! { refuse =>
    fn git_maps_what_it_compares() {
        Refused {
            program: "git diff --no-index",
            version: "git --version",
            real: "config/secret.txt",
            plant: pages,
            way: Way::Direct,
            script: &["git --no-pager diff --no-index /dev/null $secret\n:"],
            says: "Bus error",
            why: "it maps the file: a page of it would stay in the cache for everybody (SIGBUS)",
        }
    }

    fn a_shared_mapping_is_refused() {
        Refused {
            program: "mmap of Python",
            version: "/usr/bin/python3 --version",
            real: "config/secret.txt",
            plant: pages,
            way: Way::Direct,
            script: &["python 'import mmap, sys; f = open(sys.argv[1]); mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)'"],
            says: "No such device",
            why: "the same, for a shared mapping (ENODEV); programs that can read instead, as rg, do so",
        }
    }

    fn git_credential_store_cannot_write_back() {
        Refused {
            program: "git credential-store store",
            version: "git --version",
            real: "~/.git-credentials",
            plant: |world| text(world, "https://me:", "@git.example.com\n"),
            way: Way::Direct,
            script: &["printf 'protocol=https\\nhost=h\\nusername=u\\npassword=p\\n\\n' |
                git credential-store --file $secret store"],
            says: "Read-only file system",
            why: "the mount is read-only (EROFS), unless the binding is `writable`: then it does",
        }
    }

    fn aws_configure_cannot_write_back() {
        Refused {
            program: "aws configure set",
            version: "aws --version",
            real: "~/.aws/credentials",
            plant: |world| text(world, "[default]\naws_secret_access_key = ", "\n"),
            way: Way::Private,
            script: &["AWS_SHARED_CREDENTIALS_FILE=$secret aws configure set aws_secret_access_key new"],
            says: "Read-only file system",
            why: "the same, at the real path of a private mount",
        }
    }

    fn sed_cannot_put_another_file_in_its_place() {
        Refused {
            program: "sed -i",
            version: "sed --version",
            real: ".env",
            plant: variable,
            way: Way::Private,
            script: &["sed -i s/TOKEN/KEY/ $secret"],
            says: "Device or resource busy",
            why: "nothing replaces a file that is laid at its real path (EBUSY)",
        }
    }

    fn docker_compose_outside_the_tree_is_refused() {
        Refused {
            program: "docker-compose outside the tree",
            version: "docker-compose --version",
            real: ".env",
            plant: variable,
            way: Way::Outside,
            script: &["cd $dir; printf 'version: \"3\"\\nservices:\\n  a:\\n    image: $TOKEN\\n' >compose.yml
                docker-compose -f compose.yml --env-file $secret config"],
            says: "Couldn't find env file",
            why: "it may not look (EACCES): start it with `kin run`; what the Docker daemon itself opens, as a bind mount, is always outside",
        }
    }

    fn pydantic_settings_refuses_a_symbolic_link() {
        Refused {
            program: "pydantic-settings, `secrets_dir`, by a link",
            version: "python 'import pydantic_settings as p; print(p.__version__)'",
            real: "secrets/token",
            plant: languages::bare,
            way: Way::Link,
            script: &[languages::PYDANTIC],
            says: "resolves outside of",
            why: "it takes no link that leads out of its directory: name `$KIN_DIR` as the directory, or use `--private`",
        }
    }

    fn a_setgid_program_is_refused() {
        Refused {
            program: "crontab (setgid)",
            version: "dpkg-query -W -f '${Version}' cron",
            real: "config/secret.txt",
            plant: pages,
            way: Way::Direct,
            script: &["[ -g $(command -v crontab) ]; cat $secret >/dev/null; crontab $secret"],
            says: "Permission denied",
            why: "the kernel refuses programs with a second uid or gid: the mount is without `allow_other`",
        }
    }
}

/// Rows that only root can stage.
pub(crate) mod needs_root {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// The directories above the file are open to others: it is the mount that refuses.
    fn users_that_others_reach(world: &World) -> Planted {
        for dir in [world.path(""), world.project()] {
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("a mode");
        }
        servers::users(world)
    }

    rows! { super::refuse_root =>
        fn nginx_workers_of_another_user_are_refused() {
            Refused {
                program: "nginx workers of another user",
                version: "nginx -v",
                real: "htpasswd",
                plant: users_that_others_reach,
                way: Way::Private,
                script: &[
                    "main='user nobody nogroup;'; chmod 0755 $dir\n",
                    "setpriv --reuid=nobody --regid=nogroup --clear-groups cat kin.toml >/dev/null\n",
                    servers::USERS,
                    servers::NGINX,
                    servers::ASK_AS_ME,
                    "waits curl -sS http://127.0.0.1:$PORT/; ask",
                ],
                says: "Permission denied",
                why: "the kernel refuses other users: let the server run as you, or its master open the file, as it \
                      does with TLS keys",
            }
        }
    }
}
