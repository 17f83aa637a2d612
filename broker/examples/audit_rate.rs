//! How fast is the record? Appends beside bare writes of the same size, verification, and questions to a
//! million records. `audit_rate N` takes N records.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use kin_broker::audit::{Ancestry, AuditLog, Event, Filter, Op, ReaderFacts, query_lines, verify};
use kin_policy::{DirectoryName, FileName, GrantId, Pid, Process, Reference, Tid};

/// One record in so many is of the secret that is asked for.
const RARE: u32 = 1000;

fn main() {
    let records = std::env::args().nth(1).map_or(1_000_000, |text| text.parse().unwrap());
    let dir = std::env::temp_dir().join(format!("kin-audit-rate-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    measure(&dir, records);
    std::fs::remove_dir_all(&dir).unwrap();
}

fn measure(dir: &Path, records: u32) {
    let append = append(dir, records);
    let size = sizes(dir) / u64::from(records);
    let bare = dir.join("bare");
    let mut bare = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(bare).unwrap();
    let line = vec![b'x'; size as usize];
    let started = Instant::now();
    (0..200_000).for_each(|_| bare.write_all(&line).unwrap());
    let write = started.elapsed().as_secs_f64() * 1e6 / 200_000.0;
    println!("audit_append_us {append:.2}");
    println!("audit_write_us {write:.2}");
    println!("audit_record_bytes {size}");

    let started = Instant::now();
    let verified = verify(dir).unwrap();
    println!("audit_verify_per_s {:.0}", verified.records as f64 / started.elapsed().as_secs_f64());
    println!("audit_segments {}", verified.segments);
    let of = |name: &str| Filter { reference: Reference::new(name).ok(), ..Filter::default() };
    for (name, filter) in [("", of("rare/one")), ("_all_match", of("db/url")), ("_none_match", of("no/such"))]
    {
        let (started, mut bytes) = (Instant::now(), 0);
        query_lines(dir, &filter, |line| bytes += line.len()).unwrap();
        println!("audit_query_1m{name}_ms {:.0}", started.elapsed().as_secs_f64() * 1e3);
    }
}

/// Microseconds for one record.
fn append(dir: &Path, records: u32) -> f64 {
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
    let (common, rare) = (Reference::new("db/url").unwrap(), Reference::new("rare/one").unwrap());
    let grant = GrantId::from_bytes([7; 16]);
    let event = |reference| Event::Allow {
        op: Op::Open,
        grant,
        project: &project,
        file: &file,
        reference,
        version: 1,
        elsewhere: false,
        reader,
    };
    let log = AuditLog::open(dir).unwrap();
    let mut spent = 0.0;
    for batch in 0..records.div_ceil(20_000) {
        let started = Instant::now();
        for n in 0..20_000.min(records - batch * 20_000) {
            log.append(&event(if n % RARE == 0 { &rare } else { &common })).unwrap();
        }
        spent += started.elapsed().as_secs_f64();
        // The recorder's thread does this, beside the appends.
        log.tend(false).unwrap();
    }
    log.tend(true).unwrap();
    spent * 1e6 / f64::from(records)
}

fn sizes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let logs = entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "jsonl"));
    logs.map(|entry| entry.metadata().unwrap().len()).sum()
}
