//! How fast is the record? Appends beside bare writes of the same size, and verification.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Instant;

use kin_broker::audit::{Ancestry, AuditLog, Event, Filter, ReaderFacts, query, verify};
use kin_policy::{DirectoryName, FileName, GrantId, Pid, Process, Reference, Tid};

const RECORDS: u32 = 200_000;

fn main() {
    let dir = std::env::temp_dir().join(format!("kin-audit-rate-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    measure(&dir);
    std::fs::remove_dir_all(&dir).unwrap();
}

fn measure(dir: &std::path::Path) {
    let process = |pid| Process { pid: Pid::new(pid).unwrap(), start: 123_456_789 };
    let chain = Ancestry::of(&[process(1002), process(1001), process(1000), process(999)]);
    let reader = ReaderFacts {
        tid: Tid::new(1003),
        process: Some(process(1003)),
        uid: Some(1000),
        exe: Some(b"/usr/bin/python3.11"),
        comm: b"python3",
        chain: &chain,
    };
    let (project, file) = (DirectoryName::new("api").unwrap(), FileName::new("DATABASE_URL").unwrap());
    let reference = Reference::new("db/url").unwrap();
    let grant = GrantId::from_bytes([7; 16]);
    let event = Event::Allow {
        grant,
        project: &project,
        file: &file,
        reference: &reference,
        elsewhere: false,
        reader,
    };

    let log = AuditLog::open(dir).unwrap();
    let append = per_record(|| _ = log.append(&event).unwrap());
    let size = std::fs::metadata(dir.join("audit.jsonl")).unwrap().len() as usize / RECORDS as usize;
    let bare = dir.join("bare");
    let mut bare = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(bare).unwrap();
    let line = vec![b'x'; size];
    let write = per_record(|| bare.write_all(&line).unwrap());
    println!("append  {append:.2} us, of which write(2) {write:.2} us ({size} bytes)");

    let started = Instant::now();
    let records = verify(dir).unwrap().records;
    println!("verify  {:.0} records/s", records as f64 / started.elapsed().as_secs_f64());
    for (name, filter) in [
        ("all", Filter::default()),
        ("none", Filter { reference: Reference::new("no/such").ok(), ..Filter::default() }),
    ] {
        let started = Instant::now();
        query(dir, &filter, |_| {}).unwrap();
        println!("query   {:.0} records/s ({name} match)", records as f64 / started.elapsed().as_secs_f64());
    }
}

/// Microseconds.
fn per_record(mut run: impl FnMut()) -> f64 {
    let started = Instant::now();
    (0..RECORDS).for_each(|_| run());
    started.elapsed().as_secs_f64() * 1e6 / f64::from(RECORDS)
}
