//! The command line: what is typed, and which function does it.

use crate::client::{self, ClientCommand, Connection};
use crate::config::Config;
use crate::dhcp_options::OtherServer;
use crate::exit::Exit;
use crate::explain::{self, Explain};
use crate::{audit, backup, clock, config, demo, dhcp_options, disk_keys, serve, tls};
use clap::{Parser, Subcommand};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// Boot server: from power button to production, in minutes.
#[derive(Debug, Parser)]
#[command(name = "kaltstart", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server until it is told to stop (SIGINT, SIGTERM)
    Server {
        /// Configuration file
        #[arg(long)]
        config: PathBuf,
    },
    /// Show it: a server and six simulated machines on this one, without rights; Ctrl-C removes everything
    Demo(demo::Demo),
    /// One of these machines, which its demonstration starts
    #[command(hide = true)]
    DemoMachine,
    /// Check a configuration; binds and creates nothing
    CheckConfig {
        /// Configuration file
        #[arg(long)]
        config: PathBuf,
    },
    /// Copy all that the server remembers into a new directory, while it runs
    Backup {
        /// Configuration file
        #[arg(long)]
        config: PathBuf,
        /// The directory to make
        to: PathBuf,
    },
    /// Make data_dir, which must be empty, of a backup
    Restore {
        /// Configuration file
        #[arg(long)]
        config: PathBuf,
        /// The backup's directory
        from: PathBuf,
    },
    /// Write the keys of a node's encrypted disks into files of a new directory, to open them by hand
    DiskKeys {
        /// Configuration file
        #[arg(long)]
        config: PathBuf,
        /// Name, identifier or MAC
        node: String,
        /// The directory to make
        to: PathBuf,
    },
    /// Give up all keys of encrypted disks, when tls/secrets.key is lost for good; no server may run
    ForgetSecrets {
        /// Configuration file
        #[arg(long)]
        config: PathBuf,
        /// How many there are
        #[arg(long, default_value_t = -1, hide_default_value = true)]
        confirm: i64,
    },
    /// Look whether the audit log is whole, also where no server runs any more
    AuditVerify {
        /// Configuration file
        #[arg(long)]
        config: PathBuf,
    },
    /// Print what another DHCP server must be told so that its clients boot from here
    DhcpOptions {
        /// The other server
        #[arg(value_enum)]
        other: OtherServer,
        /// Configuration file
        #[arg(long)]
        config: PathBuf,
        /// Interface of the `[[dhcp]]` section meant, if there are several
        #[arg(long)]
        interface: Option<String>,
    },
    /// What a code means and what to do, in English or German; needs no server
    Explain(Explain),
    /// The server's certificate and its authority
    #[command(subcommand)]
    Tls(TlsCommand),
    #[command(flatten)]
    Client(ClientCommand),
}

#[derive(Debug, Subcommand)]
enum TlsCommand {
    /// Print fingerprints, validity and names
    Show {
        /// Configuration file
        #[arg(long)]
        config: PathBuf,
    },
    /// Make a new key and certificate; a running server takes them up within seconds
    Rotate {
        /// Configuration file
        #[arg(long)]
        config: PathBuf,
        /// A new authority too; the old one is still believed for 30 days
        #[arg(long)]
        authority: bool,
    },
}

impl Cli {
    /// Does what was typed.
    #[must_use]
    pub fn run(self) -> Exit {
        match self.command {
            Command::Server { config } => match config::load(&config) {
                Ok(config) => serve::run(config),
                Err(error) => usage(&error.into()),
            },
            Command::Demo(demo) => demo.run(),
            Command::DemoMachine => told(demo::machine()),
            Command::CheckConfig { config } => match config::load(&config) {
                Ok(good) => {
                    let warnings = good.warnings();
                    for warning in &warnings {
                        eprintln!("warning: {warning}");
                    }
                    let but = if warnings.is_empty() { "" } else { ", but for what it warns of" };
                    eprintln!("{}: good{but}", config.display());
                    Exit::Done
                }
                Err(error) => usage(&error.into()),
            },
            Command::Backup { config, to } => on(&config, |config| backup::backup(config, &to)),
            Command::Restore { config, from } => on(&config, |config| backup::restore(config, &from)),
            Command::DiskKeys { config, node, to } => {
                on(&config, |config| disk_keys::export(config, &node, &to))
            }
            Command::ForgetSecrets { config, confirm } => {
                on(&config, |config| disk_keys::forget(config, confirm))
            }
            Command::AuditVerify { config } => on(&config, audit::verify),
            Command::DhcpOptions { other, config, interface } => {
                let text = config::load(&config).map_err(anyhow::Error::from).and_then(|config| {
                    Ok(dhcp_options::text(other, &config, config.dhcp_on(interface.as_deref())?)?)
                });
                match text {
                    Ok(text) => say(&text),
                    Err(error) => usage(&error),
                }
            }
            Command::Explain(wanted) => explain::run(&wanted),
            Command::Tls(command) => told(command.run()),
            Command::Client(command) => client::run(command, &self.connection),
        }
    }
}

/// Prints what was asked for; who stops reading has read enough.
pub(crate) fn say(text: &str) -> Exit {
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("error: {error}");
            Exit::Failed
        }
        _ => Exit::Done,
    }
}

/// Prints what came of a command.
pub(crate) fn told(result: anyhow::Result<String>) -> Exit {
    match result {
        Ok(text) => say(&text),
        Err(error) => {
            eprintln!("error: {error:#}");
            Exit::Failed
        }
    }
}

impl TlsCommand {
    fn run(self) -> anyhow::Result<String> {
        let now = clock::now();
        Ok(match self {
            Self::Show { config } => tls::show(&config::load(&config)?, now)?,
            Self::Rotate { config, authority } => tls::rotate(&config::load(&config)?, authority, now)?,
        })
    }
}

/// Does something with a configuration, and prints what came of it.
fn on(config: &Path, work: impl FnOnce(&Config) -> anyhow::Result<String>) -> Exit {
    match config::load(config) {
        Ok(config) => told(work(&config)),
        Err(error) => usage(&error.into()),
    }
}

fn usage(error: &anyhow::Error) -> Exit {
    eprintln!("error: {error:#}");
    Exit::Usage
}
