//! The parts that re-execs of this binary play: links of a chain of processes, and readers at its end.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::prctl::set_child_subreaper;

use crate::Result;
use crate::check::Check;
use crate::children::own;
use crate::floor::{self, SIZE};
use crate::redaction;
use crate::statistics::{monotonic_ns, percentile};

/// How long a child that was left behind reads before it gives up.
const LEFT_BEHIND_NS: u64 = Duration::from_secs(10).as_nanos() as u64;

/// Plays the part `role`.
pub(crate) fn play(role: &str, arguments: &[String]) -> Result<()> {
    let first = arguments.first().map(String::as_str).unwrap_or_default();
    match (role, arguments.len()) {
        ("floor", 1) => floor::serve(Path::new(first), None),
        ("checked-floor", 1) => floor::serve(Path::new(first), Some(Check::new()?)),
        ("root", 1..) => root(arguments),
        ("chain", 2..) => chain(first, &arguments[1..]),
        ("opens", 1) => opens(&file(first), 50),
        ("tails", 1) => opens(&file(first), 99),
        ("pour", 0) => redaction::pour(),
        ("spawns", 1) => spawns(&file(first)),
        ("first-open", 1) => first_open(&file(first)),
        ("leave-child", 1) => leave_child(&file(first)),
        ("left-behind", 1) => left_behind(&file(first)),
        _ => Err(format!("{role} with {} arguments is no part of this play", arguments.len())),
    }
}

/// A path as given, or below the member's `KIN_DIR`.
fn file(name: &str) -> PathBuf {
    std::env::var_os("KIN_DIR").map_or_else(PathBuf::new, PathBuf::from).join(name)
}

/// Plays `part` in a child, and before that does as a keeper does and says its number.
fn root(part: &[String]) -> Result<()> {
    set_child_subreaper(true).map_err(|errno| format!("become a child subreaper: {errno}"))?;
    println!("{}", std::process::id());
    match own(part)?.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("below a root: {status}")),
        Err(error) => Err(format!("fork below a root: {error}")),
    }
}

/// Plays `part` `depth` processes down, this one counted; every process above waits.
fn chain(depth: &str, part: &[String]) -> Result<()> {
    let depth: u32 = depth.parse().map_err(|_| format!("depth {depth}"))?;
    let Some((role, arguments)) = part.split_first() else { return Err("an empty part".into()) };
    if depth <= 1 {
        return play(role, arguments);
    }
    let mut command = own(["chain".to_owned(), (depth - 1).to_string()])?;
    match command.args(part).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("at depth {depth}: {status}")),
        Err(error) => Err(format!("fork at depth {depth}: {error}")),
    }
}

/// Opens, reads and closes; the nanoseconds until open(2) returned, and until the file was closed.
fn cycle(file: &Path) -> io::Result<(u64, u64)> {
    let mut buffer = [0; 4 * SIZE];
    let start = monotonic_ns();
    let mut opened = File::open(file)?;
    let after_open = monotonic_ns();
    let count = opened.read(&mut buffer)?;
    drop(opened);
    let end = monotonic_ns();
    match count {
        SIZE => Ok((after_open - start, end - start)),
        _ => Err(io::Error::new(ErrorKind::UnexpectedEof, format!("{count} bytes, not {SIZE}"))),
    }
}

fn timed(file: &Path) -> Result<(u64, u64)> {
    cycle(file).map_err(|error| format!("read {}: {error}", file.display()))
}

/// For every line `N`: N cycles, answered with this percentile of them.
fn opens(file: &Path, percent: usize) -> Result<()> {
    serve(|count| {
        let mut samples =
            (0..count).map(|_| timed(file).map(|(_, all)| all)).collect::<Result<Vec<u64>>>()?;
        Ok(percentile(&mut samples, percent)?.to_string())
    })
}

/// For every line `N`: N new processes, answered with what each measured.
fn spawns(file: &Path) -> Result<()> {
    serve(|count| {
        let one = || {
            let mut command = own(["first-open".as_ref(), file.as_os_str()])?;
            let output = command.output().map_err(|error| format!("fork: {error}"))?;
            match output.status.success() {
                true => Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned()),
                false => Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned()),
            }
        };
        Ok((0..count).map(|_| one()).collect::<Result<Vec<String>>>()?.join(" "))
    })
}

/// The first open of this process's life.
fn first_open(file: &Path) -> Result<()> {
    let (open, all) = timed(file)?;
    println!("{open}:{all}");
    Ok(())
}

/// Answers every line of standard input, a number, until its end.
fn serve(mut answer: impl FnMut(u32) -> Result<String>) -> Result<()> {
    for line in io::stdin().lock().lines() {
        let line = line.map_err(|error| format!("read a request: {error}"))?;
        println!("{}", answer(line.parse().map_err(|_| format!("request {line:?}"))?)?);
    }
    Ok(())
}

/// Leaves a reader behind and ends, saying when.
fn leave_child(file: &Path) -> Result<()> {
    let mut reader = own(["left-behind".as_ref(), file.as_os_str()])?;
    let mut reader = reader
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("leave a child: {error}"))?;
    wait_until_it_reads(&mut reader)?;
    println!("ended {}", monotonic_ns());
    Ok(())
}

fn wait_until_it_reads(reader: &mut Child) -> Result<()> {
    let pipe = reader.stderr.take().ok_or("a child without standard error")?;
    let mut line = String::new();
    BufReader::new(pipe).read_line(&mut line).map_err(|error| format!("wait for a child: {error}"))?;
    match line.trim_end() {
        "reading" => Ok(()),
        other => Err(format!("the child that was left says {other:?}")),
    }
}

/// Reads in a tight loop in a session of its own until it is refused, and says when that was.
fn left_behind(file: &Path) -> Result<()> {
    nix::unistd::setsid().map_err(|error| format!("setsid: {error}"))?;
    for _ in 0..50 {
        timed(file)?;
    }
    writeln!(io::stderr(), "reading").map_err(|error| format!("say so: {error}"))?;
    let start = monotonic_ns();
    loop {
        let error = match File::open(file).and_then(|mut opened| opened.read(&mut [0; SIZE])) {
            Ok(_) if monotonic_ns() - start > LEFT_BEHIND_NS => {
                println!("late");
                return Ok(());
            }
            Ok(_) => continue,
            Err(error) => error,
        };
        let now = monotonic_ns();
        match error.kind() {
            ErrorKind::PermissionDenied => println!("refused {now}"),
            _ => println!("failed {error}"),
        }
        return Ok(());
    }
}
