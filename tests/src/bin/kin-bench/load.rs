//! What do others cost a member? Thousands of grants beside its own, and an outsider that is refused flat out.

use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};
use serde_json::{Value, json};

use crate::Result;
use crate::opens::{number, take_turns};
use crate::record::rss_kib;
use crate::statistics::median;
use crate::world::{FILE, World};

/// Grants in the full broker, the member's own counted: as many as one holds.
const GRANTS: usize = 10_000;

/// Descriptors that so many grants take, and everybody else's.
const DESCRIPTORS: u64 = 65_536;

/// Denied opens a second, and for how long: longer than a member's block.
const RATE: u64 = 5000;
const SECONDS: u64 = 2;
const BLOCKS: usize = 12;
const OPENS_PER_BLOCK: &str = "4000";

/// A broker with 10,000 grants beside one with one.
pub(crate) struct Crowd {
    /// Median warm open + read + close, nanoseconds.
    pub(crate) full_ns: u64,
    /// The same with one grant.
    pub(crate) one_ns: u64,
    /// What each grant adds to the broker's memory.
    pub(crate) grant_kib: f64,
}

/// `None` where the descriptors do not allow for so many grants.
pub(crate) fn crowd(kin: &Path) -> Result<Option<Crowd>> {
    // Who may (root, setrlimit(2)) makes room; the broker raises its soft limit by itself.
    let _ = setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS);
    let (mut full, mut one) = (World::start(kin, None)?, World::start(kin, None)?);
    let mut member = [full.member(&["opens", FILE])?];
    let mut alone = [one.member(&["opens", FILE])?];
    take_turns(&mut member, &mut alone)?;
    let before = rss_kib(&full)?;
    let others = GRANTS - 1;
    let directory = full.project().to_string_lossy();
    let mut crowd = full.load(&["grants", &others.to_string(), &directory])?;
    let refused = loop {
        match crowd.receive()?.split_once(' ') {
            Some(("granted", _)) => {}
            Some(("refused", "grant_limit")) => break true,
            Some(("all", _)) => break false,
            answer => return Err(format!("kin-load answered {answer:?}")),
        }
    };
    if refused {
        return Ok(None);
    }
    let grant_kib = (rss_kib(&full)? - before) / others as f64;
    let (full_ns, one_ns) = take_turns(&mut member, &mut alone)?;
    drop((crowd, member, alone));
    full.stop()?;
    one.stop()?;
    Ok(Some(Crowd { full_ns, one_ns, grant_kib }))
}

/// Medians of the 99th percentiles of blocks of a member's cycles, in nanoseconds.
#[derive(Default)]
pub(crate) struct Flood {
    /// While an outsider is refused.
    pub(crate) during_ns: u64,
    /// While nobody else asks.
    pub(crate) quiet_ns: u64,
}

/// Blocks with and without the flood, in turns.
pub(crate) fn flood(kin: &Path) -> Result<Flood> {
    let mut world = World::start(kin, None)?;
    let mut member = world.member(&["tails", FILE])?;
    let mut outsider = world.load(&["reader"])?;
    outsider.receive()?;
    let path = world.home().join("run/mnt/bench").join(FILE);
    let arguments = json!({ "path": path, "times": RATE * SECONDS, "rate": RATE });
    let request = json!({ "op": "reads", "args": arguments }).to_string();
    let mut block = || {
        member.send(OPENS_PER_BLOCK)?;
        number(&member.receive()?)
    };
    let (mut during, mut quiet) = (Vec::new(), Vec::new());
    block()?;
    for _ in 0..BLOCKS {
        quiet.push(block()?);
        outsider.send(&request)?;
        thread::sleep(Duration::from_millis(50));
        during.push(block()?);
        was_refused_at_that_rate(&outsider.receive()?)?;
    }
    drop((member, outsider));
    world.stop()?;
    Ok(Flood { during_ns: median(&mut during)?, quiet_ns: median(&mut quiet)? })
}

fn was_refused_at_that_rate(answer: &str) -> Result<()> {
    let answer: Value = serde_json::from_str(answer).map_err(|error| format!("{answer:?}: {error}"))?;
    let micros = answer["ok"]["all"].as_u64().unwrap_or(u64::MAX);
    match answer["ok"]["wrong"] == 0 && micros < SECONDS * 1_100_000 {
        true => Ok(()),
        false => Err(format!("{RATE} denied opens a second for {SECONDS} s: {answer}")),
    }
}
