//! What does open + read + close of 64 bytes cost, warm and the first time, beside the floor.
//!
//! kin and the floor take turns in short blocks, so that what the machine does meanwhile hits both.

use std::path::Path;

use crate::Result;
use crate::children::{Responder, own};
use crate::cores::OneCore;
use crate::floor::{Floor, SIZE};
use crate::statistics::median;
use crate::world::{FILE, World};

/// Processes from the command that was wrapped, which is 1, to the reader.
const DEPTHS: [u32; 4] = [1, 4, 16, 64];
const CHECKED_DEPTHS: [u32; 2] = [1, 64];
const FIRST_DEPTHS: [u32; 2] = [4, 64];

const BLOCKS: usize = 24;
const OPENS_PER_BLOCK: u32 = 400;

/// 12 × 20 new processes for each figure.
const FIRST_BLOCKS: usize = 12;
const PROCESSES_PER_BLOCK: u32 = 20;

/// One comparison of warm opens.
pub(crate) struct Warm {
    /// Processes below the keeper.
    pub(crate) depth: u32,
    /// Readers at the same time.
    pub(crate) clients: usize,
    /// Median of block medians, nanoseconds.
    pub(crate) floor_ns: u64,
    /// The same of kin.
    pub(crate) kin_ns: u64,
}

impl Warm {
    /// How many times the floor kin takes.
    pub(crate) fn ratio(&self) -> f64 {
        self.kin_ns as f64 / self.floor_ns as f64
    }
}

/// One comparison of the first open of new processes; medians in nanoseconds.
pub(crate) struct First {
    /// Processes below the keeper.
    pub(crate) depth: u32,
    /// open(2) alone.
    pub(crate) open_ns: u64,
    /// With read and close.
    pub(crate) cycle_ns: u64,
    /// open(2) alone, of the floor.
    pub(crate) floor_open_ns: u64,
    /// With read and close, of the floor.
    pub(crate) floor_cycle_ns: u64,
}

/// Every depth, with one client and with two.
pub(crate) fn warm(world: &World, floor: &Floor) -> Result<Vec<Warm>> {
    let rows = [1, 2].into_iter().flat_map(|clients| DEPTHS.map(|depth| (depth, clients)));
    rows.map(|row| compare(row, member_of(world), floor)).collect()
}

/// Every depth, with one client on the core of the broker, or of the floor's server.
pub(crate) fn on_one_core(world: &World, floor: &Floor) -> Result<Vec<Warm>> {
    let _held = OneCore::take(&[world.broker()?, floor.server()?])?;
    DEPTHS.iter().map(|depth| compare((*depth, 1), member_of(world), floor)).collect()
}

/// The check alone, at the least and the greatest depth: [`Warm::kin_ns`] is the checked floor's.
pub(crate) fn checked(floor: &Floor) -> Result<Vec<Warm>> {
    let mut checked = Floor::start_checked()?;
    let rows = [1, 2].into_iter().flat_map(|clients| CHECKED_DEPTHS.map(|depth| (depth, clients)));
    rows.map(|row| compare(row, |part| checked.member(part), floor)).collect()
}

/// The same with one client on the core of the server.
pub(crate) fn checked_on_one_core(floor: &Floor) -> Result<Vec<Warm>> {
    let mut checked = Floor::start_checked()?;
    let _held = OneCore::take(&[checked.server()?, floor.server()?])?;
    CHECKED_DEPTHS.iter().map(|depth| compare((*depth, 1), |part| checked.member(part), floor)).collect()
}

fn member_of(world: &World) -> impl FnMut(&[&str]) -> Result<Responder> {
    |part| world.member(&[part, &[FILE]].concat())
}

/// One row: so many readers so deep below a root, beside as many of the floor.
fn compare(
    (depth, clients): (u32, usize),
    mut member: impl FnMut(&[&str]) -> Result<Responder>,
    floor: &Floor,
) -> Result<Warm> {
    let chain = depth.to_string();
    let part = ["chain", &chain, "opens"];
    let mut members = several(clients, || member(&part))?;
    let mut outside = several(clients, || beside(&part, &floor.file()))?;
    let (kin_ns, floor_ns) = take_turns(&mut members, &mut outside)?;
    Ok(Warm { depth, clients, floor_ns, kin_ns })
}

