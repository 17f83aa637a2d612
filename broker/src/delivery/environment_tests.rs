//! Who is given a value for an environment?

use super::*;
use crate::grants::live::Command;
use crate::sys::clock;

fn asked(house: &House, pid: u32, file: &str) -> Result<Vec<u8>, String> {
    let held = house.broker.identifier.hold(Pid::new(pid).unwrap(), None).unwrap();
    let reply = house.broker.environment_value(&Peer { held }, &FileName::new(file).unwrap());
    reply.map(|value| value.bytes().to_vec()).map_err(|error| error.code.into_owned())
}

#[test]
fn only_the_command_of_a_grant_is_given_a_value_for_its_environment() {
    for house in both() {
        let tree = Tree::new();
        let live = house.grant(&tree, Some(&["DB"])).unwrap();
        assert_eq!(
            asked(&house, tree.inner, "DB"),
            Err("not_the_command".into()),
            "the keeper has named none"
        );
        let held = house.broker.identifier.hold(Pid::new(tree.inner).unwrap(), None).unwrap();
        let namespaces = house.broker.identifier.namespaces_of(&held);
        live.command_started(Command {
            process: held.process(),
            started: clock::now(),
            namespaces,
            filters: None,
        });
        assert_eq!(asked(&house, tree.inner, "DB").as_deref(), Ok(VALUE));
        for other in [tree.leaf, tree.root, std::process::id()] {
            assert_eq!(asked(&house, other, "DB"), Err("not_the_command".into()), "{other}");
        }
        assert_eq!(asked(&house, tree.inner, "OTHER"), Err("open_denied".into()), "not granted");
        assert_eq!(house.events("open.allow"), 1);
        house.broker.withdraw(&live, Ending::Revoked);
        assert_eq!(asked(&house, tree.inner, "DB"), Err("open_denied".into()));
    }
}

#[test]
fn what_is_for_some_levels_alone_is_for_no_environment() {
    let house = House::new(Choice::Auto);
    house.trust(&MANIFEST.replace("DB = \"db/url\"", "DB = { ref = \"db/url\", descend = \"child\" }"));
    let tree = Tree::new();
    let live = house.grant(&tree, None).unwrap();
    let held = house.broker.identifier.hold(Pid::new(tree.inner).unwrap(), None).unwrap();
    let namespaces = house.broker.identifier.namespaces_of(&held);
    live.command_started(Command {
        process: held.process(),
        started: clock::now(),
        namespaces,
        filters: None,
    });
    assert_eq!(asked(&house, tree.inner, "DB"), Err("not_for_the_environment".into()));
    assert!(house.open(tree.inner, "DB").is_ok() && asked(&house, tree.inner, "OTHER").is_ok());
}
