//! The agent that only looks: `init` of the ramdisk for machines without a job. Built without the feature
//! `install`, and so without anything that opens a disk for writing.

use std::process::ExitCode;

use kaltstart_agent::run;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        run::run();
    }
    eprintln!("kaltstart-discovery {}: runs as init of Kaltstart's ramdisk that only looks.", run::VERSION);
    ExitCode::from(2)
}
