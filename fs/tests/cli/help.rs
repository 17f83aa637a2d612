//! Does every command explain itself, in help, completions and the manual, from one definition?

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use insta::assert_snapshot;

use crate::program::Home;

const VERBS: [&str; 38] = [
    "init",
    "set",
    "list",
    "show",
    "reveal",
    "rotate",
    "history",
    "rm",
    "import",
    "export",
    "backup",
    "restore",
    "rekey",
    "recovery",
    "trust",
    "untrust",
    "link",
    "unlink",
    "check",
    "run",
    "status",
    "revoke",
    "lock",
    "unlock",
    "audit",
    "daemon",
    "stop",
    "doctor",
    "completions",
    "man",
    "keyring-agent",
    "audit verify",
    "audit export",
    "recovery new",
    "recovery add",
    "recovery list",
    "recovery remove",
    "recovery restore",
];

#[test]
fn every_help_page_is_as_it_was_agreed() {
    let home = Home::new();
    assert_snapshot!("help_kin", home.run(&["--help"]).text());
    for verb in VERBS {
        let mut arguments: Vec<_> = verb.split(' ').collect();
        arguments.push("--help");
        let ran = home.run(&arguments);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{verb}");
        assert_snapshot!(format!("help_{}", verb.replace([' ', '-'], "_")), ran.text());
    }
}

#[test]
fn every_help_page_has_a_sentence_an_example_and_fits_100_columns() {
    let home = Home::new();
    for verb in VERBS {
        let mut arguments: Vec<_> = verb.split(' ').collect();
        arguments.push("--help");
        let ran = home.run(&arguments);
        let page = ran.text();
        let sentence = page.lines().nth(2).unwrap_or_default();
        assert!(verb.contains(' ') || sentence.ends_with('.') || sentence.len() > 60, "{verb}: {sentence}");
        assert!(page.contains(&format!("\n  kin {verb}")), "{verb} has no example:\n{page}");
        assert!(page.lines().all(|line| line.chars().count() <= 100), "{verb} is too wide:\n{page}");
    }
}

#[test]
fn the_help_lists_every_command_and_hides_the_brokers_own() {
    let home = Home::new();
    let ran = home.run(&["--help"]);
    for verb in VERBS.iter().filter(|verb| !verb.contains([' ', '-'])) {
        assert!(ran.text().contains(&format!("\n  {verb} ")), "{verb}");
    }
    assert!(!ran.text().contains("keyring-agent"));
}

#[test]
fn completions_and_the_manual_know_every_command() {
    let home = Home::new();
    let manual = home.run(&["man"]);
    for verb in VERBS.iter().filter(|verb| !verb.contains([' ', '-'])) {
        assert!(manual.text().contains(&format!(".SH \"KIN {}\"", verb.to_uppercase())), "{verb}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = home.run(&["completions", shell]);
        assert_eq!(script.code, 0);
        for verb in ["reveal", "untrust", "--end-with-child"] {
            let known = script.text().contains(verb) || script.text().contains(verb.trim_start_matches('-'));
            assert!(known, "{shell} does not know {verb}");
        }
    }
}

#[test]
fn the_version_is_one_line() {
    let ran = Home::new().run(&["--version"]);
    assert_eq!(ran.text(), format!("kin {}\n", env!("CARGO_PKG_VERSION")));
}

/// The command lines of a Markdown text: what stands in backticks, and behind a prompt, after `kin `.
fn commands(text: &str) -> Vec<String> {
    let quoted = text.split('`').skip(1).step_by(2).filter_map(|part| part.strip_prefix("kin "));
    let typed = text.lines().filter_map(|line| line.strip_prefix("$ kin "));
    let typed = typed.map(|line| line.split(" #").next().unwrap_or_default());
    quoted.chain(typed).map(|line| line.replace(['[', ']', '|', '\\', ','], " ")).collect()
}

/// The documents of the checkout, but for the changelog, and for the page that is made of the help.
fn documents() -> Vec<(PathBuf, String)> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let folders = ["", "docs", "fs"].map(|folder| checkout.join(folder));
    let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap().flatten());
    let pages = entries.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default();
        path.extension().is_some_and(|extension| extension == "md")
            && name != "CHANGELOG.md"
            && name != "commands.md"
    });
    pages.map(|path| (path.clone(), std::fs::read_to_string(&path).unwrap())).collect()
}

