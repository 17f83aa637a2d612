//! Files of several bindings, with real processes and a real vault, without a mount.

use super::*;
use crate::Class;

const ENV: &str = "[files.\".env\"]\nformat = \"dotenv\"\nselect = [\"DB\", \"OTHER\"]\n";

fn house() -> House {
    let house = House::new(Choice::Auto);
    house.trust(&format!("{MANIFEST}{ENV}"));
    house
}

fn whole() -> Vec<u8> {
    let value = String::from_utf8(VALUE.to_vec()).unwrap();
    format!("DB='{value}'\nOTHER='{value}'\n").into_bytes()
}

fn directory() -> DirectoryName {
    DirectoryName::new("api").unwrap()
}

fn leaf(tree: &Tree) -> Caller {
    Caller { tid: tree.leaf, uid: 0, mount: None }
}

fn set(house: &House, reference: &str, value: &[u8]) {
    let reference = Reference::new(reference).unwrap();
    house.broker.set_secret(&reference, &Plaintext::copy_of(value), Facts::default(), None).unwrap();
}

fn size(house: &House, tree: &Tree) -> Result<u64, Refusal> {
    let file = FileName::new(".env").unwrap();
    let look = house.broker.look_at_file(leaf(tree), &directory(), &file, audit::Op::Getattr);
    look.map(|facts| facts.size)
}

fn names(house: &House, tree: &Tree) -> Vec<String> {
    let names = house.broker.names(leaf(tree), &directory()).unwrap();
    names.iter().map(ToString::to_string).collect()
}

/// The references of every record of this event.
fn named(house: &House, event: &str) -> Vec<String> {
    house.broker.audit.flush(true);
    let mut named = Vec::new();
    audit::query(&house.broker.directories.state, &audit::Filter::default(), |record| {
        if record.event() == event {
            let each = record.delivered();
            let each = each.iter().map(|(name, version)| format!("{name}@{}", version.unwrap()));
            named.push(each.collect::<Vec<_>>().join(" "));
        }
    })
    .unwrap();
    audit::verify(&house.broker.directories.state).unwrap();
    named
}

#[test]
fn one_open_is_one_record_that_names_every_secret() {
    let (house, tree) = (house(), Tree::new());
    let live = house.grant(&tree, None).unwrap();
    assert_eq!(named(&house, "file.render"), ["db/other@1 db/url@1"], "made once to know its size");
    assert_eq!(house.open(tree.leaf, ".env"), Ok(whole()));
    assert_eq!(named(&house, "open.allow"), ["db/other@1 db/url@1"]);
    assert_eq!((live.opens(), names(&house, &tree)), (1, vec![".env".into(), "DB".into(), "OTHER".into()]));
    assert_eq!(house.open(std::process::id(), ".env"), Err(Refusal::Denied(Denial::OutsideTree)));
}

#[test]
fn the_size_is_known_before_an_open_and_again_after_a_rotation() {
    let (house, tree) = (house(), Tree::new());
    let _live = house.grant(&tree, None).unwrap();
    for _ in 0..3 {
        assert_eq!(size(&house, &tree), Ok(whole().len() as u64));
    }
    assert_eq!(named(&house, "file.render").len(), 1, "looking makes nothing");
    set(&house, "db/url", b"it's longer than it looks: \"$\\");
    let size = size(&house, &tree).unwrap();
    assert_eq!(named(&house, "file.render")[1..], ["db/other@1 db/url@2"]);
    assert_eq!(house.open(tree.leaf, ".env").unwrap().len() as u64, size);
}

#[test]
fn a_file_without_one_of_its_bindings_is_absent() {
    let house = house();
    for (only, seen, open) in [
        (&["DB"][..], &["DB"][..], Err(Refusal::Denied(Denial::NoBinding))),
        (&["DB", "OTHER"], &[".env", "DB", "OTHER"], Ok(whole())),
        (&[".env"], &[".env"], Ok(whole())),
    ] {
        let tree = Tree::new();
        let _live = house.grant(&tree, Some(only)).unwrap();
        assert_eq!(
            (names(&house, &tree), house.open(tree.leaf, ".env")),
            (seen.iter().map(|name| (*name).to_owned()).collect(), open),
            "{only:?}"
        );
        let parts = house.open(tree.leaf, "OTHER").is_ok();
        assert_eq!(parts, only.contains(&"OTHER"), "a part is no file of its own");
    }
}

#[test]
fn an_open_of_the_file_is_an_open_of_each_binding() {
    let house = House::new(Choice::Auto);
    let manifest = MANIFEST.replace("OTHER = \"db/other\"", "OTHER = { ref = \"db/other\", max_opens = 2 }");
    house.trust(&format!("{manifest}{ENV}"));
    let tree = Tree::new();
    let live = house.grant(&tree, None).unwrap();
    assert!(house.open(tree.leaf, "OTHER").is_ok() && house.open(tree.leaf, ".env").is_ok());
    for file in ["OTHER", ".env"] {
        assert_eq!(house.open(tree.leaf, file), Err(Refusal::Denied(Denial::MaxOpens)), "{file}");
    }
    assert!(house.open(tree.leaf, "DB").is_ok());
    assert_eq!(live.opens(), 3);
}