/// The same cycle on tmpfs, one client; `None` where `/dev/shm` is none.
pub(crate) fn tmpfs() -> Result<Option<u64>> {
    let shm = Path::new("/dev/shm");
    if !matches!(nix::sys::statfs::statfs(shm), Ok(found) if found.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC)
    {
        return Ok(None);
    }
    let directory =
        tempfile::tempdir_in(shm).map_err(|error| format!("make a directory in /dev/shm: {error}"))?;
    let file = directory.path().join(FILE);
    std::fs::write(&file, [b'x'; SIZE]).map_err(|error| format!("write to /dev/shm: {error}"))?;
    let mut client = [beside(&["opens"], &file)?];
    let mut blocks = (0..BLOCKS).map(|_| block(&mut client)).collect::<Result<Vec<_>>>()?.concat();
    median(&mut blocks).map(Some)
}

/// The first open of new processes.
pub(crate) fn first(world: &World, floor: &Floor) -> Result<Vec<First>> {
    FIRST_DEPTHS.iter().map(|depth| first_at(world, floor, *depth)).collect()
}

fn first_at(world: &World, floor: &Floor, depth: u32) -> Result<First> {
    // Who forks the readers is one step above them.
    let chain = (depth - 1).to_string();
    let part = ["chain", &chain, "spawns"];
    let mut member = world.member(&[&part[..], &[FILE]].concat())?;
    let mut outside = beside(&part, &floor.file())?;
    let (mut kin, mut bare) = (Firsts::default(), Firsts::default());
    for _ in 0..FIRST_BLOCKS {
        kin.block(&mut member)?;
        bare.block(&mut outside)?;
    }
    Ok(First {
        depth,
        open_ns: median(&mut kin.open)?,
        cycle_ns: median(&mut kin.cycle)?,
        floor_open_ns: median(&mut bare.open)?,
        floor_cycle_ns: median(&mut bare.cycle)?,
    })
}

#[derive(Default)]
struct Firsts {
    open: Vec<u64>,
    cycle: Vec<u64>,
}

impl Firsts {
    fn block(&mut self, spawner: &mut Responder) -> Result<()> {
        spawner.send(&PROCESSES_PER_BLOCK.to_string())?;
        for pair in spawner.receive()?.split(' ') {
            let (open, cycle) = pair.split_once(':').ok_or_else(|| format!("answer {pair:?}"))?;
            self.open.push(number(open)?);
            self.cycle.push(number(cycle)?);
        }
        Ok(())
    }
}

/// A reader of a file outside the mount, in the same chain of processes, without a wrapper.
fn beside(part: &[&str], file: &Path) -> Result<Responder> {
    Responder::start(own(part)?.arg(file))
}

fn several(count: usize, mut start: impl FnMut() -> Result<Responder>) -> Result<Vec<Responder>> {
    (0..count).map(|_| start()).collect()
}

/// Blocks of both in turns: the medians of the block medians. The first of each warms up.
pub(crate) fn take_turns(kin: &mut [Responder], floor: &mut [Responder]) -> Result<(u64, u64)> {
    block(kin)?;
    block(floor)?;
    let (mut kin_blocks, mut floor_blocks) = (Vec::new(), Vec::new());
    for _ in 0..BLOCKS {
        kin_blocks.extend(block(kin)?);
        floor_blocks.extend(block(floor)?);
    }
    Ok((median(&mut kin_blocks)?, median(&mut floor_blocks)?))
}

/// One block of all clients at the same time: the median of each.
fn block(clients: &mut [Responder]) -> Result<Vec<u64>> {
    clients.iter_mut().try_for_each(|client| client.send(&OPENS_PER_BLOCK.to_string()))?;
    clients.iter_mut().map(|client| number(&client.receive()?)).collect()
}

pub(crate) fn number(text: &str) -> Result<u64> {
    text.parse().map_err(|_| format!("a child answered {text:?}"))
}
