//! Do programs that sign and decrypt take their keys from the mount?

use crate::plant::{made, ssh_key, text, tls_key};
use crate::stage::{Planted, Row, show};

fn passphrase(world: &kin_tests::World) -> Planted {
    let planted = text(world, "", "\n");
    std::fs::write(world.path("place/passphrase"), &planted.value).expect("a file");
    let encrypt = "cd $PLACE; mkdir -m 0700 gnupg; echo decrypted | gpg -q --homedir gnupg --batch \
        --pinentry-mode loopback --passphrase-file passphrase -o message.gpg -c
        rm passphrase; gpgconf --homedir gnupg --kill gpg-agent";
    made(world, encrypt);
    planted
}

rows! { show =>
    fn ssh_keygen_takes_a_private_key() {
        Row {
            program: "ssh-keygen -y",
            version: "ssh -V",
            reader: "ssh-keygen",
            real: "~/.ssh/id_ed25519",
            plant: ssh_key,
            act: |stage| stage.word("ssh-keygen -y -f $secret"),
            shows: "the public key; its check of the mode passes",
        }
    }

    fn ssh_add_hands_a_private_key_to_an_agent() {
        Row {
            program: "ssh-add",
            version: "ssh -V",
            reader: "ssh-add",
            real: "~/.ssh/id_ed25519",
            plant: ssh_key,
            act: |stage| {
                stage.word(
                    "eval $(ssh-agent -s -a $dir/agent) >&2; trap 'kill $SSH_AGENT_PID' EXIT
                     ssh-add -q $secret; ssh-add -L | cut -d' ' -f1,2",
                )
            },
            shows: "the agent has the public key",
        }
    }

    fn ssh_logs_in_with_a_private_key() {
        Row {
            program: "sftp, ssh -i",
            version: "ssh -V",
            reader: "ssh",
            real: "~/.ssh/id_ed25519",
            plant: ssh_key,
            act: |stage| {
                stage.says(
                    "accepted",
                    r#"cd $dir; ssh-keygen -q -t ed25519 -N '' -f host; echo accepted >there
                    cat >server <<END
HostKey $dir/host
AuthorizedKeysFile $PLACE/seed.pub
AuthenticationMethods publickey
StrictModes no
PidFile none
Subsystem sftp internal-sftp
ForceCommand internal-sftp
END
                    login() {
                        echo "get $dir/there $dir/here" | sftp -q -b - -F none -i $secret -o IdentitiesOnly=yes \
                            -o UserKnownHostsFile=$dir/known -o StrictHostKeyChecking=accept-new \
                            -o "ProxyCommand=$(command -v sshd) -i -f $dir/server -o UsePAM=$1" $(id -un)@localhost >&2
                    }
                    # Accounts without a password are locked to the one or to the other.
                    login yes || login no
                    cat here"#,
                )
            },
            shows: "an OpenSSH server lets it in; `-i` goes by the mode of the file",
        }
    }

    fn git_signs_a_commit_with_an_ssh_key() {
        Row {
            program: "git commit -S",
            version: "git --version",
            reader: "ssh-keygen",
            real: "~/.ssh/signing",
            plant: ssh_key,
            act: |stage| {
                stage.says(
                    "G",
                    "cd $dir; git init -q .; echo \"me $(cat $PLACE/seed.pub)\" >signers
                     export GIT_CONFIG_NOSYSTEM=1
                     git config user.name me; git config user.email me; git config gpg.format ssh
                     git config user.signingKey $secret; git config gpg.ssh.allowedSignersFile $dir/signers
                     git commit -q --allow-empty -S -m signed; git log -1 --format=%G?",
                )
            },
            shows: "the signature verifies",
        }
    }

    fn openssl_signs_with_a_private_key() {
        Row {
            program: "openssl dgst -sign",
            version: "openssl version",
            reader: "openssl",
            real: "tls.key",
            plant: tls_key,
            act: |stage| {
                stage.says(
                    "Verified OK",
                    "cd $dir; echo message >m; openssl x509 -in $PLACE/cert.pem -pubkey -noout >public
                     openssl dgst -sha256 -sign $secret -out s m; openssl dgst -sha256 -verify public -signature s m",
                )
            },
            shows: "the signature verifies",
        }
    }

    fn gpg_takes_a_passphrase_file() {
        Row {
            program: "gpg --passphrase-file",
            version: "gpg --version",
            reader: "gpg",
            real: "passphrase",
            plant: passphrase,
            act: |stage| {
                stage.says(
                    "decrypted",
                    "mkdir -m 0700 $dir/g; trap 'gpgconf --homedir $dir/g --kill gpg-agent' EXIT
                     gpg -q --homedir $dir/g --batch --pinentry-mode loopback --passphrase-file $secret \\
                         -d $PLACE/message.gpg",
                )
            },
            shows: "the message is decrypted; it reads a byte at a time",
        }
    }
}
