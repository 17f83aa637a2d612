//! Can another user, or another namespace, get in? Users are the kernel's refusal, and nothing may weaken it.

use kin_tests::{Actor, World, eventually, is_root, mount, process};
use serde_json::json;

use crate::private::{credentials, env, laid, nothing_is_left};
use crate::{DATABASE, REFUSED, SOON, database};

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

#[test]
fn c05_a_private_mount_is_closed_to_who_reaches_it_through_a_member() {
    let world = laid();
    let (member, outsider, other) = (world.member(&["--private"]), world.outsider(), world.member(&[]));
    let pid = member.pid().to_string();
    let paths = [env(&world), credentials(&world), world.file(DATABASE)];
    // The same path there is readable to the member itself: what refuses is not the way.
    let through = |path: &std::path::Path| format!("/proc/{pid}/root{}", path.display());
    for path in &paths {
        assert!(member.cat(through(path).as_ref()).is_ok_and(|value| !value.is_empty()));
        for stranger in [&outsider, &other] {
            assert_eq!(stranger.cat(through(path).as_ref()), Err(REFUSED), "{path:?}");
            let user =
                if is_root() { &["--mount"][..] } else { &["--user", "--preserve-credentials", "--mount"] };
            let line =
                [&["nsenter", "--target", &pid][..], user, &["--", "cat", path.to_str().expect("UTF-8")]];
            let (code, value, errors) = stranger.run(&line.concat());
            assert_eq!((code, value), (1, Vec::new()), "{errors}");
            assert!(errors.contains("Permission denied"), "{errors}");
        }
    }
    let records = world.audit();
    let denied = records.iter().any(|line| line["event"] == "open.deny" && line["reason"] == "no_grant");
    assert!(denied, "{records:#?}");
}

#[test]
fn c10_a_private_mount_is_invisible_outside_and_nothing_of_it_stays() {
    let world = laid();
    let before = mount::mounts_on(&world.mountpoint()).len();
    let member = world.member(&["--private"]);
    let child = member.child("fork");
    assert_eq!(child.cat(&credentials(&world)), Ok(world.value("api/key")));
    for path in [env(&world), credentials(&world)] {
        assert!(mount::mounts_on(&path).is_empty(), "{path:?}");
    }
    assert_eq!((before, mount::mounts_on(&world.mountpoint()).len()), (1, 1));
    assert_eq!(std::fs::read(env(&world)).expect(".env"), b"its own");
    let sessions = || world.broker_threads("private");
    assert_eq!(sessions(), 1);
    let keeper = world.keeper(0);
    process::tree(keeper).iter().for_each(|process| process.kill());
    eventually("the grant ends", SOON, || world.grants().is_empty());
    eventually("the session ends", SOON, || sessions() == 0);
    eventually("the placeholder goes", SOON, || !credentials(&world).exists());
    nothing_is_left(&world);
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
