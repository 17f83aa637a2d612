//! Whose word is it that comes over a connection? Of who speaks, and not of who made it.

use std::os::fd::{BorrowedFd, IntoRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use io_uring::{IoUring, opcode, types};
use kin_broker::control::protocol::PROTOCOL;
use kin_tests::{Actor, World, record};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde_json::{Value, json};

fn connect(actor: &dyn Actor, world: &World) -> u64 {
    let socket = world.path("kin/run/socket");
    let fd = actor.ask("connect", json!({ "path": socket })).expect("a connection");
    fd.as_u64().expect("a descriptor")
}

fn reveal() -> Value {
    json!({ "protocol": PROTOCOL, "verb": "reveal", "reference": "db/url", "confirmed": true })
}

/// Sends the bytes of a request from `first` to `last`.
fn say(actor: &dyn Actor, fd: u64, (first, last): (u64, Option<u64>), how: &str) {
    let arguments = json!({ "fd": fd, "document": reveal(), "first": first, "last": last, "how": how });
    actor.ask("say", arguments).expect("sent");
}

const ALL: (u64, Option<u64>) = (0, None);

/// The code of the refusal; `""` where it was answered, and a value came. `None` at the end.
fn heard(actor: &dyn Actor, fd: u64) -> Option<String> {
    let heard = actor.ask("hear", json!({ "fd": fd })).expect("heard");
    let answer = heard.get("answer")?;
    let code = answer["failed"]["code"].as_str().unwrap_or_default();
    assert_eq!(heard["value"], code.is_empty(), "{answer}");
    Some(code.to_owned())
}

fn asked(actor: &dyn Actor, fd: u64, how: &str) -> String {
    say(actor, fd, ALL, how);
    heard(actor, fd).expect("an answer")
}

/// Hands a descriptor on, by SCM_RIGHTS.
fn hand(world: &World, fd: u64, from: &dyn Actor, to: &dyn Actor) -> u64 {
    let path = world.path("hand");
    to.ask("listen", json!({ "path": path })).expect("a socket");
    from.ask("send", json!({ "fd": fd, "path": path })).expect("sent");
    let got = to.ask("receive", json!({ "path": path })).expect("a descriptor");
    std::fs::remove_file(Path::new(&path)).expect("removed");
    got.as_u64().expect("a number")
}

/// The denials for this reason: who is said to have spoken, and that the chain is that process's.
fn denied(world: &World, reason: &str) -> Vec<u64> {
    let records = world.audit();
    let denials = record::of(&records, "sock.deny");
    let of_reason = denials.into_iter().filter(|line| record::reason(line) == reason);
    of_reason
        .map(|line| {
            assert_eq!((record::text(line, "verb"), record::tgid(line)), ("reveal", line["peer"].as_u64()));
            record::tgid(line).expect("a speaker")
        })
        .collect()
}

both! {
    fn j15_what_is_asked_over_a_connection_is_asked_by_who_speaks(identity) {
        let world = World::ready_with(identity);
        let (outsider, member) = (world.outsider(), world.member(&[]));
        let fd = connect(&outsider, &world);
        assert_eq!(asked(&outsider, fd, "send"), "", "who connected may ask");
        let forked = outsider.child("fork");
        assert_eq!(asked(&forked, fd, "send"), "peer_changed", "inherited");
        let line = world.run_line(&[]);
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let started = outsider.spawn(&line);
        assert_eq!(asked(&started, fd, "send"), "peer_changed", "kept over an exec, inside a tree");
        let handed = hand(&world, fd, &outsider, &member);
        for how in ["send", "splice", "sendfile"] {
            assert_eq!(asked(&member, handed, how), "peer_changed", "handed on, {how}");
            assert_eq!(asked(&outsider, fd, how), "", "it is still its maker's, {how}");
        }
        let expected = [&forked.who(), &started.who(), &member.who(), &member.who(), &member.who()];
        let expected: Vec<u64> = expected.iter().filter_map(|who| who["pid"].as_u64()).collect();
        assert_eq!(denied(&world, "peer_changed"), expected);
        // Nor the other way round: what a member may not ask, nobody asks for it.
        let fd = connect(&member, &world);
        let handed = hand(&world, fd, &member, &outsider);
        assert_eq!(asked(&outsider, handed, "send"), "peer_changed");
        assert_eq!(asked(&member, fd, "send"), "inside_a_tree");
        started.dismiss();
    }

    fn j15_a_request_that_two_processes_put_together_is_nobodys(identity) {
        let world = World::ready_with(identity);
        let (outsider, member) = (world.outsider(), world.member(&[]));
        let fd = connect(&outsider, &world);
        let handed = hand(&world, fd, &outsider, &member);
        let parts = [((&outsider as &dyn Actor, fd), (&member as &dyn Actor, handed))];
        let turned = parts.map(|(one, other)| (other, one));
        for (one, other) in parts.into_iter().chain(turned) {
            // In the lengths, right behind them, in the text, before its last byte.
            let last = 8 + reveal().to_string().len() as u64 - 1;
            for cut in [1, 8, 20, last] {
                say(one.0, one.1, (0, Some(cut)), "send");
                say(other.0, other.1, (cut, None), "send");
                assert_eq!(heard(one.0, one.1).as_deref(), Some("peer_changed"), "{cut}");
            }
        }
        assert_eq!(asked(&outsider, fd, "send"), "", "the next one is whole");
        let spoke = denied(&world, "peer_changed");
        assert_eq!(spoke, vec![u64::from(member.pid()); 8]);
    }

    fn j06_a_connection_whose_maker_is_gone_speaks_for_nobody(identity) {
        let world = World::ready_with(identity);
        let outsider = world.outsider();
        let fd = connect(&outsider, &world);
        assert_eq!(asked(&outsider, fd, "send"), "");
        let child = world.born_of(&outsider, "fork", &[]).expect("a child");
        outsider.finish();
        assert_eq!(asked(&child, fd, "send"), "peer_gone");
        assert_eq!(denied(&world, "peer_gone"), [u64::from(child.pid())]);
        let own = connect(&child, &world);
        assert_eq!(asked(&child, own, "send"), "", "it has a word of its own");
        child.finish();
    }
}

#[test]
fn j15_what_a_ring_sends_is_said_by_whoever_has_the_ring() {
    let name = "attacks::j_speakers::j15_what_a_ring_sends_is_said_by_whoever_has_the_ring";
    let start = || {
        let world = World::ready();
        let stream = UnixStream::connect(world.path("kin/run/socket")).expect("a connection");
        fcntl(&stream, FcntlArg::F_SETFD(FdFlag::empty())).expect("inherited by who is started");
        (world, stream.into_raw_fd().to_string())
    };
    // Submitted by its own thread, and by a thread of the kernel's.
    match kin_tests::as_member(name, start) {
        Err(fd) => {
            let fd = fd.parse().expect("a descriptor");
            kin_tests::answer(&[false, true].map(|polled| ring_asks(fd, polled)).join(" "));
        }
        Ok((world, answer)) => {
            assert_eq!(answer, "peer_changed peer_changed");
            let records = world.audit();
            let denials = record::of(&records, "sock.deny");
            assert_eq!(denials.len(), 2, "{denials:#?}");
            let here = u64::from(std::process::id());
            assert!(denials.iter().all(|line| record::tgid(line).is_some_and(|who| who != here)));
        }
    }
}

/// Asks through a ring, and gives the code of the refusal.
#[allow(unsafe_code)]
fn ring_asks(fd: RawFd, polled: bool) -> String {
    let text = reveal().to_string();
    let head = [(text.len() as u32).to_le_bytes(), u32::MAX.to_le_bytes()].concat();
    let frame = [head, text.into_bytes()].concat();
    let mut builder = IoUring::builder();
    if polled {
        builder.setup_sqpoll(1000);
    }
    let mut ring: IoUring = builder.build(4).expect("a ring");
    let send = opcode::Send::new(types::Fd(fd), frame.as_ptr(), frame.len() as u32).build();
    // SAFETY: the frame outlives the operation, which is waited for below.
    unsafe { ring.submission().push(&send) }.expect("room");
    ring.submit_and_wait(1).expect("submitted");
    assert_eq!(ring.completion().next().map(|done| done.result()), Some(frame.len() as i32));
    // SAFETY: the descriptor was passed to this process, and is open to its end.
    let stream = unsafe { BorrowedFd::borrow_raw(fd) };
    let read = |size: usize| {
        let (mut bytes, mut got) = (vec![0; size], 0);
        while got < size {
            got += nix::unistd::read(stream, &mut bytes[got..]).expect("an answer");
        }
        bytes
    };
    let head = read(8);
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    let answer: Value = serde_json::from_slice(&read(length as usize)).expect("JSON");
    answer["failed"]["code"].as_str().unwrap_or("answered").to_owned()
}
