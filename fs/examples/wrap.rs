//! `run` without a command line: a harness for its tests. `wrap [--end-with-child | --on-rotate=WHAT] COMMAND…`,
//! with the broker's socket below `KIN_HOME`.

use std::ffi::OsString;
use std::process::ExitCode;

use kin_broker::control::Client;
use kin_broker::sys::paths::Directories;
use kin_fs::run::{OnRotate, RunOptions, run};

fn main() -> ExitCode {
    let mut command: Vec<OsString> = std::env::args_os().skip(1).collect();
    let end_with_child = command.first().is_some_and(|first| first == "--end-with-child");
    let first = command.first().and_then(|first| first.to_str()?.strip_prefix("--on-rotate="));
    let on_rotate = first.and_then(OnRotate::parse);
    if end_with_child || on_rotate.is_some() {
        command.remove(0);
    }
    let options = RunOptions {
        command,
        only: None,
        ttl: None,
        limits: kin_policy::Limits::default(),
        max_opens_of: Vec::new(),
        variables: Vec::new(),
        values: Vec::new(),
        end_with_child,
        private: false,
        redact: None,
        on_rotate,
        project_directory: std::env::current_dir().unwrap_or_default(),
    };
    let outcome = Directories::from_environment().and_then(|directories| {
        let unlock = |error: &kin_broker::Error| {
            eprintln!("unlock: {error}");
            Ok(true)
        };
        run(&directories, options, &Client::connect, &unlock).exit_code()
    });
    match outcome {
        Ok(code) => ExitCode::from(code as u8),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
