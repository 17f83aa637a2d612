//! kin-load answers: what happens when very many ask? Grants by the thousand, and readers that open flat out.
//!
//! The suite, `scripts/soak` and the bench start it in one of its parts: below nothing it asks for grants or
//! reads as an outsider, below `kin run` it reads as a member.

#![allow(clippy::print_stdout)] // Its answers are what it is for.

mod grants;
mod reader;

use std::process::ExitCode;

/// What fails here fails the whole part, so a line of text is enough.
type Result<T> = std::result::Result<T, String>;

const USAGE: &str = "usage: kin-load grants COUNT DIRECTORY | kin-load reader";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["grants", count, directory] => match count.parse() {
            Ok(count) => grants::hold(count, directory.as_ref()),
            Err(_) => Err(USAGE.into()),
        },
        ["reader"] => reader::serve(),
        _ => Err(USAGE.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}
