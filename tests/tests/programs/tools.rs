//! Do tools that copy, show and search give exactly the bytes of the file?

use crate::plant::pages;
use crate::stage::{Planted, Row, show};

/// A JSON object, with enough beside the word that it is read in pieces.
fn object(world: &kin_tests::World) -> Planted {
    let word = world.canary();
    let list: Vec<String> = (0..9000).map(|number| number.to_string()).collect();
    let value = format!("{{\"list\": [{}], \"token\": \"{word}\"}}\n", list.join(", ")).into_bytes();
    Planted { value, word, ..Planted::default() }
}

/// A row for a tool that gives the whole file: some pages of text.
macro_rules! whole {
    ($program:literal, $reader:literal, $version:literal, $script:literal) => {
        Row {
            program: $program,
            version: $version,
            reader: $reader,
            real: "config/secret.txt",
            plant: pages,
            act: |stage| stage.whole($script),
            shows: "every byte",
        }
    };
}

rows! { show =>
    fn cat_gives_every_byte() {
        whole!("cat", "cat", "cat --version", "cat $secret")
    }

    fn cp_gives_every_byte() {
        whole!("cp", "cp", "cp --version", "cp $secret $dir/copy; cat $dir/copy")
    }

    fn rsync_gives_every_byte() {
        whole!("rsync -aL", "rsync", "rsync --version", "rsync -aL $secret $dir/copy; cat $dir/copy")
    }

    fn tar_gives_every_byte() {
        whole!(
            "tar -h",
            "tar",
            "tar --version",
            "tar -C $(dirname $secret) -hcf $dir/t.tar $(basename $secret); tar -xOf $dir/t.tar"
        )
    }

    fn dd_gives_every_byte_one_at_a_time() {
        Row {
            program: "dd bs=1",
            version: "dd --version",
            reader: "dd",
            real: "config/secret.txt",
            plant: |world| crate::plant::text(world, "", "\n"),
            act: |stage| stage.whole("dd bs=1 status=none if=$secret"),
            shows: "every byte, in as many reads",
        }
    }

    fn tail_gives_the_last_bytes() {
        Row {
            program: "tail -c",
            version: "tail --version",
            reader: "tail",
            real: "config/secret.txt",
            plant: pages,
            act: |stage| stage.word("tail -c 44 $secret"),
            shows: "the last bytes; it seeks by the file's size",
        }
    }

    fn less_shows_every_byte() {
        whole!("less", "less", "less --version", "less $secret")
    }

    fn vim_shows_every_byte() {
        whole!(
            "vim -R",
            "vim",
            "vim --version",
            "vim -u NONE -i NONE -n -R -es -c '%print' -c 'qa!' $secret | tr -d '\\r' >$dir/shown; cat $dir/shown"
        )
    }

    fn jq_finds_a_field() {
        Row {
            program: "jq",
            version: "jq --version",
            reader: "jq",
            real: "config/secret.json",
            plant: object,
            act: |stage| stage.word("jq -r .token $secret"),
            shows: "the value of a field",
        }
    }

    fn ripgrep_finds_every_line() {
        whole!("rg", "rg", "rg --version", "rg --no-line-number --no-filename '' $secret")
    }

    fn python_copies_every_byte() {
        whole!(
            "shutil.copy (Python)",
            "python3",
            "/usr/bin/python3 --version",
            "python \"import shutil, sys; shutil.copy(sys.argv[1], '$dir/copy')\"; cat $dir/copy"
        )
    }

    fn node_copies_every_byte() {
        whole!(
            "fs.copyFile (node)",
            "node",
            "node --version",
            "node -e 'fs.copyFileSync(process.argv[1], process.argv[2])' $secret $dir/copy; cat $dir/copy"
        )
    }

    fn git_hashes_every_byte() {
        whole!(
            "git hash-object",
            "git",
            "git --version",
            "cd $dir; git init -q .; git cat-file blob $(git hash-object -w $secret)"
        )
    }
}
