//! `ks dhcp …`

use super::Format;
use super::api::{Api, ClientError};
use super::output::{self, Row};
use crate::dhcp_options::OtherServer;
use crate::exit::Exit;
use crate::http::api::rfc3339;
use crate::http::dhcp::{LEASES_USUAL, LeaseView, Leases, OptionsView};
use crate::net::dhcp::SubnetView;
use clap::Subcommand;
use kaltstart_core::dhcp::lease::LeaseState;

/// What can be asked about DHCP.
#[derive(Debug, Subcommand)]
pub enum DhcpCommand {
    /// How each subnet is served, and which other servers were seen there
    Status,
    /// Who has which address, by the stored leases
    Leases {
        /// IP address, MAC, or name or identifier of a node; without, all
        who: Option<String>,
        /// Longest list, at most 10000
        #[arg(long, default_value_t = LEASES_USUAL)]
        limit: usize,
    },
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
        DhcpCommand::Leases { who, limit } => {
            let query = [("of", who.clone()), ("limit", Some(limit.to_string()))];
            let Leases { leases, truncated } =
                api.get(&Api::path_with(&["v1", "dhcp", "leases"], &query)).await?;
            if let Some(who) = who.filter(|_| leases.is_empty()) {
                return Err(ClientError::NotFound(format!("no lease of {who} is stored")));
            }
            if truncated {
                eprintln!(
                    "only the first {limit} leases; there are more: name an address, MAC or node, or raise --limit"
                );
            }
            output::list(&leases, format)
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
                let last_seen = rfc3339(one.seen.last_seen);
                format!("{} {} (last seen {last_seen})", one.finding.code, one.finding.detail)
            })
            .collect();
        let servers = if servers.is_empty() { "-".to_owned() } else { servers.join("; ") };
        vec![
            self.subnet.clone(),
            self.interface.clone(),
            self.mode.to_string(),
            self.role.to_string(),
            self.leases.map_or_else(
                || "-".to_owned(),
                |it| {
                    let lent = format!("{} of {}", it.lent, it.pool);
                    let wait =
                        it.waits_until.map(|until| format!(", new ones from {} (KS-1027)", rfc3339(until)));
                    lent + &wait.unwrap_or_default()
                },
            ),
            servers,
        ]
    }
}

impl Row for LeaseView {
    const HEADER: &'static [&'static str] = &["ADDRESS", "MAC", "STATE", "UNTIL", "CLIENT"];

    fn name(&self) -> String {
        self.address.to_string()
    }

    fn cells(&self) -> Vec<String> {
        let state = match self.state {
            LeaseState::Bound if !self.live => "expired".to_owned(),
            state => output::word(&state),
        };
        vec![
            self.address.to_string(),
            self.mac.map_or_else(|| "-".to_owned(), |mac| mac.to_string()),
            state,
            rfc3339(self.until),
            if self.client.is_empty() { "-".to_owned() } else { self.client.clone() },
        ]
    }
}
