//! Does /proc answer for whom it says?

use std::os::fd::AsFd;

use super::*;

#[test]
fn it_speaks_of_this_process() {
    let proc = own().unwrap();
    let status = proc.read(&mine("status")).unwrap();
    assert_eq!(line_of(&status, "Pid:"), Some(&*std::process::id().to_string()));
    assert_eq!(proc.read_link(&mine("exe")).unwrap(), std::env::current_exe().unwrap());
    let own_directory = proc.directory(&mine("")).unwrap();
    assert!(below(&own_directory, "comm", OFlag::O_RDONLY).is_ok());
    assert_eq!(proc.file("0/stat").err(), Some(Errno::ENOENT));
    assert_eq!(proc.covered(), None);
    assert!(proc.line().unwrap().contains(" - proc "));
}

#[test]
fn no_link_is_followed_and_nothing_above_is_reached() {
    let proc = own().unwrap();
    for path in ["self/stat", &mine("exe"), &mine("cwd/.")] {
        assert_eq!(proc.file(path).err(), Some(Errno::ELOOP), "{path}");
    }
    assert_eq!(proc.file("../etc/passwd").err(), Some(Errno::EXDEV));
}

#[test]
fn a_descriptor_opens_the_file_that_it_is_of_whatever_has_the_name() {
    let place = tempfile::TempDir::new().unwrap();
    let name = place.path().join("file");
    std::fs::write(&name, "old").unwrap();
    let held = open(&name, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
    std::fs::rename(&name, place.path().join("other")).unwrap();
    std::fs::write(&name, "new").unwrap();
    let again = own().unwrap().reopened(&held, OFlag::O_RDONLY).unwrap();
    assert_eq!(whole(again.into()).as_deref(), Ok("old"));
    let (descriptors, number) = own().unwrap().descriptor(&held.as_fd()).unwrap();
    assert!(link::read(&descriptors, &std::ffi::CString::new(number).unwrap(), &mut [0; link::ROOM]).is_ok());
}

#[test]
fn what_rests_is_looked_at_once() {
    let looks = std::cell::Cell::new(0);
    let found = own().unwrap().steady(|| looks.replace(looks.get() + 1));
    // Another process of the machine may mount meanwhile.
    assert!(found.is_some() && (1..=LOOKS).contains(&looks.get()));
}

#[test]
fn what_covers_a_process_is_told_from_what_masks_a_file() {
    let covered = |lines: &[&str]| {
        let head = ["22 1 0:20 / /proc rw - proc proc rw", "30 22 0:30 / /proc/sys ro - proc proc rw"];
        over_a_process(&[&head[..], lines].concat().join("\n"), 22)
    };
    let masks = [
        "31 22 0:31 / /proc/kcore rw - tmpfs t rw",
        "9 1 0:9 / /42 rw - tmpfs t rw",
        "",
        "garbage",
        "32 22 0:32 / /proc rw - proc proc rw",
    ];
    assert_eq!(covered(&masks), None);
    // Over another mount of the file system, which nobody asks.
    assert_eq!(covered(&["31 23 0:20 /41 /proc/42 rw - proc proc rw"]), None);
    for (over, name) in [("42", "42"), ("42/exe", "42"), ("self", "self"), ("thread-self/ns", "thread-self")]
    {
        let line = format!("31 22 0:20 /41 /proc/{over} rw - proc proc rw");
        assert_eq!(covered(&[&line]), Some(format!("/proc/{name}")), "{over}");
    }
    assert_eq!(covered(&["31 22 0:20 /41 /elsewhere/42 rw - proc proc rw"]), Some("/elsewhere/42".into()));
    let moved =
        "22 1 0:20 / /a\\040jail/proc rw - proc proc rw\n31 22 0:20 /1 /a\\040jail/proc/7 rw - proc proc rw";
    assert_eq!(over_a_process(moved, 22).as_deref(), Some("/a\\040jail/proc/7"));
}
