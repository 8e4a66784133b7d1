//! An installed system asks whether a job calls it back.

use super::agent::speaker;
use super::connection::Door;
use super::error::Problem;
use super::extract::Body;
use crate::app::{App, AppError};
use axum::extract::State;
use axum::{Extension, Json};
use kaltstart_core::observing::Kind;
use kaltstart_protocol::recall::{Recall, RecallQuestion};
use std::sync::Arc;

/// `POST /node/v1/recall`
pub(super) async fn ask(
    State(app): State<Arc<App>>,
    Extension(door): Extension<Door>,
    Body(question): Body<RecallQuestion>,
) -> Result<Json<Recall>, Problem> {
    match app.recall(&question).await {
        Ok(answer) => Ok(Json(answer)),
        Err(AppError::NotFound(_)) => {
            let does = "its system asks whether a job calls it back";
            app.unknown(Kind::System, || (speaker(&app, &door, &[]), question.job, does.into())).await;
            Err(Problem::unauthorized("no system that may be called back has this token (any more)"))
        }
        Err(error) => Err(error.into()),
    }
}
