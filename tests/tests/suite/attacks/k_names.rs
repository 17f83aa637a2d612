//! Whose directories does kin take, and which names of a manifest does a person see as they are?

use std::os::unix::fs::PermissionsExt;

use kin_tests::{Actor, World};

#[test]
fn k16_a_home_that_others_may_write_is_refused_by_all_that_need_it() {
    let world = World::new();
    let mode = |mode| {
        std::fs::set_permissions(world.home(), PermissionsExt::from_mode(mode)).expect("a mode");
    };
    for open in [0o777, 0o702, 0o2777] {
        mode(open);
        for verb in ["daemon", "list"] {
            let hint = format!("chmod o-w {}", world.home().display());
            let refused = world.kin([verb]).run().refuses(3, &["can be written by every user"]);
            assert!(refused.stderr.contains(&hint), "{refused}");
        }
        assert!(std::fs::read_dir(world.home()).expect("a directory").next().is_none(), "nothing was made");
    }
    mode(0o1777);
    world.kin(["daemon"]).run().exits(0);
    mode(0o777);
    // A broker runs, and its socket is below what anybody could replace by now.
    world.kin(["status"]).run().refuses(3, &["can be written by every user"]);
    mode(0o700);
    world.kin(["status"]).run().exits(0);
}

#[test]
fn k17_a_name_that_looks_like_another_is_shown_escaped_and_warned_of() {
    let world = World::ready();
    world.manifest(
        "schema = 1\n[project]\nname = \"api\"\n[bindings]\n\"API_T\u{41e}KEN\" = { ref = \"api/key\", path = \"\u{441}.env\" }\n",
    );
    let warning = "warning: API_T\\u{41e}KEN: not all of this name is ASCII, so it can look like another one";
    let trusted = world.kin(["trust", "--yes"]).run().exits(0);
    assert!(trusted.stderr.contains(warning), "{trusted:?}");
    let checked = world.kin(["check"]).run().exits(0);
    assert!(
        checked.stderr.contains(warning) && checked.stderr.contains("warning: \\u{441}.env:"),
        "{checked:?}"
    );
    let text = checked.text();
    assert!(text.contains("API_T\\u{41e}KEN") && text.is_ascii(), "{text}");
    // Programs have the name as it is.
    let member = world.member(&[]);
    let file = world.file("API_T\u{41e}KEN");
    assert_eq!(member.cat(&file), Ok(world.value("api/key")));
    let status = world.kin(["status"]).run().exits(0).text();
    assert!(status.contains("API_T\\u{41e}KEN") && status.is_ascii(), "{status}");
    assert_eq!(world.grants()[0]["bindings"][0], "API_T\u{41e}KEN");
    let audit = world.kin(["audit"]).run().exits(0).text();
    assert!(audit.contains("API_T\\u{41e}KEN") && audit.is_ascii(), "{audit}");
    assert!(member.finish().success());
}
