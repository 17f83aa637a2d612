//! Does each refusal of the real program say what was refused, and what to do next?

use kin_tests::World;

/// What is said, as it was agreed: after an intended change, copy what the failing test prints.
const AGREED: &str = include_str!("refusals.txt");

/// A row: the command, and what it gets on standard input.
type Row<'a> = (&'a [&'a str], Option<&'a str>);

#[test]
fn every_refusal_is_one_line_and_a_hint_as_agreed() {
    let world = World::ready();
    let mut said = String::new();
    let mut ask = |rows: &[Row<'_>]| rows.iter().for_each(|row| said.push_str(&refusal(&world, row)));
    let key = world.path("identity");
    let key = key.to_str().expect("a path in UTF-8");
    ask(&[
        (&["init", "--key-file", key], None),
        (&["daemon"], None),
        (&["show", "none/such"], None),
        (&["set", "a=b"], None),
        (&["set", "../a", "--stdin"], Some("x")),
        (&["set", "a", "--stdin"], Some("")),
        (&["set", "a", "--generate", "frob"], None),
        (&["set", "a"], None),
        (&["reveal", "db/url"], None),
        (&["trust"], None),
        (&["trust", "--hash", "no-hash"], None),
        (&["trust", "--hash", &"0".repeat(64)], None),
        (&["run", "--only", "NONE", "--", "true"], None),
        (&["run", "--ttl", "10m5", "--", "true"], None),
        (&["run", "--max-opens", "0", "--", "true"], None),
        (&["run", "--max-opens", "NONE=1", "--", "true"], None),
        (&["run", "--for-first", "0s", "--", "true"], None),
        (&["run"], None),
        (&["revoke", "ffff"], None),
        (&["revoke", "no-id"], None),
        (&["audit", "--since", "never"], None),
        (&["frobnicate"], None),
    ]);
    world.manifest("schema = 1\n[project]\nname = \"api\"\n[bindings]\nDATABASE_URL = \"db/other\"\n");
    ask(&[(&["run", "--", "true"], None), (&["check"], None)]);
    world.trust();
    ask(&[(&["run", "--", "true"], None)]);
    world.manifest("schema = 1\n[project]\nname = \"api\"\n[binding]\n");
    ask(&[(&["run", "--", "true"], None)]);
    world.manifest("schema = 1\n[project]\nname = \"api\"\n[files.x]\ntemplate = \"{{ NONE }}\"\n");
    ask(&[(&["run", "--", "true"], None)]);
    std::fs::remove_file(world.path("project/kin.toml")).expect("the manifest");
    ask(&[(&["run", "--", "true"], None)]);
    world.kin(["lock"]).run().exits(0);
    ask(&[(&["list"], None), (&["reveal", "db/url", "--yes"], None)]);
    world.kin(["stop"]).run().exits(0);
    ask(&[(&["status"], None), (&["revoke", "--all"], None)]);
    assert!(said == AGREED, "what is said now:\n{said}");
}

/// The command and what it answered, with the world's own paths taken out.
fn refusal(world: &World, (line, input): &Row<'_>) -> String {
    let mut command = world.kin(*line);
    if let Some(input) = input {
        command = command.input(input.as_bytes());
    }
    let output = command.run();
    assert_ne!(output.code(), 0, "{output}");
    let place = world.path("");
    let place = place.to_str().expect("a path in UTF-8").trim_end_matches('/');
    let said = format!("$ kin {}\n{}exit {}\n\n", line.join(" "), output.stderr, output.code());
    said.replace(place, "PLACE")
}
