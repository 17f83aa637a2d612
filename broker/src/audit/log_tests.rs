//! Tests of appending: order, faults, recovery.

use std::ffi::OsStr;
use std::process::Command;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;

use kin_policy::{Ending, Reference};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::super::testing::{self, Fault, Faulty, Scene, denials, events, lines};
use super::super::{storage, verify};
use super::*;

const REVOKED: Denial = Denial::Ended(Ending::Revoked);

#[test]
fn records_are_numbered_and_chained_over_restarts() {
    let dir = testing::dir();
    let scene = Scene::new();
    for round in 0..3 {
        let log = AuditLog::open(dir.path()).unwrap();
        assert_eq!(log.last_seq(), Ok(round * 2));
        assert_eq!(log.append(&scene.allow()), Ok(round * 2 + 1));
        assert_eq!(log.append(&Event::MountLost), Ok(round * 2 + 2));
    }
    let verified = verify(dir.path()).unwrap();
    assert_eq!((verified.records, verified.first_seq, verified.last_seq, verified.partial), (6, 1, 6, 0));
    let lines = lines(dir.path());
    for pair in lines.windows(2) {
        assert_eq!(pair[1]["prev"].as_str().unwrap(), &pair[0]["mac"].as_str().unwrap()[..16]);
    }
    assert_eq!(lines[5]["time"], verified.last_time.map(|time| format!("{time:.6}")).unwrap());
}

#[test]
fn a_logged_permit_has_its_number_and_its_reference() {
    let dir = testing::dir();
    let log = AuditLog::open(dir.path()).unwrap();
    log.append(&Event::MountLost).unwrap();
    let logged = log.append_permit(testing::permit(), &Scene::new().allow(), || Ok(()), || ()).unwrap();
    assert_eq!(logged.seq(), 2);
    assert_eq!(logged.get().reference().map(Reference::as_str), Some("db/url"));
}

#[test]
fn d01_a_withdrawn_permit_is_never_written() {
    let dir = testing::dir();
    let (log, orders) = Faulty::open(dir.path());
    let refused = log.append_permit(testing::permit(), &Scene::new().allow(), || Err(REVOKED), || ());
    assert_eq!(refused.unwrap_err(), NotLogged::Denied(REVOKED));
    orders.lock().push_back(Fault::Errno(libc::EIO));
    log.append(&Event::MountLost).unwrap_err();
    log.append_permit(testing::permit(), &Scene::new().allow(), || Err(REVOKED), || ()).unwrap_err();
    assert_eq!(std::fs::metadata(storage::log_path(dir.path())).unwrap().len(), 0);
}

#[test]
fn what_the_log_counts_is_what_stands_in_it() {
    let dir = testing::dir();
    let (log, orders) = Faulty::open(dir.path());
    let counted = AtomicUsize::new(0);
    let use_one = |valid: Result<(), Denial>| {
        let count = || _ = counted.fetch_add(1, Ordering::SeqCst);
        log.append_permit(testing::permit(), &Scene::new().allow(), || valid, count)
    };
    use_one(Ok(())).unwrap();
    use_one(Err(Denial::MaxOpens)).unwrap_err();
    orders.lock().push_back(Fault::Errno(libc::EIO));
    use_one(Ok(())).unwrap_err();
    assert_eq!(counted.load(Ordering::SeqCst), 1, "a record that failed has eaten nothing");
    use_one(Ok(())).unwrap();
    let allowed = events(dir.path()).into_iter().filter(|event| event == "open.allow").count();
    assert_eq!((counted.load(Ordering::SeqCst), allowed), (2, 2));
}

#[test]
fn d03_no_allow_follows_the_record_of_a_withdrawal() {
    let dir = testing::dir();
    let log = AuditLog::open(dir.path()).unwrap();
    let scene = Scene::new();
    let project = &scene.project;
    for _ in 0..50 {
        let valid = AtomicBool::new(true);
        let seqs = std::thread::scope(|scope| {
            let opener = || {
                let valid_still = || valid.load(Ordering::SeqCst).then_some(()).ok_or(REVOKED);
                let mut last = 0;
                while let Ok(logged) =
                    log.append_permit(testing::permit(), &scene.allow(), valid_still, || ())
                {
                    last = logged.seq();
                }
                last
            };
            let openers: Vec<_> = (0..4).map(|_| scope.spawn(opener)).collect();
            std::thread::sleep(Duration::from_micros(300));
            valid.store(false, Ordering::SeqCst);
            let ending = kin_policy::Ending::Revoked;
            let end =
                log.append(&Event::GrantEnd { grant: scene.grant, project, ending, asker: None }).unwrap();
            openers.into_iter().map(|opener| opener.join().unwrap()).all(|last| last < end)
        });
        assert!(seqs);
    }
    verify(dir.path()).unwrap();
}

