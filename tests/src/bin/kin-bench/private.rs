//! What does a mount of one's own cost? The broker memory for as long as it is there, and a run its start.

use std::path::Path;

use crate::Result;
use crate::children::{self, Responder};
use crate::lifetimes::wait_for_no_grants;
use crate::record::rss_kib;
use crate::statistics::{median, nanoseconds};
use crate::world::{FILE, World};

/// Private runs at once.
const LIVE: usize = 20;
/// Runs of each kind that are timed, and some before that warm up.
const PAIRS: usize = 100;
const WARMING_UP: usize = 5;

/// Private runs beside plain ones.
#[derive(Default)]
pub(crate) struct Private {
    /// What one live private run, whose command has read, adds to the broker's memory.
    pub(crate) mib: f64,
    /// `kin run --private -- true` from fork to exit, nanoseconds; the median.
    pub(crate) run_ns: u64,
    /// `kin run -- true`, its neighbour.
    pub(crate) plain_ns: u64,
}

impl Private {
    /// MiB that one may take.
    pub(crate) const MIB_LIMIT: f64 = 1.0;
    /// How many times a plain run a private one may take.
    pub(crate) const RATIO_LIMIT: f64 = 2.0;
}

/// Both in a broker of their own, in this order: what runs that have ended gave back, the next ones may not fill.
pub(crate) fn measure(kin: &Path) -> Result<Private> {
    let mut world = World::start(kin, None)?;
    let (mut plain, mut private) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS + WARMING_UP {
        let plainly = children::time(&mut world.kin(&["run", "--", "true"]))?;
        let privately = children::time(&mut world.kin(&["run", "--private", "--", "true"]))?;
        if pair >= WARMING_UP {
            plain.push(nanoseconds(plainly));
            private.push(nanoseconds(privately));
        }
    }
    let mib = live(&world)?;
    world.stop()?;
    Ok(Private { mib, run_ns: median(&mut private)?, plain_ns: median(&mut plain)? })
}

/// VmRSS with [`LIVE`] of them and without, for each.
fn live(world: &World) -> Result<f64> {
    wait_for_no_grants(world)?;
    let before = rss_kib(world)?;
    let mut members = Vec::new();
    for _ in 0..LIVE {
        let mut member = Responder::start(&mut world.wrapped(&["--private"], &["opens", FILE])?)?;
        member.send("10")?;
        member.receive()?;
        members.push(member);
    }
    let after = rss_kib(world)?;
    drop(members);
    wait_for_no_grants(world)?;
    Ok((after - before) / LIVE as f64 / 1024.0)
}
