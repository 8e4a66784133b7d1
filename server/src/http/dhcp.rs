//! How DHCP is served, who else serves it, and what another server must be told.

use super::api;
use super::error::Problem;
use super::extract::{Path, Query};
use crate::app::App;
use crate::clock;
use crate::dhcp_options::{self, OtherServer};
use crate::net::dhcp::SubnetView;
use crate::store::Wanted;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use kaltstart_core::dhcp::lease::{LeaseState, LeaseWrite};
use kaltstart_core::dhcp::role::{Mode, Role};
use kaltstart_protocol::ids::Mac;
use kaltstart_protocol::time::Millis;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;

/// `GET /v1/dhcp`
pub(super) async fn subnets(State(app): State<Arc<App>>) -> Json<Vec<SubnetView>> {
    let usage = app.metrics.dhcp6_usage();
    let of_v6 = app.config.dhcp6.iter().map(|subnet| SubnetView {
        subnet: subnet.prefix.to_string(),
        interface: subnet.title(),
        address: subnet.address.into(),
        mode: Mode::Authoritative,
        role: Role::Authoritative,
        servers: vec![],
        leases: usage.iter().find(|(prefix, _)| *prefix == subnet.prefix).map(|(_, usage)| *usage),
    });
    Json(app.watches.view(&app.metrics.dhcp_usage()).into_iter().chain(of_v6).collect())
}

/// Leases in one answer, if nothing else is asked for.
pub const LEASES_USUAL: usize = 1000;

/// Leases in one answer at most.
pub const LEASES_MAX: usize = 10_000;

/// Which leases are meant.
#[derive(Debug, Deserialize)]
pub(super) struct Which {
    of: Option<String>,
    limit: Option<usize>,
}

/// A stored lease.
#[derive(Debug, Serialize, Deserialize)]
pub struct LeaseView {
    /// The address.
    pub address: IpAddr,
    /// The hardware address of its client, if anything told it.
    pub mac: Option<Mac>,
    /// The client's identifier (RFC 2132 §9.14) or DUID, in hexadecimal; of a client without,
    /// hardware type and address.
    pub client: String,
    /// How it is held.
    pub state: LeaseState,
    /// Whether nobody else may have the address.
    pub live: bool,
    /// When this was decided.
    pub since: Millis,
    /// From then on the address is free.
    pub until: Millis,
}

/// Stored leases.
#[derive(Debug, Serialize, Deserialize)]
pub struct Leases {
    /// IPv4 before IPv6, by address.
    pub leases: Vec<LeaseView>,
    /// Whether there are more.
    pub truncated: bool,
}

/// `GET /v1/dhcp/leases?of=&limit=`
pub(super) async fn leases(
    State(app): State<Arc<App>>,
    Query(Which { of, limit }): Query<Which>,
) -> Result<Json<Leases>, Problem> {
    let wanted = match of.as_deref().map(|of| (of, of.parse(), of.parse())) {
        None => vec![Wanted::All],
        Some((_, Ok(address), _)) => vec![Wanted::Address(address)],
        Some((_, _, Ok(mac))) => vec![Wanted::Mac(mac)],
        Some((of, ..)) => of_node(&app, of)?,
    };
    let limit = limit.unwrap_or(LEASES_USUAL);
    if !(1..=LEASES_MAX).contains(&limit) {
        return Err(Problem::bad_request(format!("limit: {limit} is not between 1 and {LEASES_MAX}")));
    }
    let mut found = Vec::new();
    for one in wanted {
        found.extend(app.store.find_leases(one, limit + 1)?);
    }
    found.sort_by_key(|found| found.address);
    let truncated = found.len() > limit;
    found.truncate(limit);
    let now = clock::now();
    let leases = found.into_iter().map(|found| lease_view(found, now)).collect();
    Ok(Json(Leases { leases, truncated }))
}

/// The leases of all interfaces of a node.
fn of_node(app: &App, of: &str) -> Result<Vec<Wanted>, Problem> {
    let node = api::find(app, of).map_err(|problem| match StatusCode::from_u16(problem.status) {
        Ok(StatusCode::NOT_FOUND) => {
            Problem::bad_request(format!("of: {of:?} is neither an IP address nor a MAC nor a node"))
        }
        _ => problem,
    })?;
    Ok(node.node.macs.into_iter().map(Wanted::Mac).collect())
}

fn lease_view(LeaseWrite { address, lease }: LeaseWrite<IpAddr>, now: Millis) -> LeaseView {
    let client = if address.is_ipv4() { lease.key.as_bytes() } else { lease.key.identity().0 };
    LeaseView {
        address,
        mac: lease.mac,
        client: client.iter().map(|byte| format!("{byte:02x}")).collect(),
        state: lease.state,
        live: lease.is_live(now),
        since: lease.since,
        until: lease.expires,
    }
}

/// Which subnet is meant.
#[derive(Debug, Deserialize)]
pub(super) struct On {
    interface: Option<String>,
}

/// What another server must be told.
#[derive(Debug, Serialize, Deserialize)]
pub struct OptionsView {
    /// Text for its configuration.
    pub text: String,
}

/// `GET /v1/dhcp/options/{server}?interface=`, for `kea`, `dnsmasq` or `isc`
pub(super) async fn options(
    State(app): State<Arc<App>>,
    Path(other): Path<OtherServer>,
    Query(On { interface }): Query<On>,
) -> Result<Json<OptionsView>, Problem> {
    let subnet = app
        .config
        .dhcp_on(interface.as_deref())
        .map_err(|error| Problem::bad_request(format!("interface: {error}")))?;
    let text = dhcp_options::text(other, &app.config, subnet).map_err(|error| {
        tracing::error!(%error, "options for another DHCP server");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the template of the options is broken")
    })?;
    Ok(Json(OptionsView { text }))
}