#[test]
fn l13_threads_share_one_row_of_numbers() {
    let dir = testing::dir();
    let log = AuditLog::open(dir.path()).unwrap();
    let scene = Scene::new();
    let mut seqs: Vec<u64> = std::thread::scope(|scope| {
        let writer = || (0..500).map(|_| log.append(&scene.allow()).unwrap()).collect::<Vec<_>>();
        let writers: Vec<_> = (0..8).map(|_| scope.spawn(writer)).collect();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    seqs.sort_unstable();
    assert!(seqs.into_iter().eq(1..=4000));
    assert_eq!(verify(dir.path()).unwrap().records, 4000);
}

#[test]
fn l02_short_and_interrupted_writes_are_completed() {
    let dir = testing::dir();
    let (log, orders) = Faulty::open(dir.path());
    orders.lock().extend([
        Fault::Short(1),
        Fault::Errno(libc::EINTR),
        Fault::Short(40),
        Fault::Errno(libc::EINTR),
    ]);
    assert_eq!(log.append(&Scene::new().allow()), Ok(1));
    assert_eq!(log.append(&Scene::new().allow()), Ok(2));
    assert_eq!(events(dir.path()), ["open.allow", "open.allow"]);
    verify(dir.path()).unwrap();
}

#[test]
fn l02_every_error_refuses_leaves_the_chain_whole_and_is_told_later() {
    for (errno, name) in
        [(libc::EIO, "EIO"), (libc::EDQUOT, "EDQUOT"), (libc::EROFS, "EROFS"), (libc::ENOSPC, "ENOSPC")]
    {
        let dir = testing::dir();
        let (log, orders) = Faulty::open(dir.path());
        log.append(&Scene::new().allow()).unwrap();
        for half in [0, 100] {
            orders.lock().extend([Fault::Short(half.max(1)), Fault::Errno(errno)]);
            let refused = log.append_permit(testing::permit(), &Scene::new().allow(), || Ok(()), || ());
            assert_eq!(refused.unwrap_err(), NotLogged::Failed { errno });
            assert_eq!(verify(dir.path()).unwrap().partial, 0);
        }
        assert_eq!(log.append(&Scene::new().allow()), Ok(3));
        let lines = lines(dir.path());
        assert_eq!(lines[1]["event"], "audit.fault");
        assert_eq!((&lines[1]["error"], &lines[1]["refused"]), (&name.into(), &2.into()));
        assert_eq!(verify(dir.path()).unwrap().records, 3);
        log.append(&Scene::new().allow()).unwrap();
        assert_eq!(events(dir.path()).iter().filter(|event| *event == "audit.fault").count(), 1);
    }
}

#[test]
fn l02_a_tail_that_cannot_be_cut_is_cut_before_the_next_record() {
    let dir = testing::dir();
    let (log, orders) = Faulty::open(dir.path());
    log.append(&Scene::new().allow()).unwrap();
    orders.lock().extend([Fault::Short(33), Fault::Errno(libc::EIO), Fault::NoCut, Fault::NoCut]);
    log.append(&Scene::new().allow()).unwrap_err();
    assert_eq!(verify(dir.path()).unwrap().partial, 33);
    // The second attempt cannot cut either, and so writes nothing.
    log.append(&Scene::new().allow()).unwrap_err();
    assert_eq!(verify(dir.path()).unwrap().partial, 33);
    assert_eq!(log.append(&Scene::new().allow()), Ok(3));
    assert_eq!(lines(dir.path())[1]["refused"], 2);
    verify(dir.path()).unwrap();
}

/// Runs one test of this binary in a process of its own, below `wrapper`; true in that process.
fn alone(test: &str, wrapper: &[&str]) -> bool {
    const FLAG: &str = "KIN_TEST_ALONE";
    if std::env::var_os(FLAG).is_some() {
        return true;
    }
    let exe = std::env::current_exe().unwrap();
    let (program, arguments) = match wrapper {
        [] => (exe.as_os_str(), wrapper),
        [program, arguments @ ..] => (OsStr::new(*program), arguments),
    };
    let output = Command::new(program)
        .args(arguments)
        .args((!wrapper.is_empty()).then_some(&exe))
        .args(["--exact", &format!("audit::log::tests::{test}"), "--test-threads=1", "--nocapture"])
        .env(FLAG, "1")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

#[test]
fn l01_a_file_at_its_size_limit_refuses_and_recovers() {
    // The limit holds for a whole process.
    if !alone("l01_a_file_at_its_size_limit_refuses_and_recovers", &[]) {
        return;
    }
    let dir = testing::dir();
    let log = AuditLog::open(dir.path()).unwrap();
    log.append(&Scene::new().allow()).unwrap();
    let (soft, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, 1000, hard).unwrap();
    let mut refused = 0;
    for _ in 0..10 {
        match log.append_permit(testing::permit(), &Scene::new().allow(), || Ok(()), || ()) {
            Err(NotLogged::Failed { errno: libc::EFBIG }) => refused += 1,
            other => assert!(other.is_ok(), "{other:?}"),
        }
    }
    assert!(refused > 5);
    assert_eq!(verify(dir.path()).unwrap().partial, 0);
    setrlimit(Resource::RLIMIT_FSIZE, soft, hard).unwrap();
    log.append(&Scene::new().allow()).unwrap();
    let lines = lines(dir.path());
    let fault = &lines[lines.len() - 2];
    assert_eq!((&fault["error"], &fault["refused"]), (&"EFBIG".into(), &refused.into()));
    verify(dir.path()).unwrap();
}

#[test]
fn l01_a_full_disk_refuses_and_recovers() {
    // A mount namespace of its own: the tmpfs goes with the process.
    let unshare: &[&str] = match nix::unistd::geteuid().is_root() {
        true => &["unshare", "--mount"],
        false => &["unshare", "--user", "--map-root-user", "--mount"],
    };
    if alone("l01_a_full_disk_refuses_and_recovers", unshare) {
        let dir = testing::dir();
        let (flags, options) = (nix::mount::MsFlags::empty(), Some("size=64k,mode=0700"));
        nix::mount::mount(Some("tmpfs"), dir.path(), Some("tmpfs"), flags, options).unwrap();
        full_disk(dir.path());
        nix::mount::umount(dir.path()).unwrap();
    }
}

fn full_disk(dir: &Path) {
    let scene = Scene::new();
    let log = AuditLog::open(dir).unwrap();
    let ballast = dir.join("ballast");
    std::fs::write(&ballast, vec![0; 32 * 1024]).unwrap();
    let mut allowed = 0;
    let errno = loop {
        match log.append_permit(testing::permit(), &scene.allow(), || Ok(()), || ()) {
            Ok(_) => allowed += 1,
            Err(NotLogged::Failed { errno }) => break errno,
            Err(other) => panic!("{other:?}"),
        }
        assert!(allowed < 1000, "the disk does not fill up");
    };
    assert_eq!(errno, libc::ENOSPC);
    for _ in 0..4 {
        log.append_permit(testing::permit(), &scene.allow(), || Ok(()), || ()).unwrap_err();
    }
    log.deny(&scene.denied(300));
    std::fs::remove_file(&ballast).unwrap();
    log.append_permit(testing::permit(), &scene.allow(), || Ok(()), || ()).unwrap();
    log.flush(true);
    let lines = lines(dir);
    assert_eq!(lines[allowed]["event"], "audit.fault");
    assert_eq!((&lines[allowed]["error"], &lines[allowed]["refused"]), (&"ENOSPC".into(), &5.into()));
    assert_eq!(denials(dir), 1);
    assert_eq!(verify(dir).unwrap().records as usize, allowed + 3);
}

#[test]
fn a_stuck_write_stalls_one_waiter_and_refuses_the_others_at_once() {
    let dir = testing::dir();
    let (log, orders) = Faulty::open(dir.path());
    let (release, stuck) = mpsc::channel();
    orders.lock().push_back(Fault::Stuck(stuck));
    let scene = Scene::new();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| log.append(&scene.allow()));
        while !orders.lock().is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let started = Instant::now();
        assert_eq!(log.append(&scene.allow()), Err(NotLogged::Stalled));
        assert!(started.elapsed() >= PATIENCE && started.elapsed() < 2 * PATIENCE);
        let started = Instant::now();
        for _ in 0..20 {
            assert_eq!(log.append(&scene.allow()), Err(NotLogged::Stalled));
            log.deny(&scene.denied(300));
        }
        assert!(started.elapsed() < PATIENCE / 2);
        release.send(()).unwrap();
        assert_eq!(writer.join().unwrap(), Ok(1));
    });
    assert_eq!(log.append(&scene.allow()), Ok(3));
    log.flush(true);
    assert_eq!(events(dir.path()), ["open.allow", "audit.fault", "open.allow", "open.deny"]);
    let fault = &lines(dir.path())[1];
    assert_eq!((&fault["error"], &fault["refused"]), (&"ETIMEDOUT".into(), &21.into()));
    assert_eq!(denials(dir.path()), 20);
}

