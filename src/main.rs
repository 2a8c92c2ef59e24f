//! The one binary: command line and toolstack; it re-executes itself for each process of the honeynet.

use std::process::ExitCode;

use clap::Parser;
use honeynet::cli::{self, Arguments};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match cli::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("honeynet: {failure}");
            failure.exit_code()
        }
    }
}
