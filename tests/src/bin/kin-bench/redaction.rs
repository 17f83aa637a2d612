//! How fast does an output flow through a redactor that has 100 secrets, beside a plain pipe?

use std::fs;
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::Result;
use crate::children;
use crate::statistics::nanoseconds;
use crate::world::World;

/// Secrets, each of 43 characters, which are looked for in every form.
const SECRETS: usize = 100;
/// Bytes of one stream: lines as of a log, without any secret.
const BYTES: usize = 512 << 20;
/// Streams of each kind.
const ROUNDS: usize = 5;

/// The best of some streams, in nanoseconds: what else the machine does only adds.
#[derive(Default)]
pub(crate) struct Flow {
    /// Through one pipe.
    pub(crate) floor_ns: u64,
    /// Through `kin run --redact`.
    pub(crate) redacted_ns: u64,
    /// The most memory that a redactor had resident, in MiB.
    pub(crate) rss_mib: f64,
}

impl Flow {
    /// Megabytes in a second.
    pub(crate) fn mb_s(ns: u64) -> f64 {
        BYTES as f64 * 1e3 / ns as f64
    }
}

/// Measures both in turns.
pub(crate) fn flow(world: &World) -> Result<Flow> {
    let mut manifest = String::from("schema = 1\n[project]\nname = \"redact\"\n[bindings]\n");
    for n in 0..SECRETS {
        let generate = format!("redact/s{n}");
        children::run(&mut world.kin(&["set", &generate, "--generate", "password:43"]), b"")?;
        manifest.push_str(&format!("S{n} = \"redact/s{n}\"\n"));
    }
    let directory = world.project().join("redact");
    fs::create_dir(&directory)
        .and_then(|()| fs::write(directory.join("kin.toml"), manifest))
        .map_err(|error| format!("write kin.toml: {error}"))?;
    children::run(world.kin(&["trust", "--yes"]).current_dir(&directory), b"")?;
    let mut flow = Flow { floor_ns: u64::MAX, redacted_ns: u64::MAX, rss_mib: 0.0 };
    for _ in 0..ROUNDS {
        let (floor, _) = stream(&mut children::own(["pour"])?, || Ok(0.0))?;
        let mut wrapped = world.wrapped(&["--redact"], &["pour"])?;
        let (redacted, rss) = stream(wrapped.current_dir(&directory), || redactors_peak(world.broker()?))?;
        flow.floor_ns = flow.floor_ns.min(floor);
        flow.redacted_ns = flow.redacted_ns.min(redacted);
        flow.rss_mib = flow.rss_mib.max(rss);
    }
    Ok(flow)
}

/// From its first byte to its last; and what `at_the_end` finds before the command ends.
fn stream(command: &mut Command, at_the_end: impl Fn() -> Result<f64>) -> Result<(u64, f64)> {
    let fault = |error: io::Error| format!("read a stream: {error}");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(fault)?;
    let mut output = child.stdout.take().ok_or("a child without standard output")?;
    let mut piece = vec![0; 1 << 20];
    let mut left = BYTES - output.read(&mut piece[..1]).map_err(fault)?;
    let start = Instant::now();
    while left > 0 {
        match output.read(&mut piece).map_err(fault)? {
            0 => return Err(format!("a stream ended {left} bytes too soon")),
            got => left = left.checked_sub(got).ok_or("a stream is too long")?,
        }
    }
    let took = start.elapsed();
    let found = at_the_end()?;
    drop(child.stdin.take());
    children::end(&mut child, children::DEADLINE);
    Ok((nanoseconds(took), found))
}

/// VmHWM (proc_pid_status(5)) of the largest redactor, in MiB. Its parent, the zygote, is the broker's child.
fn redactors_peak(broker: u32) -> Result<f64> {
    let mut peak: f64 = 0.0;
    for entry in fs::read_dir("/proc").map_err(|error| format!("read /proc: {error}"))?.flatten() {
        let status = |pid: &str| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let of_redactor = status(&entry.file_name().to_string_lossy());
        let parent = field(&of_redactor, "PPid:").map(|pid| status(&pid.to_string())).unwrap_or_default();
        if of_redactor.starts_with("Name:\tkin-redactor\n") && field(&parent, "PPid:") == Some(broker) {
            peak = peak.max(f64::from(field(&of_redactor, "VmHWM:").unwrap_or(u32::MAX)) / 1024.0);
        }
    }
    if peak > 0.0 { Ok(peak) } else { Err("no redactor is to be seen".into()) }
}

fn field(status: &str, name: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// The part that writes the stream, and ends with its input.
pub(crate) fn pour() -> Result<()> {
    let mut block = String::new();
    for n in 0_u64.. {
        let hash = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        block.push_str(&format!(
            "2026-11-25T18:{:02}:{:02}.{:06}Z INFO request id={hash:016x} path=/api/v1/items/{n} status=200\n",
            n / 60 % 60,
            n % 60,
            n % 1_000_000
        ));
        if block.len() >= 1 << 20 {
            break;
        }
    }
    let (mut out, block) = (io::stdout().lock(), &block.as_bytes()[..1 << 20]);
    let poured = (0..BYTES >> 20).try_for_each(|_| out.write_all(block)).and_then(|()| out.flush());
    poured.map_err(|error| format!("pour: {error}"))?;
    io::stdin()
        .lock()
        .read_to_end(&mut Vec::new())
        .map(drop)
        .map_err(|error| format!("wait for the end: {error}"))
}
