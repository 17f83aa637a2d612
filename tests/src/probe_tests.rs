//! Do probes tell what the kernel said?

use super::*;

fn probe() -> Probe {
    let mut command = Command::new(crate::world::PYTHON);
    command.args(["-IS", concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/probe.py")]);
    Probe::start(command, &Arc::new(Shared::new("/nonexistent".into())))
}

#[test]
fn a_probe_answers_with_data_and_errnos() {
    let probe = probe();
    assert_eq!(probe.pid(), probe.started());
    assert_eq!(probe.cat(Path::new("/proc/self/comm")).as_deref(), Ok(&b"python3\n"[..]));
    assert_eq!(probe.cat(Path::new("/nonexistent")), Err(Errno::ENOENT));
    assert_eq!(
        probe.run(&["sh", "-c", "echo out; echo err >&2; exit 3"]),
        (3, b"out\n".into(), "err\n".into())
    );
    assert!(probe.finish().success());
}

#[test]
fn its_children_are_probes_too() {
    let probe = probe();
    let child = probe.child("fork");
    assert_eq!(child.who()["ppid"], json!(probe.pid()));
    let below = child.child("fork");
    assert_eq!(below.who()["ppid"], json!(child.pid()));
    assert_eq!(below.list(Path::new("/nonexistent")), Err(Errno::ENOENT));
    let orphan = probe.child("orphan");
    assert_ne!(orphan.who()["ppid"], json!(probe.pid()));
    let deep = probe.ask("deep", json!({ "depth": 3, "request": { "op": "who" } })).expect("an answer");
    assert_ne!(deep["who"]["ppid"], json!(probe.pid()));
    let told = probe.ask("thread", json!({ "request": { "op": "who" } })).expect("an answer");
    assert_ne!(told["tid"], json!(probe.pid()));
}

#[test]
fn a_process_left_behind_outlives_its_parent() {
    let place = tempfile::tempdir().expect("a directory");
    let probe = probe();
    let remote = Remote::below(&probe, "daemon", &place.path().join("socket"));
    assert!(probe.finish().success());
    assert_eq!(remote.cat(Path::new("/nonexistent")), Err(Errno::ENOENT));
    remote.finish();
}

#[test]
fn descriptors_pass_between_probes() {
    let place = tempfile::tempdir().expect("a directory");
    let (file, socket) = (place.path().join("file"), place.path().join("socket"));
    std::fs::write(&file, "content").expect("a file");
    let (giver, taker) = (probe(), probe());
    taker.ask("listen", json!({ "path": socket })).expect("a socket");
    let fd = giver.open(&file).expect("open");
    giver.ask("send", json!({ "fd": fd, "path": socket })).expect("sent");
    let fd = taker.ask("receive", json!({ "path": socket })).expect("received");
    assert_eq!(taker.ask("sendfile", json!({ "fd": fd })).map(bytes).as_deref(), Ok(&b"content"[..]));
    assert_eq!(taker.ask("splice", json!({ "fd": fd })).map(bytes).as_deref(), Ok(&b"content"[..]));
    assert_eq!(
        taker.ask("map", json!({ "fd": fd, "shared": true, "size": 7 })).map(bytes),
        Ok(b"content".into())
    );
}
