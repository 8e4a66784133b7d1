//! `/v1/tokens`: who may use the API, and as whom; `/v1/whoami`.

use super::actor::By;
use super::api::rfc3339;
use super::error::Problem;
use super::extract::{Body, Path};
use crate::app::App;
use crate::clock;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use kaltstart_core::about::Word;
use kaltstart_core::access::{Principal, Role, Token};
use kaltstart_core::audit::{Act, Action};
use kaltstart_protocol::secret::Secret;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const DAY_MS: u64 = 24 * 3_600_000;

/// How long a token is valid, in days, unless somebody says otherwise.
pub const DAYS_USUAL: u32 = 90;

/// Body of `POST /v1/tokens`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Who will hold it; unique, and told wherever it is told who did something.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// With whose nodes; members need it, viewers may have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<Word>,
    /// Days it is valid, ninety unless told otherwise; 0: until somebody revokes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<u32>,
}

/// A token that was just made: the only time that its secret is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct MadeToken {
    /// The secret.
    pub token: Secret,
    /// What it is worth.
    #[serde(flatten)]
    pub about: Token,
}

/// `GET /v1/tokens`
pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Json<Vec<Token>>, Problem> {
    Ok(Json(app.store.tokens()?))
}

/// `POST /v1/tokens`
pub(super) async fn create(
    State(app): State<Arc<App>>,
    By(actor): By,
    Body(NewToken { name, role, team, days }): Body<NewToken>,
) -> Result<(StatusCode, Json<MadeToken>), Problem> {
    let at = clock::now();
    let days = u64::from(days.unwrap_or(DAYS_USUAL));
    let expires_at = (days > 0).then(|| at.plus(days * DAY_MS));
    let about = Token { principal: Principal { name, role, team }, by: actor.name.clone(), at, expires_at };
    if let Some(why) = about.problem() {
        return Err(Problem::bad_request(why));
    }
    let token = clock::token("kst_");
    let mut act = Act::new(actor, Action::TokenMade).with("name", &about.principal.name).with("role", role);
    if let Some(team) = &about.principal.team {
        act = act.with("team", team);
    }
    act = act.with("expires_at", expires_at.map_or_else(|| "never".into(), rfc3339));
    if !app.store.add_token(token.fingerprint(), about.clone(), act).await? {
        let detail = format!("there is a token {0:?}; `ks token revoke {0}` first", about.principal.name);
        return Err(Problem::new(StatusCode::CONFLICT, "refused", detail));
    }
    let Token { principal: Principal { name, role, .. }, by, .. } = &about;
    tracing::info!(name, role = role.name(), by, "made a token");
    Ok((StatusCode::CREATED, Json(MadeToken { token, about })))
}

/// `DELETE /v1/tokens/{name}`
pub(super) async fn revoke(
    State(app): State<Arc<App>>,
    By(actor): By,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    let (by, act) = (actor.name.clone(), Act::new(actor, Action::TokenRevoked).with("name", &name));
    if !app.store.remove_token(name.clone(), act, clock::now()).await? {
        return Err(Problem::not_found(format!("there is no token {name:?}; `ks token list` shows all")));
    }
    tracing::info!(name, by, "revoked a token");
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v1/whoami`
pub(super) async fn whoami(Extension(who): Extension<Principal>) -> Json<Principal> {
    Json(who)
}
