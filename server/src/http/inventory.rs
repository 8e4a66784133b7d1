//! Nodes for other programs: Ansible, Prometheus, Puppet, Telegraf, and as a table.

use super::api::{find, no_node};
use super::error::Problem;
use super::extract::{Path, Query};
use super::nodes::{NodeFilter, from_memory, visible};
use crate::app::App;
use crate::inventory::puppet::NoClassification;
use crate::inventory::{ansible, csv, prometheus, puppet, telegraf};
use crate::summary::NodeSummary;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use kaltstart_core::access::Principal;
use serde_json::{Map, Value};
use std::sync::Arc;

/// `GET /v1/inventory/ansible`, with the filters of `GET /v1/nodes`
pub(super) async fn ansible(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Principal>,
    Query(filter): Query<NodeFilter>,
) -> Result<Response, Problem> {
    let (fits, seen) = (filter.checked()?, visible(&app, &who));
    Ok(from_memory(&app, Json(ansible::inventory(&seen, &app.config.classes, fits))))
}

/// `GET /v1/sd/prometheus?port=`, with the same filters
pub(super) async fn prometheus(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Principal>,
    Query(mut query): Query<Map<String, Value>>,
) -> Result<Response, Problem> {
    let port = match query.remove("port").as_ref().map(|port| port.as_str().map(str::parse)) {
        None => prometheus::PORT_USUAL,
        Some(Some(Ok(port))) => port,
        Some(_) => return Err(Problem::bad_request("port is not a number from 1 to 65535")),
    };
    let filter: Result<NodeFilter, _> = serde_json::from_value(Value::Object(query));
    let fits = filter.map_err(|error| Problem::bad_request(error.to_string()))?.checked()?;
    Ok(from_memory(&app, Json(prometheus::targets(&visible(&app, &who), port, fits))))
}

/// `GET /v1/export/csv`, with the same filters
pub(super) async fn csv(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Principal>,
    Query(filter): Query<NodeFilter>,
) -> Result<Response, Problem> {
    let (fits, seen) = (filter.checked()?, visible(&app, &who));
    let table = csv::table(seen.iter().filter(|node| fits(node)), &app.config.classes);
    let kind = "text/csv; charset=utf-8; header=present";
    Ok(from_memory(&app, ([(header::CONTENT_TYPE, kind)], table)))
}

/// `GET /v1/export/telegraf/{node}`
pub(super) async fn telegraf(
    State(app): State<Arc<App>>,
    Path(node): Path<String>,
) -> Result<Response, Problem> {
    let node = NodeSummary::of(&find(&app, &node)?);
    let text = telegraf::tags(&node).map_err(|error| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "not-rendered", error.to_string())
    })?;
    Ok(([(header::CONTENT_TYPE, "application/toml")], text).into_response())
}

/// `GET /v1/enc/{node}`: by its name alone, which is what a certificate says.
pub(super) async fn enc(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Response, Problem> {
    let node = NodeSummary::of(&find(&app, &name)?);
    if node.name != name {
        return Err(no_node(&name));
    }
    let classified = puppet::classification(&node, &app.config.classes).map_err(|why| match why {
        NoClassification::NoSystem(_) => Problem::not_found(format!("no catalog for {name}: {why}")),
        NoClassification::Role(_) | NoClassification::Environment(_) => {
            Problem::new(StatusCode::CONFLICT, "not-classified", why.to_string())
        }
    })?;
    Ok(([(header::CONTENT_TYPE, "application/yaml")], Json(classified)).into_response())
}
