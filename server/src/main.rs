//! `kaltstart`, the server; called as `ks`, its client.

use clap::Parser;
use clap::error::ErrorKind;
use kaltstart_server::cli::Cli;
use kaltstart_server::exit::Exit;
use std::process::ExitCode;

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => cli.run().into(),
        Err(error) => {
            // Help and version go to stdout, mistakes to stderr: clap knows which is which.
            let _ = error.print();
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Done.into(),
                _ => Exit::Usage.into(),
            }
        }
    }
}
