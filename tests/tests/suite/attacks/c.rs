//! Can another user get in? That is the kernel's refusal, and nothing may weaken it.

use kin_tests::{Actor, World, mount};
use serde_json::json;

use crate::{DATABASE, REFUSED, database};

const NOBODY: u32 = 65534;

#[test]
fn c06_the_mount_is_for_its_user_alone() {
    let world = World::ready();
    let _member = world.member(&[]);
    let mounts = mount::mounts_on(&world.mountpoint());
    let [mount] = &mounts[..] else { panic!("not one mount: {mounts:?}") };
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(mount.options.iter().any(|own| own == option), "no {option}: {mount:?}");
    }
    let user = format!("user_id={}", nix::unistd::getuid());
    assert!(mount.super_options.contains(&user), "{mount:?}");
    assert!(!mount.super_options.iter().any(|option| option == "allow_other"), "{mount:?}");
}

/// Rows that only root can stage.
mod needs_root {
    use super::*;

    #[test]
    fn c06_another_uid_is_refused_inside_a_tree_and_outside() {
        kin_tests::needs_root();
        let world = World::ready();
        let (member, outsider) = (world.member(&[]), world.outsider());
        let project = world.mountpoint().join("api");
        assert_eq!(member.cat(&world.file(DATABASE)), Ok(database(&world)));
        let root = world.mountpoint();
        for probe in [&member, &outsider] {
            for (directory, name) in [(&project, DATABASE.to_owned()), (&root, format!("api/{DATABASE}"))] {
                let other =
                    probe.ask("as_uid", json!({ "uid": NOBODY, "directory": directory, "name": name }));
                assert_eq!(other, Err(REFUSED));
            }
        }
    }

    #[test]
    fn c06_a_program_with_two_uids_is_refused() {
        kin_tests::needs_root();
        let world = World::ready();
        let member = world.member(&[]);
        let directory = world.mountpoint().join("api");
        for (real, effective) in [(NOBODY, 0), (0, NOBODY)] {
            let request =
                json!({ "real": real, "effective": effective, "directory": directory, "name": DATABASE });
            assert_eq!(member.ask("with_ids", request), Err(REFUSED), "{real}, {effective}");
        }
    }
}
