//! An installed system asks whether a job calls it back.

use super::error::Problem;
use super::extract::Body;
use crate::app::{App, AppError};
use axum::Json;
use axum::extract::State;
use kaltstart_protocol::recall::{Recall, RecallQuestion};
use std::sync::Arc;

/// `POST /node/v1/recall`
pub(super) async fn ask(
    State(app): State<Arc<App>>,
    Body(question): Body<RecallQuestion>,
) -> Result<Json<Recall>, Problem> {
    match app.recall(&question).await {
        Ok(answer) => Ok(Json(answer)),
        Err(AppError::NotFound(_)) => {
            Err(Problem::unauthorized("no system that may be called back has this token (any more)"))
        }
        Err(error) => Err(error.into()),
    }
}
