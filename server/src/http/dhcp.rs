//! How DHCP is served, who else serves it, and what another server must be told.

use super::error::Problem;
use super::extract::{Path, Query};
use crate::app::App;
use crate::dhcp_options::{self, OtherServer};
use crate::net::dhcp::SubnetView;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use kaltstart_core::dhcp::role::{Mode, Role};
use serde::{Deserialize, Serialize};
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
