//! What people say of a node, that nobody may touch it, and what they agree to.

use super::actor::By;
use super::api::{NodeView, apply, find, node_view};
use super::error::Problem;
use super::extract::{Body, Path};
use super::guard::permit;
use crate::app::{App, AppError};
use crate::clock;
use crate::store::Key;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::{Extension, Json};
use kaltstart_core::about::{Edit, Lock};
use kaltstart_core::access::{Permission, Principal};
use kaltstart_core::approval::{self, Approval};
use kaltstart_core::lifecycle::event::Event;
use kaltstart_core::machine::JobKind;
use kaltstart_protocol::ids::Digest;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The entity tag of what people say of a node (RFC 9110 §8.8.3): what its agent or DHCP tell does not change it.
pub(super) fn entity_tag(node: &NodeView) -> String {
    let about = serde_json::to_vec(&(&node.summary.about, &node.summary.lock)).unwrap_or_default();
    format!("\"{}\"", Digest::of(&about))
}

/// Whether the entity tags of an `If-Match` have that one, or there is none (RFC 9110 §13.1.1).
fn matches(headers: &HeaderMap, tag: &str) -> bool {
    let mut tags = headers.get_all(header::IF_MATCH).iter().peekable();
    tags.peek().is_none()
        || tags.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(|given| {
            let given = given.trim();
            given == "*" || given == tag
        })
}

/// `PATCH /v1/nodes/{node}`
pub(super) async fn edit(
    State(app): State<Arc<App>>,
    Path(node): Path<String>,
    Extension(who): Extension<Principal>,
    By(actor): By,
    headers: HeaderMap,
    Body(edit): Body<Edit>,
) -> Result<Json<NodeView>, Problem> {
    if edit.labels.iter().any(|(label, value)| label.as_str() == approval::LABEL && value.is_none()) {
        // Else whoever has to ask somebody would rather edit.
        permit(&who, Permission::Administer)?;
    }
    let id = find(&app, &node)?.node.id;
    let mut stale = false;
    let edited = app
        .apply_by(&actor, Key::Id(&id), |machine| {
            stale = !matches(&headers, &entity_tag(&node_view(&app, machine)));
            if stale { Err(AppError::Busy) } else { Ok(Event::Edited(edit.clone())) }
        })
        .await;
    if stale {
        let detail =
            format!("somebody else has edited {node} meanwhile: look at it again (`ks node show {node}`)");
        return Err(Problem::new(StatusCode::PRECONDITION_FAILED, "edited-meanwhile", detail));
    }
    Ok(Json(node_view(&app, &edited?.machine)))
}

/// Body of `POST /v1/nodes/{node}/lock`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockNode {
    /// Why.
    pub reason: String,
}

/// `POST /v1/nodes/{node}/lock`
pub(super) async fn lock(
    State(app): State<Arc<App>>,
    Path(node): Path<String>,
    Extension(who): Extension<Principal>,
    By(actor): By,
    Body(LockNode { reason }): Body<LockNode>,
) -> Result<Json<NodeView>, Problem> {
    let id = find(&app, &node)?.node.id;
    let lock = Lock { reason, by: who.name, at: clock::now(), team: who.team };
    apply(&app, &actor, &id, &Event::Locked(lock)).await
}

/// `POST /v1/nodes/{node}/unlock`: whoever it was locked by, a team opens only what it locked itself.
pub(super) async fn unlock(
    State(app): State<Arc<App>>,
    Path(node): Path<String>,
    Extension(who): Extension<Principal>,
    By(actor): By,
) -> Result<Json<NodeView>, Problem> {
    let id = find(&app, &node)?.node.id;
    let unlocked = app
        .apply_by(&actor, Key::Id(&id), |machine| match &machine.node.lock {
            Some(lock) if who.team.is_some() && who.team != lock.team => Err(AppError::Locked(format!(
                "{} has locked it: {:?}; ask an operator to unlock it",
                lock.by, lock.reason
            ))),
            _ => Ok(Event::Unlocked),
        })
        .await?;
    Ok(Json(node_view(&app, &unlocked.machine)))
}

/// Body of `POST /v1/nodes/{node}/approval`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approve {
    /// What may be ordered.
    pub kind: JobKind,
    /// What is laid down by it; none for a release or a rescue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
}

/// `POST /v1/nodes/{node}/approval`: somebody else may order that within an hour, once.
pub(super) async fn approve(
    State(app): State<Arc<App>>,
    Path(node): Path<String>,
    By(actor): By,
    Body(Approve { kind, profile }): Body<Approve>,
) -> Result<Json<NodeView>, Problem> {
    let id = find(&app, &node)?.node.id;
    let approval = Approval { kind, profile, by: actor.name.clone(), at: clock::now() };
    apply(&app, &actor, &id, &Event::Approved(approval)).await
}
