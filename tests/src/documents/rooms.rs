//! Do the arrows between the rooms of the broker point down, and does docs/architecture.md say what the rooms are?

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{checkout, document, rows};

/// The rooms of the broker, from the top: each uses what stands below it. `broker` builds their services.
const FLOORS: [&str; 12] = [
    "control", "broker", "admin", "delivery", "grants", "project", "vault", "audit", "keys", "children",
    "process", "sys",
];

/// What still points up: the rules of these rooms are methods of `Broker`. There are to be fewer.
const LEFT: [(&str, &str, usize); 4] =
    [("admin", "broker", 12), ("delivery", "broker", 8), ("grants", "admin", 1), ("grants", "broker", 4)];

/// Lines of a file before its tests, and of a function, at most.
const FILE: usize = 500;
const FUNCTION: usize = 60;

/// The paths of all sources below a directory of the checkout, tests apart.
fn sources(room: &str) -> Vec<PathBuf> {
    let (mut found, mut directories) = (Vec::new(), vec![checkout().join(room)]);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory").flatten() {
            let (path, name) = (entry.path(), entry.file_name().into_string().expect("a name in UTF-8"));
            if entry.file_type().expect("a type").is_dir() {
                directories.push(path);
            } else if name.ends_with(".rs") && !name.ends_with("_tests.rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A source up to its tests, without comments.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("a source");
    let tests = text.match_indices("\n#[cfg(test)]\n").map(|(at, _)| at).find(|at| {
        let rest = text[at + 1..].lines().skip(1).find(|line| !line.starts_with("#["));
        rest.is_some_and(|line| line.starts_with("mod "))
    });
    let lines = text[..tests.unwrap_or(text.len())].lines();
    lines.map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// What the crate's root has for short, and where it is.
fn home(name: &str) -> &str {
    match name {
        "Class" | "Error" | "Plaintext" | "Result" | "describe" => "sys",
        "Broker" => "broker",
        room => room,
    }
}

/// The rooms that a source names: `crate::a::b`, and each of `crate::{a, b}`.
fn named(code: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let word =
            |text: &'_ str| text.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(text.len());
        match rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            Some((group, _)) => {
                let names = group.split(',').map(str::trim).filter(|name| !name.is_empty());
                found.extend(names.map(|name| home(&name[..word(name)])));
            }
            None => found.push(home(&rest[..word(rest)])),
        }
    }
    found
}

/// How often one room names another.
fn arrows() -> BTreeMap<(String, String), usize> {
    let (root, mut arrows) = (checkout().join("broker/src"), BTreeMap::new());
    for path in sources("broker/src") {
        let below = path.strip_prefix(&root).expect("a source of the broker");
        let room = below.components().next().expect("a room").as_os_str().to_str().expect("UTF-8");
        let room = room.trim_end_matches(".rs");
        // What only tests and fuzzers use stands beside the house.
        let beside = ["fuzzing", "lib", "fake", "testing", "soak"];
        if beside.contains(&below.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default()) {
            continue;
        }
        for to in named(&code(&path)) {
            if to != room {
                *arrows.entry((room.to_owned(), to.to_owned())).or_default() += 1;
            }
        }
    }
    arrows
}

#[test]
fn no_arrow_between_rooms_points_up_but_those_that_are_left() {
    let floor = |room: &str| FLOORS.iter().position(|own| *own == room);
    let arrows = arrows();
    assert!(arrows.len() > 40, "{arrows:?}");
    let mut up = Vec::new();
    for ((from, to), count) in &arrows {
        let (from_floor, to_floor) = (floor(from), floor(to));
        assert!(from_floor.is_some() && to_floor.is_some(), "{from} or {to} is no room");
        if to_floor < from_floor {
            up.push((from.as_str(), to.as_str(), *count));
        }
    }
    assert_eq!(up, LEFT, "of {} arrows", arrows.values().sum::<usize>());
}

#[test]
fn no_file_and_no_function_is_too_long() {
    let mut long = Vec::new();
    for path in ["policy/src", "broker/src", "fs/src", "tests/src"].into_iter().flat_map(sources) {
        let code = code(&path);
        let lines: Vec<&str> = code.lines().collect();
        if lines.len() > FILE {
            long.push(format!("{}: {} lines", path.display(), lines.len()));
        }
        for (at, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let is_function = line.trim_start().split("fn ").next().is_some_and(|before| {
                before.len() < line.trim_start().len()
                    && before.split_whitespace().all(|word| {
                        word.starts_with("pub")
                            || ["const", "unsafe", "extern", "\"C\"", "async"].contains(&word)
                    })
            });
            if is_function && !line.trim_end().ends_with([';', '}']) {
                let end = lines[at..].iter().position(|end| end.trim() == "}" && end.len() == indent + 1);
                let length = end.map_or(1, |end| end + 1);
                if length > FUNCTION {
                    long.push(format!("{}:{}: {length} lines", path.display(), at + 1));
                }
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn each_room_has_its_question_in_the_architecture_page() {
    let page = document("docs/architecture.md");
    let rows = rows(&page, "| Room | Question | Lines |");
    let rooms = FLOORS.iter().filter(|room| **room != "broker").map(|room| format!("broker/src/{room}"));
    let rooms: Vec<String> =
        rooms.chain(["fs/src/cli", "fs/src/mount", "fs/src/run"].map(str::to_owned)).collect();
    assert_eq!(rows.len(), rooms.len(), "one row for each room: {rows:#?}");
    for room in rooms {
        let top = std::fs::read_to_string(checkout().join(&room).join("mod.rs")).expect("a room");
        let said =
            top.strip_prefix("//! ").and_then(|rest| rest.split_once('?')).map(|(question, _)| question);
        let question = said.unwrap_or_else(|| panic!("{room}/mod.rs begins with no question"));
        let question = question.replace("\n//! ", " ");
        let row = rows
            .iter()
            .find(|row| row.contains(&format!("`{room}`")))
            .unwrap_or_else(|| panic!("no row for {room}"));
        assert!(row.contains(&question), "{row}: {room} asks: {question}?");
        // In hundreds, so that not every change is one of the page.
        let lines: usize = sources(&room).iter().map(|path| code(path).lines().count()).sum();
        let written = row
            .trim_end_matches(" |")
            .rsplit(" | ")
            .next()
            .and_then(|cell| cell.trim().parse::<usize>().ok());
        let written = written.unwrap_or_else(|| panic!("{row}: lines in hundreds"));
        assert!(
            written.abs_diff(lines) <= 150 + lines / 10,
            "{room} has {lines} lines, and its row says {written}"
        );
    }
}
