//! What all parts share: the two namespaces, the programs, how thorough to be.

use crate::options::Options;
use anyhow::{Result, bail};
use kaltstart_tests::pair::Pair;
use kaltstart_tests::unpacked::Unpacked;
use kaltstart_tests::wait::interrupted;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One run.
#[derive(Debug)]
pub(crate) struct Bench {
    pair: Pair,
    server: PathBuf,
    store: PathBuf,
    peers: Unpacked,
    quick: bool,
}

impl Bench {
    pub(crate) fn new(options: &Options) -> Result<Self> {
        Ok(Self {
            pair: Pair::new()?,
            server: options.server.clone(),
            store: options.store.clone(),
            peers: Unpacked::at(&options.peers),
            quick: options.quick,
        })
    }

    pub(crate) fn pair(&self) -> &Pair {
        &self.pair
    }

    /// The directory for data and logs; thrown away at the end.
    pub(crate) fn dir(&self) -> &Path {
        self.pair.dir()
    }

    /// The file for the words of the program `name`.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.dir().join(format!("{name}.log"))
    }

    /// Our server's program.
    pub(crate) fn server(&self) -> &Path {
        &self.server
    }

    /// The load program for its store alone.
    pub(crate) fn store(&self) -> &Path {
        &self.store
    }

    /// The peers' packages.
    pub(crate) fn peers(&self) -> &Unpacked {
        &self.peers
    }

    /// A peer's program, to be run on the server's side.
    pub(crate) fn peer(&self, program: &str) -> Command {
        self.peers.with_libraries(self.pair.server_command(self.peers.program(program)))
    }

    /// A load program out of the peers' packages, to be run on the clients' side.
    pub(crate) fn load_program(&self, program: &str) -> Command {
        self.peers.with_libraries(self.pair.client_command(self.peers.program(program)))
    }

    /// How often to measure: `usual` times, or once when it must be quick.
    pub(crate) fn repeats(&self, usual: usize) -> usize {
        if self.quick { 1 } else { usual }
    }

    /// Fails after Ctrl-C, so that owners clean up. To be asked between measurements.
    pub(crate) fn ensure_wanted(&self) -> Result<()> {
        if interrupted() {
            bail!("interrupted");
        }
        Ok(())
    }
}
