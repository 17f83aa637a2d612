//! Does an answer say all of it, however much that is?

use std::os::unix::net::UnixStream;

use super::*;
use crate::admin::transfer::Staged;
use crate::control::protocol::{Answer, Question, Request, SecretInfo};
use crate::control::{Enclosed, read_frame, send};
use crate::sys::memory::Plaintext;
use crate::vault::Facts;

/// What a client would be told.
fn told(house: &House, question: Question) -> Vec<SecretInfo> {
    let own = Pid::new(std::process::id()).unwrap();
    let peer = Peer { held: house.broker.identifier.hold(own, None).unwrap() };
    let with = Enclosed { value: None, device: None, staged: &mut Staged::default() };
    let reply = house.broker.answer(&peer, Request::from(question), with).unwrap();
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        let heard = scope.spawn(move || read_frame::<Answer<Vec<SecretInfo>>>(&mut theirs).unwrap().unwrap());
        send(&house.broker, &mut ours, reply).unwrap();
        let (answer, value) = heard.join().unwrap();
        assert!(value.is_none());
        match answer {
            Answer::Done(rows) => rows,
            Answer::Failed(error) => panic!("{error}"),
        }
    })
}

#[test]
fn j24_a_list_is_as_long_as_the_vault() {
    let house = House::new(Choice::Auto);
    let before = told(&house, Question::List);
    assert_eq!(before, house.broker.vault().unwrap().list());
    // Over the 8 MiB that one frame could once be.
    let name = |number: u32| Reference::new(format!("many/{number:06}")).unwrap();
    let (value, note) = (Plaintext::copy_of(b"x"), Some("n".repeat(1024)));
    let facts = || Facts { note: note.clone(), ..Facts::default() };
    let new = || (0..8_000).map(|number| (name(number), &value, facts()));
    let write = |vault: &Vault| Ok((vault.plan_set_all(new(), 0, None)?, ()));
    drop(house.broker.change_vault(write).unwrap());
    let after = told(&house, Question::List);
    assert!(serde_json::to_vec(&after).unwrap().len() > 8 << 20);
    assert_eq!(after.len(), before.len() + 8_000);
    assert!(after == house.broker.vault().unwrap().list());
}
