//! A load program for the store alone: what it weighs after a year, and how many changes a second are durable.
//!
//! `cargo xtask bench fleet` builds it, starts it and puts floors and peers beside its figures. Each line that it prints is
//! a name and a number. Usage:
//!
//!     store (--dir DIR | --url URL) year NODES MONTHS
//!     store (--dir DIR | --url URL) worst
//!     store (--dir DIR | --url URL) reports|leases CALLERS SECONDS

mod hardware;
mod life;
mod rates;
mod size;
mod year;

use anyhow::{Context as _, Result, bail};
use kaltstart_server::store::{Server, Store};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the database lies.
enum Place {
    Directory(PathBuf),
    Server(String),
}

impl Place {
    fn open(&self) -> Result<Store> {
        Ok(match self {
            Self::Directory(dir) => Store::open(dir)?,
            Self::Server(url) => Store::connect(&Server::parse(url)?, "one")?,
        })
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    // `cargo bench` adds one of its own.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (place, rest) = match args.as_slice() {
        ["--dir", dir, rest @ ..] => (Place::Directory(Path::new(dir).to_owned()), rest),
        ["--url", url, rest @ ..] => (Place::Server((*url).to_owned()), rest),
        // So that `cargo bench` of the whole workspace ends well.
        [] => return Ok(()),
        _ => bail!("where is the database? --dir DIR or --url URL"),
    };
    match rest {
        ["year", nodes, months] => year::run(&place, number(nodes)?, number(months)?).await,
        ["worst"] => year::worst(&place).await,
        [what @ ("reports" | "leases"), callers, seconds] => {
            let seconds = Duration::from_secs(number(seconds)?.into());
            rates::run(&place, *what == "leases", number(callers)?, seconds).await
        }
        _ => bail!("year NODES MONTHS, worst, or reports|leases CALLERS SECONDS"),
    }
}

fn number(text: &str) -> Result<u32> {
    text.parse().with_context(|| format!("{text:?} is no number"))
}

/// A figure for whoever started this.
fn tell(name: &str, value: f64) {
    println!("{name} {value:.3}");
}
