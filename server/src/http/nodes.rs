//! `GET /v1/nodes`: nodes in brief, of those that somebody sees the ones that fit.

use super::error::Problem;
use super::extract::Query;
use crate::app::App;
use crate::clock;
use crate::summary::NodeSummary;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use kaltstart_core::about::{LabelValue, Word};
use kaltstart_core::access::Principal;
use kaltstart_core::machine::State as NodeState;
use serde::Deserialize;
use std::sync::Arc;

/// Which nodes are listed; what is left out does not matter.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeFilter {
    state: Option<NodeState>,
    team: Option<Word>,
    role: Option<Word>,
    site: Option<Word>,
    rack: Option<Word>,
    /// Labels that all must be there, with these values where values are given: `env=prod,spare`.
    label: Option<String>,
}

impl NodeFilter {
    fn labels(&self) -> Result<Vec<(Word, Option<LabelValue>)>, Problem> {
        let all = self.label.iter().flat_map(|text| text.split(','));
        all.map(|text| {
            let (label, value) =
                text.split_once('=').map_or((text, None), |(label, value)| (label, Some(value)));
            let parsed = label.parse().and_then(|label| Ok((label, value.map(str::parse).transpose()?)));
            parsed.map_err(|problem| Problem::bad_request(format!("label {text:?}: {problem}")))
        })
        .collect()
    }

    /// Whether a node fits.
    pub(super) fn checked(self) -> Result<impl Fn(&NodeSummary) -> bool, Problem> {
        let labels = self.labels()?;
        Ok(move |node: &NodeSummary| {
            let about = &node.about;
            let words = [
                (&self.team, &about.team),
                (&self.role, &about.role),
                (&self.site, &about.site),
                (&self.rack, &about.rack),
            ];
            self.state.is_none_or(|state| node.state == state)
                && words.iter().all(|(wanted, word)| wanted.is_none() || wanted == word)
                && labels.iter().all(|(label, wanted)| {
                    about
                        .labels
                        .get(label)
                        .is_some_and(|value| wanted.as_ref().is_none_or(|wanted| wanted == value))
                })
        })
    }
}

/// All nodes that are there for somebody, by name.
pub(super) fn visible(app: &App, who: &Principal) -> Vec<Arc<NodeSummary>> {
    let now = clock::now();
    let mut nodes = app.store.index().summaries();
    nodes.retain(|node| who.sees(node.owner(), now));
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes
}

/// Why what is listed may be old.
pub(crate) const STALE: HeaderName = HeaderName::from_static("kaltstart-stale");

/// An answer out of what is known in memory, which says if it may be old.
pub(super) fn from_memory(app: &App, answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    if app.store.is_lost() {
        response.headers_mut().insert(STALE, HeaderValue::from_static("the shared database is lost"));
    }
    response
}

/// `GET /v1/nodes?state=&team=&role=&site=&rack=&label=`
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Principal>,
    Query(filter): Query<NodeFilter>,
) -> Result<Response, Problem> {
    let fits = filter.checked()?;
    let mut nodes = visible(&app, &who);
    nodes.retain(|node| fits(node));
    Ok(from_memory(&app, Json(nodes.iter().map(|node| &**node).collect::<Vec<_>>())))
}
