//! `/v1/audit`: what was recorded, and whether it is whole.

use super::api::find;
use super::error::Problem;
use super::extract::Query;
use crate::app::App;
use crate::store::Recorded;
use axum::Json;
use axum::extract::State;
use kaltstart_core::audit::{Head, Verdict};
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;

/// Records of one answer.
pub(crate) const RECORDS_MAX: usize = 1000;

/// Whether the log is whole, as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictView {
    /// Whether each record is as it was written, in its place, and none is missing.
    pub whole: bool,
    /// How many were looked at, from the first one on.
    pub records: u64,
    /// Where the log ends.
    pub newest: Option<Head>,
    /// Where the server that answers had seen it end before; none when it had seen no record.
    pub seen: Option<Head>,
    /// The first thing that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<FaultView>,
    /// Numbers of records that tell of a restored copy.
    pub restored: Vec<u64>,
    /// Number of the newest record that tells that what sealed those before was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgotten: Option<u64>,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultView {
    /// The number of the first record that is wrong or missing.
    pub number: u64,
    /// What is wrong with it.
    pub what: String,
}

impl VerdictView {
    pub(crate) fn of(verdict: Verdict, seen: Option<Head>) -> Self {
        let Verdict { records, newest, fault, restored, forgotten } = verdict;
        let fault = fault.map(|fault| FaultView { number: fault.number, what: fault.what });
        Self { whole: fault.is_none(), records, newest, seen, fault, restored, forgotten }
    }

    /// The same for people.
    pub(crate) fn text(&self) -> String {
        let mut lines = Vec::new();
        match (&self.fault, &self.newest) {
            (Some(fault), _) => lines.push(format!("the audit log is not whole: {}", fault.what)),
            (None, None) => lines.push("nothing was recorded yet".to_owned()),
            (None, Some(newest)) => {
                lines
                    .push(format!("the audit log is whole: {} records; it ends with {newest}", self.records));
            }
        }
        match &self.seen {
            Some(seen) => lines.push(format!("the server had seen it end with {seen}")),
            None => lines.push(
                "nobody knows where it ended before: what is missing at its end is not found".to_owned(),
            ),
        }
        for number in &self.restored {
            lines.push(format!(
                "record {number} tells of a restored copy: what was recorded after that was made, and before this, is not in it"
            ));
        }
        if let Some(number) = self.forgotten {
            lines.push(format!(
                "record {number} tells that the key which sealed those before was given up: that nobody has changed them is \
                 sure since then alone"
            ));
        }
        lines.join("\n")
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
    node: Option<String>,
}

/// `GET /v1/audit?after=NUMBER&limit=&node=`
pub(super) async fn records(
    State(app): State<Arc<App>>,
    Query(Wanted { after, limit, node }): Query<Wanted>,
) -> Result<Json<Vec<Recorded>>, Problem> {
    let node = node.map(|node| find(&app, &node)).transpose()?.map(|machine| machine.node.id);
    let limit = limit.unwrap_or(RECORDS_MAX).min(RECORDS_MAX);
    Ok(Json(app.store.records(after, node.as_ref(), limit)?))
}

/// `GET /v1/audit/verify`
pub(super) async fn verify(State(app): State<Arc<App>>) -> Result<Json<VerdictView>, Problem> {
    let looked = tokio::task::spawn_blocking(move || {
        let seen = app.store.log_seen();
        Ok::<_, Problem>(VerdictView::of(app.store.verify_log()?, seen))
    });
    looked
        .await
        .map_err(|error| Problem::from(crate::store::StoreError::Thread(io::Error::other(error))))?
        .map(Json)
}
