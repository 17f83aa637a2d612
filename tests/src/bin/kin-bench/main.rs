//! kin-bench answers: what does kin cost beside a FUSE filesystem that checks and records nothing?
//!
//! One process measures; everything it measures is a re-exec of this binary in one of the parts of
//! [`roles`], below `kin run` or below nothing, or the floor's server.

#![allow(clippy::print_stdout)] // Printing is what it is for.

mod audit;
mod check;
mod children;
mod cores;
mod floor;
mod lifetimes;
mod load;
mod opens;
mod private;
mod record;
mod redaction;
mod report;
mod roles;
mod statistics;
mod vault;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::floor::Floor;
use crate::report::Report;
use crate::world::World;

/// What fails here fails the whole bench, so a line of text is enough.
type Result<T> = std::result::Result<T, String>;

const USAGE: &str = "usage: kin-bench [--json] [--kin PATH]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((role, rest)) if !role.starts_with('-') => roles::play(role, rest),
        _ => Options::parse(&arguments).and_then(|options| measure(&options)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

/// What the command line asks for.
struct Options {
    json: bool,
    kin: PathBuf,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let own = std::env::current_exe().map_err(|error| format!("where am I: {error}"))?;
        let mut options = Self { json: false, kin: own.with_file_name("kin") };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--json" => options.json = true,
                "--kin" => options.kin = rest.next().ok_or(USAGE)?.into(),
                _ => return Err(USAGE.into()),
            }
        }
        match options.kin.is_file() {
            true => Ok(options),
            false => Err(format!("{} is not there: build it first", options.kin.display())),
        }
    }
}

fn measure(options: &Options) -> Result<()> {
    let floor = Floor::start()?;
    let mut report = Report { tmpfs_ns: opens::tmpfs()?, ..Report::default() };

    progress("opens, the identity of this kernel");
    let mut world = World::start(&options.kin, None)?;
    report.identity = world.identity()?;
    let at_start = record::verify_time(&world)?;
    report.opens = opens::warm(&world, &floor)?;
    report.opens_on_one_core = opens::on_one_core(&world, &floor)?;
    report.first = opens::first(&world, &floor)?;
    progress("kin run -- true");
    report.run = lifetimes::run_true(&world)?;
    progress("withdrawal");
    report.withdrawal = lifetimes::withdrawal(&world)?;
    progress("redaction");
    report.flow = redaction::flow(&world)?;
    progress("the record");
    record::fill(&world)?;
    report.verify = record::verify_rate(&world, &at_start)?;
    report.idle_rss_mib = record::idle_rss_mib(&world)?;
    world.stop()?;

    progress("opens, the /proc fallback");
    let mut world = World::start(&options.kin, Some("procfs"))?;
    report.opens_fallback = opens::warm(&world, &floor)?;
    report.first_fallback = opens::first(&world, &floor)?;
    world.stop()?;

    progress("private mounts");
    report.private = private::measure(&options.kin)?;
    progress("the check alone");
    report.check = opens::checked(&floor)?;
    report.check_on_one_core = opens::checked_on_one_core(&floor)?;
    drop(floor);
    progress("10,000 grants");
    report.crowd = load::crowd(&options.kin)?;
    progress("a flood of denials");
    report.flood = load::flood(&options.kin)?;
    progress("a million records");
    report.audit = audit::measure(&options.kin)?;
    progress("10,000 secrets");
    report.scale = vault::measure()?;
    println!("{}", if options.json { report.json().to_string() } else { report.table() });
    Ok(())
}

/// Says on stderr what is being measured: the whole takes about a minute.
fn progress(what: &str) {
    eprintln!("measuring: {what}");
}
