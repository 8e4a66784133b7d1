//! `/v1`: what the doors saw of a machine, also of one that nobody declared.

use super::api;
use super::error::Problem;
use super::extract::Path;
use crate::app::App;
use axum::Json;
use axum::extract::State;
use kaltstart_core::trace::Sighting;
use kaltstart_protocol::ids::Mac;
use std::sync::Arc;

/// `GET /v1/nodes/{node}/trace`: the recent past of a machine, oldest first.
pub(super) async fn trace(
    State(app): State<Arc<App>>,
    Path(node): Path<String>,
) -> Result<Json<Vec<Sighting>>, Problem> {
    sightings(&app, &node).map(Json)
}

/// What was seen of the machine with that identifier, name or hardware address.
fn sightings(app: &App, text: &str) -> Result<Vec<Sighting>, Problem> {
    match (api::find(app, text), text.parse::<Mac>()) {
        (Ok(machine), _) => Ok(app.trace.of(&machine.node.macs)),
        // Nobody's machine: if it was seen, that is what somebody wants to know of it.
        (Err(unknown), Ok(mac)) => {
            let seen = app.trace.of(&[mac]);
            if seen.is_empty() { Err(unknown) } else { Ok(seen) }
        }
        (Err(unknown), Err(_)) => Err(unknown),
    }
}
