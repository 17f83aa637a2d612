//! How much may be asked, how much is answered, and what does either cost the broker?

use std::io::Write;
use std::os::unix::net::UnixStream;

use kin_broker::control::protocol::PROTOCOL;
use kin_tests::{Actor, World, binary};

use crate::{DATABASE, database};

/// The most memory that the broker has had resident, in KiB (proc_pid_status(5)).
fn peak(world: &World) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.broker().pid)).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn j03_what_is_asked_makes_no_broker_large() {
    let world = World::ready();
    let before = peak(&world);
    let lists = |size: usize| {
        let begin = format!(r#"{{"protocol":{PROTOCOL},"verb":"hello","x":["#);
        let mut text = begin.into_bytes();
        text.extend(b"[],".repeat((size - text.len() - 16) / 3));
        text.extend(b"[]]}");
        text
    };
    let texts = |size: usize| {
        let begin = format!(r#"{{"protocol":{PROTOCOL},"verb":"select","references":["#);
        let mut text = begin.into_bytes();
        text.extend(br#""a","#.repeat((size - text.len() - 16) / 4));
        text.extend(br#""a"]}"#);
        text
    };
    let deep = |size: usize| b"[".repeat(size);
    // As much as there may be, more than that, and as much as once was.
    for size in [4 << 10, 250 << 10, 300 << 10, 8 << 20] {
        for text in [lists(size), texts(size), deep(size)] {
            let crowd: Vec<UnixStream> = (0..32)
                .map(|_| UnixStream::connect(world.path("kin/run/socket")).expect("a connection"))
                .collect();
            std::thread::scope(|scope| {
                for mut stream in &crowd {
                    let (text, length) = (&text, (text.len() as u32).to_le_bytes());
                    // It may be closed before all of it is sent.
                    scope.spawn(move || {
                        let head = [length, u32::MAX.to_le_bytes()].concat();
                        let _ = stream.write_all(&head).and_then(|()| stream.write_all(text));
                    });
                }
            });
            // One more is answered, so the crowd has been.
            world.kin(["status"]).run().exits(0);
        }
    }
    let grown = peak(&world) - before;
    assert!(grown < 32 << 10, "{grown} KiB more");
    assert_eq!(world.member(&[]).cat(&world.file(DATABASE)), Ok(database(&world)));
}

#[test]
fn j24_an_answer_goes_in_as_many_parts_as_it_takes() {
    let world = World::ready();
    // An answer's part is 256 KiB; so much is known of a few secrets with all the attributes that they may have.
    let attributes = (0..32).flat_map(|key| ["--attr".to_owned(), format!("{key}={}", "x".repeat(256))]);
    let attributes: Vec<String> = attributes.collect();
    for number in 0..40 {
        let reference = format!("large/{number:02}");
        world.kin(["set", &reference, "--stdin"]).args(&attributes).input("x").run().exits(0);
    }
    let many: String = (0..210).map(|number| format!("MANY_{number:03}=x\n")).collect();
    std::fs::write(world.project().join("many.env"), many).expect("a file");
    world.kin(["import", "many.env", "--yes"]).run().exits(0);
    let output = world.kin(["list", "--json"]).run().exits(0);
    assert!(output.stdout.len() > 300 << 10);
    let listed = output.json();
    let names: Vec<&str> =
        listed.as_array().expect("a list").iter().filter_map(|row| row["reference"].as_str()).collect();
    assert_eq!(names.len(), 252);
    assert!(names.is_sorted());
    let (code, said, _) = world.member(&[]).run(&[binary().to_str().expect("a path"), "list", "--json"]);
    assert_eq!((code, said == output.stdout), (0, true));
    // Names that are more than one request has room for are selected in several.
    let arguments = ["export", "--passphrase-stdin", "out.age", "--json"];
    let made = world.kin(arguments).input("a long enough passphrase\n").run().exits(0).json();
    assert_eq!(made["secrets"], 252);
}

/// What the command ignores, as `/proc/self/status` has it.
fn ignored(world: &World, options: &str, trap: &str) -> u64 {
    let script = format!("{trap} exec \"$0\" run {options} -- grep SigIgn /proc/self/status");
    let output = world.other("sh", ["-c", &script]).args([binary()]).run().exits(0);
    let text = output.text();
    u64::from_str_radix(text.trim().trim_start_matches("SigIgn:").trim(), 16).expect("a mask")
}

#[test]
fn z02_an_ignored_sigpipe_is_the_commands_too() {
    const PIPE: u64 = 1 << 12;
    let world = World::ready();
    for options in ["", "--private", "--redact", "--end-with-child"] {
        assert_eq!(ignored(&world, options, "") & PIPE, 0, "{options}");
        assert_eq!(ignored(&world, options, "trap '' PIPE;") & PIPE, PIPE, "{options}");
    }
    // A pipeline ends as ever where nobody ignores it.
    let script = "\"$0\" run -- sh -c 'while :; do echo y; done' | head -1";
    assert_eq!(world.other("sh", ["-c", script]).args([binary()]).run().exits(0).text(), "y\n");
}
