//! `ks dhcp …`

use super::Format;
use super::api::{Api, ClientError};
use super::output::{self, Row};
use crate::dhcp_options::OtherServer;
use crate::exit::Exit;
use crate::http::dhcp::OptionsView;
use crate::net::dhcp::SubnetView;
use clap::Subcommand;

/// What can be asked about DHCP.
#[derive(Debug, Subcommand)]
pub enum DhcpCommand {
    /// How each subnet is served, and which other servers were seen there
    Status,
    /// What another DHCP server must be told so that its clients boot from here
    Options {
        /// The other server
        #[arg(value_enum)]
        other: OtherServer,
        /// Interface of the subnet meant, if there are several
        #[arg(long)]
        interface: Option<String>,
    },
}

pub(super) async fn run(api: &Api, command: DhcpCommand, format: Format) -> Result<Exit, ClientError> {
    match command {
        DhcpCommand::Status => {
            let subnets: Vec<SubnetView> = api.get("/v1/dhcp").await?;
            output::list(&subnets, format)
        }
        DhcpCommand::Options { other, interface } => {
            let mut path = Api::path(&["v1", "dhcp", "options", other.name()]);
            if let Some(interface) = interface {
                path = format!("{path}?interface={}", Api::path(&[&interface]).trim_start_matches('/'));
            }
            let options: OptionsView = api.get(&path).await?;
            output::print(options.text.trim_end())?;
            Ok(Exit::Done)
        }
    }
}

impl Row for SubnetView {
    const HEADER: &'static [&'static str] =
        &["SUBNET", "INTERFACE", "MODE", "ROLE", "LEASES", "OTHER SERVERS"];

    fn name(&self) -> String {
        self.subnet.clone()
    }

    fn cells(&self) -> Vec<String> {
        let servers: Vec<String> = self
            .servers
            .iter()
            .map(|one| {
                let last_seen = crate::http::api::rfc3339(one.seen.last_seen);
                format!("{} {} (last seen {last_seen})", one.finding.code, one.finding.detail)
            })
            .collect();
        let servers = if servers.is_empty() { "-".to_owned() } else { servers.join("\n") };
        vec![
            self.subnet.clone(),
            self.interface.clone(),
            self.mode.to_string(),
            self.role.to_string(),
            self.leases.map_or_else(|| "-".to_owned(), |it| format!("{} of {}", it.lent, it.pool)),
            servers,
        ]
    }
}
