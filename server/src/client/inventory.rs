//! `ks inventory …`: printed as the other program reads it, whatever `-o` says.

use super::api::{Api, ClientError};
use super::node::Filter;
use super::output;
use crate::exit::Exit;
use clap::Subcommand;
use serde_json::Value;
use std::num::NonZeroU16;

/// `ks inventory …`
#[derive(Debug, Subcommand)]
pub enum InventoryCommand {
    /// As an inventory script of Ansible prints it; all nodes but retired ones and those that nobody accepted
    Ansible {
        /// All groups and hosts; what is done without `--host` too
        #[arg(long, conflicts_with = "host")]
        list: bool,
        /// The variables of one host
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
        #[command(flatten)]
        filter: Filter,
    },
    /// Deployed nodes as targets, as `file_sd_config` of Prometheus reads them; its `http_sd_config` asks the server
    Prometheus {
        /// Where the exporter listens; 9100 if left out
        #[arg(long)]
        port: Option<NonZeroU16>,
        #[command(flatten)]
        filter: Filter,
    },
    /// A node's tags for `telegraf.d`
    Telegraf {
        /// Name, identifier or MAC
        node: String,
    },
    /// All nodes as a table (RFC 4180)
    Csv(Filter),
}

/// Does one of them.
pub(super) async fn run(api: &Api, command: InventoryCommand) -> Result<Exit, ClientError> {
    match command {
        InventoryCommand::Ansible { host, filter, .. } => {
            let all: Value = api.get(&filter.path(&["v1", "inventory", "ansible"], &[])).await?;
            let wanted = match &host {
                None => &all,
                Some(host) => {
                    all.pointer("/_meta/hostvars").and_then(|hosts| hosts.get(host)).ok_or_else(|| {
                        ClientError::NotFound(format!(
                            "no host {host:?} in the inventory; `ks inventory ansible --list` shows all"
                        ))
                    })?
                }
            };
            output::print(&wanted.to_string())?;
        }
        InventoryCommand::Prometheus { port, filter } => {
            let port = ("port", port.map(|port| port.to_string()));
            output::print(&api.text(&filter.path(&["v1", "sd", "prometheus"], &[port])).await?)?;
        }
        InventoryCommand::Telegraf { node } => {
            output::write(&api.text(&Api::path(&["v1", "export", "telegraf", &node])).await?)?;
        }
        InventoryCommand::Csv(filter) => {
            output::write(&api.text(&filter.path(&["v1", "export", "csv"], &[])).await?)?;
        }
    }
    Ok(Exit::Done)
}
