//! Does every link of the documents lead to a place that exists?

use std::path::Path;

use super::{checkout, document, documents};

/// Pages of others that the documents name.
const ELSEWHERE: [&str; 6] = [
    "https://rustup.rs",
    "https://age-encryption.org",
    "https://age-encryption.org/v1",
    "https://docs.rs/minijinja",
    "https://keepachangelog.com/en/1.1.0/",
    "https://semver.org",
];

/// The targets of `[text](target)` outside of code.
fn targets(text: &str) -> Vec<&str> {
    let prose = text.split("\n```").step_by(2);
    prose
        .flat_map(|part| part.split("](").skip(1).filter_map(|rest| rest.split_once(')')))
        .map(|(target, _)| target)
        .collect()
}

/// The anchor that a heading gets: lower case, words joined by `-`, without signs.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(text: &str) -> Vec<String> {
    text.split("\n```")
        .step_by(2)
        .flat_map(str::lines)
        .filter(|line| line.starts_with('#'))
        .map(anchor)
        .collect()
}

#[test]
fn every_link_of_the_documents_leads_to_a_place_that_exists() {
    let mut wrong = Vec::new();
    for name in documents() {
        let text = document(&name);
        for target in targets(&text) {
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let folder = Path::new(&name).parent().expect("a folder");
            let path = if path.is_empty() { Path::new(&name).to_owned() } else { folder.join(path) };
            let there = checkout().join(&path);
            let leads = match target.contains("://") {
                true => ELSEWHERE.contains(&target),
                false if heading.is_empty() => there.exists(),
                false => std::fs::read_to_string(&there)
                    .is_ok_and(|text| anchors(&text).contains(&heading.to_owned())),
            };
            if !leads {
                wrong.push(format!("{name}: {target}"));
            }
        }
        let bare = text.split_whitespace().filter(|word| word.starts_with("<http"));
        wrong.extend(bare.map(|word| format!("{name}: {word}")));
    }
    assert!(wrong.is_empty(), "links that lead nowhere: {wrong:#?}");
}

/// It is set once, in `Cargo.toml`, when there is one.
#[test]
fn no_document_names_an_address_of_the_project() {
    for name in documents() {
        let text = document(&name);
        for word in ["github.com/", "gitlab.com/", "codeberg.org/", "sr.ht/"] {
            assert!(!text.contains(word), "{name} names {word}: `repository` in Cargo.toml is the one place");
        }
    }
}

#[test]
fn every_page_of_docs_is_in_the_readmes_index() {
    let readme = document("README.md");
    let named = targets(&readme);
    for page in documents().iter().filter(|name| name.contains('/')) {
        assert!(named.contains(&page.as_str()), "README.md does not lead to {page}");
    }
}

#[test]
fn anchors_are_those_of_headings() {
    assert_eq!(anchor("### `exe`: which program reads"), "exe-which-program-reads");
    assert_eq!(targets("a [b](c.md#d) `x`\n```\n[no](here)\n```\n[e](f)"), ["c.md#d", "f"]);
}
