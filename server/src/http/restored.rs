//! `/v1/restored`: a restored copy beside what the fleet says, and that somebody takes it as it is.

use super::actor::By;
use super::error::Problem;
use super::extract::Body;
use crate::app::App;
use crate::app::observing::Comparison;
use axum::Json;
use axum::extract::State;
use kaltstart_core::observing::{Accepted, Difference, Restored};
use kaltstart_protocol::time::Millis;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The comparison as clients see it; without a restored copy nothing is in it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct RestoredView {
    /// Whether the server only observes.
    pub observing: bool,
    /// Since when the database is known to be a restored copy.
    pub since: Option<Millis>,
    /// When the newest event or lease in the copy was stored; none if there is none.
    pub copied: Option<Millis>,
    /// Who took the copy as it is, and when.
    pub accepted: Option<Accepted>,
    /// How many nodes there are.
    pub nodes: usize,
    /// Names of those that were not heard of since then; none once the copy was accepted.
    pub not_heard: Vec<String>,
    /// What differs.
    pub differences: Vec<DifferenceView>,
    /// Whether there may be more, of machines that are no nodes.
    pub truncated: bool,
}

/// A difference as clients see it.
#[derive(Debug, Serialize, Deserialize)]
pub struct DifferenceView {
    /// The node's name, if it is one.
    pub node_name: Option<String>,
    /// What it is.
    #[serde(flatten)]
    pub difference: Difference,
}

impl From<Comparison> for RestoredView {
    fn from(comparison: Comparison) -> Self {
        let Comparison { restored, nodes, not_heard, differences, truncated } = comparison;
        let Restored { since, copied, accepted } = restored;
        let view = |(node_name, difference)| DifferenceView { node_name, difference };
        Self {
            observing: accepted.is_none(),
            since: Some(since),
            copied: Some(copied).filter(|copied| *copied > Millis(0)),
            accepted,
            nodes,
            not_heard,
            differences: differences.into_iter().map(view).collect(),
            truncated,
        }
    }
}

/// Body of `POST /v1/restored/accept`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptCopy {
    /// How many differences whoever accepts them knows of.
    pub differences: u64,
}

/// `GET /v1/restored`
pub(super) async fn shown(State(app): State<Arc<App>>) -> Result<Json<RestoredView>, Problem> {
    Ok(Json(app.comparison()?.map_or_else(RestoredView::default, Into::into)))
}

/// `POST /v1/restored/accept`
pub(super) async fn accept(
    State(app): State<Arc<App>>,
    By(actor): By,
    Body(AcceptCopy { differences }): Body<AcceptCopy>,
) -> Result<Json<RestoredView>, Problem> {
    app.accept_copy(&actor, differences).await?;
    shown(State(app)).await
}
