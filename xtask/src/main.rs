//! `cargo xtask NAME`: the repository's own tasks.
//!
//! Every task prints its result (a directory, a number) as the last line of
//! standard output and everything else on standard error, so that scripts and
//! tests can use the tasks as functions.

mod apt_sources;
mod artefacts;
mod bench;
mod boot_files;
mod cache;
mod command;
mod cpio;
mod demo;
mod fuzz;
mod grub;
mod image;
mod kernel;
mod modules;
mod packages;
mod ramdisk;
mod recipes;
mod sim;
mod test;

#[cfg(test)]
mod tidy;

use std::process::ExitCode;

use anyhow::Result;

/// A task takes the arguments after its name.
type Task = fn(&[String]) -> Result<()>;

/// Name, arguments, purpose, function.
const TASKS: &[(&str, &str, &str, Task)] = &[
    ("demo", "[OPTIONS]", "install a machine, watch it, prove it (--help shows the options)", demo::task),
    ("test", "", "run all tests", test::task),
    ("e2e", "[FILTER]", "run the end-to-end stories only", test::stories),
    ("powercut", "[--every N]", "cut the power after every step of an installation", test::powercut),
    ("bench", "agent [--quick] [--json FILE]", "measure laying down an image beside archivers", bench::task),
    (
        "bench",
        "deploy [sizes|time|memory …] [--json FILE]",
        "measure deploys, and print figures",
        bench::task,
    ),
    (
        "bench",
        "boot [dhcp|tftp|http|memory …] [--quick] [--json FILE]",
        "measure the boot services beside their peers",
        bench::task,
    ),
    (
        "bench",
        "fleet [--quick] [--json FILE]",
        "measure a storm of jobs on few and many nodes, with each database",
        bench::task,
    ),
    ("fuzz", "[TARGET] [--seconds N]", "search for bytes that break a parser", fuzz::task),
    (
        "sim",
        "--seed N | [--seeds N] [--minutes M] [--from N]",
        "let a simulated fleet live through faults: one seed in full, or many",
        sim::task,
    ),
    ("image", "NAME [--compression zstd|gzip] [--check]", "build an operating system image", image::task),
    (
        "ramdisk",
        "cloud|generic [--agent PATH --out FILE]",
        "build the agent's kernel and ramdisk",
        ramdisk::task,
    ),
    (
        "artefacts",
        "",
        "build all that a server hands out, and the server, into one directory",
        artefacts::task,
    ),
    ("boot-files", "", "collect the network boot loaders", boot_files::task),
    ("packages", "", "install the Debian packages the tasks need", packages::task),
];

/// A program that was run for its verdict said no, and has told why: its exit status is the task's.
#[derive(Debug)]
struct SaidNo(Option<i32>);

impl std::fmt::Display for SaidNo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a program ended without success")
    }
}

impl std::error::Error for SaidNo {}

impl SaidNo {
    /// Passes success on.
    fn check(status: std::process::ExitStatus) -> Result<()> {
        if status.success() { Ok(()) } else { Err(Self(status.code()).into()) }
    }

    /// The exit status; 1 when a signal ended the program.
    fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.0.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let task = args.first().and_then(|name| TASKS.iter().find(|task| task.0 == name));
    let Some((_, _, _, run)) = task else {
        eprintln!("usage: cargo xtask NAME");
        for (name, arguments, purpose, _) in TASKS {
            eprintln!("  {:<55} {purpose}", format!("{name} {arguments}"));
        }
        return ExitCode::from(64);
    };
    match run(&args[1..]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(said_no) = error.downcast_ref::<SaidNo>() {
                return said_no.exit_code();
            }
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