#[test]
fn the_commands_of_the_documents_exist() {
    let home = Home::new();
    let mut pages: BTreeMap<Vec<String>, String> = BTreeMap::new();
    let mut known = BTreeSet::new();
    for (path, text) in documents() {
        for line in commands(&text) {
            let words: Vec<_> = line.split_whitespace().take_while(|word| *word != "--").collect();
            let second = VERBS.iter().any(|verb| verb.contains(' ') && line.starts_with(verb));
            let verbs: Vec<String> =
                words.iter().take(1 + usize::from(second)).map(|&word| word.to_owned()).collect();
            known.insert(verbs.join(" "));
            let help = pages.entry(verbs).or_insert_with_key(|verbs| {
                let arguments: Vec<&str> =
                    verbs.iter().map(String::as_str).chain(std::iter::once("--help")).collect();
                let ran = home.run(&arguments);
                assert_eq!(ran.code, 0, "{}: kin {verbs:?}: {}", path.display(), ran.stderr);
                ran.text().to_owned()
            });
            for flag in words.iter().filter(|word| word.starts_with("--")) {
                let known = help.split_whitespace().any(|word| word.trim_end_matches(',') == *flag);
                assert!(known, "{}: `kin {line}`: no {flag} in\n{help}", path.display());
            }
        }
    }
    let unnamed: Vec<_> = VERBS
        .iter()
        .filter(|verb| **verb != "keyring-agent" && !known.iter().any(|named| named.starts_with(**verb)))
        .collect();
    assert!(unnamed.is_empty(), "no document but docs/commands.md names kin {unnamed:?}");
}

/// docs/commands.md: every help page, in the order of the help.
fn reference(home: &Home) -> String {
    let mut page = "# Commands\n\nThis page is made of the help of `kin`, which a test holds it to. `KIN_WRITE_DOCS=1 cargo test -p kin-fs \
                    --test cli the_commands_are` writes it.\n\n"
        .to_owned();
    let mut add = |heading: String, help: &str| {
        let lines: Vec<_> = help.lines().map(str::trim_end).collect();
        page.push_str(&format!("{heading}\n\n```text\n{}\n```\n\n", lines.join("\n").trim_end()));
    };
    add("## kin".to_owned(), home.run(&["--help"]).text());
    let above = VERBS.iter().filter(|verb| !verb.contains([' ', '-']));
    for verb in above.flat_map(|verb| {
        let below =
            VERBS.iter().filter(move |below| below.split(' ').next() == Some(*verb) && below != &verb);
        std::iter::once(verb).chain(below)
    }) {
        let arguments: Vec<_> = verb.split(' ').chain(std::iter::once("--help")).collect();
        let level = if verb.contains(' ') { "###" } else { "##" };
        add(format!("{level} kin {verb}"), home.run(&arguments).text());
    }
    page.truncate(page.trim_end().len());
    page + "\n"
}

#[test]
fn the_commands_are_documented_as_the_help_has_them() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/commands.md");
    let page = reference(&Home::new());
    if std::env::var_os("KIN_WRITE_DOCS").is_some() {
        return std::fs::write(path, page).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap();
    assert!(committed == page, "docs/commands.md is not the help: KIN_WRITE_DOCS=1 writes it");
}

#[test]
fn the_manual_has_files_and_a_page_of_its_own_for_a_manifest() {
    let home = Home::new();
    let manual = home.run(&["man"]);
    for section in ["ENVIRONMENT", "EXIT CODES", "FILES", "SEE ALSO"] {
        assert!(manual.text().contains(&format!(".SH \"{section}\"")), "no {section}");
    }
    assert_eq!(home.run(&["man", "kin"]).text(), manual.text());
    let page = home.run(&["man", "kin.toml"]);
    assert!(page.text().starts_with(".TH kin.toml 5 "), "{}", page.text());
    assert!(page.text().contains("\\fBmax_opens = 3\\fR"), "{}", page.text());
    assert_eq!(home.run(&["man", "kin.yaml"]).code, 2);
}
