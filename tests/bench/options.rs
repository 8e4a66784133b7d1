//! Arguments of the benchmark.

use crate::lay_down::LayDown;
use anyhow::{Context as _, Result, bail};
use std::path::PathBuf;

/// How it is called.
pub(crate) const USAGE: &str = "\
usage: cargo xtask bench boot [PART …] [OPTIONS]
       cargo xtask bench agent [OPTIONS]
       cargo xtask bench fleet [PART …] [OPTIONS]
  PART         of boot dhcp, tftp, http or memory, of a fleet machines, commits or year (all of them when none is named)
  --quick      measure everything once
  --json FILE  write all rows";

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Dhcp,
    Tftp,
    Http,
    Memory,
    Machines,
    Commits,
    Year,
    LayDown,
}

impl Part {
    const BOOT: [(&str, Self); 4] =
        [("dhcp", Self::Dhcp), ("tftp", Self::Tftp), ("http", Self::Http), ("memory", Self::Memory)];
    const FLEET: [(&str, Self); 3] =
        [("machines", Self::Machines), ("commits", Self::Commits), ("year", Self::Year)];
}

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) parts: Vec<Part>,
    pub(crate) quick: bool,
    pub(crate) json: Option<PathBuf>,
    /// Whether only to check the arguments.
    pub(crate) check: bool,
    /// Our server's program.
    pub(crate) server: PathBuf,
    /// The load program for its store alone.
    pub(crate) store: PathBuf,
    /// What is laid down, and by what.
    pub(crate) lay_down: LayDown,
    /// The peers' programs.
    pub(crate) peers: PathBuf,
}

impl Options {
    /// Reads the arguments; `--lay-down`, `--archive`, `--raw`, `--chunked`, `--larger`, `--fleet`, `--server`, `--store`, `--peers` and `--check` come from
    /// `cargo xtask`.
    pub(crate) fn parse(args: &[String]) -> Result<Self> {
        let (server, store, peers) = (PathBuf::new(), PathBuf::new(), PathBuf::new());
        let lay_down = LayDown::default();
        let mut options = Self {
            parts: Vec::new(),
            quick: false,
            json: None,
            check: false,
            server,
            store,
            lay_down,
            peers,
        };
        let is_fleet = args.iter().any(|arg| arg == "--fleet");
        let known: &[(&str, Part)] = if is_fleet { &Part::FLEET } else { &Part::BOOT };
        let mut args = args.iter();
        while let Some(name) = args.next() {
            let mut value =
                || args.next().map(PathBuf::from).with_context(|| format!("{name} needs a value"));
            match name.as_str() {
                "--quick" => options.quick = true,
                "--check" => options.check = true,
                "--fleet" => {}
                "--json" => options.json = Some(value()?),
                "--server" => options.server = value()?,
                "--store" => options.store = value()?,
                "--peers" => options.peers = value()?,
                "--archive" => options.lay_down.archive = value()?,
                "--raw" => options.lay_down.raw = value()?,
                "--chunked" => options.lay_down.chunked = value()?,
                "--larger" => options.lay_down.larger = value()?,
                "--lay-down" => {
                    options.lay_down.program = value()?;
                    options.parts.push(Part::LayDown);
                }
                other => match known.iter().find(|part| part.0 == other) {
                    Some((_, part)) => options.parts.push(*part),
                    None => bail!("unknown argument {other:?}"),
                },
            }
        }
        if options.parts.is_empty() {
            options.parts = known.iter().map(|part| part.1).collect();
        }
        options.parts.sort();
        options.parts.dedup();
        let LayDown { archive, raw, chunked, larger, .. } = &options.lay_down;
        let needed = match options.parts[..] {
            [Part::LayDown] => vec![&options.peers, archive, raw, chunked, larger],
            _ if is_fleet => vec![&options.peers, &options.server, &options.store],
            _ => vec![&options.peers, &options.server],
        };
        if !options.check && needed.iter().any(|path| path.as_os_str().is_empty()) {
            bail!("programs are missing: start this with `cargo xtask bench`");
        }
        Ok(options)
    }
}
