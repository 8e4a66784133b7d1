//! `kaltstart`, the server; called as `ks`, its client.

use clap::Parser;
use clap::error::ErrorKind;
use kaltstart_server::cli::Cli;
use kaltstart_server::exit::Exit;
use kaltstart_server::usage;
use std::process::ExitCode;

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => cli.run().into(),
        Err(error) => {
            // Help and version go to stdout, mistakes to stderr: clap knows which is which.
            let _ = error.print();
            let typed: Vec<String> =
                std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
            if let Some(next) = usage::next(&error, &typed) {
                eprintln!("{next}");
            }
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Done.into(),
                _ => Exit::Usage.into(),
            }
        }
    }
}