#[test]
fn l05_a_torn_tail_of_any_length_is_cut_and_recorded() {
    let dir = testing::dir();
    let log = AuditLog::open(dir.path()).unwrap();
    (0..3).for_each(|_| assert!(log.append(&Scene::new().allow()).is_ok()));
    drop(log);
    let path = storage::log_path(dir.path());
    let whole = std::fs::read(&path).unwrap();
    let ends: Vec<usize> = (1..=whole.len()).filter(|end| whole[end - 1] == b'\n').collect();
    for len in (0..=whole.len()).step_by(7).chain(ends.iter().flat_map(|end| [end - 1, *end])) {
        std::fs::write(&path, &whole[..len]).unwrap();
        let complete = ends.iter().filter(|end| **end <= len).count();
        let torn = len - ends[..complete].last().unwrap_or(&0);
        let before = verify(dir.path()).unwrap();
        assert_eq!((before.records, before.partial), (complete as u64, torn as u64));
        let log = AuditLog::open(dir.path()).unwrap();
        let seq = log.append(&Scene::new().allow()).unwrap();
        let lines = lines(dir.path());
        assert_eq!(seq as usize, lines.len());
        assert_eq!(lines.len(), complete + 1 + usize::from(torn > 0));
        if torn > 0 {
            assert_eq!(lines[complete]["event"], "audit.recover");
            assert_eq!(lines[complete]["cut_bytes"], torn);
        }
        verify(dir.path()).unwrap();
    }
}

