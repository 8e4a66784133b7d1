//! An installed system asks for the key of its disks.

use super::agent::speaker;
use super::connection::Door;
use super::error::Problem;
use super::extract::Body;
use crate::app::unlock::Withheld;
use crate::app::{App, AppError};
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use kaltstart_core::observing::Kind;
use kaltstart_protocol::unlock::{UnlockAnswer, UnlockQuestion};
use std::sync::Arc;

/// `POST /node/v1/unlock`
pub(super) async fn ask(
    State(app): State<Arc<App>>,
    Extension(door): Extension<Door>,
    Body(question): Body<UnlockQuestion>,
) -> Result<Json<UnlockAnswer>, Problem> {
    match app.unlock(&question, door.peer.address()).await {
        Ok(answer) => Ok(Json(answer)),
        Err(Withheld::App(AppError::NotFound(_))) => {
            let does = "its system asks for the key of its disks";
            let who = || speaker(&app, &door, &question.host.macs);
            app.unknown(Kind::System, || (who(), question.job.clone(), does.into())).await;
            Err(Problem::unauthorized("no system with encrypted disks has this token (any more)"))
        }
        Err(Withheld::App(error)) => Err(error.into()),
        Err(Withheld::Refused(finding)) => {
            Err(Problem::new(StatusCode::FORBIDDEN, "key-refused", finding.detail))
        }
        Err(Withheld::Key(error)) => {
            tracing::error!(%error, "a system cannot be given the key of its disks");
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the key cannot be read"))
        }
    }
}
