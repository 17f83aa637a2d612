//! How fast is the record verified, and what does a broker keep in memory once everything has ended.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::Result;
use crate::children;
use crate::lifetimes::wait_for_no_grants;
use crate::world::{FILE, World};

/// Records to verify at least, made by real opens.
const RECORDS: usize = 200_000;

/// How long `kin audit verify` took on how many records.
pub(crate) struct VerifyTime {
    records: usize,
    took: Duration,
}

/// The rate of `kin audit verify` without its start-up.
#[derive(Default)]
pub(crate) struct VerifyRate {
    /// Records in the log.
    pub(crate) records: usize,
    /// Records per second.
    pub(crate) per_s: f64,
}

/// Opens until the log has [`RECORDS`].
pub(crate) fn fill(world: &World) -> Result<()> {
    let missing = RECORDS.saturating_sub(records(world)?);
    let mut member = world.member(&["opens", FILE])?;
    for _ in 0..missing.div_ceil(1000) {
        member.send("1000")?;
        member.receive()?;
    }
    Ok(())
}

/// The best of three: what else the machine does only adds.
pub(crate) fn verify_time(world: &World) -> Result<VerifyTime> {
    let mut took = Duration::MAX;
    for _ in 0..3 {
        took = took.min(children::time(&mut world.kin(&["audit", "verify"]))?);
    }
    Ok(VerifyTime { records: records(world)?, took })
}

/// Compares with the time on the short log of the start.
pub(crate) fn verify_rate(world: &World, at_start: &VerifyTime) -> Result<VerifyRate> {
    wait_for_no_grants(world)?;
    let now = verify_time(world)?;
    let (records, took) = (now.records - at_start.records, now.took.saturating_sub(at_start.took));
    if took.is_zero() {
        return Err("verifying a long log took no longer than verifying a short one".into());
    }
    Ok(VerifyRate { records: now.records, per_s: records as f64 / took.as_secs_f64() })
}

/// VmRSS (proc_pid_status(5)) a second after the last grant ended, in MiB.
pub(crate) fn idle_rss_mib(world: &World) -> Result<f64> {
    wait_for_no_grants(world)?;
    thread::sleep(Duration::from_secs(1));
    Ok(rss_kib(world)? / 1024.0)
}

/// VmRSS (proc_pid_status(5)) now, in KiB.
pub(crate) fn rss_kib(world: &World) -> Result<f64> {
    let file = format!("/proc/{}/status", world.broker()?);
    let status = fs::read_to_string(&file).map_err(|error| format!("read {file}: {error}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    kib.ok_or_else(|| format!("{file} has no VmRSS"))
}

/// Lines of JSON below the state directory: one is one record.
fn records(world: &World) -> Result<usize> {
    let mut count = 0;
    let directory = world.home().join("state");
    for_each_file(&directory, &mut |file| {
        let lines = BufReader::new(fs::File::open(file)?).split(b'\n');
        for line in lines {
            count += usize::from(line?.starts_with(b"{"));
        }
        Ok(())
    })
    .map_err(|error| format!("count the records in {}: {error}", directory.display()))?;
    Ok(count)
}

fn for_each_file(
    directory: &Path,
    visit: &mut impl FnMut(&Path) -> std::io::Result<()>,
) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => for_each_file(&entry.path(), visit)?,
            kind if kind.is_file() => visit(&entry.path())?,
            _ => {}
        }
    }
    Ok(())
}