#[test]
fn what_cannot_be_written_refuses_the_grant_and_later_the_open() {
    let (house, tree) = (house(), Tree::new());
    set(&house, "db/url", b"a\0b");
    let error = house.grant(&tree, None).unwrap_err();
    assert_eq!((error.class, &*error.code), (Class::Unsafe, "unwritable_value"));
    assert!(error.message.contains("DB") && error.message.contains(".env"), "{error:?}");
    assert_eq!(named(&house, "grant.create").len(), named(&house, "grant.expire").len(), "it is taken back");
    set(&house, "db/url", b"good");
    let _live = house.grant(&tree, None).unwrap();
    set(&house, "db/url", b"a\xffb");
    for _ in 0..2 {
        assert_eq!(size(&house, &tree), Err(Refusal::Broken));
        assert_eq!(house.open(tree.leaf, ".env"), Err(Refusal::Broken));
    }
    assert!(house.open(tree.leaf, "DB").is_ok(), "the value itself is as it is");
    house.broker.remove_secret(&Reference::new("db/url").unwrap(), None).unwrap();
    assert_eq!(size(&house, &tree), Err(Refusal::Missing));
    assert_eq!(house.open(tree.leaf, ".env"), Err(Refusal::Missing));
}

#[test]
fn an_ended_grant_ends_its_files_and_wipes_them() {
    let (house, tree) = (house(), Tree::new());
    let live = house.grant(&tree, None).unwrap();
    let file = FileName::new(".env").unwrap();
    let delivery = house.broker.open(leaf(&tree), &directory(), &file, None).unwrap();
    assert!(delivery.reading().is_some());
    house.broker.withdraw(&live, Ending::Revoked);
    assert!(delivery.reading().is_none());
    let ended = Refusal::Denied(Denial::Ended(Ending::Revoked));
    assert_eq!((size(&house, &tree), house.open(tree.leaf, ".env")), (Err(ended), Err(ended)));
}

#[test]
fn a_nested_grant_has_the_file_where_it_may_have_its_parts() {
    let house = house();
    for (outer, inner, seen) in [
        (None, None, &[".env", "DB", "OTHER"][..]),
        (Some(&["DB"][..]), None, &["DB"]),
        (Some(&[".env"][..]), None, &[".env"]),
        (None, Some(&[".env"][..]), &[".env"]),
    ] {
        let tree = Tree::new();
        let _outer = house.grant(&tree, outer).unwrap();
        let _inner = nested(&house, &tree, inner).unwrap();
        assert_eq!(names(&house, &tree), seen, "{outer:?} {inner:?}");
        assert_eq!(house.open(tree.leaf, ".env").is_ok(), seen.contains(&".env"));
    }
    let tree = Tree::new();
    let _outer = house.grant(&tree, Some(&["DB"])).unwrap();
    let wider = nested(&house, &tree, Some(&[".env"])).unwrap_err();
    assert_eq!(wider.code, "wider_grant");
}

#[test]
fn another_recipe_is_no_file_that_an_outer_grant_has() {
    let (house, tree) = (house(), Tree::new());
    let _outer = house.grant(&tree, Some(&[".env"])).unwrap();
    house.trust(&format!("{MANIFEST}[files.\".env\"]\ntemplate = \"{{{{ DB }}}}\"\n"));
    let inner = nested(&house, &tree, None).unwrap();
    assert!(inner.grant.files.is_empty() && inner.grant.bindings.is_empty());
}

#[test]
fn an_open_is_of_one_state_of_the_vault() {
    let (house, tree) = (house(), Tree::new());
    let _live = house.grant(&tree, None).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 0..60_u32 {
                // Both at once, in one write of the vault.
                let value = Plaintext::copy_of(format!("{n:08}").as_bytes());
                let both = ["db/url", "db/other"];
                let both = both.map(|name| (Reference::new(name).unwrap(), &value, Facts::default()));
                let plan = |vault: &Vault| vault.plan_set_all(both, i64::from(n), None);
                house.broker.change_vault(|vault| Ok((plan(vault)?, ()))).unwrap();
            }
        });
        let mut seen = std::collections::BTreeSet::new();
        while !writer.is_finished() {
            let text = String::from_utf8(house.open(tree.leaf, ".env").unwrap()).unwrap();
            let lines: Vec<_> = text.lines().map(|line| line.split_once('=').unwrap().1.to_owned()).collect();
            assert_eq!(lines[0], lines[1], "two states in one file");
            seen.insert(lines[0].clone());
        }
        assert!(seen.len() > 3, "{seen:?}");
    });
}
