//! Does every command explain itself, in help, completions and the manual, from one definition?

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

#[test]
fn the_commands_of_the_readme_exist() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let commands = commands(&text);
    let home = Home::new();
    let page = |verbs: &[&str]| {
        let ran = home.run(&[verbs, &["--help"]].concat());
        assert_eq!(ran.code, 0, "kin {verbs:?}: {}", ran.stderr);
        ran.text().to_owned()
    };
    for line in &commands {
        let words: Vec<_> = line.split_whitespace().take_while(|word| *word != "--").collect();
        let second = VERBS.iter().any(|verb| verb.contains(' ') && line.starts_with(verb));
        let verbs = if second { &words[..2] } else { &words[..1] };
        let help = page(verbs);
        for flag in words.iter().filter(|word| word.starts_with("--")) {
            let known = help.split_whitespace().any(|word| word.trim_end_matches(',') == *flag);
            assert!(known, "`kin {line}`: no {flag} in\n{help}");
        }
    }
    for verb in VERBS.iter().filter(|verb| **verb != "keyring-agent") {
        assert!(commands.iter().any(|line| line.starts_with(verb)), "README.md does not name kin {verb}");
    }
}
