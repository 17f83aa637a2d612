//! What is answered to somebody who opens flat out? A probe that counts; it speaks as `probe.py` does.

use std::fs::File;
use std::io::{BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kin_broker::sys::process::fork_single_threaded;
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::ForkResult;
use serde_json::{Value, json};

use crate::Result;

/// Answers each line of standard input, until it ends.
pub(crate) fn serve() -> Result<()> {
    let who = json!({ "pid": std::process::id() });
    say(&json!({ "ok": who }))?;
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| format!("read a request: {error}"))?;
        let request: Value = serde_json::from_str(&line).map_err(|error| format!("{line:?}: {error}"))?;
        say(&json!({ "ok": answer(&request)? }))?;
    }
    Ok(())
}

fn say(message: &Value) -> Result<()> {
    writeln!(std::io::stdout(), "{message}").map_err(|error| format!("answer: {error}"))
}

fn answer(request: &Value) -> Result<Value> {
    let args = &request["args"];
    let path = PathBuf::from(args["path"].as_str().unwrap_or_default());
    let number = |name: &str| args[name].as_u64().unwrap_or(0);
    match request["op"].as_str() {
        Some("reads") => Ok(reads(&path, args["value"].as_str(), number("times"), number("rate"))),
        Some("race") => Ok(race(&path, number("threads"))),
        Some("bomb") => {
            bomb(&path, args["value"].as_str().unwrap_or_default(), number("forks"), number("alive"))
        }
        _ => Err(format!("no part of this play: {request}")),
    }
}

fn read(path: &Path, buffer: &mut [u8]) -> std::io::Result<usize> {
    File::open(path)?.read(buffer)
}

/// Opens, reads and closes `times` times, `rate` times a second where that is not 0. `value` is what must be
/// read; without one, EACCES is. Counts every other answer, and gives times in microseconds.
fn reads(path: &Path, value: Option<&str>, times: u64, rate: u64) -> Value {
    let (mut wrong, mut crossed) = (0_u64, 0_u64);
    let mut buffer = [0; 4096];
    let mut took = Vec::with_capacity(usize::try_from(times).unwrap_or(0));
    let began = Instant::now();
    for number in 0..times {
        if let Some(due) = (number * 1_000_000).checked_div(rate) {
            std::thread::sleep(Duration::from_micros(due).saturating_sub(began.elapsed()));
        }
        let start = Instant::now();
        let answer = read(path, &mut buffer);
        took.push(start.elapsed());
        match (answer, value) {
            (Ok(count), Some(value)) if buffer.get(..count) == Some(value.as_bytes()) => {}
            (Ok(_), Some(_)) => crossed += 1,
            (Err(error), None) if error.raw_os_error() == Some(Errno::EACCES as i32) => {}
            _ => wrong += 1,
        }
    }
    let all = began.elapsed();
    took.sort_unstable();
    let at = |hundredth: usize| took.get((took.len() * hundredth / 100).min(took.len().saturating_sub(1)));
    let micros = |time: Option<&Duration>| time.map_or(0, Duration::as_micros);
    json!({
        "wrong": wrong, "crossed": crossed,
        "p50": micros(at(50)) as u64, "p99": micros(at(99)) as u64, "all": all.as_micros() as u64,
    })
}

/// Many threads open and read until each was refused; how often they were not, and what else was answered.
/// After its refusal each goes on for a while: nothing may be allowed again.
fn race(path: &Path, threads: u64) -> Value {
    let [allowed, late, other] = [const { AtomicU64::new(0) }; 3];
    let open_until_refused = || {
        let mut refused = 0;
        while refused < 20 {
            match read(path, &mut [0; 64]) {
                Ok(_) if refused == 0 => allowed.fetch_add(1, Ordering::Relaxed),
                Ok(_) => late.fetch_add(1, Ordering::Relaxed),
                Err(error) if error.raw_os_error() == Some(Errno::EACCES as i32) => {
                    refused += 1;
                    continue;
                }
                Err(_) => {
                    refused += 1;
                    other.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(open_until_refused);
        }
    });
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    json!({ "allowed": count(&allowed), "late": count(&late), "other": count(&other) })
}

/// Forks until `forks` children were made, with at most `alive` at the same time: each reads the file, stays
/// for a moment and ends. How many were made, how many the kernel refused to make, and how many of them read
/// anything but `value`.
fn bomb(path: &Path, value: &str, forks: u64, alive: u64) -> Result<Value> {
    let (mut made, mut refused, mut wrong, mut living) = (0_u64, 0_u64, 0_u64, 0_u64);
    let mut reap = |living: &mut u64| -> Result<()> {
        let status = wait().map_err(|errno| format!("reap: {errno}"))?;
        wrong += u64::from(!matches!(status, WaitStatus::Exited(_, 0)));
        *living -= 1;
        Ok(())
    };
    while made < forks {
        if living == alive {
            reap(&mut living)?;
        }
        match fork_single_threaded() {
            Ok(ForkResult::Parent { .. }) => (made, living) = (made + 1, living + 1),
            Ok(ForkResult::Child) => {
                let mut buffer = [0; 4096];
                let right =
                    matches!(read(path, &mut buffer), Ok(count) if buffer[..count] == *value.as_bytes());
                std::thread::sleep(Duration::from_millis(20));
                std::process::exit(i32::from(!right));
            }
            Err(Errno::EAGAIN) if living > 0 => {
                refused += 1;
                reap(&mut living)?;
            }
            Err(errno) => return Err(format!("fork: {errno}")),
        }
    }
    while living > 0 {
        reap(&mut living)?;
    }
    Ok(json!({ "made": made, "refused": refused, "wrong": wrong }))
}