#[test]
fn l05_garbage_behind_the_last_newline_is_cut_however_long() {
    let dir = testing::dir();
    AuditLog::open(dir.path()).unwrap().append(&Scene::new().allow()).unwrap();
    let path = storage::log_path(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.resize(bytes.len() + 200_000, 0);
    std::fs::write(&path, bytes).unwrap();
    drop(AuditLog::open(dir.path()).unwrap());
    assert_eq!(lines(dir.path())[1]["cut_bytes"], 200_000);
    verify(dir.path()).unwrap();
}

#[test]
fn a_log_whose_last_record_was_changed_is_not_continued() {
    let dir = testing::dir();
    let log = AuditLog::open(dir.path()).unwrap();
    (0..3).for_each(|_| assert!(log.append(&Scene::new().allow()).is_ok()));
    drop(log);
    let path = storage::log_path(dir.path());
    let whole = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = whole.lines().collect();
    for bad in [
        whole.replacen("\"seq\":3", "\"seq\":4", 1),
        format!("{}\n{}\nhello\n", lines[0], lines[1]),
        format!("{}\n{}\n", lines[0], lines[2]),
        format!("{}\n", lines[2]),
        "\n".into(),
    ] {
        std::fs::write(&path, &bad).unwrap();
        let error = AuditLog::open(dir.path()).unwrap_err();
        assert_eq!((error.class, error.code.as_ref()), (Class::Integrity, "audit_broken"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), bad);
    }
}

#[test]
fn a_sync_happens_only_when_there_is_something_new() {
    struct Counting(Box<dyn Storage>, std::sync::Arc<AtomicUsize>);
    impl Storage for Counting {
        fn write(&self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes)
        }
        fn cut(&self, bytes: u64) -> io::Result<()> {
            self.0.cut(bytes)
        }
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
        fn rotate(&self) -> io::Result<()> {
            self.0.rotate()
        }
        fn sync(&self) -> io::Result<()> {
            match self.1.fetch_add(1, Ordering::SeqCst) {
                1 => Err(io::Error::from_raw_os_error(libc::EIO)),
                _ => self.0.sync(),
            }
        }
    }
    let (dir, syncs) = (testing::dir(), std::sync::Arc::new(AtomicUsize::new(0)));
    let log = AuditLog::open(dir.path()).unwrap();
    let log = log.with_storage(|inner| Box::new(Counting(inner, syncs.clone())));
    log.sync().unwrap();
    assert_eq!(syncs.load(Ordering::SeqCst), 0);
    log.append(&Event::MountLost).unwrap();
    log.sync().unwrap();
    log.sync().unwrap();
    assert_eq!(syncs.load(Ordering::SeqCst), 1);
    log.append(&Event::MountLost).unwrap();
    assert_eq!(log.sync().unwrap_err().class, Class::Storage);
    log.sync().unwrap();
    assert_eq!(syncs.load(Ordering::SeqCst), 3);
    log.append(&Event::MountLost).unwrap();
    let lines = lines(dir.path());
    assert_eq!((&lines[2]["error"], &lines[2]["refused"]), (&"EIO".into(), &0.into()));
}
