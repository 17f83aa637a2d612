//! What does a wrapped run add to a command, and how soon after its end is its tree refused.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;
use crate::children::{self, Responder};
use crate::statistics::{median, nanoseconds, percentile};
use crate::world::{FILE, World};

const PAIRS: usize = 100;
const ROUNDS: usize = 200;

/// `kin run -- true` beside `true`, the broker running: medians in nanoseconds from fork to exit.
#[derive(Default)]
pub(crate) struct Run {
    /// Without the wrapper.
    pub(crate) bare_ns: u64,
    /// The median of the differences of neighbours.
    pub(crate) added_ns: u64,
}

/// Times both in turns.
pub(crate) fn run_true(world: &World) -> Result<Run> {
    let (mut bare, mut added) = (Vec::new(), Vec::new());
    for warming_up in (0..PAIRS + 5).map(|pair| pair < 5) {
        let alone = children::time(&mut Command::new("true"))?;
        let wrapped = children::time(&mut world.kin(&["run", "--", "true"]))?;
        if !warming_up {
            bare.push(nanoseconds(alone));
            added.push(nanoseconds(wrapped.saturating_sub(alone)));
        }
    }
    Ok(Run { bare_ns: median(&mut bare)?, added_ns: median(&mut added)? })
}

/// From the last thing a command does, under `--end-with-child`, until the first refused open of a child
/// that it left behind and that opens and reads without a pause; nanoseconds.
#[derive(Default)]
pub(crate) struct Withdrawal {
    /// Median.
    pub(crate) p50_ns: u64,
    /// 99th percentile.
    pub(crate) p99_ns: u64,
}

/// Ends [`ROUNDS`] commands.
pub(crate) fn withdrawal(world: &World) -> Result<Withdrawal> {
    let mut samples = (0..ROUNDS).map(|_| withdraw_once(world)).collect::<Result<Vec<u64>>>()?;
    wait_for_no_grants(world)?;
    Ok(Withdrawal { p50_ns: median(&mut samples)?, p99_ns: percentile(&mut samples, 99)? })
}

fn withdraw_once(world: &World) -> Result<u64> {
    let mut command = world.wrapped(&["--end-with-child"], &["leave-child", FILE])?;
    let mut run = Responder::start(&mut command)?;
    let (mut ended, mut refused) = (None, None);
    while ended.is_none() || refused.is_none() {
        let line = run.receive()?;
        let stamp = line.split_once(' ').and_then(|(what, when)| Some((what, when.parse::<u64>().ok()?)));
        match stamp {
            Some(("ended", when)) => ended = Some(when),
            Some(("refused", when)) => refused = Some(when),
            _ => return Err(format!("the child that was left behind: {line}")),
        }
    }
    match (ended, refused) {
        (Some(ended), Some(refused)) if refused >= ended => Ok(refused - ended),
        _ => Err("the child was refused before its command ended".into()),
    }
}

/// Waits until every tree is gone.
pub(crate) fn wait_for_no_grants(world: &World) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        if world.grants()? == 0 {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(50));
    }
    Err("grants outlive their trees".into())
}
