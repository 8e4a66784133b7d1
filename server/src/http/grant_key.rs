//! `/v1/grant-key`: the key that signs wipe grants; its secret half never leaves the server.

use super::actor::By;
use super::error::Problem;
use crate::app::App;
use axum::Json;
use axum::extract::State;
use kaltstart_protocol::ids::PublicKey;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The key as clients see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GrantKeyView {
    /// Its public half, which boot scripts tell.
    pub key: PublicKey,
    /// The one before, when it was just replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<PublicKey>,
    /// The server's epoch, which boot scripts tell too.
    pub epoch: u64,
}

/// `GET /v1/grant-key`
pub(super) async fn shown(State(app): State<Arc<App>>) -> Json<GrantKeyView> {
    let trust = app.trust();
    Json(GrantKeyView { key: trust.key, replaced: None, epoch: trust.epoch })
}

/// `POST /v1/grant-key/rotate`
pub(super) async fn rotate(
    State(app): State<Arc<App>>,
    By(actor): By,
) -> Result<Json<GrantKeyView>, Problem> {
    let [key, old] = app.rotate_grant_key(&actor).await?;
    Ok(Json(GrantKeyView { key, replaced: Some(old), epoch: app.trust().epoch }))
}
